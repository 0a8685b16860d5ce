"""What it costs to wait: many resources at the simulated provider that are not ready, and no end of it.

Counted is everything that works on it: the processes of a worker host, and PostgreSQL's, its background processes
included. The provider is not ours. A few that wait are the reference.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import requests

from planner_site.bench.backlog import add_jobs, forget_jobs, make_room
from planner_site.bench.figures import Figure, Figures
from planner_site.bench.memory import host_memory
from planner_site.bench.stub import Stub
from planner_site.bench.usage import Usage
from planner_site.local import WORKERS_STOP_SECONDS, LocalError, LocalPlanner, say

FEW, MANY = 10, 10_000
WORKERS = 4
SLICES, SLICE_SECONDS = 4, 30.0  # several, to show that it is steady
SETTLE_SECONDS = 15.0
LONGEST_SECONDS = 900.0  # until all are created
OBSERVE_SECONDS = 5.0  # a pool's own default; the demo's looks more often
_ENDLESS_SECONDS = 10 * 86_400
_WRITES = "SELECT tup_inserted + tup_updated + tup_deleted, xact_commit FROM pg_stat_database WHERE datname = %s"


@dataclass(frozen=True)
class Wait:
    """So many that wait, per second or in percent of one processor."""

    waiting: int
    workers: list[float]  # slice by slice
    postgres: list[float]
    provider_calls: float
    rows_written: float
    commits: float
    pss_mb: float

    @property
    def cpu(self) -> float:
        """Of all that is counted, over all slices."""
        return (sum(self.workers) + sum(self.postgres)) / len(self.workers)

    def told(self) -> dict[str, Any]:
        """For the reader."""
        return {
            "waiting": self.waiting,
            "workers %": [round(share, 1) for share in self.workers],
            "PostgreSQL %": [round(share, 1) for share in self.postgres],
            "provider calls/s": round(self.provider_calls, 2),
            "rows written/s": round(self.rows_written, 2),
            "commits/s": round(self.commits, 2),
            "PSS of the host MB": round(self.pss_mb),
        }


def measure(purpose: str, scale: float) -> Figures:
    """Few, then many."""
    os.environ["PLANNER_WORKERS"] = str(WORKERS)
    seconds = max(1.0, SLICE_SECONDS * min(1, scale))
    with (
        Stub(purpose) as mds,
        LocalPlanner(purpose, ready_seconds=_ENDLESS_SECONDS, mds_url=mds.url, hosts=0) as planner,
    ):
        planner.start()
        from django.db import connection

        from jobs.models import Pool

        make_room()
        Pool.objects.update(ready_timeout_seconds=_ENDLESS_SECONDS, observe_interval_seconds=OBSERVE_SECONDS)
        waits = []
        for count in (FEW, max(FEW, round(MANY * scale))):
            forget_jobs()
            add_jobs(planner, count)
            waits.append(_wait(planner, count, seconds))
        connection.close()
    few, many = waits
    detail = {"many": many.told(), "few": few.told(), "seconds": SLICES * seconds}
    return {"waiting_cpu_share": Figure(many.cpu, "% of a core", at_most=10, detail=detail)}


def _wait(planner: LocalPlanner, count: int, seconds: float) -> Wait:
    say(f"{count} jobs, until their resources are on order ...")
    host = planner.workers("workers")
    try:
        _await_created(planner, count)
        time.sleep(min(SETTLE_SECONDS, seconds))
        say(f"{SLICES} times {seconds:.0f} s of waiting ...")
        roots = {"workers": [host.pid], "postgres": [planner.postgres.pid() or 0]}
        began, (calls, writes, commits) = time.monotonic(), _counts()
        spent: dict[str, list[float]] = {name: [] for name in roots}
        for number in range(SLICES):
            before, at = Usage.of(roots), time.monotonic()
            time.sleep(began + (number + 1) * seconds - at)
            used = Usage.of(roots).since(before).trees
            for name, found in spent.items():
                found.append(100 * used[name] / (time.monotonic() - at))
        took, (calls_after, writes_after, commits_after) = time.monotonic() - began, _counts()
        return Wait(
            waiting=count,
            workers=spent["workers"],
            postgres=spent["postgres"],
            provider_calls=(calls_after - calls) / took,
            rows_written=(writes_after - writes) / took,
            commits=(commits_after - commits) / took,
            pss_mb=host_memory(host.pid),
        )
    finally:
        host.stop(grace_seconds=WORKERS_STOP_SECONDS)


def _await_created(planner: LocalPlanner, count: int) -> None:
    from jobs.models import Provision

    deadline = time.monotonic() + LONGEST_SECONDS
    while (created := Provision.objects.filter(status="provisioning").count()) < count:
        planner.check_running()
        if time.monotonic() > deadline:
            raise LocalError(f"{created} of {count} resources were on order within {LONGEST_SECONDS} s.")
        time.sleep(1)


def _counts() -> tuple[int, int, int]:
    """So far: calls at the provider, rows written, transactions."""
    from django.db import connection

    from jobs.models import Pool

    answer = requests.get(f"{Pool.objects.get().options['base_url']}/stats", timeout=60)
    with connection.cursor() as cursor:
        cursor.execute(_WRITES, [connection.settings_dict["NAME"]])
        writes, commits = cursor.fetchone()
    return sum(answer.json()["calls"].values()), writes, commits
