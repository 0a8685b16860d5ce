"""Memory of one worker host: what its processes hold, shared pages counted once, after many jobs have gone through.

The jobs go their whole way, from admission to the confirmed release, with a stub for a provider and a metadata service
whose batches are over at the first look. They are handed in in lots of equal size: what a worker holds follows the most
that is listed at once, and would be taken for growth if the later lots were larger.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from jobs.testing.fake_mds import FakeMds
from planner_site.bench.backlog import add_jobs, make_room
from planner_site.bench.figures import Figure, Figures
from planner_site.bench.stub import Stub
from planner_site.local import LocalError, LocalPlanner, say
from planner_site.process_tree import children, parents

JOBS = 10_000
LOTS = 5  # growth counts from the first one's end on
WORKERS = 4
LONGEST_SECONDS = 1800
_LOOK_SECONDS = 2.0
_PSS = re.compile(r"^Pss: +(\d+) kB", re.MULTILINE)
_MEGABYTE = 1024  # kB


def measure(purpose: str, scale: float) -> Figures:
    """What the host holds when it is idle again after all jobs, and how that grew since the first of them."""
    os.environ["PLANNER_WORKERS"] = str(WORKERS)
    lot = max(2, round(JOBS * scale) // LOTS)
    with (
        Stub(purpose) as stub,
        FakeMds(run_seconds=0.001) as mds,
        LocalPlanner(purpose, provider_url=stub.url, mds_url=mds.url, hosts=0) as planner,
    ):
        planner.start()
        from django.db import connection

        from jobs.models import Job, Pool

        make_room()
        Pool.objects.update(absence_confirm_seconds=0.2)
        ids = add_jobs(planner, LOTS * lot)
        Job.objects.filter(pk__in=ids[lot:]).update(hold=True)
        host = planner.workers("workers").pid
        seen: list[tuple[float, float]] = []
        for begin in range(0, len(ids), lot):
            say(f"Jobs {begin + 1} to {begin + lot} ...")
            Job.objects.filter(pk__in=ids[begin : begin + lot]).update(hold=False)
            seen.append(_after(begin + lot, planner, host))
        connection.close()
    before, after = seen[0][1], seen[-1][1]
    detail = {
        f"after each {lot} jobs": [f"{held:.0f} MB" for _, held in seen],
        "while they ran, at most": f"{max(peak for peak, _ in seen):.0f} MB",
        "processes": f"{WORKERS} workers, with django-q2's own and the supervisor",
    }
    return {
        "host_pss_mb": Figure(after, "MB", at_most=400, detail=detail),
        "host_pss_growth": Figure(after, "MB", before, at_most=1.05, detail={"jobs": [lot, LOTS * lot]}),
    }


def host_memory(root: int, kind: re.Pattern[str] = _PSS) -> float:
    """Megabytes of a process and all below it. Linux only."""
    running = parents()
    found, pids = 0.0, [root]
    for pid in pids:
        pids += children(pid, running)
        with suppress(OSError):
            match = kind.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
            found += int(match[1]) / _MEGABYTE if match else 0
    return found


def _after(jobs: int, planner: LocalPlanner, host: int) -> tuple[float, float]:
    """The most it held on the way, and what it holds when so many jobs are over and it is idle."""
    from jobs.models import Provision

    deadline = time.monotonic() + LONGEST_SECONDS
    peak = 0.0
    while (released := Provision.objects.filter(status="released").count()) < jobs:
        planner.check_running()
        if time.monotonic() > deadline:
            raise LocalError(f"{released} of {jobs} jobs were over within {LONGEST_SECONDS} s.")
        peak = max(peak, host_memory(host))
        time.sleep(_LOOK_SECONDS)
    time.sleep(_LOOK_SECONDS)
    return peak, host_memory(host)
