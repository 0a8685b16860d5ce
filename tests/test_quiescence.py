"""Each check of `check_quiescent` sees what it is there for."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs import planner
from jobs.lifecycle.scans import external_job_id
from jobs.models import Job, JobEvent
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.batch_calls import DECISION, SUBMISSION
from tests.engine import is_quiet, simulated_pool, ticking_until
from tests.factories import make_job, make_provision
from tests.quiescence import check_quiescent

pytestmark = pytest.mark.django_db

Doubles = tuple[SimulatedServer, FakeMds]


@pytest.fixture
def doubles(simulated_server: SimulatedServer, fake_mds: FakeMds) -> Doubles:
    return simulated_server, fake_mds


def submit(job_id: str) -> str:
    """A batch at the MDS."""
    decision = dataclasses.replace(DECISION, job_id=job_id)
    return calls.batch_client().create(dataclasses.replace(SUBMISSION, decision=decision)).id


def ended_job(mds: FakeMds, *path: str, **fields: Any) -> Job:
    """A job with a whole story: its events, and a batch that is over like it."""
    path = path or ("pending", "provisioning", "submitting", "in_progress", "completed")
    at = timezone.now()
    job = make_job(status=path[-1], event_count=len(path), **{f"{path[-1]}_at": at, **fields})
    JobEvent.objects.all().filter(job=job).delete()
    for number, (old, new) in enumerate(zip(("", *path), path, strict=False), start=1):
        JobEvent.objects.create(job=job, sequence=number, from_status=old, to_status=new, reason="told", at=at)
    if "submitting" in path:
        job.batch_id = submit(external_job_id(job))
        job.save(update_fields=["batch_id"])
        mds.set_status(job.batch_id, path[-1])
    return job


def check_finds(doubles: Doubles, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_quiescent(*doubles)


def test_ended_jobs_of_every_kind_are_quiescent(doubles: Doubles) -> None:
    for path in (
        ("pending", "cancelled"),
        ("pending", "provisioning", "failed"),
        ("pending", "provisioning", "submitting", "in_progress", "cancelling", "cancelled"),
        ("pending", "provisioning", "submitting", "pending", "provisioning", "submitting", "expired"),
        ("pending", "provisioning", "submitting", "scheduling", "completed"),
    ):
        ended_job(doubles[1], *path)
    make_provision(ended_job(doubles[1]), status="released")
    check_quiescent(*doubles)


@pytest.mark.django_db(transaction=True)
def test_what_the_engine_does_ends_quiescent(doubles: Doubles) -> None:
    provider, mds = doubles
    simulated_pool(provider)
    first, second, third = (make_job() for _ in range(3))
    planner.cancel(second.owner, second.id)
    mds.add_rule(Rule("create", drop=True, is_applied=True))
    mds.add_rule(Rule("create", ends="cancelled"))
    ticking_until(is_quiet)
    check_quiescent(*doubles)
    assert sorted(Job.objects.values_list("status", flat=True)) == ["cancelled", "completed", "completed"]
    assert len(mds.batches()) >= 3, f"{first} or {third} was submitted again"


def test_a_job_that_is_not_over_is_seen(doubles: Doubles) -> None:
    make_job()
    check_finds(doubles, "is still pending")


def test_a_provision_that_is_not_released_is_seen(doubles: Doubles) -> None:
    make_provision(ended_job(doubles[1]), status="releasing")
    check_finds(doubles, "is still releasing")


def test_a_resource_that_is_held_and_billed_is_seen(doubles: Doubles) -> None:
    doubles[0].create({"name": "left"})
    check_finds(doubles, r"(?s)still holds sim-000001 \(left\).*the bill goes on: 1")


@pytest.mark.parametrize("job_id", ["", "elsewhere:job_1:1", "default:job_unknown:1", "default:job_unknown"])
def test_a_batch_without_a_job_is_seen(doubles: Doubles, job_id: str) -> None:
    doubles[1].set_status(submit(job_id), "completed")
    check_finds(doubles, "has no job")


def test_a_batch_that_still_runs_is_seen(doubles: Doubles) -> None:
    job = ended_job(doubles[1], attempt=2)
    job.attempt = 1
    submit(external_job_id(job))
    check_finds(doubles, r"still runs \(scheduling\)")


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_second_batch_of_an_attempt_is_seen(doubles: Doubles, status: str) -> None:
    job = ended_job(doubles[1], "pending", "provisioning", "submitting", status)
    twin = submit(external_job_id(job))
    doubles[1].set_status(twin, "completed")
    check_finds(doubles, f"{twin}.*instead of")
    doubles[1].set_status(twin, "cancelled")
    check_quiescent(*doubles)


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_batch_of_an_attempt_that_was_given_up_is_seen(doubles: Doubles, status: str) -> None:
    job = ended_job(doubles[1], attempt=2)
    job.attempt = 1
    first = submit(external_job_id(job))
    doubles[1].set_status(first, status)
    check_finds(doubles, f"no job's current attempt, has uncancelled batches.*{first}")
    doubles[1].set_status(first, "cancelled")
    check_quiescent(*doubles)


def test_a_batch_other_than_the_jobs_own_is_seen(doubles: Doubles) -> None:
    job = ended_job(doubles[1])
    Job.objects.update(batch_id="another")
    check_finds(doubles, f"{job.batch_id}.*instead of .*another")


def test_a_completed_job_whose_batch_was_cancelled_is_seen(doubles: Doubles) -> None:
    doubles[1].set_status(ended_job(doubles[1]).batch_id, "cancelled")
    check_finds(doubles, r"uncancelled batches \[\]")


def test_a_batch_of_a_job_that_knows_of_none_is_seen(doubles: Doubles) -> None:
    job = ended_job(doubles[1], "pending", "provisioning", "failed")
    doubles[1].set_status(submit(external_job_id(job)), "completed")
    check_finds(doubles, r"instead of \[\]")


@pytest.mark.parametrize(
    "path",
    [
        ("provisioning", "completed"),
        ("pending", "completed"),
        ("pending", "provisioning", "submitting", "finalizing", "in_progress", "completed"),
        ("pending", "cancelled", "cancelled"),
        ("pending", "cancelled", "pending", "cancelled"),
    ],
)
def test_an_illegal_move_is_seen(doubles: Doubles, path: tuple[str, ...]) -> None:
    ended_job(doubles[1], *path)
    check_finds(doubles, "goes from")


def test_a_move_from_where_the_job_was_not_is_seen(doubles: Doubles) -> None:
    ended_job(doubles[1])
    JobEvent.objects.filter(from_status="submitting").update(from_status="scheduling")
    check_finds(doubles, "goes from 'scheduling' to 'in_progress', after 'submitting'")


def test_a_status_no_event_tells_of_is_seen(doubles: Doubles) -> None:
    ended_job(doubles[1])
    JobEvent.objects.filter(to_status="completed").update(to_status="failed")
    check_finds(doubles, "is completed, and its events end with 'failed'")


def test_a_gap_in_the_events_is_seen(doubles: Doubles) -> None:
    ended_job(doubles[1])
    JobEvent.objects.filter(sequence=5).update(sequence=6)
    check_finds(doubles, r"events \[1, 2, 3, 4, 6\] instead of 1 to 5")


def test_an_event_nobody_counted_is_seen(doubles: Doubles) -> None:
    job = ended_job(doubles[1])
    JobEvent.objects.create(job=job, sequence=6, reason="late")
    check_finds(doubles, "instead of 1 to 5")


def test_an_end_time_written_again_is_seen(doubles: Doubles) -> None:
    job = ended_job(doubles[1])
    Job.objects.update(completed_at=timezone.now() + timedelta(seconds=1))
    check_finds(doubles, f"{job.id}: ended completed")


def test_a_second_end_time_is_seen(doubles: Doubles) -> None:
    ended_job(doubles[1])
    Job.objects.update(failed_at=timezone.now())
    check_finds(doubles, "its times are")
