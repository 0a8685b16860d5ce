"""The backfill: batches of others become jobs once, with what they tell of themselves, and are left to their makers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import pairwise
from typing import Any

import pytest
import requests
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from jobs import planner
from jobs.lifecycle import imports
from jobs.models import Job, JobEvent, Provision
from jobs.reconciler import backfill as walk
from jobs.reconciler.orphans import sweep
from jobs.statuses import JOB_TRANSITIONS, TERMINAL, JobStatus
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.api_client import ApiClient
from tests.clock import pass_time
from tests.edge import Mishap
from tests.edge import Worker as Process
from tests.engine import passes_until
from tests.factories import make_job, make_user
from tests.threads import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("patience")]


@pytest.fixture
def owner() -> User:
    return make_user(username="alice", email="alice@example.org")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    real = walk.batch_client

    class Client:
        def list_page(self, after: str) -> Any:
            return real().list_page(after, limit=3)

        def get(self, batch_id: str) -> Any:
            return real().get(batch_id)

    monkeypatch.setattr(walk, "batch_client", Client)


def submit(mds: FakeMds, status: str = "scheduling", job_id: str = "", **fields: Any) -> str:
    """A batch of another client's, as it is by now."""
    body = {
        "input_file_id": "file-in",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"created_by": "alice@example.org", "display_name": "nightly"},
        **({"aibrix": {"job_id": job_id}} if job_id else {}),
        **fields,
    }
    batch_id = str(requests.post(f"{mds.url}/v1/batches", json=body, timeout=10).json()["id"])
    if status != "scheduling":
        mds.set_status(batch_id, status)
    return batch_id


def backfill(*flags: str) -> dict[str, Any]:
    out = StringIO()
    call_command("backfill_jobs", "--json", *flags, stdout=out)
    return dict(json.loads(out.getvalue()))


def history(job: Job) -> list[tuple[str, int]]:
    events = JobEvent.objects.filter(job=job).order_by("sequence")
    assert [event.sequence for event in events] == list(range(1, job.event_count + 1))
    moves = [event for event in events if event.to_status]
    for before, after in pairwise(moves):
        assert (after.from_status, before.at <= after.at) == (before.to_status, True)
        assert after.to_status in JOB_TRANSITIONS[JobStatus(after.from_status)]
    assert moves[-1].to_status == job.status
    return [(event.to_status, round(event.at.timestamp())) for event in moves]


def test_a_batch_that_is_over_becomes_a_job_with_all_that_it_tells(fake_mds: FakeMds, owner: User) -> None:
    aibrix = {
        "job_id": "theirs-7",
        "model_template": {"name": "small", "version": "v2"},
        "client": {"max_concurrency": 4},
        "resource_allocation": {"resource_details": [{"gpu_type": "H100", "replica": 2}]},
    }
    batch_id = submit(fake_mds, aibrix=aibrix)
    created = fake_mds.batches()[0].created_at
    at = int(created)
    reached = {"in_progress_at": at + 5, "finalizing_at": at + 50, "completed_at": at + 60}
    counts = {"request_counts": {"total": 3, "completed": 2, "failed": 1}, "output_file_id": "out"}
    fake_mds.set_status(batch_id, "completed", **reached, **counts)
    told = backfill()
    assert (told["read"], told["imported"], told["imported_over"]) == (1, 1, 1)
    job = Job.objects.get()
    assert (job.owner, job.created_by, job.name) == (owner, "alice@example.org", "nightly")
    assert (job.batch_id, job.status, job.output_file_id, job.input_file_id) == (
        batch_id,
        "completed",
        "out",
        "file-in",
    )
    assert (job.request_total, job.request_completed, job.request_failed) == (3, 2, 1)
    assert (job.template_name, job.client, job.replicas, job.accelerator_type) == (
        "small",
        {"max_concurrency": 4},
        2,
        "H100",
    )
    assert (job.completion_window_seconds, job.metadata["display_name"]) == (86_400, "nightly")
    assert (job.pool, job.provision, job.due_at) == (None, None, None)
    assert job.completed_at == datetime.fromtimestamp(at + 60, UTC)
    steps = [("scheduling", at), ("in_progress", at + 5), ("finalizing", at + 50), ("completed", at + 60)]
    assert history(job) == steps


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_whatever_the_end_was_it_is_the_jobs_and_nobody_looks_at_it_again(
    status: str, fake_mds: FakeMds, owner: User
) -> None:
    submit(fake_mds, status, metadata={"owner": "alice"})
    backfill()
    job = Job.objects.get()
    assert (job.status, job.due_at, getattr(job, f"{status}_at") is not None) == (status, None, True)
    history(job)


def test_what_is_not_accounted_for_is_not_called_completed(fake_mds: FakeMds, owner: User) -> None:
    batch_id = submit(fake_mds)
    fake_mds.set_status(batch_id, "completed", request_counts={"total": 3, "completed": 1, "failed": 0})
    backfill()
    assert (Job.objects.get().status, Job.objects.get().error_code) == ("failed", "incomplete_output")


def test_times_that_go_back_are_put_in_order(fake_mds: FakeMds, owner: User) -> None:
    batch_id = submit(fake_mds)
    fake_mds.set_status(batch_id, "failed", in_progress_at=int(time.time()) + 90, failed_at=int(time.time()) + 30)
    backfill()
    assert [status for status, _ in history(Job.objects.get())] == ["scheduling", "in_progress", "failed"]


def test_a_batch_that_runs_is_followed_to_its_end_without_a_provision(fake_mds: FakeMds, owner: User) -> None:
    batch_id = submit(fake_mds, "in_progress")
    assert backfill()["imported_running"] == 1
    job = Job.objects.get()
    assert (job.status, job.due_at is not None) == ("finalizing", True), "a look moves it on"
    assert planner.waiting_for(job).code == "running"
    passes_until(lambda: Job.objects.get().status == "completed")
    assert not Provision.objects.exists()
    history(Job.objects.get())
    assert [batch.id for batch in fake_mds.counted()] == [batch_id]


def test_the_scan_and_the_sweep_leave_it_alone_and_its_owners_cancel_stops_it(fake_mds: FakeMds, owner: User) -> None:
    fake_mds.run_seconds = 1e6
    submit(fake_mds, "in_progress")
    backfill()
    for _ in range(3):
        passes_until(lambda: True)
        pass_time(60)
    assert sweep(seconds=10, grace_seconds=0).findings == []
    assert len(fake_mds.running()) == 1
    planner.cancel(owner, Job.objects.get().id)
    passes_until(lambda: Job.objects.get().status == "cancelled")
    assert fake_mds.running() == []


def test_past_its_deadline_its_batch_is_left_alone(fake_mds: FakeMds, owner: User) -> None:
    fake_mds.run_seconds = 1e6
    batch_id = submit(fake_mds, "in_progress")
    fake_mds.set_status(batch_id, "in_progress", expires_at=int(time.time()) - 3600)
    backfill()
    passes_until(lambda: Job.objects.get().status == "expired")
    passes_until(lambda: True)
    assert [batch.id for batch in fake_mds.running()] == [batch_id]


@pytest.mark.parametrize(("event", "status"), [("cancelled", "cancelled"), ("forgotten", "failed")])
def test_what_befalls_its_batch_ends_it_and_it_is_never_run_again(
    event: str, status: str, fake_mds: FakeMds, owner: User
) -> None:
    batch_id = submit(fake_mds, "in_progress")
    backfill()
    fake_mds.forget(batch_id) if event == "forgotten" else fake_mds.set_status(batch_id, "cancelled")
    passes_until(lambda: Job.objects.get().status in TERMINAL)
    assert (Job.objects.get().status, Job.objects.get().attempt) == (status, 1)
    history(Job.objects.get())


def test_what_a_planner_follows_is_not_imported(fake_mds: FakeMds, owner: User) -> None:
    submit(fake_mds, job_id=f"default:{make_job().id}:1")
    submit(fake_mds, job_id=f"default:job_{'0' * 8}-0000-4000-8000-{'0' * 12}:1")
    submit(fake_mds, job_id=f"another:{make_job().id}:1")
    told = backfill("--owner", "alice")
    assert (told["of_this_planners_jobs"], told["another_planners"], told["imported"]) == (2, 1, 0)
    assert not Job.objects.filter(imported_at__isnull=False).exists()


def test_an_owner_is_found_by_name_or_e_mail_or_else_given_or_else_left_out(fake_mds: FakeMds, owner: User) -> None:
    bob, twin = make_user(username="bob"), make_user(email="twin@example.org")
    make_user(email="TWIN@example.org")
    for metadata in ({"owner": "bob"}, {"team": twin.username}, {"owner": "twin@example.org"}, {}):
        submit(fake_mds, "failed", metadata=metadata)
    told = backfill("--dry-run")
    assert (told["imported"], told["without_owner"]["count"], Job.objects.count()) == (1, 3, 0)
    backfill("--owner-key", "owner", "--owner-key", "team")
    assert set(Job.objects.values_list("owner__username", flat=True)) == {bob.username, twin.username}
    assert backfill("--owner", "alice")["imported"] == 2
    assert Job.objects.filter(owner=owner).count() == 2
    with pytest.raises(CommandError, match="no user"):
        backfill("--owner", "nobody")


def test_only_what_is_young_enough_is_read(fake_mds: FakeMds, owner: User) -> None:
    for _ in range(4):
        submit(fake_mds, "failed")
    fake_mds.pass_time(7200)
    young = [submit(fake_mds, "failed") for _ in range(4)]
    told = backfill("--since", "1h")
    assert (told["imported"], set(Job.objects.values_list("batch_id", flat=True))) == (4, set(young))


def test_run_again_it_imports_nothing_twice_and_may_go_on_from_a_place(fake_mds: FakeMds, owner: User) -> None:
    for _ in range(7):
        submit(fake_mds, "failed")
    ids = [batch.id for batch in fake_mds.batches()]
    assert backfill("--after", ids[2])["imported"] == 4
    again = backfill()
    assert (again["imported"], again["already_here"]) == (3, 4)
    assert sorted(Job.objects.values_list("batch_id", flat=True)) == sorted(ids)
    with pytest.raises(CommandError, match="does not know batch gone"):
        backfill("--after", "gone")


def test_killed_in_the_middle_it_has_done_whole_pages_and_the_next_run_goes_on(fake_mds: FakeMds, owner: User) -> None:
    for _ in range(8):
        submit(fake_mds, "failed")
    process = Process(Mishap("kill", "statement", 12, is_after=True), backfill)
    process.work()
    assert process.has_met
    assert Job.objects.count() in {3, 6}
    assert all(history(job) for job in Job.objects.all())
    backfill()
    assert Job.objects.count() == 8
    assert all(history(job) for job in Job.objects.all())


def test_two_at_once_import_each_batch_once(fake_mds: FakeMds, owner: User) -> None:
    for _ in range(9):
        submit(fake_mds, "failed")
    results = at_once(backfill, backfill)
    assert sum(told["imported"] for told in results) == 9
    assert [told["read"] for told in results] == [9, 9]
    assert Job.objects.values("batch_id").distinct().count() == Job.objects.count() == 9
    assert all(history(job) for job in Job.objects.all())


def test_a_list_that_breaks_off_tells_where_to_go_on(fake_mds: FakeMds, owner: User) -> None:
    for _ in range(5):
        submit(fake_mds, "failed")
    third = fake_mds.batches()[2].id
    out = StringIO()
    seen: list[str] = []
    real = imports.already_here

    def break_off(ids: Any) -> set[str]:
        seen.append("page")
        fake_mds.add_rule(Rule("list", status=500))
        return real(ids)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(walk, "already_here", break_off)
        with pytest.raises(CommandError, match=f"--after {third}"):
            call_command("backfill_jobs", stdout=out)
    assert (len(seen), Job.objects.count()) == (1, 3)
    assert "imported, over: 3" in out.getvalue()


def test_what_cannot_be_stored_is_told_of_and_keeps_nothing_else_out(fake_mds: FakeMds, owner: User) -> None:
    good, bad = submit(fake_mds, "failed"), submit(fake_mds)
    fake_mds.set_status(bad, "failed", endpoint="/" + "x" * 100)
    out = StringIO()
    with pytest.raises(CommandError, match="1 batches cannot be stored"):
        call_command("backfill_jobs", "--json", stdout=out)
    assert list(json.loads(out.getvalue())["refused"]) == [bad]
    assert list(Job.objects.values_list("batch_id", flat=True)) == [good]


def test_the_lists_word_on_what_runs_is_not_trusted(fake_mds: FakeMds, owner: User) -> None:
    late = {"resource_allocation": {"provision_resource_deadline": int(time.time()) - 60}}
    submit(fake_mds, aibrix=late)
    assert backfill()["imported_over"] == 1
    assert Job.objects.get().status == "expired"


def test_its_owner_sees_it_like_any_other_job(fake_mds: FakeMds, owner: User) -> None:
    submit(fake_mds, "completed")
    backfill()
    (shown,) = ApiClient(owner).get("/jobs").json()["jobs"]
    assert (shown["id"], shown["status"], shown["name"]) == (Job.objects.get().id, "completed", "nightly")
    assert abs(timezone.now() - Job.objects.get().accepted_at) < timedelta(minutes=5)


@pytest.mark.parametrize("status", ["in_progress", "failed"])
def test_every_page_shows_it_and_says_that_it_was_imported(status: str, fake_mds: FakeMds, owner: User) -> None:
    submit(fake_mds, status)
    backfill()
    job_id, other_id = Job.objects.get().id, make_job(owner).id
    pages: dict[User, Callable[[str], str]] = {
        owner: lambda job_id: f"/jobs/{job_id}",
        # the admin reads "_40" in an address as "@"
        make_user("operator"): lambda job_id: reverse("admin:jobs_job_change", args=[quote(job_id)]),
    }
    for user, path in pages.items():
        client = Client()
        client.force_login(user)
        assert "<dt>Imported</dt>" in client.get(path(job_id)).content.decode()
        assert "<dt>Imported</dt>" not in client.get(path(other_id)).content.decode()
    assert ApiClient(owner).get(f"/jobs/{job_id}").json()["status"] == Job.objects.get(pk=job_id).status
