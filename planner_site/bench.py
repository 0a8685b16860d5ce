"""`make bench`: figures measured on this machine, on everything the demo runs. The last line is one JSON object.

latency    from the answer to POST /api/v1/jobs to the batch's creation, one job at a time on an idle planner whose
           resources are ready at once: up to the arrival of the call at a stub of the metadata service (what the
           planner itself takes), and up to the record of the real one's answer
hanging_mds  beside a metadata service none of whose calls is ever answered: from the answer to POST /api/v1/jobs to
           the create at a healthy provider, and from the answer to a cancel to the job's being cancelled; on one host
           with 1 worker and with 4
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from jobs.testing.fake_mds import FakeMds
from planner_site.bench_hanging import waits
from planner_site.local import Client, LocalError, LocalPlanner, data_folder, only_one, say, stop_on
from planner_site.postgres_home import EmbeddedServerError
from planner_site.processes import ServiceError

PURPOSE = "bench"
JOBS = 60
WARM_UP_JOBS = 8  # until every worker process has connected to everything once
JOB_SECONDS = 60

Figures = dict[str, dict[str, Any]]


def latency(jobs: int) -> Figures:
    """The idle latency, against the stub and against the real metadata service."""
    with FakeMds(run_seconds=0.001) as stub:  # each batch is over at the first look

        def arrived_at(job_id: str) -> float:
            return next(batch.created_at for batch in stub.batches() if f":{job_id}:" in batch.job_id)

        to_stub = _latencies(jobs, arrived_at, stub.url)
    to_record = _latencies(jobs, _created_at)
    return _percentiles("idle_latency_stub", to_stub) | _percentiles("idle_latency_mds", to_record)


def _latencies(jobs: int, created_at: Callable[[str], float], mds_url: str = "") -> list[float]:
    """Milliseconds from each POST's answer to the unix time `created_at` tells for its job."""
    with LocalPlanner(PURPOSE, ready_seconds=0, mds_url=mds_url) as planner:
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


def hanging_mds(jobs: int) -> Figures:
    """What the others wait for while every call to the metadata service hangs."""
    figures: Figures = {}
    for workers in (1, 4):
        creates, cancels = waits(PURPOSE, jobs, workers)
        figures |= _percentiles(f"hanging_mds_create_{workers}_workers", creates)
        figures |= _percentiles(f"hanging_mds_cancel_{workers}_workers", cancels)
    return figures


def _percentiles(name: str, found: list[float]) -> Figures:
    parts = statistics.quantiles(found, n=20, method="inclusive") if len(found) > 1 else found * 19
    cuts = {"p50": statistics.median(found), "p95": parts[18], "max": max(found)}
    return {f"{name}_{cut}_ms": {"value": round(ms, 1), "unit": "ms", "jobs": len(found)} for cut, ms in cuts.items()}


MEASUREMENTS: dict[str, Callable[[int], Figures]] = {"latency": latency, "hanging_mds": hanging_mds}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m planner_site.bench", description="Figures of this machine.")
    parser.add_argument("--only", choices=MEASUREMENTS, help="one measurement instead of all")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"jobs per figure (default {JOBS})")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stop_on)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by default in the background of a script
    figures: Figures = {}
    try:
        with only_one(PURPOSE):
            for name in [options.only] if options.only else MEASUREMENTS:
                figures |= MEASUREMENTS[name](options.jobs)
    except KeyboardInterrupt:
        return 1
    except (LocalError, ServiceError, EmbeddedServerError) as error:
        say(f"The bench failed. {error}\nLogs: {data_folder(PURPOSE) / 'logs'}")
        return 1
    for name, figure in figures.items():
        print(f"{name:40}{figure['value']:>10} {figure['unit']}")  # noqa: T201 - the result
    print(json.dumps(figures), flush=True)  # noqa: T201 - the result
    return 0


if __name__ == "__main__":
    sys.exit(main())
