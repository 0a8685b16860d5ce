"""Cancel: the wish is recorded once, in one update that leaves status and version alone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from jobs import planner
from jobs.errors import Conflict, Forbidden, InvalidRequest, NotFound, PlannerError
from jobs.models import Job, JobEvent, QueueMessage
from jobs.statuses import LIVE, TERMINAL
from tests.factories import make_job, make_user
from tests.threads import at_once, elsewhere, until_waiting

pytestmark = pytest.mark.django_db


def unchanged(job: Job) -> bool:
    """Whether neither the row nor its timeline differs from what it was, and no hint was sent."""
    now = Job.objects.filter(pk=job.pk).values().get()
    return (
        all(value == getattr(job, name) for name, value in now.items())
        and JobEvent.objects.filter(job=job).count() == 1
        and not QueueMessage.objects.exists()
    )


@pytest.mark.parametrize("status", sorted(LIVE))
def test_it_works_in_every_live_status(status: str) -> None:
    job = make_job(status=status, version=7, lease_expires_at=timezone.now() + timedelta(minutes=1))
    cancelled = planner.cancel(job.owner, job.pk, reason="too dear")
    assert (cancelled.status, cancelled.version, cancelled.lease_expires_at) == (status, 7, job.lease_expires_at)
    assert cancelled.shown_status == "cancelling"
    assert cancelled.cancel_requested_at == cancelled.due_at
    assert cancelled.cancel_requested_by == job.owner.email
    event = JobEvent.objects.get(job=job, sequence=2)
    assert (event.reason, event.source, event.actor) == ("cancel_requested", "planner", job.owner.email)
    assert (event.message, event.to_status, cancelled.event_count) == ("too dear", "", 2)
    assert QueueMessage.objects.count() == 1


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_job_that_is_over_is_a_conflict_that_names_its_state(status: str) -> None:
    job = make_job(status=status)
    with pytest.raises(Conflict, match=f"^job is already {status}$"):
        planner.cancel(job.owner, job.pk)
    assert unchanged(job)


def test_a_second_cancel_changes_nothing() -> None:
    job = planner.cancel((owner := make_user()), make_job(owner).pk)
    again = planner.cancel(make_user("operator"), job.pk)
    assert (again.cancel_requested_at, again.cancel_requested_by) == (job.cancel_requested_at, owner.email)
    assert (JobEvent.objects.count(), QueueMessage.objects.count()) == (2, 1)


def test_an_operator_may_cancel_every_job_and_is_named() -> None:
    job, operator = make_job(), make_user("operator")
    assert planner.cancel(operator, job.pk).cancel_requested_by == operator.email
    event = JobEvent.objects.get(job=job, sequence=2)
    assert (event.source, event.actor) == ("operator", operator.email)


@pytest.mark.parametrize(
    ("role", "error", "told"),
    [("viewer", Forbidden, "owner or an operator"), ("submitter", NotFound, "not found"), ("", NotFound, "not found")],
)
def test_who_may_not_cancel_is_refused(role: str, error: type[PlannerError], told: str) -> None:
    job = make_job()
    with pytest.raises(error, match=told):
        planner.cancel(make_user(role), job.pk)
    assert unchanged(job)


@pytest.mark.parametrize("job_id", ["job_nope", "", "\0", "\ud800"])
def test_an_unknown_job_is_not_found(job_id: str) -> None:
    with pytest.raises(NotFound):
        planner.cancel(make_user("operator"), job_id)


@pytest.mark.parametrize("reason", ["\0", "x" * 1001])
def test_a_reason_that_cannot_be_stored_is_refused(reason: str) -> None:
    job = make_job()
    with pytest.raises(InvalidRequest):
        planner.cancel(job.owner, job.pk, reason=reason)
    assert unchanged(job)


@pytest.mark.django_db(transaction=True)
def test_cancels_at_once_are_one_cancel() -> None:
    job = make_job()
    assert {each.pk for each in at_once(*[lambda: planner.cancel(job.owner, job.pk)] * 8)} == {job.pk}
    assert (JobEvent.objects.count(), QueueMessage.objects.count()) == (2, 1)


@pytest.mark.django_db(transaction=True)
def test_a_job_that_ends_while_a_cancel_waits_for_its_row_is_a_conflict() -> None:
    job = make_job(status="in_progress")
    with transaction.atomic():
        Job.objects.filter(pk=job.pk).update(status="completed", completed_at=timezone.now())
        waiting = elsewhere(lambda: planner.cancel(job.owner, job.pk))
        until_waiting()
    with pytest.raises(Conflict, match="job is already completed"):
        waiting.result(30)
    assert JobEvent.objects.count() == 1
