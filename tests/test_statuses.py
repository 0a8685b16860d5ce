"""Statuses: the transition tables, what people are shown, and what the database itself refuses."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.utils import timezone

from jobs.lifecycle.steps import Change, Event
from jobs.lifecycle.writing import IllegalTransition, Row
from jobs.models import Job, JobEvent, Pool, Provision
from jobs.statuses import (
    LIVE,
    PROVISION_ENDED,
    PROVISION_HELD,
    PROVISION_LIVE,
    SHOWN_STATUS,
    TERMINAL,
    FailureStage,
    JobStatus,
    ProvisionStatus,
    shown_as,
    shown_status,
)
from tests.factories import make_job, make_provision, make_user

# The tables once more, written as the design tells them, so that a slip in one place shows in the other.
_ENDS = "completed failed expired cancelled"
_JOB_MOVES = {
    "pending": "provisioning cancelled expired failed",
    "provisioning": "pending submitting cancelled expired failed",
    "submitting": f"pending scheduling validating in_progress finalizing cancelling {_ENDS}",
    "scheduling": f"pending validating in_progress finalizing cancelling {_ENDS}",
    "validating": f"pending in_progress finalizing cancelling {_ENDS}",
    "in_progress": f"pending finalizing cancelling {_ENDS}",
    "finalizing": f"pending cancelling {_ENDS}",
    "cancelling": _ENDS,
}
_PROVISION_MOVES = {
    "requested": "provisioning ready failed lost releasing",
    "provisioning": "ready failed lost releasing",
    "ready": "failed lost releasing",
    "failed": "releasing",
    "lost": "releasing",
    "releasing": "released written_off",
}


def _pairs(kind: type[JobStatus] | type[ProvisionStatus], moves: dict[str, str]) -> list[Any]:
    return [
        pytest.param(old, new, new in moves.get(old, "").split(), id=f"{old}-{new}")
        for old in kind.values
        for new in kind.values
    ]


@pytest.mark.parametrize(("old", "new", "is_legal"), _pairs(JobStatus, _JOB_MOVES))
def test_a_job_makes_legal_moves_only(old: str, new: str, is_legal: bool) -> None:
    row = Row(Job(status=old, accepted_at=timezone.now()), None)
    change = Change(job={"status": JobStatus(new)}, events=(Event("moved"),))
    if is_legal:
        row.apply(change, timezone.now())
        assert [(event.from_status, event.to_status) for event in row.events] == [(old, new)]
    else:
        with pytest.raises(IllegalTransition):
            row.apply(change, timezone.now())
        assert (row.job.status, row.job_columns, row.events) == (old, {}, [])


@pytest.mark.parametrize(("old", "new", "is_legal"), _pairs(ProvisionStatus, _PROVISION_MOVES))
def test_a_provision_makes_legal_moves_only(old: str, new: str, is_legal: bool) -> None:
    provision = Provision(status=old, pool=Pool(), requested_at=timezone.now())
    row = Row(Job(), provision)
    change = Change(provision={"status": ProvisionStatus(new)})
    if is_legal:
        row.apply(change, timezone.now())
        assert row.provision_columns == {"status": new}
    else:
        with pytest.raises(IllegalTransition):
            row.apply(change, timezone.now())
        assert (provision.status, row.provision_columns) == (old, {})


def test_every_status_is_live_or_over() -> None:
    assert {*LIVE, *TERMINAL} == set(JobStatus)
    assert not LIVE & TERMINAL
    assert {*PROVISION_HELD, *PROVISION_ENDED} == set(ProvisionStatus)
    assert not PROVISION_HELD & PROVISION_ENDED
    assert PROVISION_LIVE < PROVISION_HELD


def test_only_the_last_event_of_a_change_tells_of_the_move() -> None:
    row = Row(Job(status="submitting", event_count=4, accepted_at=timezone.now()), None)
    change = Change(job={"status": JobStatus.SCHEDULING}, events=(Event("batch_created"), Event("scheduling")))
    row.apply(change, timezone.now())
    told = [(event.sequence, event.reason, event.from_status, event.to_status) for event in row.events]
    assert told == [(5, "batch_created", "submitting", ""), (6, "scheduling", "submitting", "scheduling")]
    assert row.job_columns["event_count"] == 6


@pytest.mark.django_db
def test_sql_and_python_show_the_same_status() -> None:
    owner, shown = make_user(), {}
    for status in JobStatus:
        for cancel_requested_at in (None, timezone.now()):
            job = make_job(owner, status=status, cancel_requested_at=cancel_requested_at)
            shown[job.id] = shown_status(status, cancel_requested=cancel_requested_at is not None)
            assert job.shown_status == shown[job.id]
    assert dict(Job.objects.annotate(shown=SHOWN_STATUS).values_list("id", "shown")) == shown
    for status in JobStatus:
        found = set(Job.objects.filter(shown_as(status)).values_list("id", flat=True))
        assert found == {job_id for job_id, job_status in shown.items() if job_status == status}


def test_a_cancel_shows_until_it_is_true() -> None:
    assert {shown_status(status, cancel_requested=True) for status in LIVE} == {"cancelling"}
    assert [shown_status(status, cancel_requested=True) for status in sorted(TERMINAL)] == sorted(TERMINAL)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("constraint", "kind"), [("job_status_known", JobStatus), ("provision_status_known", ProvisionStatus)]
)
def test_the_database_knows_exactly_the_statuses(
    constraint: str, kind: type[JobStatus] | type[ProvisionStatus]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", [constraint])
        (definition,) = cursor.fetchone()
    assert set(re.findall(r"'(\w+)'", definition)) == set(kind.values)


@pytest.mark.parametrize("status", [*JobStatus.values, *FailureStage.values])
def test_every_status_fits_its_columns(status: str) -> None:
    columns: list[Any] = [Job._meta.get_field(name) for name in ("status", "failure_stage")]
    columns += [JobEvent._meta.get_field(name) for name in ("from_status", "to_status")]
    assert len(status) <= min(column.max_length for column in columns)


def assert_refused(change: dict[str, Any], model: type[Job] | type[Provision], pk: Any, by: str) -> None:
    with pytest.raises(IntegrityError, match=by), transaction.atomic():
        model.objects.filter(pk=pk).update(**change)


@pytest.mark.django_db
def test_a_job_in_an_unknown_status_cannot_be_stored() -> None:
    assert_refused({"status": "sleeping"}, Job, make_job().pk, "job_status_known")


@pytest.mark.django_db
@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_job_that_ended_without_a_time_cannot_be_stored(status: str) -> None:
    assert_refused({"status": status}, Job, make_job().pk, f"job_{status}_has_time")


@pytest.mark.django_db
def test_a_job_in_provisioning_has_a_pool_and_a_provision() -> None:
    job = make_job(status="provisioning")
    assert_refused({"pool": None}, Job, job.pk, "job_provisioning_has_pool")
    assert_refused({"provision": None}, Job, job.pk, "job_provisioning_has_pool")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("change", "by"),
    [
        ({"status": "gone"}, "provision_status_known"),
        ({"status": "ready"}, "provision_ready_has_time"),
        ({"status": "released"}, "provision_released_has_time"),
    ],
)
def test_an_impossible_provision_cannot_be_stored(change: dict[str, Any], by: str) -> None:
    assert_refused(change, Provision, make_provision().pk, by)


@pytest.mark.django_db
@pytest.mark.parametrize("status", ProvisionStatus.values)
def test_a_job_holds_one_live_provision_at_most(status: str) -> None:
    first = make_provision(status="ready")
    if status in PROVISION_LIVE:
        with pytest.raises(IntegrityError, match="provision_one_live_per_job"), transaction.atomic():
            make_provision(first.job, first.pool, status=status)
    else:
        make_provision(first.job, first.pool, status=status)
    assert Provision.objects.filter(status__in=sorted(PROVISION_LIVE)).count() == 1


@pytest.mark.django_db
def test_a_provisions_name_is_its_own() -> None:
    name = f"bp-{uuid.uuid4()}"
    make_provision(name=name)
    with pytest.raises(DatabaseError, match="name"), transaction.atomic():
        make_provision(name=name)
