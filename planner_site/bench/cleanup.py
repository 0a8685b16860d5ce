"""What a cleanup costs those who use the API meanwhile: the same requests before it and beside it.

A few clients list, look at and create jobs at a steady pace, and workers run those jobs to their end; then
`cleanup_jobs` deletes many old ones.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import requests

from planner_site.bench.figures import Figure, Figures, percentile
from planner_site.bench.stub import Stub
from planner_site.bench.usage import Usage
from planner_site.local import CHECKOUT, LocalError, LocalPlanner, say

JOBS = 100_000  # to be deleted
SHARE_OVER = 0.88  # of the seeded jobs, at least
CLIENTS, PACE_SECONDS = 4, 0.2  # each makes a request so often
ALONE_SECONDS = 40.0  # before and after: what differs between those two is the machine's
WARM_UP_SECONDS = 10.0
LONGEST_SECONDS = 60.0  # for an answer
WORKERS = "2"
_ENOUGH = 1_000_000


@dataclass
class _Load:
    """The clients, and what they have seen: when each request began, and its milliseconds."""

    url: str
    token: str
    body: str
    seen: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def client(self) -> None:
        """One client: a job created, the list, the job again and again; on one kept connection."""
        session = requests.Session()
        session.trust_env = False
        session.headers.update({"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
        job_id = ""
        for number in itertools.count():
            method, path = (
                ("POST", "/jobs") if number % 4 == 0 else ("GET", "/jobs" if number % 4 == 1 else f"/jobs/{job_id}")
            )
            began = time.monotonic()
            try:
                answer = session.request(
                    method, f"{self.url}/api/v1{path}", data=self.body if method == "POST" else None, timeout=60
                )
            except requests.RequestException as error:
                self.failures.append(f"{method} {path}: {type(error).__name__}")
                continue
            took = time.monotonic() - began
            self.seen.append((began, 1000 * took))
            if not answer.ok:
                self.failures.append(f"{method} {path}: {answer.status_code}")
            elif method == "POST":
                job_id = answer.json()["id"]
            if self.is_over.wait(max(0.0, PACE_SECONDS - took)):
                return

    def between(self, begin: float, end: float) -> list[float]:
        """The milliseconds of what began then."""
        return [took for began, took in list(self.seen) if begin <= began < end]


class _Moment:
    """When something begins, and what the machine had spent by then."""

    def __init__(self) -> None:
        self.at = time.monotonic()
        self._usage = Usage.of({})

    def busy_since(self, earlier: _Moment) -> str:
        """How busy all processors were: close to whole, and a figure tells of the machine alone."""
        return f"{1 - self._usage.since(earlier._usage).idle_share:.0%} busy"


def measure(purpose: str, scale: float) -> Figures:
    """The slowest hundredth of requests beside the cleanup against the slowest twentieth before."""
    os.environ |= {"PLANNER_QUEUE_CAPACITY": str(_ENOUGH), "PLANNER_WORKERS": WORKERS}
    with (
        Stub(purpose) as stub,
        LocalPlanner(purpose, provider_url=stub.url, mds_url=stub.url, hosts=0) as planner,
    ):
        planner.start()
        from django.db import connection

        from planner_site import demo_data

        _seed(max(100, round(JOBS * scale / SHARE_OVER)))
        stub.reset(are_batches_quick=True)
        planner.workers("workers")
        body = json.dumps(demo_data.job_request(demo_data.file_row().pk))
        load = _Load(planner.url, demo_data.token("alice"), body)
        connection.close()
        clients = [threading.Thread(target=load.client, daemon=True) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            figure = _beside_cleanup(load, min(1.0, scale))
        finally:
            load.is_over.set()
            for client in clients:
                client.join()
    if load.failures:
        raise LocalError(f"{len(load.failures)} requests failed: {load.failures[:5]}")
    return {"cleanup_api_p99_ms": figure}


def _beside_cleanup(load: _Load, scale: float) -> Figure:
    time.sleep(max(1.0, WARM_UP_SECONDS * scale))
    say("The API by itself ...")
    first = _Moment()
    time.sleep(max(1.0, ALONE_SECONDS * scale))
    _await_answers(load, first.at)
    say("The API beside the cleanup ...")
    begun = _Moment()
    command = [sys.executable, "manage.py", "cleanup_jobs", "--older-than", "1h", "--keep-failed", "1h", "--json"]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own command line
    if done.returncode:
        raise LocalError("cleanup_jobs failed; what it said is above.")
    _await_answers(load, begun.at)
    ended = _Moment()
    say("The API by itself once more ...")
    time.sleep(max(1.0, ALONE_SECONDS * scale))
    _await_answers(load, ended.at)
    last = _Moment()
    told = json.loads(done.stdout)
    jobs = sum(told["jobs"].values())
    before, beside = load.between(first.at, begun.at), load.between(begun.at, ended.at)
    detail = {
        "before": _spread(before) | {"machine": begun.busy_since(first)},
        "beside": _spread(beside) | {"machine": ended.busy_since(begun)},
        "after": _spread(load.between(ended.at, last.at)) | {"machine": last.busy_since(ended)},
        "deleted": f"{jobs:,} jobs, {told['events']:,} events, {told['provisions']:,} provisions",
        "seconds": told["seconds"],
        "jobs/s": round(jobs / max(told["seconds"], 0.1)),
    }
    return Figure(percentile(beside, 99), "ms", percentile(before, 95), at_most=3, detail=detail)


def _await_answers(load: _Load, since: float) -> None:
    """A machine that is slow, or a cleanup that is quick, may have brought none yet."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not load.between(since, time.monotonic()):
        if load.failures or time.monotonic() > deadline:
            raise LocalError(f"The API gave no answer within {LONGEST_SECONDS} s: {load.failures[:5]}")
        time.sleep(0.05)


def _spread(found: list[float]) -> dict[str, Any]:
    return {f"p{percent}": round(percentile(found, percent), 1) for percent in (50, 95, 99)} | {"n": len(found)}


def _seed(rows: int) -> None:
    """So many jobs, of which those that are not over are nobody's work: neither admitted nor looked at."""
    from django.db import connection
    from django.db.models.functions import Now

    from jobs.models import Job, Pool
    from planner_site.seed import load

    load(rows, say)
    later = Now() + timedelta(days=1)
    Job.objects.filter(due_at__isnull=False).update(due_at=later)
    Job.objects.filter(status="pending").update(hold=True)
    Pool.objects.exclude(name="simulated").update(is_enabled=False, observe_at=later)
    Pool.objects.filter(name="simulated").update(max_live=_ENOUGH, max_provisioning=_ENOUGH)
    with connection.cursor() as cursor:
        # what the seeding left to do is done now, not beside what is measured; and without knowing how many are held a
        # pass, which asks for jobs that are not, reads all of the table to find none
        cursor.execute("SET statement_timeout = 0")
        cursor.execute("VACUUM (ANALYZE) jobs_job")
        cursor.execute("CHECKPOINT")
    connection.close()  # and with it the session's setting
