"""Handling the engine in tests: rows in a given state, calls that end as told, and passes until something is true."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from jobs.lifecycle.claims import Bulkhead, Claim, Finished, Taken, step
from jobs.models import Job, Pool, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.statuses import MDS_CANCEL, MDS_FOLLOW, MDS_SUBMIT, NO_CALL, TERMINAL
from jobs.tasks import run_pass
from tests.clock import pass_time
from tests.factories import make_job, make_pool, make_provision
from tests.waiting import eventually

T = TypeVar("T")


def long_ago(seconds: float = 60) -> Any:
    """Due for a while: also inside a test's own transaction, whose `now()` stands still."""
    return timezone.now() - timedelta(seconds=seconds)


def describe(job: Job) -> str:
    """A job with everything about it, for the message of a failure."""
    told = [vars(job), *(vars(provision) for provision in job.provisions.all())]
    shown = [{k: str(v) for k, v in row.items() if v not in (None, "", 0, {}, []) and k != "_state"} for row in told]
    events = [f"{e.sequence} {e.from_status}>{e.to_status} {e.reason}: {e.message}" for e in job.events.all()]
    return "\n  ".join(map(str, [*shown, *events]))


def places(count: int = 9, pools: bool = True) -> dict[Bulkhead, int]:
    """As many free places everywhere."""
    free: dict[Bulkhead, int] = {("job", key): count for key in (NO_CALL, MDS_SUBMIT, MDS_FOLLOW, MDS_CANCEL)}
    for pool_id in Pool.objects.values_list("id", flat=True) if pools else ():
        free |= {("job", pool_id): count, ("release", pool_id): count}
    return free


def claimed(free: Mapping[Bulkhead, int] | None = None, *, lone: bool = False) -> Taken:
    """What a pass with nothing in hand takes."""
    return step([], places() if free is None else free, lone=lone)


def recorded(claim: Claim, answer: Any, free: Mapping[Bulkhead, int] | None = None) -> Taken:
    """The end of a call, recorded by a pass that takes nothing more."""
    return step([Finished(claim, answer)], {} if free is None else free)


def provisioning_job(pool: Pool | None = None, **fields: Any) -> Job:
    """Admitted and due: its resource is to be created."""
    pool = pool or make_pool()
    return make_job(status="provisioning", pool=pool, **{"due_at": long_ago(), **fields})


def submitting_job(pool: Pool | None = None, **fields: Any) -> Job:
    """Its resource is ready and it is due: a batch is to be submitted."""
    return _with_ready_resource({"status": "submitting", "submitting_at": timezone.now(), **fields}, pool)


def running_job(pool: Pool | None = None, **fields: Any) -> Job:
    """Its batch b1 runs and it is due: the batch is to be looked at."""
    submitted = {"submit_started_at": long_ago(), "submit_ended_at": long_ago(), "batch_id": "b1"}
    given = {"status": "in_progress", "submitting_at": timezone.now(), **submitted, **fields}
    return _with_ready_resource(given, pool)


def releasing(pool: Pool | None = None, **fields: Any) -> Provision:
    """The provision of a job that is over, being given back and due."""
    given = {"status": "releasing", "releasing_at": long_ago(), "due_at": long_ago(), **fields}
    given = {"create_started_at": long_ago(), "create_ended_at": long_ago(), **given}
    return make_provision(make_job(status="completed"), pool, **given)


def _with_ready_resource(fields: dict[str, Any], pool: Pool | None) -> Job:
    job = make_job(**{"due_at": long_ago(), **fields})
    created = {"create_started_at": long_ago(), "create_ended_at": long_ago()}
    make_provision(job, pool, status="ready", observed_state="ready", observed_at=long_ago(), **created)
    job.refresh_from_db()
    return job


def simulated_pool(server: SimulatedServer, **fields: Any) -> Pool:
    """A pool on the test's own server, observed at the pace of the tests."""
    options = {"base_url": server.url}
    return make_pool(
        **{"options": options, "observe_interval_seconds": 0.05, "absence_confirm_seconds": 0.05, **fields}
    )


def passes_until(condition: Callable[[], T], *, timeout: float = 20, what: str = "") -> T:
    """Passes, one after another and each forgotten, until the condition holds."""

    def turn() -> T:
        run_pass()
        return condition()

    return eventually(turn, timeout, what=what)


def is_quiet() -> bool:
    """Every job is over and every resource given back."""
    is_open = Job.objects.exclude(status__in=sorted(TERMINAL)).exists()
    return not is_open and not Provision.objects.exclude(status="released").exists()


def passes_until_quiet(*, timeout: float = 20) -> None:
    """Passes until nothing is left to do; a failure tells what is."""
    try:
        passes_until(is_quiet, timeout=timeout)
    except AssertionError as error:
        left = Job.objects.exclude(status__in=sorted(TERMINAL), provision__status="released")
        raise AssertionError("\n".join([str(error), *map(describe, left)])) from None


def ticking_until(condition: Callable[[], T], *, seconds: float = 1, timeout: float = 40) -> T:
    """Passes, with so much time passing after each, until the condition holds."""

    def turn() -> T:
        run_pass()
        pass_time(seconds)
        return condition()

    return eventually(turn, timeout, 0.001)


@contextmanager
def another_connection() -> Iterator[BaseDatabaseWrapper]:
    """A second connection to the same database: it sees only what is committed."""
    other = connections.create_connection("default")
    try:
        yield other
    finally:
        other.close()


@contextmanager
def locked(table: str, pk: Any) -> Iterator[None]:
    """Somebody else holds this row's lock meanwhile."""
    with another_connection() as other:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute(f'SELECT 1 FROM "{table}" WHERE id = %s FOR NO KEY UPDATE', [pk])  # noqa: S608 - our own names
        yield
        other.rollback()
