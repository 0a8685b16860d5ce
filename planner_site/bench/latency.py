"""Idle latency: one job at a time on an idle planner whose resources are ready at once.

From the answer to POST /api/v1/jobs to the batch's creation: up to the arrival of the call at a stub of the metadata
service (what the planner itself takes), and up to the record of the real one's answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from jobs.testing.fake_mds import FakeMds
from planner_site.bench.figures import Figure, Figures, percentile
from planner_site.local import Client, LocalError, LocalPlanner, say

JOBS = 100
WARM_UP_JOBS = 8  # until every worker process has connected to everything once
JOB_SECONDS = 60


def measure(purpose: str, scale: float) -> Figures:
    """The idle latency, against the stub and against the real metadata service."""
    jobs = max(2, round(JOBS * scale))
    with FakeMds(run_seconds=0.001) as stub:  # each batch is over at the first look

        def arrived_at(job_id: str) -> float:
            return next(batch.created_at for batch in stub.batches() if f":{job_id}:" in batch.job_id)

        to_stub = _latencies(purpose, jobs, arrived_at, stub.url)
    to_record = _latencies(purpose, jobs, _created_at)
    return {
        "idle_latency_p50_ms": Figure(percentile(to_stub, 50), "ms", at_most=20, detail=_spread(to_stub)),
        "idle_latency_p99_ms": Figure(percentile(to_stub, 99), "ms", at_most=100),
        "idle_latency_mds_p50_ms": Figure(percentile(to_record, 50), "ms", detail=_spread(to_record)),
    }


def _spread(found: list[float]) -> dict[str, float]:
    return {f"p{percent}": round(percentile(found, percent), 1) for percent in (50, 90, 99)} | {"n": len(found)}


def _latencies(purpose: str, jobs: int, created_at: Callable[[str], float], mds_url: str = "") -> list[float]:
    """Milliseconds from each POST's answer to the unix time `created_at` tells for its job."""
    with LocalPlanner(purpose, ready_seconds=0, mds_url=mds_url) as planner:
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


def _created_at(job_id: str) -> float:
    from jobs.models import JobEvent

    return JobEvent.objects.get(job_id=job_id, reason="batch_created").at.timestamp()


def _await_idle(planner: LocalPlanner, job_id: str) -> None:
    """Wait until the job is over, its resource given back, and the workers asleep."""
    from jobs.models import Job, QueueMessage
    from jobs.statuses import TERMINAL

    deadline = time.monotonic() + JOB_SECONDS
    while True:
        job = Job.objects.select_related("provision").get(pk=job_id)
        if job.status in TERMINAL and job.provision is not None and job.provision.status == "released":
            break
        planner.check_running()
        if time.monotonic() > deadline:
            raise LocalError(f"{job_id} is {job.status} after {JOB_SECONDS} s: {job.last_error}")
        time.sleep(0.05)
    if job.status != "completed":
        raise LocalError(f"{job_id} ended {job.status}: {job.error_message}")
    while QueueMessage.objects.exists():
        time.sleep(0.01)
    time.sleep(random.uniform(0.2, 0.5))  # noqa: S311 - uneven, so as not to keep step with any timer
