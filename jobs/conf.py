"""Typed access to the planner's settings. Spans are in seconds; their ratios are checked in `checks.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from django.conf import settings


@dataclass(frozen=True)
class Times:
    """Every span the engine works with. `scaled` keeps their ratios, for tests."""

    lease: float = 60.0  # a claim not recorded by then is claimed again
    look_lease: float = 20.0  # of a pool's listing and of a page of the MDS's list: their calls are short
    send_margin: float = 2.0  # kept free between a call's latest end and the lease's end
    call_timeout: float = 10.0  # every outside call but batch create
    connect_timeout: float = 3.0
    create_batch_timeout: float = 40.0  # the MDS gives up on a create after 30 s by itself
    submit_settle: float = 35.0  # after this long without a trace, an ambiguous create did not happen
    no_long_calls_after: float = 30.0  # of a pass
    no_calls_after: float = 70.0  # of a pass
    tick: float = 0.1  # a pass looks for more work at least this often
    turn_patience: float = 3.0  # a call whose turn at a paced provider is further away is put off
    hang: float = 1.0  # a call under way for longer, or one whose share's last took longer, is taken to hang
    beat: float = 2.0  # a pass shows that it lives
    safety_net: float = 10.0  # the longest a broker sleeps
    timer_floor: float = 0.25  # a timer already past starts at most one pass per this span and host
    poll_min: float = 2.0  # first look at a new batch; later looks are further apart
    poll_max: float = 10.0
    poll_far: float = 60.0  # of batches that have been running for hours
    retry_min: float = 1.0  # back-off of a failed outside call
    retry_max: float = 30.0
    retry_after_max: float = 60.0  # an upstream's own Retry-After is honoured up to this
    release_retry_max: float = 600.0
    capacity_retry_min: float = 30.0
    capacity_retry_max: float = 600.0
    scan_interval: float = 20.0  # sweep of the MDS's newest batches
    scan_margin: float = 60.0  # how far a scan reaches behind what it must cover (clock differences)
    batch_missing_grace: float = 30.0  # a recorded batch unknown for this long is lost
    deadline_grace: float = 60.0  # the MDS may finalize this long past the deadline before we step in
    finalize_grace: float = 600.0  # a batch that the MDS neither ends nor stops this long past it is given up
    wind_up_timeout: float = 3600.0  # a batch that for this long only had to be finalized or cancelled is given up
    partial_expiry_margin: float = 5.0  # a partial batch that ended this close to its deadline expired
    lease_margin: float = 120.0  # a resource outlives its batch's deadline by this much
    stalled: float = 20.0  # no pass has beaten for this long although work is due
    frozen: float = 150.0  # nor for this long, work due or not: past what one task may take of a lone worker
    unready: float = 45.0  # no pass has beaten for this long: /readyz says 503
    stop_grace: float = 45.0  # from SIGTERM to gone

    def scaled(self, factor: float) -> Times:
        """The same ratios in other units."""
        return replace(self, **{name: value * factor for name, value in vars(self).items()})


_in_force: tuple[object, Times] = (None, Times())


def times() -> Times:
    """The spans in force; put together once for each value of the setting, since they are asked for all the time."""
    global _in_force
    configured = settings.PLANNER_TIMES
    if _in_force[0] is not configured:
        _in_force = configured, configured if isinstance(configured, Times) else Times(**configured)
    return _in_force[1]


MAX_LOST_ATTEMPTS = 3  # an attempt ended by somebody else, unasked, is repeated this often
MAX_CRASHES = 5  # consecutive claims that died with a job before it fails
LONE_CRASHES = 2  # from here on a job is claimed alone
MAX_REPLICAS = 1024
MAX_PRIORITY = 100
MAX_FILE_BYTES = 100 * 1024 * 1024  # the MDS's own limit
MAX_FILE_LINES = 50_000  # the MDS's own limit
MAX_WINDOW_SECONDS = 30 * 86_400
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank")
