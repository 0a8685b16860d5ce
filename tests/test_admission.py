"""Admission: which jobs go to which pool, one step at a time whoever takes it, and never beyond a limit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from django.utils import timezone

from jobs import planner, queueing
from jobs.conf import MAX_CRASHES, times
from jobs.lifecycle import claims, decisions
from jobs.lifecycle.claims import Claim, Taken
from jobs.lifecycle.steps import CallKind
from jobs.models import Job, JobEvent, OwnerQuota, Pool, Provision, Queue
from jobs.reconciler.admission import admission
from tests.answers import error, resource
from tests.clock import pass_time
from tests.engine import another_connection, locked, places, recorded
from tests.factories import make_job, make_pool, make_provision, make_user
from tests.threads import at_once

pytestmark = pytest.mark.django_db

LIMITS = ("max_live", "max_provisioning", "max_live_accelerators", "max_provisioning_accelerators")


class Hints:
    """Counts the hints sent."""

    def __init__(self) -> None:
        self.sent = 0

    def __call__(self) -> None:
        self.sent += 1


def admitted(count: int = 99) -> Taken:
    return admission(places(count), Hints())


def where(*jobs: Job) -> list[str]:
    """The pools these jobs are in, "" for none."""
    names = dict(Job.objects.exclude(status="pending").values_list("id", "pool__name"))
    return [names.get(job.id, "") for job in jobs]


def one(taken: Taken) -> Claim:
    (claim,) = taken.claims
    return claim


def test_it_works() -> None:
    pool = make_pool(ready_timeout_seconds=600)
    job = make_job(completion_window_seconds=3600, replicas=2, accelerator_count=4, provider_config={"zone": "b"})
    claim = one(admitted())
    job.refresh_from_db()
    provision = Provision.objects.get()
    assert (claim.kind, claim.job.id, claim.version) == (CallKind.CREATE, job.id, job.version)
    assert (job.status, job.pool, job.provision, job.attempt) == ("provisioning", pool, provision, 1)
    assert re.fullmatch(r"abp-[0-9a-f]{20}", provision.name), "a DNS label, with room for a suffix"
    assert provision.create_started_at is not None
    spec = {"accelerator_type": "H100", "accelerator_count": 4, "replicas": 2, "options": {"zone": "b"}}
    assert provision.spec == spec
    assert job.provisioning_at is not None
    assert job.deadline_at == job.provisioning_at + timedelta(seconds=600 + 3600)
    assert provision.expires_at == job.deadline_at + timedelta(seconds=times().lease_margin)
    event = JobEvent.objects.get(sequence=2)
    assert (event.reason, event.from_status, event.to_status) == ("admitted", "pending", "provisioning")


def test_a_job_waits_for_its_call_when_there_is_no_place_for_it() -> None:
    make_pool()
    make_job()
    assert admission({}, Hints()).claims == []
    job = Job.objects.get()
    assert (job.status, job.lease_expires_at) == ("provisioning", None)
    assert Provision.objects.get().create_started_at is None
    pass_time(1)
    assert one(claims.step([], places())).kind == CallKind.CREATE


def test_limits_are_kept_in_the_order_of_the_queue() -> None:
    make_pool(max_live=3, max_provisioning=2)
    jobs = [make_job(accepted_at=timezone.now() - timedelta(minutes=age)) for age in (1, 3, 2)]
    admitted()
    assert [bool(name) for name in where(*jobs)] == [False, True, True]
    assert admitted().claims == []
    Provision.objects.filter(job=jobs[1]).update(status="ready", ready_at=timezone.now())
    admitted()
    assert all(where(*jobs))


def test_the_best_pool_is_filled_first() -> None:
    make_pool(name="spare", priority=1)
    make_pool(name="best", priority=2, max_live=1)
    make_pool(name="off", priority=3, is_enabled=False)
    owner = make_user()
    jobs = [make_job(owner) for _ in range(2)]
    admitted()
    assert where(*jobs) == ["best", "spare"]


def test_classes_that_share_a_pool_are_admitted_in_one_order() -> None:
    make_pool(max_live=3)
    now = timezone.now()
    jobs = [
        make_job(accelerator_type=kind, accepted_at=now - timedelta(minutes=age))
        for kind, age in (("H100", 4), ("A100", 3), ("H100", 1), ("A100", 2))
    ]
    admitted()
    assert [bool(name) for name in where(*jobs)] == [True, True, False, True]


def test_a_class_without_room_blocks_no_other() -> None:
    make_pool(name="full", accelerator_types=["H100"], max_live=0)
    make_pool(name="free", accelerator_types=["A100"])
    first, second = make_job(accelerator_type="H100"), make_job(accelerator_type="A100")
    admitted()
    assert where(first, second) == ["", "free"]


def test_a_held_job_lets_the_others_pass() -> None:
    make_pool(max_live=1, name="p")
    held, free = make_job(hold=True), make_job()
    admitted()
    assert where(held, free) == ["", "p"]


# --- holds, owners, sizes ---


def test_a_held_queue_accepts_and_admits_nothing_until_it_is_resumed() -> None:
    make_pool(name="p")
    operator, job = make_user("operator"), make_job()
    planner.hold_queue(operator)
    assert admitted().claims == []
    planner.resume_queue(operator)
    admitted()
    assert where(job) == ["p"]


def test_a_held_owner_lets_the_others_pass() -> None:
    make_pool(name="p")
    operator, held, free = make_user("operator"), make_job(), make_job()
    planner.hold_owner(operator, held.owner.username)
    admitted()
    assert where(held, free) == ["", "p"]
    planner.resume_owner(operator, held.owner.username)
    admitted()
    assert where(held) == ["p"]


def test_an_owner_at_his_limit_lets_the_others_pass_in_every_class() -> None:
    make_pool(name="p")
    Queue.objects.update_or_create(pk=1, defaults={"max_live": 1})
    owner = make_user()
    jobs = [make_job(owner), make_job(owner), make_job(owner, accelerator_type="A100"), make_job()]
    admitted()
    assert where(*jobs) == ["p", "", "", "p"]


def test_a_large_job_is_not_passed_by_for_ever_by_small_ones() -> None:
    pool = make_pool(name="p", max_live_accelerators=8)
    small = make_job(accelerator_count=1)
    admitted()
    large, next_small, of_another_class = (
        make_job(accelerator_count=8),
        make_job(accelerator_count=1),
        make_job(accelerator_type="A100", accelerator_count=1),
    )
    admitted()
    assert where(small, large, next_small, of_another_class) == ["p", "", "", ""]
    Provision.objects.update(status="released", released_at=timezone.now())
    admitted()
    assert where(large, next_small, of_another_class) == ["p", "", ""]
    assert pool.provisions.exclude(status="released").count() == 1


def test_an_owners_large_job_holds_back_his_own_small_ones_and_nobody_elses() -> None:
    make_pool(name="p")
    owner = make_user()
    OwnerQuota.objects.create(owner=owner, max_live_accelerators=8)
    jobs = [make_job(owner, accelerator_count=count) for count in (4, 8, 1)]
    other = make_job(accelerator_count=9)
    admitted()
    assert where(*jobs, other) == ["p", "", "", "p"]


@pytest.mark.parametrize("whose", ["pool", "owner"])
def test_a_job_larger_than_any_limit_holds_up_nobody(whose: str) -> None:
    owner = make_user()
    make_pool(name="p", max_live_accelerators=8 if whose == "pool" else None)
    if whose == "owner":
        OwnerQuota.objects.create(owner=owner, max_live_accelerators=8)
    giant, small = make_job(owner, accelerator_count=9), make_job(owner, accelerator_count=8)
    admitted()
    assert where(giant, small) == ["", "p"]


def test_a_large_job_goes_to_a_pool_that_has_room_for_it() -> None:
    make_pool(name="small", priority=1, max_live_accelerators=4)
    make_pool(name="large")
    jobs = [make_job(accelerator_count=8), make_job(accelerator_count=4)]
    admitted()
    assert where(*jobs) == ["large", "small"]


@pytest.mark.parametrize(("policy", "expected"), [("fifo", [0, 1]), ("priority", [0, 2]), ("fair_share", [0, 3])])
def test_the_installations_policy_decides(settings: Any, policy: str, expected: list[int]) -> None:
    settings.PLANNER_QUEUE_POLICY = policy
    make_pool(max_live=2)
    owner, other = make_user(), make_user()
    now = timezone.now()
    jobs = [
        make_job(of, accepted_at=now - timedelta(hours=age))
        for of, age in ((owner, 9), (owner, 8), (owner, 7), (other, 6))
    ]
    Job.objects.update(ranked_at=F("accepted_at"))
    planner.prioritise(make_user("operator"), jobs[2].id, 100)
    if policy == "priority":
        Job.objects.filter(pk=jobs[0].pk).update(ranked_at=now - timedelta(hours=20))
    admitted()
    assert [number for number, name in enumerate(where(*jobs)) if name] == expected


def test_without_jobs_or_pools_nothing_happens() -> None:
    assert admitted().claims == []
    make_job()
    assert admitted().claims == []
    assert Job.objects.get().status == "pending"


def test_the_deadline_is_set_once_by_the_longest_wait_a_pool_could_mean() -> None:
    make_pool(priority=9, ready_timeout_seconds=60)
    make_pool(ready_timeout_seconds=900, max_live=0)
    make_pool(ready_timeout_seconds=9000, accelerator_types=["A100"])
    first = make_job(completion_window_seconds=3600)
    kept = timezone.now() + timedelta(minutes=5)
    again = make_job(completion_window_seconds=3600, deadline_at=kept, attempt=2)
    admitted()
    first.refresh_from_db()
    again.refresh_from_db()
    assert first.provisioning_at is not None
    assert first.deadline_at == first.provisioning_at + timedelta(seconds=900 + 3600)
    assert (again.deadline_at, again.provision and again.provision.attempt) == (kept, 2)


def test_a_provider_that_reserves_nothing_is_known_as_such() -> None:
    make_pool(provider="passthrough", max_lifetime_seconds=6000)
    make_job(accelerator_type="")
    admitted()
    assert not Provision.objects.get().holds_resources
    assert Provision.objects.get().lifetime_ends_at is None


@pytest.mark.parametrize(("window", "ends_after"), [(3600, 900 + 3600), (86_400, 6000)])
def test_a_pools_maximum_lifetime_is_frozen_and_told_to_the_provider(window: int, ends_after: int) -> None:
    make_pool(ready_timeout_seconds=900, max_lifetime_seconds=6000)
    make_job(completion_window_seconds=window)
    admitted()
    provision = Provision.objects.get()
    assert provision.lifetime_ends_at == provision.requested_at + timedelta(seconds=6000)
    lasts = timedelta(seconds=ends_after + times().lease_margin)
    assert provision.expires_at == provision.requested_at + lasts
    assert provision.job.deadline_at == provision.requested_at + timedelta(seconds=900 + window)


def test_a_pool_whose_provider_cannot_be_made_is_taken_to_hold_something() -> None:
    make_pool(provider="unheard-of")
    make_job()
    assert one(admitted()).kind == CallKind.CREATE
    assert Provision.objects.get().holds_resources


# --- what pools answer ---


def test_a_pool_without_capacity_is_not_asked_again_for_a_while_and_another_is() -> None:
    make_pool(name="out", priority=1)
    make_pool(name="next")
    job, other = make_job(), make_job(accelerator_type="A100")
    claim = next(claim for claim in admitted().claims if claim.job.id == job.id)
    recorded(claim, error("capacity"))
    assert where(job, other) == ["", "out"]
    admitted()
    assert where(job) == ["next"]


def test_the_rest_of_a_full_pool_doubles_up_to_its_limit() -> None:
    pool = make_pool()
    make_job()
    rests = []
    for _ in range(8):
        recorded(one(admitted()), error("capacity"))
        pool.refresh_from_db()
        rests.append(pool.capacity_retry_at["H100"]["delay"])
        assert admitted().claims == [], "not before the rest is over"
        pass_time(rests[-1] + 0.001)
        Provision.objects.update(status="released", released_at=timezone.now())
    shortest, longest = times().capacity_retry_min, times().capacity_retry_max
    assert rests == pytest.approx([min(longest, shortest * 2**turn) for turn in range(8)])
    pass_time(longest)
    recorded(one(admitted()), error("capacity"))
    pool.refresh_from_db()
    assert pool.capacity_retry_at["H100"]["delay"] == pytest.approx(shortest), "forgiven after a quiet time"


def test_many_jobs_told_the_same_make_one_rest() -> None:
    pool = make_pool()
    for _ in range(3):
        make_job()
    for claim in admitted().claims:
        recorded(claim, error("capacity"))
    pool.refresh_from_db()
    assert pool.capacity_retry_at["H100"]["delay"] == pytest.approx(times().capacity_retry_min)
    assert set(Job.objects.values_list("status", flat=True)) == {"pending"}


def test_an_invalid_credential_disables_the_pool_and_fails_no_job() -> None:
    pool = make_pool()
    job = make_job()
    recorded(one(admitted()), error("invalid_credential", "the key is gone"))
    pool.refresh_from_db()
    job.refresh_from_db()
    assert (pool.is_enabled, pool.disabled_reason) == (False, "the key is gone")
    assert (pool.held_by, pool.held_at is not None) == ("", True)
    assert (job.status, job.lost_attempts) == ("pending", 0)
    assert admitted().claims == []


def test_a_failed_over_job_gets_a_provision_of_its_own() -> None:
    make_pool(name="out", priority=1)
    make_pool(name="next")
    job = make_job()
    recorded(one(admitted()), error("capacity"))
    recorded(one(admitted()), resource("r", "pending"))
    job.refresh_from_db()
    assert job.provision is not None
    assert (job.provision.pool.name, job.provision.status) == ("next", "provisioning")
    assert sorted(Provision.objects.values_list("status", flat=True)) == ["provisioning", "releasing"]
    assert len(set(Provision.objects.values_list("name", flat=True))) == 2


# --- many at once ---


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("whose", ["pool", "queue", "owner"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_holds_against_two_admitters_at_once(limit: str, whose: str) -> None:
    """Three jobs of two accelerators each."""
    owner = make_user()
    limits = {limit: 7 if limit.endswith("accelerators") else 3}
    make_pool(**(limits if whose == "pool" else {"max_live": 99, "max_provisioning": 99}))
    if whose == "queue":
        Queue.objects.update_or_create(pk=1, defaults=limits)
    if whose == "owner":
        OwnerQuota.objects.create(owner=owner, **limits)
    for _ in range(12):
        make_job(owner, accelerator_count=1, replicas=2)
    free = places()
    counts = at_once(*[lambda: len(admission(free, Hints()).claims)] * 4)
    assert sorted(counts) == [0, 0, 0, 3]
    assert Provision.objects.count() == 3


@contextmanager
def admission_lock_held() -> Iterator[None]:
    with another_connection() as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [queueing.ADMISSION_LOCK])
        yield


@pytest.mark.django_db(transaction=True)
def test_an_admitter_that_waited_too_long_leaves_a_hint() -> None:
    make_pool()
    make_job()
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = 20")
    hints = Hints()
    try:
        with admission_lock_held():
            assert admission(places(), hints).claims == []
    finally:
        connection.close()
    assert hints.sent == 1
    assert one(admitted()).kind == CallKind.CREATE


@pytest.mark.django_db(transaction=True)
def test_a_job_in_somebody_elses_hands_is_passed_over() -> None:
    make_pool(name="p")
    busy, free = make_job(), make_job()
    with locked("jobs_job", busy.pk):
        admitted()
        assert where(busy, free) == ["", "p"]
    admitted()
    assert where(busy) == ["p"]


# --- one broken row ---


def test_a_job_that_cannot_be_decided_stops_no_other_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_pool()
    broken, sound = make_job(), make_job()
    decide = decisions.decide

    def broken_for_one(job: Job, *args: Any) -> Any:
        if job.id == broken.id:
            raise ZeroDivisionError("a defect")
        return decide(job, *args)

    monkeypatch.setattr(claims, "decide", broken_for_one)
    assert one(admitted()).job.id == sound.id
    broken.refresh_from_db()
    assert (broken.status, broken.provision, broken.crashes) == ("pending", None, 1)
    assert Provision.objects.filter(job=broken).count() == 0
    assert "a defect" in caplog.text
    for _ in range(MAX_CRASHES):
        admitted()
    monkeypatch.undo()
    pass_time(times().retry_max)
    claims.step([], places(), lone=True)
    broken.refresh_from_db()
    assert (broken.status, broken.error_code) == ("failed", "internal_error")


def test_a_job_whose_admission_the_database_refuses_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    pool = make_pool(max_live=9)
    broken, sound = make_job(), make_job()
    make_provision(broken, pool, status="ready")  # no engine leaves a pending job like this
    assert one(admitted()).job.id == sound.id
    broken.refresh_from_db()
    assert (broken.status, broken.crashes) == ("pending", 1)
    assert Pool.objects.get().capacity_retry_at == {}
    assert "provision_one_live_per_job" in caplog.text
