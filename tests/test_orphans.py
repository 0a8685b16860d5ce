"""The orphan sweep: what bears our mark outside and no row needs is found, spared for a while, and given back."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from django_q.models import Schedule

from jobs import tasks
from jobs.batch_client import Batch, BatchPage
from jobs.models import Job, Pool, Provision, QueueMessage
from jobs.provisioners.simulated import SimulatedProvisioner
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls, orphans
from jobs.reconciler.orphans import Sweep, sweep
from jobs.schedules import create_schedules
from jobs.statuses import PROVISION_ENDED, ProvisionStatus
from jobs.testing.script import Rule
from tests.answers import batch, error
from tests.clock import pass_time
from tests.engine import locked, releasing, running_job, simulated_pool, submitting_job
from tests.factories import make_job, make_pool, make_provision
from tests.faults import Killed
from tests.threads import at_once

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class ListedMds:
    """An MDS whose list is given, newest first; what is cancelled is over at once."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.page_size = 100
        self.cancelled: list[str] = []
        self.failure: Exception | None = None

    def list_page(self, after: str = "", limit: int = 100) -> BatchPage:
        if self.failure:
            raise self.failure
        ids = [each.id for each in self.batches]
        rest = self.batches[ids.index(after) + 1 if after else 0 :]
        return BatchPage(rest[: self.page_size], len(rest) > self.page_size, NOW)

    def get(self, batch_id: str) -> Batch:
        found = next(each for each in self.batches if each.id == batch_id)
        return replace(found, status="cancelled") if batch_id in self.cancelled else found

    def cancel(self, batch_id: str) -> Batch:
        assert not connection.in_atomic_block or connection.savepoint_ids == [], "no call inside a transaction"
        self.cancelled.append(batch_id)
        return self.get(batch_id)

    def add(self, batch_id: str, job_id: str, attempt: int = 1, **fields: Any) -> None:
        made = {"created_at": NOW - timedelta(hours=1), **fields}
        self.batches.append(batch(batch_id=batch_id, job_id=f"default:{job_id}:{attempt}", **made))


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> ListedMds:
    mds = ListedMds()
    monkeypatch.setattr(calls, "batch_client", lambda: mds)
    monkeypatch.setattr(orphans, "batch_client", lambda: mds)
    return mds


def hold(server: SimulatedServer, name: str, installation: str = "default") -> None:
    assert server.create({"name": name, "installation": installation})


def swept(**options: Any) -> Sweep:
    return sweep(seconds=60, **options)


def names(server: SimulatedServer) -> list[str]:
    return sorted(held.name for held in server.live())


@pytest.mark.parametrize("status", list(ProvisionStatus))
def test_a_resource_is_an_orphan_when_its_provision_is_over(
    status: ProvisionStatus, simulated_server: SimulatedServer
) -> None:
    pool = simulated_pool(simulated_server)
    times = {"ready_at": timezone.now(), "released_at": timezone.now(), "written_off_at": timezone.now()}
    provision = make_provision(pool=pool, status=status, **times)
    hold(simulated_server, provision.name)
    swept()
    pass_time(orphans.GRACE_SECONDS)
    swept()
    is_orphan = status in PROVISION_ENDED
    assert (names(simulated_server) == []) == is_orphan
    provision.refresh_from_db()
    assert provision.status == status


def test_a_resource_without_any_row_is_given_back_after_the_grace_and_no_other(
    simulated_server: SimulatedServer,
) -> None:
    pool = simulated_pool(simulated_server, is_enabled=False)
    hold(simulated_server, "abp-lost")
    hold(simulated_server, "theirs", installation="another")
    (noted,) = swept().findings
    assert (noted.where, noted.name, noted.why) == (pool.name, "abp-lost", "no provision has this name")
    assert names(simulated_server) == ["abp-lost", "theirs"], "seen for the first time"
    since = Pool.objects.get().orphans["abp-lost"]
    pass_time(orphans.GRACE_SECONDS - 10)
    swept()
    assert names(simulated_server) == ["abp-lost", "theirs"], "not for long enough"
    assert Pool.objects.get().orphans["abp-lost"] < since, "since when is not forgotten"
    pass_time(10)
    (released,) = swept().findings
    assert (released.outcome, released.is_failed) == ("release sent", False)
    assert names(simulated_server) == ["theirs"]
    assert swept().findings == []
    assert Pool.objects.get().orphans == {}


def test_a_dry_run_reports_and_changes_nothing(simulated_server: SimulatedServer, listed: ListedMds) -> None:
    simulated_pool(simulated_server)
    hold(simulated_server, "abp-lost")
    listed.add("b1", "job_gone")
    found = swept(dry_run=True, grace_seconds=0).findings
    assert [(each.name, each.outcome) for each in found] == [
        ("abp-lost", "would be released"),
        ("b1", "would be cancelled"),
    ]
    assert (names(simulated_server), listed.cancelled, Pool.objects.get().orphans) == (["abp-lost"], [], {})


def test_a_provider_that_fails_is_reported_and_stops_no_other(simulated_server: SimulatedServer) -> None:
    make_pool(name="broken", options={"base_url": "http://127.0.0.1:1"})
    simulated_pool(simulated_server, name="whole")
    hold(simulated_server, "abp-lost")
    hold(simulated_server, "abp-stuck")
    simulated_server.add_rule(Rule("delete", times=None, name_prefix="abp-stuck", status=500))
    found = {(each.where, each.name): each for each in swept(grace_seconds=0).findings}
    assert found["broken", ""].is_failed
    assert found["whole", "abp-stuck"].is_failed
    assert names(simulated_server) == ["abp-stuck"]
    assert list(Pool.objects.get(name="whole").orphans) == ["abp-lost", "abp-stuck"]


@pytest.mark.django_db(transaction=True)
def test_a_pool_in_somebody_elses_hands_is_reported_and_stops_no_other(simulated_server: SimulatedServer) -> None:
    held, free = simulated_pool(simulated_server), simulated_pool(simulated_server)
    hold(simulated_server, "abp-lost")
    with locked("jobs_pool", held.pk):
        findings = {finding.where: finding for finding in swept().findings}
    assert (findings[held.name].why, findings[held.name].is_failed) == ("its row is in use", True)
    assert (findings[free.name].name, findings[free.name].is_failed) == ("abp-lost", False)


@pytest.mark.parametrize(
    ("job_id", "attempt", "is_orphan"),
    [
        ("job_gone", 1, True),
        ("over", 1, True),
        ("running", 1, False),  # its own batch
        ("running-b9", 1, True),  # another than its own
        ("doubtful", 1, False),  # may still be adopted
        ("doubtful", 0, True),
        ("", 1, False),  # not our name at all
    ],
)
def test_a_batch_is_an_orphan_when_no_live_job_owns_it(
    job_id: str, attempt: int, is_orphan: bool, listed: ListedMds
) -> None:
    ids = {
        "over": make_job(status="completed").id,
        "running": running_job(batch_id="b1").id,
        "running-b9": running_job(batch_id="b9").id,
        "doubtful": submitting_job(submit_started_at=timezone.now(), submit_ended_at=timezone.now()).id,
    }
    listed.add("b1", ids.get(job_id, job_id), attempt)
    found = swept().findings
    assert [each.name for each in found if each.where == "mds"] == (["b1"] if is_orphan else [])
    assert listed.cancelled == (["b1"] if is_orphan else [])


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "completed"},
        {"created_at": NOW - timedelta(seconds=orphans.GRACE_SECONDS - 1)},
        {"job_id": "another:job_gone:1"},
    ],
)
def test_a_batch_that_is_over_or_young_or_not_ours_is_left_alone(fields: dict[str, Any], listed: ListedMds) -> None:
    listed.batches.append(batch(**{"job_id": "default:job_gone:1", "created_at": NOW - timedelta(hours=1), **fields}))
    swept()
    assert listed.cancelled == []


def test_a_long_list_is_read_in_turns_down_to_its_reach(listed: ListedMds) -> None:
    listed.page_size = 2
    for hours in range(1, 11):
        listed.add(f"b{hours}", "job_gone", created_at=NOW - timedelta(hours=hours))
    first = sweep(seconds=0, reach=timedelta(hours=7))
    assert (first.after, listed.cancelled) == ("b1", ["b1"]), "one at least, and no more when the time is up"
    after, turns = first.after, 1
    while after:
        after, turns = sweep(after=after, seconds=0, reach=timedelta(hours=7)).after, turns + 1
    assert (listed.cancelled, turns) == ([f"b{hours}" for hours in range(1, 8)], 7)


def test_what_one_turn_leaves_is_another_turns(monkeypatch: pytest.MonkeyPatch, listed: ListedMds) -> None:
    listed.page_size = 1
    for number in range(3):
        listed.add(f"b{number}", "job_gone")
    monkeypatch.setattr(tasks, "_CHORE_SECONDS", 0)
    tasks.release_orphans()
    assert listed.cancelled == ["b0"]
    assert QueueMessage.objects.filter(payload__isnull=False).count() == 1


def test_the_command_reports_and_fails_if_something_is_left(
    simulated_server: SimulatedServer, listed: ListedMds
) -> None:
    simulated_pool(simulated_server, name="east")
    hold(simulated_server, "abp-lost")
    out = StringIO()
    call_command("release_orphans", "--dry-run", "--grace", "0s", stdout=out)
    assert out.getvalue() == "east: abp-lost: no provision has this name: would be released\n1 orphans\n"
    listed.failure = error("transient", "no answer")
    with pytest.raises(CommandError, match="1 could not be looked at"):
        call_command("release_orphans", "--grace", "0s", stdout=out)
    assert names(simulated_server) == []


def test_the_sweep_is_scheduled_once_and_an_operators_change_stands() -> None:
    schedule = Schedule.objects.get(name="release_orphans")
    assert (schedule.func, schedule.minutes, schedule.repeats) == ("jobs.tasks.release_orphans", 5, -1)
    Schedule.objects.filter(pk=schedule.pk).update(minutes=30)
    create_schedules(apps.get_app_config("jobs"), using="default")
    assert Schedule.objects.get(name="release_orphans").minutes == 30


def test_a_resource_on_its_way_out_is_no_orphan(simulated_server: SimulatedServer) -> None:
    provision = releasing(simulated_pool(simulated_server))
    hold(simulated_server, provision.name)
    assert swept(grace_seconds=0).findings == []
    assert (Provision.objects.get().status, Job.objects.count()) == ("releasing", 1)


def test_a_defect_in_one_providers_adapter_keeps_nobody_from_the_others(
    simulated_server: SimulatedServer, listed: ListedMds, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated_pool(simulated_server, name="broken")
    listed.add("b1", "job_gone")
    monkeypatch.setattr(SimulatedProvisioner, "discover", lambda self: 1 / 0)
    found = swept()
    assert [(finding.where, finding.is_failed) for finding in found.findings] == [("broken", True), ("mds", False)]
    assert listed.cancelled == ["b1"]


def test_only_the_named_pools_are_swept_and_the_mds_is_left_out(
    simulated_server: SimulatedServer, listed: ListedMds
) -> None:
    simulated_pool(simulated_server, name="east")
    make_pool(name="west", options={"base_url": "http://127.0.0.1:1"})
    hold(simulated_server, "abp-lost")
    listed.add("b1", "job_gone")
    out = StringIO()
    call_command("release_orphans", "--pool", "east", "--grace", "0s", "--json", stdout=out)
    (finding,) = json.loads(out.getvalue())["findings"]
    assert (finding["where"], finding["name"], finding["outcome"]) == ("east", "abp-lost", "release sent")
    assert (names(simulated_server), listed.cancelled) == ([], [])
    with pytest.raises(CommandError, match="no pool 'north'"):
        call_command("release_orphans", "--pool", "north")


@pytest.mark.django_db(transaction=True)
def test_killed_in_the_middle_the_next_sweep_gives_back_the_rest(
    simulated_server: SimulatedServer, listed: ListedMds, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated_pool(simulated_server)
    for name in ("abp-1", "abp-2", "abp-3"):
        hold(simulated_server, name)
    listed.add("b1", "job_gone")
    release = SimulatedProvisioner.release

    def release_and_die(self: SimulatedProvisioner, name: str) -> None:
        release(self, name)
        raise Killed

    with monkeypatch.context() as patches:
        patches.setattr(SimulatedProvisioner, "release", release_and_die)
        with pytest.raises(Killed):
            call_command("release_orphans", "--grace", "0s", stdout=StringIO())
    assert (len(names(simulated_server)), listed.cancelled) == (2, [])
    call_command("release_orphans", "--grace", "0s", stdout=StringIO())
    assert (names(simulated_server), listed.cancelled) == ([], ["b1"])


@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_give_back_everything_and_do_no_harm(simulated_server: SimulatedServer) -> None:
    simulated_pool(simulated_server)
    needed = make_provision(pool=Pool.objects.get(), status="ready")
    for name in (needed.name, "abp-1", "abp-2", "abp-3"):
        hold(simulated_server, name)

    def swept_once() -> bool:
        try:
            call_command("release_orphans", "--grace", "0s", stdout=StringIO())
        except CommandError:
            return False  # the pool's row was in the other one's hands
        return True

    assert any(at_once(swept_once, swept_once))
    assert names(simulated_server) == [needed.name]
