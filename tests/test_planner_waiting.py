"""Why a job waits: one sentence, from rows alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import planner, waiting
from jobs.models import Job, OwnerQuota, Pool
from jobs.statuses import IN_STATUS_SINCE, TERMINAL, JobStatus
from tests.factories import make_job, make_pool, make_provision, make_user

pytestmark = pytest.mark.django_db

NOON = datetime(2030, 1, 2, 12, 0, tzinfo=UTC)
EARLIER = NOON - timedelta(hours=1)
LATER = NOON + timedelta(seconds=30)


@pytest.fixture(autouse=True)
def _noon() -> Any:
    with time_machine.travel(NOON, tick=False):
        yield


def reason(job: Job) -> str:
    """The sentence, which a list must give too, but for places in the queue; it costs six queries at most."""
    job = planner.visible_jobs(make_user("superuser")).get(pk=job.pk)
    with CaptureQueriesContext(connection) as queries:
        found = planner.waiting_for(job)
    assert len(queries) <= (6 if job.status == "pending" else 0)
    listed = planner.waiting_for_each([job])[job.pk]
    if job.status != "pending":
        assert listed == found
    assert listed.code == {"next": "queued"}.get(found.code, found.code)
    return found.sentence


def test_it_works() -> None:
    make_pool()
    assert reason(make_job()) == "There is room: the workers take it next."


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_job_that_is_over_waits_for_nothing(status: str) -> None:
    assert reason(make_job(status=status)) == ""


def test_a_held_job_says_so_and_why() -> None:
    make_pool()
    assert reason(make_job(hold=True)) == "Held by an operator."
    assert reason(make_job(hold=True, hold_reason="Broken input.")) == "Held by an operator. Broken input."


def test_no_pool_that_offers_the_accelerator_is_named() -> None:
    make_pool(accelerator_types=["A100"])
    assert reason(make_job()) == "No pool offers H100."


def test_pools_that_are_held_are_named_with_the_reason() -> None:
    make_pool(name="east", is_enabled=False, disabled_reason="firmware")
    make_pool(name="west", is_enabled=False)
    assert reason(make_job()) == "Every pool that offers H100 is held: pool east (firmware); pool west."


def test_a_held_queue_and_a_held_owner_say_why() -> None:
    make_pool()
    operator, job = make_user("operator"), make_job()
    planner.hold_owner(operator, job.owner.username, reason="Over budget.")
    assert reason(job) == f"All jobs of {job.created_by} are held. Over budget."
    planner.hold_queue(operator)
    assert reason(job) == "The queue is held by an operator."


def test_an_owner_at_his_limit_is_told_the_limits() -> None:
    make_pool()
    owner = make_user()
    OwnerQuota.objects.create(owner=owner, max_live=1, max_live_accelerators=4)
    make_provision(make_job(owner))
    expected = "Its owner has as much as allowed (limits: 1 held, 4 accelerators held): it waits for another job's end."
    assert reason(make_job(owner)) == expected


@pytest.mark.parametrize("whose", ["owner", "pool"])
def test_a_job_that_can_never_fit_is_told_so(whose: str) -> None:
    make_pool(max_live_accelerators=4 if whose == "pool" else None)
    job = make_job(accelerator_count=8)
    if whose == "owner":
        OwnerQuota.objects.create(owner=job.owner, max_live_accelerators=4)
    assert reason(job).startswith("It needs 8 accelerators, ")
    assert planner.waiting_for(job).code == "too_large"


def test_the_place_in_the_queue_is_counted_up_to_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    make_pool()
    first, second, third = (make_job(accepted_at=NOON - timedelta(minutes=age)) for age in (3, 2, 1))
    assert [planner.waiting_for(job).position for job in (first, second, third)] == ["1", "2", "3"]
    monkeypatch.setattr(waiting, "_COUNTED_AHEAD", 2)
    assert planner.waiting_for(third).position == "more than 2"
    assert reason(third) == "Queued behind 2 or more other jobs for H100."


def test_full_pools_are_named_with_their_limits() -> None:
    pool = make_pool(name="east", max_live=1, max_provisioning=5)
    make_provision(make_job(), pool, status="releasing")
    assert reason(make_job()) == "Waiting for H100: pool east is full (limits: 1 held, 5 starting)."


def test_a_pool_out_of_capacity_says_when_it_is_asked_again() -> None:
    make_pool(name="east", capacity_retry_at={"H100": {"at": LATER.timestamp()}})
    make_pool(name="west", max_live=0)
    assert reason(make_job()) == (
        "Waiting for H100: pool east has none left, asked again at 2030-01-02 12:00:30 UTC; "
        "pool west is full (limits: 0 held, 10 starting)."
    )


def test_the_jobs_ahead_in_the_same_class_are_counted() -> None:
    make_pool()
    for fields in ({}, {}, {"hold": True}, {"accelerator_type": "A100"}):
        make_job(**fields)
    assert reason(make_job()) == "Queued behind 2 other jobs for H100."


def test_a_job_without_accelerator_waits_for_any_place() -> None:
    make_pool(accelerator_types=["A100"], max_live=0, name="east")
    assert reason(make_job(accelerator_type="")) == (
        "Waiting for a place in a pool: pool east is full (limits: 0 held, 10 starting)."
    )


def test_a_queue_timeout_is_told() -> None:
    make_pool()
    job = make_job(accepted_at=NOON, queue_timeout_seconds=30)
    assert reason(job).endswith(" It expires in the queue at 2030-01-02 12:00:30 UTC.")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "Reserved at pool east: the resource is created next."),
        (
            {"create_started_at": NOON},
            "The resource is being created at pool east since 2030-01-02 12:00:00 UTC.",
        ),
        (
            {
                "status": "provisioning",
                "create_started_at": NOON,
                "deadline_at": LATER,
                "last_error": "503 from the API.",
            },
            "Created at pool east; waiting since 2030-01-02 12:00:00 UTC for it to be ready, at most until "
            "2030-01-02 12:00:30 UTC. Last error: 503 from the API; tried again at 2030-01-02 12:00:30 UTC.",
        ),
        ({"status": "ready"}, "The resource at pool east is ready: it is submitted next."),
        (
            {"status": "failed", "last_error": "no image"},
            "The resource at pool east is failed: it is given back. "
            "Last error: no image; tried again at 2030-01-02 12:00:30 UTC.",
        ),
        (
            {"status": "ready", "release_requested_at": NOON, "release_requested_by": "ann"},
            "The resource at pool east is being taken away by ann; the job is then queued again.",
        ),
    ],
)
def test_a_job_being_provisioned_tells_about_its_resource(fields: Any, expected: str) -> None:
    job = make_provision(pool=make_pool(name="east"), **fields).job
    Job.objects.update(status="provisioning", due_at=LATER)
    assert reason(job) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "To be submitted to the metadata service."),
        (
            {"last_error": "cannot be reached", "due_at": LATER},
            "To be submitted to the metadata service. "
            "Last error: cannot be reached; tried again at 2030-01-02 12:00:30 UTC.",
        ),
        (
            {"submit_started_at": NOON},
            "Submitted; waiting for the metadata service's answer since 2030-01-02 12:00:00 UTC.",
        ),
        (
            {"submit_started_at": NOON, "submit_ended_at": NOON, "last_error": "no answer", "due_at": NOON},
            "The answer to the submission was lost: its batch is being looked up at the metadata service. "
            "Last error: no answer; tried again now.",
        ),
        (
            {"submit_started_at": NOON - timedelta(minutes=5)},
            "The answer to the submission was lost: its batch is being looked up at the metadata service.",
        ),
    ],
)
def test_a_job_being_submitted_tells_what_is_known_of_the_call(fields: Any, expected: str) -> None:
    assert reason(make_job(status="submitting", **fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"batch_seen_at": NOON - timedelta(seconds=3)},
            "Batch b1 is in_progress at the metadata service, seen 3 s ago.",
        ),
        (
            {"batch_seen_at": NOON - timedelta(seconds=90), "last_error": "timed out", "due_at": LATER},
            "Batch b1 is in_progress at the metadata service, seen 90 s ago. "
            "Last error: timed out; tried again at 2030-01-02 12:00:30 UTC.",
        ),
        (
            {"batch_missing_at": NOON},
            "Batch b1 is unknown to the metadata service since 2030-01-02 12:00:00 UTC.",
        ),
    ],
)
def test_a_running_job_says_how_old_its_news_is(fields: Any, expected: str) -> None:
    assert reason(make_job(status="in_progress", batch_id="b1", **fields)) == expected


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        ("pending", {}, "Cancel requested: the workers end it next."),
        ("provisioning", {}, "Cancel requested: the resource is given up."),
        ("submitting", {}, "Cancel requested: nothing was submitted, the resource is given up."),
        (
            "submitting",
            {"submit_started_at": NOON},
            "Cancel requested: waiting for the outcome of the submission under way, to cancel its batch.",
        ),
        ("in_progress", {}, "Cancel requested: waiting for the metadata service to stop batch b1."),
        (
            "cancelling",
            {"last_error": "timed out", "due_at": LATER},
            "Cancel requested: waiting for the metadata service to stop batch b1. "
            "Last error: timed out; tried again at 2030-01-02 12:00:30 UTC.",
        ),
    ],
)
def test_a_cancel_says_what_it_waits_for(status: str, fields: Any, expected: str) -> None:
    assert reason(make_job(status=status, batch_id="b1", cancel_requested_at=timezone.now(), **fields)) == expected


def test_a_list_costs_four_queries_and_names_no_places() -> None:
    make_pool(accelerator_types=["H100"])
    jobs = [make_job(), make_job(), make_job(accelerator_type="A100"), make_job(hold=True)]
    running = make_job(status="in_progress", batch_id="b1")
    with CaptureQueriesContext(connection) as queries:
        reasons = planner.waiting_for_each([*jobs, running])
    assert len(queries) == 4
    assert [reasons[job.pk].sentence for job in jobs] == [
        "Queued for H100.",
        "Queued for H100.",
        "No pool offers A100.",
        "Held by an operator.",
    ]
    assert reasons[running.pk].sentence == "Batch b1 is in_progress at the metadata service."
    Pool.objects.all().delete()
    assert planner.waiting_for_each(jobs[:1])[jobs[0].pk].code == "no_pool"


# --- how long ---


@pytest.mark.parametrize("status", list(JobStatus))
def test_since_when_a_job_is_in_its_status_reads_the_same_everywhere(status: JobStatus) -> None:
    job = make_job(status=status)
    Job.objects.filter(pk=job.pk).update(**{"accepted_at": EARLIER, f"{status.value}_at": NOON})
    job = Job.objects.annotate(since=IN_STATUS_SINCE).get(pk=job.pk)
    assert (job.in_status_since, job.since) == (NOON, NOON)


def test_a_job_that_never_left_the_queue_is_there_since_it_was_accepted() -> None:
    make_job()
    Job.objects.update(accepted_at=EARLIER)
    job = Job.objects.annotate(since=IN_STATUS_SINCE).get()
    assert (job.in_status_since, job.since) == (EARLIER, EARLIER)


def test_the_oldest_in_each_live_status_can_be_told() -> None:
    for at in (NOON, EARLIER):
        make_job(pending_at=at)
        make_job(status="in_progress", batch_id="b", in_progress_at=at + (LATER - NOON))
    make_job(status="completed", completed_at=EARLIER)
    assert planner.oldest_in_status() == {"pending": EARLIER, "in_progress": EARLIER + (LATER - NOON)}


@pytest.mark.parametrize(("back_at", "accepted_at"), [(LATER, NOON), (NOON, LATER)])
def test_the_oldest_in_the_queue_came_back_to_it_or_never_left_it(back_at: datetime, accepted_at: datetime) -> None:
    for first, back in ((EARLIER, back_at), (accepted_at, None)):
        Job.objects.filter(pk=make_job(pending_at=back).pk).update(accepted_at=first)
    assert planner.oldest_in_status() == {"pending": NOON}
