"""What one job waits for the planner itself, one at a time.

Idle: nothing else is there, and resources are ready at once. From the answer to POST /api/v1/jobs to the batch's
creation: up to the arrival of the call at a stub of the metadata service (what the planner itself takes), and up to the
record of the real one's answer.

Ready to submit: from the start of the listing that shows the resource ready to the arrival of the batch's create, while
so many other resources of the same pool are waited for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.testing.fake_mds import FakeMds
from planner_site.bench.backlog import add_jobs, make_room
from planner_site.bench.figures import Figure, Figures, percentile
from planner_site.bench.stub import Stub
from planner_site.local import Client, LocalError, LocalPlanner, say

JOBS = 100
WARM_UP_JOBS = 8  # until every worker process has connected to everything once
JOB_SECONDS = 60
WAITING = 1000  # resources of others
READY_SECONDS = 0.3  # long enough for the create's own answer not to say so
OBSERVE_SECONDS = 0.5
WAITING_SECONDS = 300  # until all are asked for
_SETTINGS = "planner_site.bench.latency_settings"


def measure(purpose: str, scale: float) -> Figures:
    """The idle latency, with a stub and with the real metadata service; and from readiness on, among others waiting."""
    jobs = max(1, round(JOBS * scale))
    with FakeMds(run_seconds=0.001) as stub:  # each batch is over at the first look

        def arrived_at(job_id: str) -> float:
            return next(batch.created_at for batch in stub.batches() if f":{job_id}:" in batch.job_id)

        to_stub = _latencies(purpose, jobs, arrived_at, stub.url)
    to_record = _latencies(purpose, jobs, _created_at)
    alone = _ready_to_submit(purpose, jobs, 0)
    waiting = max(2, round(WAITING * scale))
    among = _ready_to_submit(purpose, jobs, waiting)
    return {
        "idle_latency_p50_ms": Figure(percentile(to_stub, 50), "ms", at_most=20, detail=_spread(to_stub)),
        "idle_latency_p99_ms": Figure(percentile(to_stub, 99), "ms", at_most=100),
        "idle_latency_mds_p50_ms": Figure(percentile(to_record, 50), "ms", detail=_spread(to_record)),
        "ready_to_submit_p95_ms": Figure(
            percentile(among.since_listing, 95),
            "ms",
            at_most=250,
            detail={
                f"{others} waiting, since {what}": _spread(found)
                for others, lags in ((waiting, among), (0, alone))
                for what, found in (("the listing", lags.since_listing), ("its record", lags.since_record))
            },
        ),
    }


def _spread(found: list[float]) -> dict[str, float]:
    return {f"p{percent}": round(percentile(found, percent), 1) for percent in (50, 90, 95, 99)} | {"n": len(found)}


def _latencies(purpose: str, jobs: int, created_at: Callable[[str], float], mds_url: str = "") -> list[float]:
    """Milliseconds from each POST's answer to the unix time `created_at` tells for its job."""
    with LocalPlanner(purpose, ready_seconds=0, mds_url=mds_url, settings_module=_SETTINGS) as planner:
        planner.start()
        from django.db import connection

        from jobs.models import Pool
        from planner_site.demo_data import file_row

        # quick to see that a resource is gone, so that the next job can begin
        Pool.objects.update(absence_confirm_seconds=0.2, observe_interval_seconds=0.2)
        client = Client(planner.url)
        client.log_in()
        file_id = file_row().pk if mds_url else client.upload_sample()
        found = []
        say(f"{jobs} jobs, one at a time ...")
        warm_up_jobs = min(WARM_UP_JOBS, jobs)
        for number in range(warm_up_jobs + jobs):
            job_id = client.create_job(file_id)
            answered_at = time.time()
            _await_idle(planner, job_id)
            if number >= warm_up_jobs:
                found.append(1000 * (created_at(job_id) - answered_at))
        connection.close()
    return found


@dataclass
class _Lags:
    """Milliseconds to the arrival of each batch's create."""

    since_listing: list[float] = field(default_factory=list)  # that shows the resource ready: from its start
    since_record: list[float] = field(default_factory=list)  # of the readiness, in the timeline


def _ready_to_submit(purpose: str, jobs: int, waiting: int) -> _Lags:
    lags = _Lags()
    with (
        Stub(purpose) as stub,
        LocalPlanner(purpose, provider_url=stub.url, mds_url=stub.url, settings_module=_SETTINGS) as planner,
    ):
        planner.start()
        from django.db import connection

        from jobs.models import Pool, Provision
        from planner_site.demo_data import file_row

        make_room()
        Pool.objects.update(absence_confirm_seconds=0.2, observe_interval_seconds=OBSERVE_SECONDS)
        stub.reset(ready_seconds=None, are_batches_quick=True)
        if waiting:
            add_jobs(planner, waiting)
            asked_for = Provision.objects.filter(status="provisioning")
            enough = f"{waiting} resources are not asked for"
            _await(planner, lambda: asked_for.count() >= waiting, WAITING_SECONDS, enough)
        stub.set_ready_seconds(READY_SECONDS)
        client = Client(planner.url)
        client.log_in()
        file_id = file_row().pk
        say(f"{jobs} jobs, one at a time, {waiting} others waiting for their resources ...")
        for _ in range(jobs):
            job_id = client.create_job(file_id)
            ready = Provision.objects.filter(job_id=job_id, status="ready")
            _await(planner, ready.exists, JOB_SECONDS, f"the resource of {job_id} is not ready")
            listed_at = ready.get().observed_at  # at once: another listing will tell of its end
            assert listed_at is not None  # noqa: S101 - it was seen to be ready
            _await_idle(planner, job_id)
            arrived_at = stub.receipts()[f"{purpose}:{job_id}:1"]
            lags.since_listing.append(1000 * (arrived_at - listed_at.timestamp()))
            lags.since_record.append(1000 * (arrived_at - _event_at(job_id, "resource_ready")))
        connection.close()
    return lags


def _created_at(job_id: str) -> float:
    return _event_at(job_id, "batch_created")


def _event_at(job_id: str, reason: str) -> float:
    from jobs.models import JobEvent

    return JobEvent.objects.get(job_id=job_id, reason=reason).at.timestamp()


def _await_idle(planner: LocalPlanner, job_id: str) -> None:
    """Wait until the job is over, its resource given back, and the workers asleep."""
    from jobs.models import Job, Provision, QueueMessage
    from jobs.statuses import TERMINAL

    released = Provision.objects.filter(job_id=job_id, job__status__in=sorted(TERMINAL), status="released")
    _await(planner, released.exists, JOB_SECONDS, f"{job_id} has not ended and given its resource back")
    job = Job.objects.get(pk=job_id)
    if job.status != "completed":
        raise LocalError(f"{job_id} ended {job.status}: {job.error_message}")
    while QueueMessage.objects.exists():
        time.sleep(0.01)
    time.sleep(random.uniform(0.2, 0.5))  # noqa: S311 - uneven, so as not to keep step with any timer


def _await(planner: LocalPlanner, condition: Callable[[], bool], seconds: float, or_else: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        planner.check_running()
        if time.monotonic() > deadline:
            raise LocalError(f"After {seconds} s {or_else}.")
        time.sleep(0.05)
