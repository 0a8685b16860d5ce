"""More hosts, more jobs per second: each outside call takes 50 ms, and a host has at most 4 of them in flight.

A host is one `run_workers` with one worker process; its calls are what `scale_settings` allows. Jobs per second from
the first to the last batch created, as in `pipeline`.
"""

from __future__ import annotations

import statistics

from planner_site.bench.backlog import add_jobs, forget_jobs, make_room
from planner_site.bench.figures import Figure, Figures
from planner_site.bench.pipeline import Run, first_to_last
from planner_site.bench.stub import Stub
from planner_site.local import WORKERS_STOP_SECONDS, LocalPlanner, say

JOBS = 600
FEWEST_JOBS = 20
ROUNDS = 3
HOSTS = (1, 2, 4)
CALL_SECONDS = 0.05
_ENVIRONMENT = {"PLANNER_WORKERS": "1", "DJANGO_SETTINGS_MODULE": "planner_site.bench.scale_settings"}


def measure(purpose: str, scale: float) -> Figures:
    """With 1, 2 and 4 hosts, round after round."""
    jobs = max(FEWEST_JOBS, round(JOBS * scale))
    runs: dict[int, list[tuple[Run, int]]] = {hosts: [] for hosts in HOSTS}
    with (
        Stub(purpose) as stub,
        LocalPlanner(purpose, provider_url=stub.url, mds_url=stub.url, hosts=0) as planner,
    ):
        planner.start()
        from django.db import connection

        make_room()
        for _ in range(ROUNDS if scale >= 1 else 1):
            for hosts in HOSTS:
                forget_jobs()
                stub.reset(delay_seconds=CALL_SECONDS)
                add_jobs(planner, jobs)
                say(f"{jobs} jobs, hosts: {hosts} ...")
                runs[hosts].append((_run(planner, stub, jobs, hosts), stub.stats()["peak"]))
        connection.close()
    rates = {hosts: statistics.median(run.jobs_per_second for run, _ in found) for hosts, found in runs.items()}
    detail = {f"{hosts} hosts": _seen(found) for hosts, found in runs.items()}
    return {"scale_out_4x": Figure(rates[4], "jobs/s", rates[1], at_least=3.0, detail={"jobs": jobs, **detail})}


def _run(planner: LocalPlanner, stub: Stub, jobs: int, hosts: int) -> Run:
    services = [planner.workers(f"workers {number}", _ENVIRONMENT) for number in range(1, hosts + 1)]
    try:
        return first_to_last(planner, stub, jobs, services)
    finally:
        for service in services:
            service.ask_to_stop()
        for service in services:
            service.stop(grace_seconds=WORKERS_STOP_SECONDS)


def _seen(runs: list[tuple[Run, int]]) -> dict[str, object]:
    return {
        "jobs/s": [round(run.jobs_per_second, 1) for run, _ in runs],
        "most calls in flight": [peak for _, peak in runs],
        "idle": [f"{run.idle_share:.0%}" for run, _ in runs],
    }
