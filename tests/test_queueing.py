"""The queue: order within a class, room in the pools, and a capacity that is never exceeded."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from jobs import planner, queueing
from jobs.errors import QueueFull
from jobs.models import Job
from jobs.queueing import FifoQueue, Room
from jobs.statuses import PROVISION_ENDED, TERMINAL, JobStatus, ProvisionStatus
from tests.factories import make_file, make_job, make_pool, make_provision, make_template, make_user
from tests.threads import at_once

pytestmark = pytest.mark.django_db


def test_the_first_accepted_is_the_first_admitted() -> None:
    now = timezone.now()
    jobs = [make_job(accepted_at=now - timedelta(seconds=age), due_at=None) for age in (2, 3, 1, 3)]
    expected = sorted(jobs, key=lambda job: (job.accepted_at, job.id))
    fifo = FifoQueue()
    assert list(fifo.candidates("H100|", 9)) == expected
    assert list(fifo.candidates("H100|", 2)) == expected[:2]
    assert sorted(jobs, key=fifo.key) == expected, "both ways to tell the order agree"
    assert list(fifo.candidates("A100|", 9)) == []


def test_what_is_held_or_cancelled_or_in_hand_or_not_pending_is_not_admitted() -> None:
    now = timezone.now()
    free = make_job(due_at=now)
    make_job(hold=True)
    make_job(cancel_requested_at=now)
    make_job(lease_expires_at=now + timedelta(minutes=1))
    for status in set(JobStatus) - {JobStatus.PENDING}:
        make_job(status=status)
    assert list(queueing.admissible()) == [free]


def test_classes_are_found_without_their_jobs() -> None:
    for accelerator_type in ("H100", "A100", "H100", "", "A100"):
        make_job(accelerator_type=accelerator_type)
    make_job(accelerator_type="L4", status="failed")
    # each once, in the database's own order
    assert sorted(queueing.waiting_classes()) == ["A100|", "H100|", "|"]
    assert [queueing.accelerator_of(name) for name in ("|", "A100|", "H100|")] == ["", "A100", "H100"]


def test_no_job_makes_no_class() -> None:
    assert queueing.waiting_classes() == []


@pytest.mark.parametrize("status", list(ProvisionStatus))
def test_room_is_what_a_pool_does_not_hold(status: ProvisionStatus) -> None:
    pool = make_pool(max_live=5, max_provisioning=3)
    make_provision(make_job(), pool, status=status)
    (room,) = queueing.room()
    is_starting = status in {ProvisionStatus.REQUESTED, ProvisionStatus.PROVISIONING}
    assert room.free == (2 if is_starting else 3)
    pool.max_provisioning = 9
    pool.save()
    (room,) = queueing.room()
    assert room.free == (5 if status in PROVISION_ENDED else 4)


def test_rooms_come_best_first_and_only_of_enabled_pools() -> None:
    pools = [make_pool(name=name, priority=priority) for name, priority in (("c", 0), ("b", 0), ("a", 0), ("z", 9))]
    make_pool(is_enabled=False)
    assert [room.pool for room in queueing.room()] == [pools[3], pools[2], pools[1], pools[0]]


@pytest.mark.parametrize(
    ("offered", "wanted", "is_offered"),
    [([], "H100", True), (["H100"], "H100", True), (["A100"], "H100", False), (["A100"], "", True), ([], "", True)],
)
def test_a_pool_offers_its_accelerators(offered: list[str], wanted: str, is_offered: bool) -> None:
    room = Room(make_pool(accelerator_types=offered), 1)
    assert room.offers(wanted, timezone.now()) == is_offered


def test_a_pool_that_is_out_of_one_type_still_offers_another() -> None:
    now = timezone.now()
    room = Room(make_pool(capacity_retry_at={"H100": {"at": now.timestamp() + 5, "delay": 30}}), 1)
    assert (room.offers("H100", now), room.offers("A100", now)) == (False, True)
    assert room.offers("H100", now + timedelta(seconds=6))


# --- capacity ---


def test_only_pending_jobs_fill_the_queue(settings: Any) -> None:
    settings.PLANNER_QUEUE_CAPACITY = 2
    for status in [*sorted(TERMINAL), "provisioning", "in_progress", "pending"]:
        make_job(status=status)
    assert not queueing.queue_is_full()
    make_job()
    assert queueing.queue_is_full()


@pytest.mark.parametrize(("capacity", "waits"), [(1000, False), (queueing._CAPACITY_SLACK, True)])
def test_enqueues_take_turns_only_near_the_limit(settings: Any, capacity: int, waits: bool) -> None:
    settings.PLANNER_QUEUE_CAPACITY = capacity
    make_job()
    assert not queueing.queue_is_full()
    with connection.cursor() as cursor:
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND pid = pg_backend_pid()"
        cursor.execute(held, [queueing.CAPACITY_LOCK])
        assert cursor.fetchone()[0] == waits


@pytest.mark.django_db(transaction=True)
def test_the_capacity_is_exact_under_thirty_enqueues_at_once(settings: Any) -> None:
    settings.PLANNER_QUEUE_CAPACITY = 10
    user, template = make_user(), make_template()
    request = planner.JobRequest(
        input_file_id=make_file(user).id,
        endpoint="/v1/chat/completions",
        model_id=template.model_id,
        template_name=template.name,
    )

    def enqueue() -> bool:
        try:
            planner.enqueue(user, request)
        except QueueFull:
            return False
        return True

    accepted = at_once(*[enqueue] * 30)
    assert (sum(accepted), Job.objects.count()) == (10, 10)
