"""Batches a second on the real metadata service: the planner's own submits beside direct POSTs of the same bodies.

Both have as many calls in flight as the planner's workers may have, and both get a fresh service each time, in turn.
The input file does not exist, so that the service has little to do but to accept. The planner also follows each batch,
from its second second on, and those calls take their share of the service.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from planner_site.bench.backlog import add_jobs, forget_jobs, make_room
from planner_site.bench.figures import Figure, Figures
from planner_site.bench.stub import Stub
from planner_site.local import WORKERS_STOP_SECONDS, LocalError, LocalPlanner, data_folder, say
from planner_site.metadata_service import MetadataService

JOBS = 300
ROUNDS = 3
WORKERS = 4
LONGEST_SECONDS = 300
_CALL = re.compile(r'"(GET|POST) (/v1/batches\S*) HTTP')


def measure(purpose: str, scale: float) -> Figures:
    """The planner's rate against the direct one."""
    os.environ["PLANNER_WORKERS"] = str(WORKERS)
    jobs = max(10, round(JOBS * scale))
    ours: list[float] = []
    direct: list[float] = []
    calls: list[dict[str, int]] = []
    with (
        Stub(purpose) as nobody,  # whom the planner's settings name; each round names another
        LocalPlanner(purpose, provider_url=nobody.url, mds_url=nobody.url, hosts=0) as planner,
    ):
        planner.start()
        from django.conf import settings
        from django.db import connection

        from jobs.models import Pool

        make_room()
        Pool.objects.update(provider="passthrough")
        in_flight = WORKERS * settings.PLANNER_THREADS["mds_submit"]
        for number in range(ROUNDS if scale >= 1 else 1):
            say(f"Round {number + 1}: {jobs} jobs ...")
            folder = data_folder(purpose) / "mds" / str(number)
            forget_jobs()
            add_jobs(planner, jobs)
            with _fresh_mds(folder / "planner") as mds:
                ours.append(_submitted(planner, jobs, mds))
            calls.append(_calls(folder / "planner"))
            bodies = _bodies()
            with _fresh_mds(folder / "direct") as mds:
                direct.append(_posted(bodies, mds, in_flight))
        connection.close()
    detail = {
        "planner's, batches/s": [round(rate, 1) for rate in ours],
        "direct, batches/s": [round(rate, 1) for rate in direct],
        "calls in flight": in_flight,
        "the planner's calls until its last batch": calls,
    }
    value, reference = statistics.median(ours), statistics.median(direct)
    return {"mds_submit_ratio": Figure(value, "batches/s", reference, at_least=0.85, detail=detail)}


@contextmanager
def _fresh_mds(folder: Path) -> Iterator[str]:
    shutil.rmtree(folder, ignore_errors=True)
    mds = MetadataService(folder)
    try:
        mds.wait_until_up()
        yield mds.url
    finally:
        mds.stop()


def _submitted(planner: LocalPlanner, jobs: int, mds_url: str) -> float:
    """Batches per second, from the record of the first to that of the last."""
    from jobs.models import JobEvent

    created = JobEvent.objects.filter(reason="batch_created")
    host = planner.workers("workers", {"PLANNER_MDS_URL": mds_url})
    try:
        deadline = time.monotonic() + LONGEST_SECONDS
        while (count := created.count()) < jobs:
            host.check_running()
            if time.monotonic() > deadline:
                raise LocalError(f"{count} of {jobs} batches were created within {LONGEST_SECONDS} s.")
            time.sleep(0.1)
    finally:
        host.stop(grace_seconds=WORKERS_STOP_SECONDS)
    return _rate([at.timestamp() for at in created.values_list("at", flat=True)])


def _posted(bodies: list[dict[str, Any]], mds_url: str, in_flight: int) -> float:
    """Batches per second, from the first answer to the last."""
    local = threading.local()

    def post(body: dict[str, Any]) -> float:
        if not hasattr(local, "session"):
            local.session = requests.Session()
            local.session.trust_env = False  # a proxy of the environment has no business on loopback
        answer = local.session.post(f"{mds_url}/v1/batches", json=body, timeout=LONGEST_SECONDS)
        if not answer.ok:
            raise LocalError(f"The metadata service answered {answer.status_code}: {answer.text[:500]}")
        return time.monotonic()

    with ThreadPoolExecutor(in_flight) as clients:
        return _rate(list(clients.map(post, bodies)))


def _rate(moments: list[float]) -> float:
    return (len(moments) - 1) / (max(moments) - min(moments))


def _bodies() -> list[dict[str, Any]]:
    """What the planner has just sent."""
    from jobs.batch_client import payload
    from jobs.models import Job
    from jobs.reconciler.submission import submission

    jobs = Job.objects.select_related("provision").order_by("id")
    return [payload(submission(job, job.provision, None)) for job in jobs if job.provision is not None]


def _calls(folder: Path) -> dict[str, int]:
    """By the service's own log, which is whole once it has ended."""
    seen = _CALL.findall((folder / "service.log").read_text(errors="replace"))
    creates = [place for place, (method, path) in enumerate(seen) if (method, path) == ("POST", "/v1/batches")]
    seen = seen[: creates[-1] + 1]
    polls = sum(method == "GET" and path.startswith("/v1/batches/") for method, path in seen)
    return {"creates": len(creates), "polls": polls, "listings": len(seen) - len(creates) - polls}
