"""Instants, wherever the machine and the database think they are: real ones, in UTC, or none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, models

from jobs import planner
from jobs.conf import times
from jobs.models import BatchScan, Job, JobEvent, Pool, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.api_client import api, job_body
from tests.engine import passes_until, passes_until_quiet, simulated_pool
from tests.factories import make_job

pytestmark = pytest.mark.django_db(transaction=True)

# of the process and of the database; hours and half hours, with summer time and without
ZONES = [("Asia/Shanghai", "UTC"), ("UTC", "Asia/Shanghai"), ("America/St_Johns", "Pacific/Chatham")]


@pytest.fixture(params=ZONES, ids="-".join)
def zones(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process and a database that are elsewhere, each for itself."""
    process, database = request.param
    monkeypatch.setenv("TZ", process)
    time.tzset()
    _alter_database("SET timezone TO", f"'{database}'")
    yield
    _alter_database("RESET timezone")
    monkeypatch.undo()
    time.tzset()


def _alter_database(*change: str) -> None:
    """For the sessions to come, of which ours is one."""
    with connection.cursor() as cursor:
        cursor.execute(" ".join([f'ALTER DATABASE "{connection.settings_dict["NAME"]}"', *change]))
    connection.close()


def instants() -> list[tuple[str, datetime]]:
    """Every time that is stored, and where."""
    found = []
    for model in (Job, JobEvent, Provision, Pool, BatchScan):
        times_of_it = [f.name for f in model._meta.get_fields() if isinstance(f, models.DateTimeField)]
        fields = [name for name in times_of_it if name != "floor_at"]  # how far back a scan reaches: a day
        for row in model._default_manager.values(*fields):
            found += [(f"{model.__name__}.{name}", value) for name, value in row.items() if value is not None]
    return found


_AHEAD = {"deadline_at", "expires_at", "due_at", "claimable_at", "observe_at", "lease_expires_at"}


def test_every_stored_time_is_a_real_one_in_any_zone(
    zones: None, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    began = datetime.now(UTC) - timedelta(seconds=2)
    pool = simulated_pool(simulated_server)
    client = api()
    answer = client.post("/jobs", job_body(client.user, completion_window="12h")).json()
    passes_until_quiet()
    ended = datetime.now(UTC) + timedelta(seconds=2)
    job, provision = Job.objects.get(), Provision.objects.get()
    assert job.status == "completed"
    for where, moment in instants():
        longest = timedelta(days=2 if where.partition(".")[2] in _AHEAD else 0)
        assert began <= moment <= ended + longest, where
    assert job.provisioning_at is not None
    window = timedelta(hours=12)
    expected = job.provisioning_at + timedelta(seconds=pool.ready_timeout_seconds) + window
    margin = timedelta(seconds=times().lease_margin)
    assert abs(provision.expires_at - margin - expected) < timedelta(seconds=1)
    (batch,) = fake_mds.batches()
    assert abs(batch.expires_at - expected.timestamp()) < 1
    assert job.deadline_at == datetime.fromtimestamp(batch.expires_at, UTC)
    shown = client.get(f"/jobs/{answer['id']}").json()
    assert abs(int(shown["completedAt"]) - ended.timestamp()) < 30
    assert int(shown["expiresAt"]) == batch.expires_at
    assert abs(int(answer["createdAt"]) - began.timestamp()) < 30


def test_a_deadline_passes_at_the_same_moment_in_any_zone(
    zones: None, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    simulated_pool(simulated_server)
    fake_mds.add_rule(Rule("create", times=None, status=429))
    job, other = make_job(), make_job()
    passes_until(lambda: Job.objects.filter(status="submitting").count() == 2)
    now = datetime.now(UTC)
    Job.objects.filter(pk=job.pk).update(deadline_at=now - timedelta(seconds=1), due_at=now)
    Job.objects.filter(pk=other.pk).update(deadline_at=now + timedelta(minutes=10), due_at=now)
    passes_until(lambda: Job.objects.get(pk=job.pk).status == "expired")
    other.refresh_from_db()
    assert other.status == "submitting"
    sentence = planner.waiting_for(other).sentence
    assert other.due_at is None or f"{other.due_at:%H:%M:%S} UTC" in sentence or "now" in sentence


def test_what_has_not_happened_has_no_time() -> None:
    """Not the year 1, not 1970; and the console, whose contract asks for a number, is told "0"."""
    client = api()
    answer = client.post("/jobs", job_body(client.user)).json()
    row = dict(Job.objects.values().get())
    happened = {name for name, value in row.items() if isinstance(value, datetime)}
    assert happened == {"accepted_at", "ranked_at"}
    told = {name for name, value in answer.items() if name.endswith("At") and value != "0"}
    assert told == {"createdAt", "queuedAt", "expiresAt"}
    assert all(int(answer[name]) > 1_700_000_000 for name in told)
