"""Memory of one worker host: what its processes hold, shared pages counted once, after many jobs have gone through.

The jobs go their whole way, from admission to the confirmed release, with a stub for a provider and a metadata service
whose batches are over at the first look.
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
FEW = 0.2  # of them: growth counts from there on
WORKERS = 4
LONGEST_SECONDS = 1800
_LOOK_SECONDS = 2.0
_PSS = re.compile(r"^Pss: +(\d+) kB", re.MULTILINE)
_MEGABYTE = 1024  # kB


def measure(purpose: str, scale: float) -> Figures:
    """What the host holds when it is idle again after all jobs, and how that grew since the first of them."""
    os.environ["PLANNER_WORKERS"] = str(WORKERS)
    jobs = max(10, round(JOBS * scale))
    few = max(1, round(jobs * FEW))
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
        later = add_jobs(planner, jobs)[few:]
        Job.objects.filter(pk__in=later).update(hold=True)
        host = planner.workers("workers").pid
        say(f"{few} jobs ...")
        peak_before, before = _after(few, planner, host)
        Job.objects.filter(pk__in=later).update(hold=False)
        say(f"{jobs - few} more ...")
        peak, after = _after(jobs, planner, host)
        connection.close()
    detail = {
        f"after {few} jobs": f"{before:.0f} MB",
        "while they ran, at most": f"{max(peak_before, peak):.0f} MB",
        "processes": f"{WORKERS} workers, with django-q2's own and the supervisor",
    }
    return {
        "host_pss_mb": Figure(after, "MB", at_most=400, detail=detail),
        "host_pss_growth": Figure(after, "MB", before, at_most=1.05, detail={"jobs": [few, jobs]}),
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
