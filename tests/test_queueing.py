"""The queue: whose turn it is under each policy, and a capacity that is never exceeded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs import planner, queueing
from jobs.conf import MAX_PRIORITY
from jobs.errors import QueueFull
from jobs.models import Job, JobEvent
from jobs.placement import queue_class
from jobs.queue_merge import Merged, waiting_classes, waiting_owners
from jobs.queueing import FairShareQueue, FifoQueue, PriorityQueue, QueuePolicy
from jobs.statuses import TERMINAL, JobStatus
from tests.factories import make_file, make_job, make_template, make_user
from tests.plans import explained
from tests.threads import at_once

pytestmark = pytest.mark.django_db


def merged(order: QueuePolicy, count: int = 999) -> list[str]:
    """The ids of the first so many jobs, each admitted as it is told."""
    told = []
    merge = Merged(order, waiting_classes(), lambda owner: True)
    for job in merge:
        merge.take(job)
        told.append(job.place.id)
        if len(told) == count:
            break
    return told


def test_what_is_held_or_cancelled_or_in_hand_or_not_pending_is_not_admitted() -> None:
    now = timezone.now()
    free = make_job(due_at=now)
    make_job(hold=True)
    make_job(cancel_requested_at=now)
    make_job(lease_expires_at=now + timedelta(minutes=1))
    for status in set(JobStatus) - {JobStatus.PENDING}:
        make_job(status=status)
    assert list(queueing.lock_admissible([job.id for job in Job.objects.all()]).values()) == [free]
    assert merged(FifoQueue()) == [free.id]


def test_queues_are_found_without_their_jobs() -> None:
    first, second = make_user(), make_user()
    for owner, kind in ((first, "H100"), (second, "A100"), (first, "H100"), (first, ""), (second, "A100")):
        make_job(owner, accelerator_type=kind)
    make_job(accelerator_type="L4", status="failed")
    make_job(accelerator_type="L4", hold=True)
    found = waiting_classes()
    assert {name: wanted.accelerator_type for name, wanted in found.items()} == {
        "A100|": "A100",
        "H100|": "H100",
        "|": "",
    }
    assert waiting_owners("A100|") == [second.pk]


def test_no_job_makes_no_queue() -> None:
    assert waiting_classes() == {}
    assert merged(FairShareQueue()) == []


@dataclass(frozen=True)
class Drawn:
    """One pending job of some owner."""

    owner: int
    kind: str
    age: int
    priority: int


drawn_jobs = st.lists(
    st.builds(Drawn, st.integers(0, 3), st.sampled_from(["H100", "A100"]), st.integers(0, 40), st.integers(0, 100)),
    max_size=25,
)
turns = st.lists(st.integers(0, 50) | st.none(), min_size=4, max_size=4)  # how long ago each owner's last one was


def stored(drawn: list[Drawn], last_turns: list[int | None]) -> list[Job]:
    """Rows like these and no others."""
    JobEvent.objects.all().delete()
    Job.objects.all().delete()
    owners = [User.objects.get_or_create(username=f"owner{number}")[0] for number in range(4)]
    now = timezone.now()
    had = [(owner, ago) for owner, ago in zip(owners, last_turns, strict=True) if ago is not None]
    over = [pending(owner, now, provisioning_at=now - timedelta(seconds=ago), hold=True) for owner, ago in had]
    jobs = [pending(owners[job.owner], now - timedelta(seconds=job.age), job.kind, job.priority) for job in drawn]
    Job.objects.bulk_create([*over, *jobs])
    return jobs


def pending(owner: User, accepted_at: datetime, kind: str = "H100", priority: int = 0, **fields: Any) -> Job:
    """A job of the queue, unsaved."""
    return Job(
        owner=owner,
        completion_window_seconds=60,
        queue_class=queue_class(kind),
        accelerator_type=kind,
        accepted_at=accepted_at,
        priority=priority,
        ranked_at=accepted_at - queueing.priority_span(priority),
        **fields,
    )


def by_accept_time(job: Job) -> tuple[Any, ...]:
    return (job.accepted_at, job.id)


def in_turns(jobs: list[Job]) -> list[Job]:
    """Round robin by hand: of those whose owner had the fewest turns, the one whose owner's last was longest ago."""
    last = {job.owner_id: queueing._last_turns([job.owner_id])[job.owner_id] for job in jobs}
    taken: dict[int, int] = defaultdict(int)
    rest, order = sorted(jobs, key=by_accept_time), []
    while rest:
        job = min(rest, key=lambda job: (taken[job.owner_id], last[job.owner_id], job.owner_id, *by_accept_time(job)))
        taken[job.owner_id] += 1
        rest.remove(job)
        order.append(job)
    return order


ORDERS: dict[type[QueuePolicy], Callable[[list[Job]], list[Job]]] = {
    FifoQueue: lambda jobs: sorted(jobs, key=by_accept_time),
    PriorityQueue: lambda jobs: sorted(jobs, key=lambda job: (job.ranked_at, job.id)),
    FairShareQueue: in_turns,
}


@pytest.mark.parametrize("order", ORDERS)
@given(drawn=drawn_jobs, last_turns=turns)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_the_merged_queues_are_in_the_policys_order_and_everybody_is_told_his_place(
    order: type[QueuePolicy], drawn: list[Drawn], last_turns: list[int | None]
) -> None:
    jobs = stored(drawn, last_turns)
    expected = [job.id for job in ORDERS[order](jobs)]
    assert merged(order()) == expected
    assert merged(order(), 3) == expected[:3]
    few = order()
    few.heads_at_first = few.heads_at_first and 2
    assert merged(few) == expected
    for job in jobs:
        same_class = ORDERS[order]([each for each in jobs if each.queue_class == job.queue_class])
        place = [each.id for each in same_class].index(job.id)
        found = order().ahead(job, 1000)
        assert found == place
        assert order().ahead(job, 2) == min(found, 2)


@pytest.mark.parametrize("order", ORDERS)
@given(arrivals=st.lists(st.lists(st.integers(0, 2), max_size=2), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_nobody_starves(order: type[QueuePolicy], arrivals: list[list[int]]) -> None:
    """One place a turn, and always newer jobs of everybody else, with the highest priority there is.

    Under priority those of the first four turns, two each at most, outrank the patient one's; nothing later does.
    """
    stored([], [None] * 4)
    patient, *others = [User.objects.get(username=f"owner{number}") for number in range(4)]
    begin = timezone.now()
    pending(patient, begin).save()
    step = queueing.priority_span(MAX_PRIORITY) / 4
    for turn in range(14):
        now = begin + turn * step
        for number in arrivals[turn % len(arrivals)]:
            pending(others[number], now, priority=MAX_PRIORITY).save()
        for job_id in merged(order(), 1):
            Job.objects.filter(pk=job_id).update(status="in_progress", provisioning_at=now)
    assert not Job.objects.filter(owner=patient, status="pending").exists()


@pytest.mark.parametrize("at_first", [1, 2, 100])
def test_whoever_is_not_free_or_dropped_is_not_told_however_many_queues_are_known_at_first(at_first: int) -> None:
    closed, first, second = make_user(), make_user(), make_user()
    make_job(closed)
    make_job(first, accelerator_type="A100")
    large = make_job(first, accelerator_type="H100")
    told = make_job(second, accelerator_type="A100")
    for owner in (first, second, closed):
        make_job(owner, accelerator_type="H100")
    order = FifoQueue()
    order.heads_at_first = at_first
    merge = Merged(order, waiting_classes(), lambda owner: owner != closed.pk)
    found = []
    for job in merge:
        found.append(job.place.id)
        if job.queue.queue_class == "A100|":
            merge.drop(job.queue)
        else:
            merge.drop_class(job.queue.queue_class)
    assert found[1:] == [large.id, told.id]


@pytest.mark.parametrize("order", ORDERS)
def test_the_backlog_is_not_read(order: type[QueuePolicy]) -> None:
    """Rows read for k jobs out of m queues are a small multiple of k + m, whatever waits behind them."""
    owners, now = [make_user() for _ in range(10)], timezone.now()
    Job.objects.bulk_create([pending(owners[number % 10], now) for number in range(3000)])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jobs_job")
    with explained() as plans:
        assert len(merged(order(), 40)) == 40
    assert plans
    assert [plan for plan in plans if plan.read_whole] == []
    assert sum(plan.rows.total() for plan in plans) <= 4 * (40 + 10), plans


def test_a_backlog_that_was_held_a_moment_ago_is_not_read_either() -> None:
    """What PostgreSQL knows of the table is from before the hold: that the first row it meets would do."""
    owner, now = make_user(), timezone.now()
    Job.objects.bulk_create([pending(owner, now) for _ in range(3000)])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jobs_job")
    Job.objects.update(hold=True)
    with explained() as plans:
        assert not queueing.has_admissible()
    assert [plan.read_whole for plan in plans] == [set()]


def test_an_unknown_policy_is_refused_by_the_checks_and_a_known_one_is_made(settings: Any) -> None:
    for name, kind in {"fifo": FifoQueue, "priority": PriorityQueue, "fair_share": FairShareQueue}.items():
        settings.PLANNER_QUEUE_POLICY = name
        assert type(queueing.policy()) is kind


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
