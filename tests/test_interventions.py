"""Out of turn: a job made anew of one that has ended, a look at once, and a resource given up without proof."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs import planner
from jobs.errors import Conflict, Forbidden, InvalidRequest, QueueFull, UpstreamError, UpstreamKind
from jobs.models import Job, JobEvent, QueueMessage
from tests.engine import claimed, recorded, releasing
from tests.factories import make_file, make_job, make_pool, make_provision, make_user

pytestmark = pytest.mark.django_db


def hints() -> int:
    return QueueMessage.objects.filter(payload=None).count()


def ended_job(**fields: Any) -> Job:
    owner = make_user()
    return make_job(owner, input_file_id=make_file(owner).pk, **{"status": "failed", **fields})


# Retry


def test_a_retry_is_a_new_job_of_the_same_owner_with_the_same_request_and_each_tells_of_the_other() -> None:
    request = {"metadata": {"a": 1}, "template_spec": {"x": 2}, "client": {"y": 3}, "provider_config": {"z": 4}}
    old = ended_job(name="nightly", replicas=2, queue_timeout_seconds=60, idempotency_key="k", attempt=3, **request)
    operator, before = make_user("operator"), hints()
    new = planner.retry(operator, old.pk, reason="the disk was full")
    for name in (*request, "name", "owner_id", "created_by", "input_file_id", "replicas", "queue_class", "endpoint"):
        assert getattr(new, name) == getattr(old, name), name
    assert (new.status, new.attempt, new.idempotency_key, new.retry_of) == ("pending", 1, None, old.pk)
    assert new.due_at == new.accepted_at + timedelta(seconds=60)
    old.refresh_from_db()
    told = old.events.get(sequence=old.event_count)
    assert (told.reason, told.actor, told.message) == ("retried", operator.email, "the disk was full")
    assert (told.source, told.data) == ("operator", {"retried_as": new.pk})
    assert (old.status, new.events.get().data) == ("failed", {"retry_of": old.pk})
    assert hints() == before + 1


def test_what_is_not_over_or_is_being_retried_is_not_retried_and_nothing_is_stored() -> None:
    operator, live, old = make_user("operator"), make_job(), ended_job()
    with pytest.raises(Conflict, match="job is still pending"):
        planner.retry(operator, live.pk)
    new = planner.retry(operator, old.pk)
    with pytest.raises(Conflict, match=f"being retried already, as {new.pk}"):
        planner.retry(operator, old.pk)
    assert Job.objects.count() == 3
    Job.objects.filter(pk=new.pk).update(status="cancelled", cancelled_at=timezone.now())
    assert planner.retry(operator, old.pk).retry_of == old.pk


def test_owners_retry_their_own_and_nobody_elses(settings: Any) -> None:
    old, viewer = ended_job(priority=7), make_user("viewer")
    with pytest.raises(Forbidden):
        planner.retry(viewer, old.pk)
    assert planner.retry(old.owner, old.pk).priority == 0  # which is for operators to give
    assert old.events.get(reason="retried").source == "planner"


def test_without_its_file_or_room_in_the_queue_there_is_no_retry(settings: Any) -> None:
    operator = make_user("operator")
    with pytest.raises(InvalidRequest, match="unknown file"):
        planner.retry(operator, make_job(status="failed").pk)
    make_job()
    settings.PLANNER_QUEUE_CAPACITY = 1
    with pytest.raises(QueueFull):
        planner.retry(operator, ended_job().pk)
    assert not Job.objects.exclude(retry_of="").exists()


# A look at once


def test_a_refreshed_job_is_due_and_its_back_off_is_forgotten_but_only_once() -> None:
    later = timezone.now() + timedelta(minutes=10)
    job = make_job(status="provisioning")
    job.provision.retry_at = later
    job.provision.save()
    Job.objects.filter(pk=job.pk).update(due_at=later, retry_at=later)
    operator, before = make_user("operator"), hints()
    for _ in range(2):
        shown = planner.refresh_job(operator, job.pk, reason="fixed")
    assert shown.due_at < later
    assert (shown.retry_at, shown.provision.retry_at) == (None, None)
    assert shown.version == job.version
    event = JobEvent.objects.get(job=job, reason="refresh_requested")
    assert (event.actor, event.message, event.sequence) == (operator.email, "fixed", shown.event_count)
    assert hints() == before + 1


def test_refreshing_is_for_operators_and_for_what_is_not_over() -> None:
    with pytest.raises(Forbidden):
        planner.refresh_job(make_user("viewer"), make_job().pk)
    with pytest.raises(Conflict, match="already completed"):
        planner.refresh_job(make_user("operator"), make_job(status="completed").pk)
    with pytest.raises(Forbidden):
        planner.refresh_pool(make_user("viewer"), make_pool().name)


def test_a_refreshed_pool_is_looked_at_next_unless_there_is_nothing_to_look_at() -> None:
    later = timezone.now() + timedelta(minutes=10)
    busy, empty = make_pool(observe_at=later), make_pool()
    operator, before = make_user("operator"), hints()
    assert planner.refresh_pool(operator, busy.name).observe_at < later
    assert planner.refresh_pool(operator, empty.name).observe_at is None
    assert hints() == before + 1


# Given up


def test_a_written_off_provision_is_over_on_somebodys_word_and_a_delete_under_way_changes_nothing_more() -> None:
    admin, provision = make_user("superuser"), releasing(last_error="500")
    (claim,) = claimed().claims
    shown = planner.write_off(admin, str(provision.pk), reason="deleted by hand")
    assert (shown.status, shown.due_at, shown.lease_expires_at) == ("written_off", None, None)
    assert shown.written_off_at is not None
    event = provision.job.events.get(reason="written_off")
    assert (event.actor, event.message, event.source) == (admin.email, "deleted by hand", "operator")
    assert event.data == {"provision_id": str(provision.pk), "last_error": "500"}
    late = UpstreamError(UpstreamKind.TRANSIENT, "still 500")
    assert recorded(claim, late).stale
    assert not claimed().claims
    provision.refresh_from_db()
    assert (provision.status, provision.last_error) == ("written_off", "500")


@pytest.mark.parametrize("status", ["ready", "lost", "released"])
def test_only_what_is_being_released_is_written_off(status: str) -> None:
    fields = {f"{status}_at": timezone.now()}
    provision = make_provision(make_job(status="completed"), status=status, **fields)
    with pytest.raises(Conflict, match="not being released"):
        planner.write_off(make_user("superuser"), str(provision.pk), reason="enough")


def test_a_write_off_needs_a_reason_and_the_right_to_it() -> None:
    provision = make_provision(make_job(status="completed"), status="releasing")
    with pytest.raises(InvalidRequest, match="reason"):
        planner.write_off(make_user("superuser"), str(provision.pk), reason="")
    with pytest.raises(Forbidden):
        planner.write_off(make_user("operator"), str(provision.pk), reason="enough")
    provision.refresh_from_db()
    assert provision.status == "releasing"
