"""Calls to providers that may be asked only so often: each begins in a turn that is taken for all workers at once.

A turn is taken on the pass's own thread, for the call's own has no database; there the call waits for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

from django.db import Error

from jobs.conf import times
from jobs.errors import PUT_OFF, UpstreamError, UpstreamKind
from jobs.lifecycle.claims import Claim
from jobs.lifecycle.steps import CallKind
from jobs.models import Pool
from jobs.provisioners.paced import Pace, Paced, turn_missed
from jobs.reconciler.calls import provisioner_of
from jobs.turns import take_turn

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LOOKS = 1  # requests of a listing
_CREATE = 2  # of a create, and the look after it; the looks before it have the time until then


def in_turn(pool: Pool, call: Callable[[], T], *, requests: int = _LOOKS, creates: bool = False) -> Callable[[], T]:
    """The call, in its turn; as it is where the pool's provider has no pace.

    If its turn is further away than `Times.turn_patience`, it is not made: it raises `RATE_LIMITED`, with when to ask.
    """
    try:
        provisioner = provisioner_of(pool)
    except UpstreamError:
        return call  # it meets the same
    if not isinstance(provisioner, Paced) or provisioner.pace is None:
        return call
    return _taken(provisioner.pace, pool.provider, call, requests, creates=creates)


def of_claim(claim: Claim, call: Callable[[], T]) -> Callable[[], T]:
    """The claimed call, in its turn if its provider has a pace."""
    if claim.provision is None or claim.kind not in {CallKind.CREATE, CallKind.RELEASE}:
        return call
    creates = claim.kind == CallKind.CREATE
    requests = _CREATE if creates else releasing(claim.provision.spec["replicas"])
    return in_turn(claim.provision.pool, call, requests=requests, creates=creates)


def releasing(replicas: int) -> int:
    """The requests of a release: one listing, and a delete for each replica."""
    return 1 + replicas


def _taken(pace: Pace, provider: str, call: Callable[[], T], requests: int, *, creates: bool) -> Callable[[], T]:
    longest = times().call_timeout  # no call takes longer, whatever it has left to ask
    lead, interval = (pace.create_after_seconds, pace.create_interval_seconds) if creates else (0.0, 0.0)
    span = min(lead + requests * pace.request_interval_seconds, longest)
    try:
        turn = take_turn(
            pace.account, span=span, patience=times().turn_patience, create_after=lead, create_interval=interval
        )
    except Error:
        # a call that is claimed must not be left to its lease for that; the next transaction tells of the database
        logger.warning("no turn could be taken at %s", provider, exc_info=True)
        return partial(_put_off, provider, times().retry_min)
    if not turn.is_taken:
        return partial(_put_off, provider, turn.seconds)
    begins_at = time.monotonic() + turn.seconds
    return partial(_begun, provider, begins_at, begins_at + pace.tolerance_seconds if creates else None, call)


def _begun(provider: str, begins_at: float, latest: float | None, call: Callable[[], T]) -> T:
    wait = begins_at - time.monotonic()
    if wait > 0:
        time.sleep(wait)
    if latest is not None and time.monotonic() > latest:
        raise turn_missed(provider)
    return call()


def _put_off(provider: str, seconds: float) -> NoReturn:
    message = f"{provider} may be asked only so often; its turn is {seconds:.0f} s away."
    raise UpstreamError(UpstreamKind.RATE_LIMITED, message, code=PUT_OFF, retry_after_seconds=seconds)
