"""Steering the queue: holds and priorities, by whom, with what trace, over the API as well."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User

from jobs import planner
from jobs.errors import Conflict, Forbidden, InvalidRequest, NotFound
from jobs.models import Job, JobEvent, OwnerQuota, Pool, Queue, QueueMessage
from jobs.statuses import TERMINAL
from tests.api_client import ApiClient
from tests.factories import make_job, make_pool, make_user

pytestmark = pytest.mark.django_db


def told(job: Job) -> list[tuple[str, str, str]]:
    events = JobEvent.objects.filter(job=job, sequence__gt=1).order_by("sequence")
    return list(events.values_list("reason", "actor", "message"))


def test_a_job_is_held_and_resumed_once_each_with_a_trace() -> None:
    operator, job = make_user("operator"), make_job()
    for _ in range(2):
        assert planner.hold_job(operator, job.id, reason="broken input").hold
    for _ in range(2):
        assert not planner.resume_job(operator, job.id).hold
    assert told(job) == [("held", operator.email, "broken input"), ("resumed", operator.email, "")]
    assert QueueMessage.objects.exists()


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_job_that_is_over_cannot_be_held(status: str) -> None:
    job = make_job(status=status)
    with pytest.raises(Conflict, match=status):
        planner.hold_job(make_user("operator"), job.id)


def test_a_priority_is_worth_some_waiting_and_changes_only_while_pending(settings: Any) -> None:
    settings.PLANNER_PRIORITY_AGEING_SECONDS = 60
    operator, job = make_user("operator"), make_job()
    found = planner.prioritise(operator, job.id, 10)
    assert (found.priority, found.ranked_at) == (10, job.accepted_at - timedelta(minutes=10))
    planner.prioritise(operator, job.id, 10)
    planner.prioritise(operator, job.id, 0)
    job.refresh_from_db()
    assert (job.priority, job.ranked_at) == (0, job.accepted_at)
    assert [event.data for event in JobEvent.objects.filter(reason="prioritised").order_by("sequence")] == [
        {"priority": 10},
        {"priority": 0},
    ]
    Job.objects.filter(pk=job.pk).update(status="submitting")
    with pytest.raises(Conflict):
        planner.prioritise(operator, job.id, 1)


@pytest.mark.parametrize("priority", [-1, 101, "5", 1.5, True, None])
def test_a_priority_is_a_whole_number_to_100(priority: Any) -> None:
    job = make_job()
    with pytest.raises(InvalidRequest, match="priority"):
        planner.prioritise(make_user("operator"), job.id, priority)


@pytest.mark.parametrize("role", ["submitter", "viewer"])
def test_only_operators_steer(role: str) -> None:
    user, pool = make_user(role), make_pool()
    job = make_job(user)
    for refused in (
        lambda: planner.hold_job(user, job.id),
        lambda: planner.resume_job(user, job.id),
        lambda: planner.prioritise(user, job.id, 1),
        lambda: planner.hold_owner(user, user.username),
        lambda: planner.resume_owner(user, user.username),
        lambda: planner.hold_pool(user, pool.name),
        lambda: planner.resume_pool(user, pool.name),
        lambda: planner.hold_queue(user),
        lambda: planner.resume_queue(user),
    ):
        with pytest.raises(Forbidden):
            refused()
    job.refresh_from_db()
    assert (job.hold, job.priority, told(job)) == (False, 0, [])


def test_what_one_may_not_see_cannot_be_held() -> None:
    with pytest.raises(NotFound):
        planner.hold_job(make_user(), make_job().id)


def test_a_hold_of_the_queue_or_an_owner_says_who_when_and_why() -> None:
    operator, owner = make_user("operator"), make_user()
    for hold, resume in (
        (lambda: planner.hold_queue(operator, reason="upgrade"), lambda: planner.resume_queue(operator)),
        (
            lambda: planner.hold_owner(operator, owner.username, reason="upgrade"),
            lambda: planner.resume_owner(operator, owner.username),
        ),
    ):
        first = hold()
        assert (first.hold, first.hold_reason, first.held_by) == (True, "upgrade", operator.email)
        assert first.held_at is not None
        assert hold().held_at == first.held_at, "the second changes nothing"
        after = resume()
        assert (after.hold, after.hold_reason, after.held_by, after.held_at) == (False, "", "", None)


HELD_THINGS = ("queue", "owner", "pool", "job")


def holding(thing: str) -> tuple[Callable[..., Any], Callable[[], tuple[str, str]]]:
    """How it is held, and the reason and author that stand; a job's author is in its timeline."""
    job, pool = make_job(), make_pool()
    row: Any
    match thing:
        case "queue":
            return planner.hold_queue, lambda: (Queue.objects.get().hold_reason, Queue.objects.get().held_by)
        case "owner":
            row = OwnerQuota.objects
            hold = partial(planner.hold_owner, username=job.owner.username)
            return hold, lambda: (row.get().hold_reason, row.get().held_by)
        case "pool":
            row = Pool.objects
            return partial(planner.hold_pool, name=pool.name), lambda: (row.get().disabled_reason, row.get().held_by)
    hold = partial(planner.hold_job, job_id=job.id)
    return hold, lambda: (Job.objects.get(pk=job.pk).hold_reason, told(job)[-1][1])


@pytest.mark.parametrize("thing", HELD_THINGS)
def test_the_newest_reason_of_a_hold_stands_with_its_author(thing: str) -> None:
    first, second = make_user("operator"), make_user("operator")
    hold, stands = holding(thing)
    hold(first, reason="upgrade")
    hold(second, reason="the upgrade failed")
    assert stands() == ("the upgrade failed", second.email)


@pytest.mark.parametrize("thing", HELD_THINGS)
@pytest.mark.parametrize("again", ["", "upgrade"])
def test_a_hold_that_says_nothing_new_changes_nothing(thing: str, again: str) -> None:
    first, second = make_user("operator"), make_user("operator")
    hold, stands = holding(thing)
    hold(first, reason="upgrade")
    hints = QueueMessage.objects.count()
    hold(second, reason=again)
    assert stands() == ("upgrade", first.email)
    assert QueueMessage.objects.count() == hints


def test_a_new_reason_of_a_held_job_is_in_its_timeline_and_gone_with_the_hold() -> None:
    operator, job = make_user("operator"), make_job()
    planner.hold_job(operator, job.id, reason="broken input")
    planner.hold_job(operator, job.id, reason="broken model")
    assert planner.resume_job(operator, job.id).hold_reason == ""
    assert told(job) == [
        ("held", operator.email, "broken input"),
        ("held", operator.email, "broken model"),
        ("resumed", operator.email, ""),
    ]


def test_a_resumed_owner_keeps_his_limits() -> None:
    operator, owner = make_user("operator"), make_user()
    OwnerQuota.objects.create(owner=owner, max_live=3)
    planner.hold_owner(operator, owner.username)
    planner.resume_owner(operator, owner.username)
    assert OwnerQuota.objects.get().max_live == 3


def test_a_held_pool_is_a_disabled_one() -> None:
    operator, pool = make_user("operator"), make_pool()
    held = planner.hold_pool(operator, pool.name, reason="firmware")
    assert (held.is_enabled, held.disabled_reason, held.held_by) == (False, "firmware", operator.email)
    assert held.held_at is not None
    resumed = planner.resume_pool(operator, pool.name)
    assert (resumed.is_enabled, resumed.disabled_reason, resumed.held_by, resumed.held_at) == (True, "", "", None)


@pytest.mark.parametrize("name", ["nobody", "a\0b"])
def test_who_is_not_there_cannot_be_held(name: str) -> None:
    operator = make_user("operator")
    with pytest.raises(NotFound):
        planner.hold_owner(operator, name)
    with pytest.raises(NotFound):
        planner.hold_pool(operator, name)


# --- over the API ---


@pytest.fixture
def operator() -> User:
    return make_user("operator")


def test_the_api_holds_and_resumes(operator: User) -> None:
    client, job, pool = ApiClient(operator), make_job(), make_pool()
    for path in ("/queue", f"/owners/{job.owner.username}", f"/pools/{pool.name}"):
        held = client.post(f"{path}/hold", {"reason": "upgrade"}).json()
        assert (held["object"], held["hold"], held["reason"]) == ("hold", True, "upgrade")
        assert (held["heldBy"], held["heldAt"] != "0") == (operator.email, True)
        assert not client.post(f"{path}/resume", {}).json()["hold"]
    assert client.post(f"/jobs/{job.id}/hold", {}).json()["hold"]
    assert not client.post(f"/jobs/{job.id}/resume", {}).json()["hold"]
    assert not Queue.objects.get().hold
    assert Pool.objects.get().is_enabled


def test_everybody_is_told_that_the_queue_is_held_and_why(operator: User) -> None:
    planner.hold_queue(operator, reason="upgrade")
    answer = ApiClient(make_user()).get("/queue").json()
    assert (answer["hold"], answer["reason"], answer["heldBy"]) == (True, "upgrade", operator.email)


def standing(client: ApiClient) -> list[tuple[str, str, str]]:
    return [(hold["owner"], hold["pool"], hold["reason"]) for hold in client.get("/queue").json()["holds"]]


def test_the_api_lists_all_holds_that_stand(operator: User) -> None:
    client, owner, pool = ApiClient(operator), make_user(), make_pool()
    make_pool()
    assert standing(client) == []
    planner.hold_owner(operator, owner.username, reason="over budget")
    planner.hold_pool(operator, pool.name, reason="firmware")
    planner.hold_queue(operator, reason="upgrade")
    assert standing(client) == [("", "", "upgrade"), ("", pool.name, "firmware"), (owner.username, "", "over budget")]
    planner.resume_queue(operator)
    planner.resume_pool(operator, pool.name)
    planner.resume_owner(operator, owner.username)
    assert standing(client) == []


def test_who_may_not_see_everybodys_jobs_is_told_of_no_hold_on_others(operator: User) -> None:
    owner = make_user()
    planner.hold_owner(operator, owner.username, reason="over budget")
    assert standing(ApiClient(make_user())) == []
    assert (
        standing(ApiClient(owner)) == standing(ApiClient(make_user("viewer"))) == [(owner.username, "", "over budget")]
    )


def test_the_api_changes_a_priority_and_names_the_field_it_refuses(operator: User) -> None:
    client, job = ApiClient(operator), make_job()
    assert client.post(f"/jobs/{job.id}/priority", {"priority": 7}).json()["priority"] == 7
    refused = client.post(f"/jobs/{job.id}/priority", {"priority": 101})
    assert refused.status_code == 400
    assert "priority" in refused.json()["message"]
    assert ApiClient(job.owner).post(f"/jobs/{job.id}/priority", {"priority": 1}).status_code == 403


def test_a_held_job_that_is_over_is_a_conflict_over_the_api(operator: User) -> None:
    job = make_job(status="completed")
    assert ApiClient(operator).post(f"/jobs/{job.id}/hold", {}).status_code == 409
