"""The cleanup: what has been over for long enough goes whole, and what is still needed stays; nobody waits for it."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.utils import quote
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone
from django_q.models import Schedule, Task

from jobs import cleanup, planner, tasks
from jobs.cleanup import HELD, UNWANTED, Place, Policy, remove_jobs
from jobs.errors import NotFound
from jobs.lifecycle.due import lock_jobs
from jobs.models import BatchScan, Job, JobEvent, Provision, QueueMessage, Worker
from jobs.statuses import PROVISION_ENDED, TERMINAL, JobStatus, ProvisionStatus
from tests.admin_client import signed_in
from tests.edge import Mishap
from tests.edge import Worker as Process
from tests.engine import locked
from tests.factories import make_job, make_pool, make_provision, make_user
from tests.plans import explained, repeat
from tests.races import both_orders
from tests.threads import at_once, elsewhere, stopped

pytestmark = pytest.mark.django_db(transaction=True)

OLD = timedelta(days=40)


def old_job(status: str = "completed", age: timedelta = OLD, **fields: Any) -> Job:
    """A job that was accepted a minute before it ended, so long ago."""
    ended_at = timezone.now() - age
    times = {f"{status}_at": ended_at} if status in TERMINAL else {}
    return make_job(status=status, accepted_at=ended_at - timedelta(minutes=1), **times, **fields)


def released(job: Job) -> Provision:
    return make_provision(job, make_pool(), status="released")


def cleaned(*flags: str) -> dict[str, Any]:
    out = StringIO()
    call_command("cleanup_jobs", "--older-than", "30d", "--json", *flags, stdout=out)
    return dict(json.loads(out.getvalue()))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "_LONGEST_PAUSE", 0)


def test_a_job_goes_with_all_that_is_its_own() -> None:
    job, other = old_job(), old_job(age=timedelta(days=20))
    released(job), released(other)
    told = cleaned()
    assert told["jobs"] == {"completed": 1}
    assert (told["events"], told["provisions"], told["kept"]) == (1, 1, [])
    assert list(Job.objects.values_list("id", flat=True)) == [other.id]
    assert set(JobEvent.objects.values_list("job", flat=True)) == {other.id}
    assert set(Provision.objects.values_list("job", flat=True)) == {other.id}
    assert cleaned()["jobs"] == {}, "run again, it finds nothing"


def test_every_table_that_refers_to_a_job_is_cleaned() -> None:
    referring = {
        model._meta.db_table
        for model in apps.get_models(include_auto_created=True)
        for field in model._meta.concrete_fields
        if field.related_model in {Job, Provision}
    }
    deleted = {sql.split()[1] for _, sql in cleanup._THEIRS}
    assert referring <= deleted


def test_a_page_reads_what_it_deletes_whatever_is_beside_it() -> None:
    job, size = old_job(), 20
    repeat(job, 4000)
    provision, event = released(job), job.events.get()
    theirs = {"job_id": "job_id || '-' || n"}
    repeat(provision, 4000, "requested_at", id="gen_random_uuid()", name="name || n", **theirs)
    repeat(event, 4000, "at", id="id + n", **theirs)
    with explained() as plans:
        next(remove_jobs(Policy(timedelta(days=30), statuses=["completed"]), batch_size=size))
    assert len(plans) == 1 + len(cleanup._THEIRS)
    assert [plan for plan in plans if plan.read_whole or plan.rows.total() > 2 * size] == []
    assert Job.objects.count() == 4001 - size


def test_what_refers_to_a_row_that_goes_is_looked_up_in_an_index() -> None:
    """The database itself looks, for each row, when the transaction commits."""
    with connection.cursor() as cursor:
        cursor.execute("""
            SELECT conrelid::regclass::text, conname FROM pg_constraint
            WHERE contype = 'f' AND confrelid IN ('jobs_job'::regclass, 'jobs_provision'::regclass) AND NOT EXISTS (
                SELECT 1 FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1] AND indpred IS NULL
            )
        """)
        assert cursor.fetchall() == []


@pytest.mark.parametrize("status", JobStatus.values)
def test_only_what_is_over_goes_whatever_its_age(status: str) -> None:
    old_job(status, timedelta(days=400))
    cleaned()
    assert Job.objects.exists() == (status not in TERMINAL)


def test_failed_jobs_are_kept_for_longer_and_statuses_can_be_chosen() -> None:
    for status in ("failed", "completed", "cancelled"):
        old_job(status)
    assert cleaned("--status", "failed", "--keep-failed", "41d")["jobs"] == {}
    assert cleaned("--status", "completed")["jobs"] == {"completed": 1}
    assert cleaned("--keep-failed", "39d")["jobs"] == {"cancelled": 1, "failed": 1}


@pytest.mark.parametrize("status", ProvisionStatus.values)
def test_a_job_whose_resource_is_not_released_is_kept_and_told_of(status: str) -> None:
    job = old_job()
    given = {"ready_at": timezone.now(), "released_at": timezone.now(), "written_off_at": timezone.now()}
    make_provision(job, status=status, **given)
    kept = cleaned()["kept"]
    if status in PROVISION_ENDED:
        assert (kept, Job.objects.count()) == ([], 0)
    else:
        assert kept == [{"why": HELD, "count": 1, "jobs": [job.id]}]
        assert (Job.objects.count(), Provision.objects.count(), JobEvent.objects.count()) == (1, 1, 1)


def test_a_job_whose_batch_is_still_to_be_stopped_is_kept() -> None:
    job = old_job(batch_id="b1")
    BatchScan.objects.create(unwanted=["b1"])
    assert cleaned()["kept"] == [{"why": UNWANTED, "count": 1, "jobs": [job.id]}]
    BatchScan.objects.update(unwanted=[])
    assert cleaned()["jobs"]["completed"] == 1


def test_a_dry_run_tells_the_same_and_deletes_nothing() -> None:
    released(old_job()), make_provision(old_job(), status="releasing")
    QueueMessage.objects.create(created_at=timezone.now() - OLD)
    planned = cleaned("--dry-run")
    assert (Job.objects.count(), QueueMessage.objects.count()) == (2, 1)
    done = cleaned()
    assert planned["dry_run"]
    assert all(planned[what] == done[what] for what in ("jobs", "events", "provisions", "kept", "messages"))
    assert (done["events"], done["provisions"]) == (1, 1)
    assert (Job.objects.count(), QueueMessage.objects.count()) == (1, 0)


def test_what_people_read_names_what_was_done_and_why_a_job_is_kept() -> None:
    held = make_provision(old_job(), status="releasing").job_id
    released(old_job())
    out, errors = StringIO(), StringIO()
    call_command("cleanup_jobs", "--older-than", "30d", stdout=out, stderr=errors)
    lines = out.getvalue().splitlines()
    assert "completed: 1 jobs deleted" in lines
    assert f"kept, since {HELD}: 1 jobs: {held}" in lines
    assert "with them: 1 events, 1 provisions" in lines
    assert errors.getvalue() == "", "a progress bar is for a terminal"


def test_killed_in_the_middle_it_has_done_whole_jobs_and_the_next_run_goes_on() -> None:
    for _ in range(5):
        released(old_job())
    statements = Mishap("kill", "statement", 10, is_after=True)
    process = Process(statements, lambda: cleaned("--batch-size", "2"))
    process.work()
    assert process.has_met
    left = Job.objects.count()
    assert 0 < left < 5
    assert (JobEvent.objects.count(), Provision.objects.count()) == (left, left)
    assert cleaned()["jobs"]["completed"] == left
    assert not Job.objects.exists()


def test_two_at_once_share_the_work() -> None:
    for _ in range(12):
        released(old_job())
    results = at_once(*[lambda: cleaned("--batch-size", "3")] * 2)
    assert sum(told["jobs"]["completed"] for told in results) == 12
    assert (Job.objects.count(), JobEvent.objects.count(), Provision.objects.count()) == (0, 0, 0)


def test_a_job_in_other_hands_is_passed_over_without_waiting() -> None:
    held, free = old_job(), old_job()
    with locked("jobs_job", held.pk):
        assert cleaned()["jobs"]["completed"] == 1
        assert list(Job.objects.values_list("id", flat=True)) == [held.id] != [free.id]
    assert cleaned()["jobs"]["completed"] == 1


def test_a_worker_passes_over_a_job_that_is_just_being_deleted() -> None:
    job = old_job()

    def taken() -> Any:
        with transaction.atomic():
            return lock_jobs([job.id])

    with stopped(lambda: list(remove_jobs(Policy(timedelta(days=30)))), after="DELETE FROM jobs_jobevent") as held:
        assert elsewhere(taken).result(10) == {}
        held.result()
    assert not Job.objects.filter(pk=job.pk).exists()


@pytest.mark.parametrize("wish", ["retry", "release"])
def test_a_wish_that_meets_the_end_of_its_job_is_told_that_there_is_none(wish: str) -> None:
    job = old_job()
    provision, operator = released(job), make_user("operator")

    def ask() -> Any:
        return planner.retry(operator, job.pk) if wish == "retry" else planner.release(operator, str(provision.pk))

    policy = Policy(timedelta(days=30), statuses=[JobStatus.COMPLETED])
    gone, answer = both_orders(lambda: list(remove_jobs(policy)), ask)
    assert sum(page.jobs.total() for page in gone) == 1
    assert isinstance(answer, NotFound)


@pytest.mark.parametrize(
    ("path", "afterwards"),
    [
        ("/api/v1/jobs/{job}", 404),
        ("/api/v1/jobs", 200),
        ("/api/v1/provisions/{provision}", 404),
        ("/v1/batches/{job}", 404),
        ("/jobs/{job}", 404),
        ("/jobs/", 200),
        ("/admin/jobs/job/{admin_job}/change/", 302),  # to the dashboard, which says so
        ("/admin/jobs/provision/{provision}/change/", 302),
        ("/admin/jobs/job/", 200),
    ],
)
def test_who_looks_at_a_job_while_it_goes_sees_it_or_is_told_that_there_is_none(path: str, afterwards: int) -> None:
    """Whole before the commit; a look in the middle of which it goes ends as one of the two, and is no failure."""
    job, client = old_job(), signed_in(make_user("superuser"), raise_request_exception=False)
    address = path.format(job=job.pk, provision=released(job).pk, admin_job=quote(job.pk))
    with stopped(lambda: list(remove_jobs(Policy(timedelta(days=30))))) as going:
        assert job.pk in client.get(address).content.decode()
        with stopped(lambda: client.get(address), after='"jobs_job"."cancel_requested_at"') as read:
            assert going.result()
            assert read.result().status_code in {200, 302, 404}
    assert client.get(address).status_code == afterwards


def test_a_page_that_takes_too_long_is_tried_again_at_half_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        old_job()
    real, sizes = cleanup._remove_page, []

    def remove_page(place: Place, before: Any, limit: int, **options: Any) -> Any:
        sizes.append(limit)
        if limit > 2:
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = 20")
                try:
                    cursor.execute("SELECT pg_sleep(10)")
                finally:
                    cursor.execute("RESET statement_timeout")
        return real(place, before, limit, **options)

    monkeypatch.setattr(cleanup, "_remove_page", remove_page)
    list(remove_jobs(Policy(timedelta(days=30), statuses=["completed"]), batch_size=8))
    assert sizes == [8, 4, 2, 2, 2]
    assert not Job.objects.exists()


def test_dead_rows_go_and_live_ones_stay() -> None:
    now = timezone.now()
    for age in (timedelta(0), timedelta(days=2), timedelta(days=100)):
        at = now - age
        QueueMessage.objects.create(created_at=at)
        Worker.objects.create(host="here", pid=age.days + 1, pass_started_at=at, beat_at=at)
        Task.objects.create(id=str(age.days), name="t", func="f", started=at, stopped=at, success=False)
    told = cleaned()
    assert (told["task_results"], told["messages"], told["workers"]) == (1, 2, 2)
    assert (Task.objects.count(), QueueMessage.objects.count(), Worker.objects.get().beat_at) == (2, 1, now)


def test_the_schedule_keeps_jobs_for_ever_unless_told_otherwise(settings: Any) -> None:
    old_job(), old_job("failed")
    Worker.objects.create(host="gone", pid=1, pass_started_at=timezone.now() - OLD, beat_at=timezone.now() - OLD)
    assert Schedule.objects.get(name="cleanup").func == "jobs.tasks.cleanup"
    tasks.cleanup()
    assert (Job.objects.count(), Worker.objects.count()) == (2, 0)
    settings.PLANNER_KEEP_JOBS_DAYS = 30
    tasks.cleanup()
    assert Job.objects.get().status == "failed"
    settings.PLANNER_KEEP_FAILED_DAYS = 30
    tasks.cleanup()
    assert not Job.objects.exists()


def test_a_turn_that_is_too_short_is_followed_by_another_from_its_place_on(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PLANNER_KEEP_JOBS_DAYS = 30
    monkeypatch.setattr(tasks, "_CHORE_SECONDS", -1.0)
    turns: list[Place] = []
    monkeypatch.setattr(tasks, "async_task", lambda name, place: turns.append(place))
    old_job("cancelled"), old_job("completed")
    tasks.cleanup()
    assert [place.status for place in turns] == ["cancelled"]
    tasks.cleanup(turns[0])
    assert [place.status for place in turns] == ["cancelled", "completed"]
    assert not Job.objects.exists()


@pytest.mark.parametrize("flags", [("--older-than", "59m"), ("--older-than", "30d", "--batch-size", "0")])
def test_what_would_take_a_job_from_a_worker_or_never_end_is_refused(flags: tuple[str, ...]) -> None:
    with pytest.raises(CommandError, match=r"at least 1h|from 1 to"):
        call_command("cleanup_jobs", *flags)
