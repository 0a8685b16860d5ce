"""Seeded jobs: rows as the engine would have left them, and a database that is somebody else's is left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from jobs.models import Job, JobEvent, Pool, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.statuses import PROVISION_ENDED, TERMINAL, JobStatus
from jobs.tasks import run_pass
from jobs.testing.fake_mds import FakeMds
from planner_site import postgres
from planner_site.seed import SeedRefused, load
from planner_site.soak.evidence import events_found, jobs_found
from planner_site.soak.verdict import illegal_histories
from tests.factories import make_job, make_user
from tests.invariants import Witness

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 200


@pytest.fixture
def database() -> Iterator[psycopg.Connection[Any]]:
    connection.ensure_connection()
    session = connection.connection.info
    with psycopg.connect(session.dsn, password=session.password, autocommit=True) as database:
        yield database


def check_rows(database: psycopg.Connection[Any]) -> None:
    """What holds for rows that the engine has written."""
    ids = set(Job.objects.values_list("id", flat=True))
    Witness(database, make_user("viewer")).check(ids)
    assert list(illegal_histories(jobs_found().values(), events_found())) == []
    held = Counter(Provision.objects.exclude(status__in=PROVISION_ENDED).values_list("pool__name", flat=True))
    assert all(count <= Pool.objects.get(name=name).max_live for name, count in held.items())


def test_it_works(database: psycopg.Connection[Any]) -> None:
    said: list[str] = []
    load(ROWS, said.append)
    statuses = Counter(Job.objects.values_list("status", flat=True))
    assert statuses.keys() == set(JobStatus.values)
    assert (statuses.total(), statuses["pending"]) == (ROWS, ROWS // 10)
    assert sum(statuses[status] for status in TERMINAL) >= ROWS * 0.8
    assert JobEvent.objects.count() == pytest.approx(3 * ROWS, rel=0.05)
    assert Job.objects.values("owner").distinct().count() >= 10
    assert f"{ROWS} jobs with" in said[-1]
    check_rows(database)


def test_a_pass_goes_over_it(
    database: psycopg.Connection[Any], simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    load(ROWS)
    Pool.objects.update(options={"base_url": simulated_server.url})
    due = set(Job.objects.filter(due_at__isnull=False).values_list("id", flat=True))
    waiting = set(Job.objects.filter(status=JobStatus.PENDING).values_list("id", flat=True))
    run_pass()
    check_rows(database)
    assert not Job.objects.filter(crashes__gt=0).exists()
    assert {batch.job_id.split(":")[1] for batch in fake_mds.batches()} & due, "what was ready is submitted"
    created = {held.facts["job_id"] for held in simulated_server.live()}
    assert created & due, "what was requested is created"
    assert created & waiting, "there is room in the pools, so what waits is admitted"


@pytest.mark.parametrize("is_embedded", [True, False])
def test_it_says_how_to_look_at_the_rows_and_how_to_end_a_database_it_has_started(
    is_embedded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.url("dev") if is_embedded else "postgresql://db.example.org/planner")
    said = StringIO()
    call_command("seed", rows=1, stdout=said)
    assert "PLANNER_AUTH_MODE=dev .venv/bin/python manage.py runserver" in said.getvalue()
    assert ("make stop" in said.getvalue()) == is_embedded


def test_it_replaces_what_was_seeded_before(database: psycopg.Connection[Any]) -> None:
    load(50)
    load(ROWS)
    assert Job.objects.count() == ROWS
    assert Pool.objects.count() == 3
    check_rows(database)


def test_a_database_with_other_jobs_is_left_alone() -> None:
    job = make_job()
    with pytest.raises(SeedRefused, match="not seeded"):
        load(ROWS)
    with pytest.raises(CommandError, match="not seeded"):
        call_command("seed", rows=ROWS)
    assert list(Job.objects.values_list("id", flat=True)) == [job.id]


def test_tables_in_use_are_left_alone(database: psycopg.Connection[Any]) -> None:
    load(10)
    with database.transaction():
        database.execute("SELECT FROM jobs_job")
        with pytest.raises(SeedRefused, match="in use"):
            load(ROWS)
    assert Job.objects.count() == 10


def test_no_rows_are_refused() -> None:
    with pytest.raises(CommandError, match="at least 1"):
        call_command("seed", rows=0)
    assert not Job.objects.exists()
