"""Throughput: jobs that are queued already, and upstreams that cost next to nothing (`stub`).

Jobs per second from the first to the last batch created. Batches go on running, as they do in life: what the planner
spends on following them is counted. The references do `plain` work on the same rows, database and stub: straight, as
the limit; and as django-q2 tasks, one per job, with as many worker processes as the planner has.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from planner_site.bench.backlog import add_jobs, forget_jobs, make_room
from planner_site.bench.figures import Figure, Figures
from planner_site.bench.stub import Stub
from planner_site.bench.usage import Usage
from planner_site.local import CHECKOUT, WORKERS_STOP_SECONDS, LocalError, LocalPlanner, data_folder, say
from planner_site.processes import Service, free_port

JOBS = 2000
FEWEST_JOBS = 20
ROUNDS = 3
LONGEST_SECONDS = 300  # of one side's round
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Run:
    """One round of one side."""

    jobs_per_second: float
    cpu_ms_per_job: Mapping[str, float]  # by process tree
    idle_share: float


def measure(purpose: str, scale: float) -> Figures:
    """The planner against the best queue and against the limit, side after side, round after round."""
    jobs = max(FEWEST_JOBS, round(JOBS * scale))
    runs: dict[str, list[Run]] = {}
    with (
        Stub(purpose) as stub,
        _redis(purpose) as redis_url,
        LocalPlanner(purpose, provider_url=stub.url, mds_url=stub.url, hosts=0) as planner,
    ):
        planner.start()
        from django.db import connection

        make_room()
        sides: dict[str, Callable[[], Service]] = {
            "planner": lambda: planner.workers("workers"),
            "limit": lambda: planner.service("limit", "-m", "planner_site.bench.straight", "--url", stub.url),
            "ORM queue": lambda: _queue(planner),
        }
        if redis_url:
            sides["Redis queue"] = lambda: _queue(planner, PLANNER_BENCH_REDIS_URL=redis_url)
        for _ in range(ROUNDS if scale >= 1 else 1):
            for name, start in sides.items():
                forget_jobs()
                stub.reset()
                add_jobs(planner, jobs)
                say(f"{jobs} jobs, {name} ...")
                runs.setdefault(name, []).append(_run(planner, stub, jobs, start))
        connection.close()
    return _figures(runs, jobs)


def _figures(runs: Mapping[str, list[Run]], jobs: int) -> Figures:
    rates = {name: statistics.median(run.jobs_per_second for run in found) for name, found in runs.items()}
    best_queue = max((name for name in rates if name.endswith("queue")), key=lambda name: rates[name])
    detail: dict[str, Any] = {"jobs": jobs, **{name: _seen(found) for name, found in runs.items()}}
    if "Redis queue" not in runs:
        detail["Redis queue"] = "not measured: it needs redis-server on the PATH and the package redis"
    return {
        "pipeline_vs_queue": Figure(
            rates["planner"], "jobs/s", rates[best_queue], at_least=3.0, detail={"reference": best_queue} | detail
        ),
        "pipeline_vs_limit": Figure(rates["planner"], "jobs/s", rates["limit"], at_least=1.0),
    }


def _seen(runs: list[Run]) -> dict[str, Any]:
    middle = sorted(runs, key=lambda run: run.jobs_per_second)[len(runs) // 2]
    return {
        "jobs/s": [round(run.jobs_per_second) for run in runs],
        "CPU ms per job": {name: round(spent, 2) for name, spent in middle.cpu_ms_per_job.items()},
        "idle": f"{middle.idle_share:.0%}",
    }


def _queue(planner: LocalPlanner, **environment: str) -> Service:
    """Enqueue a task per job, and start a cluster on them."""
    environment["DJANGO_SETTINGS_MODULE"] = "planner_site.bench.queue_settings"
    fill = [sys.executable, "-m", "planner_site.bench.queue_tasks"]
    subprocess.run(fill, cwd=CHECKOUT, env={**os.environ, **environment}, check=True)  # noqa: S603 - our own program
    return planner.service("queue cluster", "manage.py", "qcluster", environment=environment)


@contextmanager
def _redis(purpose: str) -> Iterator[str]:
    """The address of a Redis of our own; "" if there is none to be had."""
    program = shutil.which("redis-server")
    if program is None or find_spec("redis") is None:
        yield ""
        return
    port = free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    service = Service("Redis", command, log=data_folder(purpose) / "redis.log", folder=data_folder(purpose))
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        service.stop()


def _run(planner: LocalPlanner, stub: Stub, jobs: int, start: Callable[[], Service]) -> Run:
    service = start()
    try:
        return first_to_last(planner, stub, jobs, [service])
    finally:
        service.stop(grace_seconds=WORKERS_STOP_SECONDS)


def first_to_last(planner: LocalPlanner, stub: Stub, jobs: int, services: Sequence[Service]) -> Run:
    """Wait until these have made a batch of every job, and recorded it; the rate is by the stub's clock."""
    roots = {"python": [service.pid for service in services], "postgres": [planner.postgres.pid() or 0]}
    roots["stub"] = [stub.service.pid]
    deadline = time.monotonic() + LONGEST_SECONDS
    began: tuple[int, Usage] | None = None
    while True:
        ended = [service for service in services if not service.is_running()]
        seen = stub.stats()
        if began is None and seen["batches"]:
            began = seen["batches"], Usage.of(roots)
        if seen["batches"] >= jobs:
            break
        for service in ended:
            service.check_running()
        if time.monotonic() > deadline:
            raise LocalError(f"{seen['batches']} of {jobs} batches were created within {LONGEST_SECONDS} s.")
        time.sleep(_POLL_SECONDS)
    assert began is not None  # noqa: S101 - there is at least one batch
    spent = Usage.of(roots).since(began[1])
    _await_records(jobs, deadline)
    counted = max(1, jobs - began[0])
    return Run(
        jobs_per_second=(jobs - 1) / (seen["last_at"] - seen["first_at"]),
        cpu_ms_per_job={name: 1000 * seconds / counted for name, seconds in spent.trees.items()},
        idle_share=spent.idle_share,
    )


def _await_records(jobs: int, deadline: float) -> None:
    """What came back is in the rows: without that it was not the same work."""
    from jobs.models import Job

    while (recorded := Job.objects.exclude(batch_id="").count()) < jobs:
        if time.monotonic() > deadline:
            raise LocalError(f"{recorded} of {jobs} batches were recorded within {LONGEST_SECONDS} s.")
        time.sleep(_POLL_SECONDS)
