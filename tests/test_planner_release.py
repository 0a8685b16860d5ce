"""Release: an operator takes a resource away, or has a release that is backing off tried again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from jobs import planner
from jobs.errors import Conflict, Forbidden, NotFound, PlannerError
from jobs.models import Job, JobEvent, Provision, QueueMessage
from tests.factories import make_job, make_provision, make_user

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("status", ["requested", "provisioning", "ready", "failed", "lost"])
def test_it_works(status: str) -> None:
    provision, operator = make_provision(make_job(version=3), status=status, version=5), make_user("operator")
    released = planner.release(operator, str(provision.pk), reason="wrong region")
    assert released.release_requested_at is not None
    assert (released.release_requested_by, released.status) == (operator.email, status)
    assert (released.version, released.due_at) == (5, None)
    job = Job.objects.get()
    assert job.due_at is not None
    assert job.due_at <= timezone.now()
    assert (job.status, job.version, job.event_count) == ("pending", 3, 2)
    event = JobEvent.objects.get(sequence=2)
    assert (event.reason, event.source, event.actor) == ("release_requested", "operator", operator.email)
    assert (event.message, event.data) == ("wrong region", {"provision_id": str(provision.pk)})
    assert QueueMessage.objects.count() == 1


def test_a_second_release_changes_nothing() -> None:
    provision, operator = make_provision(status="ready"), make_user("operator")
    first = planner.release(operator, str(provision.pk))
    Job.objects.update(due_at=None)
    again = planner.release(make_user("operator"), str(provision.pk))
    assert again.release_requested_at == first.release_requested_at
    assert again.release_requested_by == operator.email
    assert Job.objects.get().due_at is None
    assert (JobEvent.objects.count(), QueueMessage.objects.count()) == (2, 1)


def test_a_release_that_is_backing_off_is_tried_again_at_once() -> None:
    later = timezone.now() + timedelta(minutes=10)
    provision = make_provision(
        make_job(status="completed"), status="releasing", release_requested_at=timezone.now(), due_at=later
    )
    operator = make_user("operator")
    released = planner.release(operator, str(provision.pk))
    assert released.due_at is not None
    assert released.due_at <= timezone.now()
    assert (released.release_requested_at, released.release_requested_by) == (provision.release_requested_at, "")
    assert Job.objects.get().due_at is None
    assert JobEvent.objects.get(sequence=2).actor == operator.email
    planner.release(operator, str(provision.pk))
    assert (JobEvent.objects.count(), QueueMessage.objects.count()) == (2, 1)


def test_a_release_in_hand_is_looked_at_again_afterwards() -> None:
    provision = make_provision(status="releasing", lease_expires_at=timezone.now() + timedelta(minutes=1))
    released = planner.release(make_user("operator"), str(provision.pk))
    assert released.due_at is not None
    assert released.lease_expires_at == provision.lease_expires_at


@pytest.mark.parametrize(("status", "words"), [("released", "released"), ("written_off", "written off")])
def test_a_provision_that_has_ended_is_a_conflict(status: str, words: str) -> None:
    provision = make_provision(status=status)
    with pytest.raises(Conflict, match=f"^provision is already {words}$"):
        planner.release(make_user("operator"), str(provision.pk))
    assert JobEvent.objects.count() == 1


def test_the_job_of_an_old_provision_that_is_over_is_not_woken() -> None:
    provision = make_provision(make_job(status="completed"), status="lost")
    planner.release(make_user("operator"), str(provision.pk))
    assert (Job.objects.get().due_at, Job.objects.get().event_count) == (None, 2)


@pytest.mark.parametrize(("role", "error"), [("viewer", Forbidden), ("submitter", NotFound)])
def test_who_may_not_release_is_refused(role: str, error: type[PlannerError]) -> None:
    provision = make_provision()
    with pytest.raises(error):
        planner.release(make_user(role), str(provision.pk))
    assert Provision.objects.get().release_requested_at is None


def test_the_owner_may_not_release_either() -> None:
    provision = make_provision()
    with pytest.raises(Forbidden):
        planner.release(provision.job.owner, str(provision.pk))
    assert Provision.objects.get().release_requested_at is None


@pytest.mark.parametrize("provision_id", ["nope", "", "0" * 32])
def test_an_unknown_provision_is_not_found(provision_id: str) -> None:
    with pytest.raises(NotFound):
        planner.release(make_user("operator"), provision_id)
