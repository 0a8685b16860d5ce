"""`doctor`: what is well is ok; what is not is named with a remedy, and is found whatever else is broken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, ProgrammingError, connection
from django.utils import timezone
from django_q.models import Schedule, Task

from jobs import doctor
from jobs.models import Pool, Worker
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.edge import Mishap
from tests.edge import Worker as Process
from tests.engine import releasing, simulated_pool
from tests.factories import make_pool, refused
from tests.threads import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("patience")]

Found = dict[str, dict[str, str]]


def examined() -> Found:
    """By name; the worst of each."""
    out = StringIO()
    with suppress(CommandError):  # the exit code: that some check has failed
        call_command("doctor", "--json", stdout=out)
    found: Found = {}
    for check in json.loads(out.getvalue())["checks"]:
        if check["name"] not in found or found[check["name"]]["state"] == "ok":
            found[check["name"]] = check
    return found


def beat(seconds_ago: float = 0, pid: int = 1, *, is_in_pass: bool = False) -> None:
    at = timezone.now() - timedelta(seconds=seconds_ago)
    ended_at = None if is_in_pass else at
    Worker.objects.create(host="here", pid=pid, pass_started_at=at, beat_at=at, pass_ended_at=ended_at)


@pytest.fixture
def well(simulated_server: SimulatedServer, fake_mds: FakeMds, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with nothing to complain about."""
    monkeypatch.setattr(doctor.system_checks, "run_checks", lambda **_: [])
    simulated_pool(simulated_server, name="east")
    beat()


@pytest.mark.usefixtures("well")
def test_what_is_well_is_ok() -> None:
    found = examined()
    wrong = {name: check for name, check in found.items() if check["state"] != "ok"}
    assert wrong == {}
    wanted = {"database", "database clock", "migrations", "settings", "workers", "work", "chores", "mds", "mds clock"}
    assert found.keys() == wanted | {"pool east"}
    out = StringIO()
    call_command("doctor", stdout=out)
    assert "ok    pool east" in out.getvalue()


def no_workers(_: Any, __: FakeMds) -> None:
    Worker.objects.all().delete()


def stopped_worker(_: Any, __: FakeMds) -> None:
    beat(60, pid=77, is_in_pass=True)


def bad_credential(provider: SimulatedServer, _: FakeMds) -> None:
    provider.add_rule(Rule("list", times=None, status=401, code="bad_key"))


def silent_mds(_: Any, mds: FakeMds) -> None:
    mds.add_rule(Rule("list", times=None, status=500))


def held_pool(_: Any, __: FakeMds) -> None:
    make_pool(name="spare", provider="passthrough")
    Pool.objects.filter(name="east").update(is_enabled=False, held_by="op@example.org", disabled_reason="moving")


def no_pool(_: Any, __: FakeMds) -> None:
    Pool.objects.update(is_enabled=False)


def orphan(_: Any, __: FakeMds) -> None:
    Pool.objects.update(orphans={"abp-lost": timezone.now().isoformat()})


def failing_release(_: Any, __: FakeMds) -> None:
    releasing(Pool.objects.get(), name="abp-stuck", due_at=None, **refused(3))


def late_work(_: Any, __: FakeMds) -> None:
    releasing(Pool.objects.get())


def lost_schedule(_: Any, __: FakeMds) -> None:
    Schedule.objects.filter(name="cleanup").delete()


def failed_task(_: Any, __: FakeMds) -> None:
    now = timezone.now()
    Task.objects.create(
        id="1", name="t", func="jobs.tasks.f", started=now, stopped=now, success=False, result="boom\nx"
    )


@pytest.fixture
def schedules() -> Iterator[None]:
    """They outlive a test: what it deletes is put back."""
    kept = list(Schedule.objects.all())
    yield
    Schedule.objects.all().delete()
    Schedule.objects.bulk_create(kept)


@pytest.mark.parametrize(
    ("trouble", "name", "state", "said"),
    [
        (no_workers, "workers", "fail", "none has beaten"),
        (stopped_worker, "workers", "warn", "here:77"),
        (bad_credential, "pool east", "fail", "simulated"),
        (silent_mds, "mds", "fail", "500"),
        (held_pool, "pool east", "warn", "held by op@example.org: moving"),
        (no_pool, "pools", "fail", "no pool"),
        (orphan, "pool east", "warn", "1 resources that no job needs"),
        (failing_release, "work", "warn", "abp-stuck"),
        (late_work, "work", "warn", "s late"),
        (lost_schedule, "chores", "warn", "cleanup"),
        (failed_task, "chores", "warn", "the last one jobs.tasks.f: boom"),
    ],
)
@pytest.mark.usefixtures("well", "schedules")
def test_what_is_not_well_is_named_with_a_remedy(
    trouble: Any, name: str, state: str, said: str, simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    trouble(simulated_server, fake_mds)
    found = examined()[name]
    assert (found["state"], said in found["found"]) == (state, True), found
    assert found["remedy"]


@pytest.mark.parametrize(("seconds", "state"), [(-4.0, "ok"), (20.0, "warn"), (-300.0, "fail")])
def test_clocks_may_differ_a_little(seconds: float, state: str) -> None:
    check = doctor._skew("clock", seconds)
    assert check.state == state
    assert ("behind" in check.found) == (seconds < 0)


@pytest.mark.usefixtures("well")
def test_a_missing_migration_and_a_wrong_setting_fail(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.undo()
    settings.PLANNER_WORKERS = 0
    monkeypatch.setattr(doctor.MigrationExecutor, "migration_plan", lambda *_: [("jobs.0099_next", False)])
    found = examined()
    assert ("jobs.0099_next" in found["migrations"]["found"], found["migrations"]["state"]) == (True, "fail")
    assert "jobs.E003" in found["settings"]["found"]


@pytest.mark.usefixtures("well")
def test_without_a_database_it_still_tells_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OperationalError("connection refused at db.example.org with password hunter2")

    with connection.execute_wrapper(refuse):
        found = examined()
    assert {name for name, check in found.items() if check["state"] == "fail"} >= {"database", "workers", "pools"}
    assert found["mds"]["state"] == "ok"
    assert "hunter2" not in json.dumps(found)


@pytest.mark.parametrize(
    ("words", "said", "is_wrong_url"),
    [
        ('password authentication failed for user "planner"', "refuses the connection", True),
        ('database "planer" does not exist', "refuses the connection", True),
        ('no pg_hba.conf entry for host "::1", user "planner"', "refuses the connection", True),
        ("sorry, too many clients already", "does not answer", False),
        ("the database system is starting up", "does not answer", False),
        ("terminating connection due to administrator command", "does not answer", False),
    ],
)
def test_a_database_that_refuses_us_is_told_apart_from_one_that_is_away(
    words: str, said: str, *, is_wrong_url: bool
) -> None:
    def refuse(*_: Any) -> None:
        raise OperationalError(f'at "127.0.0.1" failed: FATAL:  {words}\n')

    with connection.execute_wrapper(refuse):
        found = next(doctor.examine())
    assert (found.state, found.found) == ("fail", f"the database {said}: {words}")
    assert ("DATABASE_URL" in found.remedy) == is_wrong_url


@pytest.mark.usefixtures("well")
def test_tables_that_are_not_there_yet_are_told_apart_from_a_database_that_is_away() -> None:
    def miss(*_: Any) -> None:
        raise ProgrammingError('relation "jobs_worker" does not exist')

    with connection.execute_wrapper(miss):
        found = examined()
    assert (found["workers"]["state"], found["workers"]["remedy"]) == ("fail", "Run: manage.py migrate")


@pytest.mark.usefixtures("well")
def test_killed_in_the_middle_or_twice_at_once_it_tells_the_same_and_the_exit_code_says_it_all() -> None:
    process = Process(Mishap("kill", "statement", 5, is_after=True), examined)
    process.work()
    assert process.has_met
    first, second = ({name: check["state"] for name, check in found.items()} for found in at_once(examined, examined))
    assert first == second
    Worker.objects.all().delete()
    with pytest.raises(CommandError, match="1 checks failed"):
        call_command("doctor", stdout=StringIO())
