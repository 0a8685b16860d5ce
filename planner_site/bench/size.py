"""What the number of jobs costs: the same things done beside 1,000 jobs and beside 1,000,000, in one process, in turn.

Requests are made of the site as its tests would, without a web server between. The pass looks at `AT_ONCE` batches that
run; the admission takes as many jobs from the queue, and is taken back. Both are the engine's own, and all else is kept
from being due. Of the lists and the dashboard the queries are counted as well.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import requests

from planner_site.bench import pages
from planner_site.bench.figures import Figure, Figures
from planner_site.bench.stub import Stub
from planner_site.local import LocalError, LocalPlanner, say
from planner_site.local_providers import SIMULATED

FEW, MANY = 1_000, 1_000_000
ROUNDS = 10
REPEATS = 10  # of each thing, in each round
LIST_REPEATS = 3  # of each list
WARM_UP = 2
AT_ONCE = 8  # jobs of a pass, and of an admission
_SMALL = "planner_small"  # the database of few jobs; that of many is the planner's own
_POOL, _ACCELERATOR = "seeded-h100", "H100"
_NOT_NOW = timedelta(days=1)

Timings = dict[str, list[float]]  # milliseconds, by thing


def measure(purpose: str, scale: float) -> Figures:
    """The worst of all things: beside many jobs, and beside few."""
    many = max(FEW, round(MANY * scale))
    timings: dict[str, Timings] = {}
    with (
        Stub(purpose) as stub,
        LocalPlanner(purpose, provider_url=stub.url, mds_url=stub.url, hosts=0) as planner,
    ):
        planner.start()
        from django.db import connection

        big = str(connection.settings_dict["NAME"])
        sides = {_SMALL: _Side(FEW, stub.url), big: _Side(many, stub.url)}
        with _small_database(stub.url):
            for name, side in sides.items():
                with _database(name):
                    side.prepare()
            for number in range(ROUNDS if scale >= 1 else 1):
                say(f"Round {number + 1} ...")
                for name, side in sides.items():
                    with _database(name):
                        side.measure(timings.setdefault(name, {}))
        connection.close()
        return {
            "size_ratio_max": _worst(timings[_SMALL], timings[big], many),
            "size_queries_max": _most_queries(sides[_SMALL].queries, sides[big].queries),
        }


def _worst(few: Timings, many: Timings, jobs: int) -> Figure:
    medians = {thing: (statistics.median(few[thing]), statistics.median(many[thing])) for thing in few}
    worst = max(medians, key=lambda thing: medians[thing][1] / medians[thing][0])
    detail = {
        thing: f"{before:.2f} ms beside {FEW:,} jobs, {after:.2f} ms beside {jobs:,} (x {after / before:.2f})"
        for thing, (before, after) in medians.items()
    }
    return Figure(medians[worst][1], "ms", medians[worst][0], at_most=1.5, detail={"worst": worst, **detail})


def _most_queries(few: dict[str, int], many: dict[str, int]) -> Figure:
    most = {thing: max(few[thing], many[thing]) for thing in few}
    worst = max(most.keys() - {pages.DASHBOARD}, key=lambda thing: most[thing])
    return Figure(most[worst], "queries", at_most=pages.MOST_QUERIES, detail={"worst": worst, **most})


@contextmanager
def _database(name: str) -> Iterator[None]:
    """Django's own connection goes there meanwhile."""
    from django.db import connection

    before = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = name
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = before


@contextmanager
def _small_database(provider_url: str) -> Iterator[None]:
    """A second database beside the planner's own, prepared like that."""
    from django.core.management import call_command
    from django.db import connection

    from planner_site import demo_data

    drop = f"DROP DATABASE IF EXISTS {_SMALL} WITH (FORCE)"
    with connection.cursor() as cursor:
        cursor.execute(drop)
        cursor.execute(f"CREATE DATABASE {_SMALL}")
    try:
        with _database(_SMALL):
            call_command("migrate", interactive=False, verbosity=0)
            demo_data.create(SIMULATED, provider_url)
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(drop)


class _Side:
    """One database with so many jobs. Whatever is called on it wants that to be the database in use."""

    def __init__(self, jobs: int, stub_url: str) -> None:
        self._jobs = jobs
        self._stub_url = stub_url
        self._chance = random.Random(jobs)  # noqa: S311 - to be repeated, not to be secret
        self._polled: list[str] = []
        self._completed: list[str] = []
        self._things: dict[str, Callable[[], float]] = {}
        self._lists: dict[str, Callable[[], float]] = {}
        self.queries: dict[str, int] = {}

    def prepare(self) -> None:
        """Fill it, and find what is to be looked at."""
        from django.contrib.auth.models import User
        from django.db import connection
        from django.db.models import Count
        from django.test.utils import CaptureQueriesContext

        from jobs.models import Job
        from planner_site.seed import load

        load(self._jobs, say)
        # ids tell nothing of the time, so these are from all over the table
        self._completed = list(
            Job.objects.filter(status="completed").order_by("id").values_list("id", flat=True)[:1000]
        )
        pending = Job.objects.filter(status="pending", accelerator_type=_ACCELERATOR)
        last = pending.order_by("-accepted_at").values_list("id", flat=True)[0]
        busiest = User.objects.annotate(count=Count("jobs")).order_by("-count")[0]
        get, get_own = _client(User.objects.get(username="admin")), _client(busiest)
        self._things = {
            "list": lambda: get("/api/v1/jobs"),
            "list of one owner": lambda: get_own("/api/v1/jobs"),
            "detail": lambda: get(f"/api/v1/jobs/{self._chance.choice(self._completed)}"),
            "detail of the last in the queue": lambda: _with_room(lambda: get(f"/api/v1/jobs/{last}")),
            "pass": self._pass,
            "admission": lambda: _with_room(_admission),
        }
        # an owner of few jobs: of one with many, a page is a part of any list
        rare = User.objects.annotate(count=Count("jobs")).filter(count__gt=0).order_by("count")[0]
        known = Job.objects.get(pk=self._completed[0])
        assert known.pool_id is not None  # noqa: S101 - a completed one had one
        for name, path in pages.lists(known.pk, known.batch_id, rare.email, known.pool_id).items():
            self._lists[name] = partial(get, path)
            get(path)  # what is looked up once for all
            with CaptureQueriesContext(connection) as captured:
                get(path)
            self.queries[name] = len(captured)
        self._settle()

    def measure(self, timings: Timings) -> None:
        """Do each thing a few times."""
        for things, repeats in ((self._things, REPEATS), (self._lists, LIST_REPEATS)):
            for name, thing in things.items():
                for _ in range(WARM_UP):
                    thing()
                timings.setdefault(name, []).extend(thing() for _ in range(repeats))

    def _settle(self) -> None:
        """Let nothing be due, and make batches of the jobs that the passes are going to look at."""
        from django.db.models.functions import Now

        from jobs.models import BatchScan, Job, Pool

        later = Now() + _NOT_NOW
        Job.objects.filter(due_at__isnull=False).update(due_at=later)
        Pool.objects.update(observe_at=later, options={"base_url": self._stub_url})
        Pool.objects.filter(name="simulated").update(is_enabled=False)  # the seeded ones are full
        BatchScan.objects.create(due_at=later)
        running = Job.objects.filter(status="in_progress", cancel_requested_at__isnull=True).order_by("id")[:AT_ONCE]
        for job in running:
            body = {
                "endpoint": job.endpoint,
                "input_file_id": job.input_file_id,
                "completion_window": job.completion_window,
                "metadata": {},
                "aibrix": {"job_id": f"{job.id}:1"},
            }
            answer = requests.post(f"{self._stub_url}/v1/batches", json=body, timeout=10)
            Job.objects.filter(pk=job.pk).update(batch_id=answer.json()["id"])
            self._polled.append(job.pk)

    def _pass(self) -> float:
        from django.db.models.functions import Now

        from jobs.models import Job
        from jobs.reconciler import run_pass

        polled = Job.objects.filter(pk__in=self._polled)
        polled.update(due_at=Now(), batch_seen_at=None)
        calls, took = _timed(lambda: run_pass(lambda: None))
        if calls != len(self._polled):
            raise LocalError(f"The pass made {calls} calls instead of {len(self._polled)}.")
        polled.update(due_at=Now() + _NOT_NOW)
        return took


def _with_room(thing: Callable[[], float]) -> float:
    """While one pool has room; nothing of it stays."""
    from django.db import transaction
    from django.db.models import F

    from jobs.models import Pool

    with transaction.atomic():
        Pool.objects.filter(name=_POOL).update(max_live=F("max_live") + AT_ONCE, max_provisioning=1000)
        took = thing()
        transaction.set_rollback(True)
    return took


def _admission() -> float:
    from jobs.models import Provision
    from jobs.reconciler.admission import admission

    requested = Provision.objects.filter(status="requested", pool__name=_POOL)
    before = requested.count()
    _, took = _timed(lambda: admission({}, lambda: None))
    if requested.count() - before != AT_ONCE:
        raise LocalError(f"{requested.count() - before} jobs were admitted instead of {AT_ONCE}.")
    return took


def _client(user: Any) -> Callable[[str], float]:
    """A GET as this user; it answers how long it took."""
    from django.test import Client

    client = Client(SERVER_NAME="localhost")
    client.force_login(user)

    def get(path: str) -> float:
        answer, took = _timed(lambda: client.get(path))
        if answer.status_code != requests.codes.ok:
            raise LocalError(f"GET {path} was answered {answer.status_code}.")
        return took

    return get


def _timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """What it answers, and its milliseconds."""
    began = time.perf_counter()
    answer = action()
    return answer, 1000 * (time.perf_counter() - began)
