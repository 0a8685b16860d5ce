"""Failover: pools are tried in order, whoever refuses is passed by at once, and a job goes only where it may."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs import planner
from jobs.conf import Times
from jobs.models import Job, JobEvent, Pool, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler.admission import admission
from jobs.tasks import run_pass
from jobs.testing.script import Rule
from tests.answers import error
from tests.api_client import api, assert_refused, job_body
from tests.engine import claimed, long_ago, places, recorded, simulated_pool
from tests.factories import make_job, make_pool, make_provision

pytestmark = pytest.mark.django_db


def admitted() -> dict[str, str]:
    """What a step of admission does: the pool of each job it admits."""
    taken = admission(places(), lambda: None)
    return {claim.job.id: claim.provision.pool.name for claim in taken.claims if claim.provision is not None}


def answered(job: Job, kind: str, **fields: Any) -> None:
    """The pool's answer to a job that was just admitted."""
    (claim,) = (each for each in admission(places(), lambda: None).claims if each.job.id == job.id)
    recorded(claim, error(kind, **fields))
    job.refresh_from_db()


# --- the order ---


def test_of_pools_of_one_priority_the_one_with_the_newest_success_for_the_type_comes_first() -> None:
    never, long_ago, lately, first = (make_pool(name=name) for name in ("a-never", "b-long-ago", "c-lately", "d"))
    Pool.objects.filter(pk=first.pk).update(priority=1, max_live=1)
    now = timezone.now()
    for pool, kind, hours in ((long_ago, "H100", 9), (lately, "H100", 1), (never, "A100", 0), (long_ago, "A100", 5)):
        job = make_job(status="completed", accelerator_type=kind)
        make_provision(job, pool, status="released", ready_at=now - timedelta(hours=hours))
    Pool.objects.exclude(pk=first.pk).update(max_live=1)
    jobs = [make_job(accepted_at=now - timedelta(minutes=9 - number)) for number in range(4)]
    found = admitted()
    assert [found[job.id] for job in jobs] == ["d", "c-lately", "b-long-ago", "a-never"]


@pytest.mark.parametrize("status", ["provisioning", "ready"])
def test_a_job_whose_resource_was_lost_goes_to_another_pool_of_the_same_priority_first(status: str) -> None:
    best, equal = make_pool(name="best", priority=1), make_pool(name="equal", priority=1)
    make_pool(name="less")
    done = make_job(status="completed")
    make_provision(done, best, status="released", ready_at=timezone.now() - timedelta(hours=1))

    def lose(job: Job) -> None:
        broken = {"status": status, "observed_state": "failed", "ready_at": timezone.now() - timedelta(hours=2)}
        Provision.objects.filter(job=job, status="requested").update(**broken)
        Job.objects.filter(pk=job.pk).update(
            status="provisioning" if status == "provisioning" else "submitting",
            due_at=long_ago(),
            lease_expires_at=None,
        )
        claimed()

    loser = make_job()
    found = []
    for _ in range(4):
        found.append(admitted()[loser.id])
        lose(loser)
    assert (found[:3], set(found)) == ([best.name, equal.name, best.name], {best.name, equal.name})
    newcomer = make_job()
    assert admitted()[newcomer.id] == best.name


# --- what pools answer ---


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [(409, "capacity", "no_capacity"), (409, "quota", "no_quota"), (401, "invalid_credential", "pool_disabled")],
)
def test_whoever_refuses_is_passed_by_in_the_same_pass(
    status: int, code: str, reason: str, simulated_server: SimulatedServer, settings: Any
) -> None:
    settings.PLANNER_TIMES = vars(Times())  # no pass is over before its time
    simulated_pool(simulated_server, name="first", priority=1)
    simulated_pool(simulated_server, name="second")
    simulated_server.add_rule(Rule("create", status=status, code=code))
    simulated_server.add_rule(Rule("create", times=None, is_never_ready=True))
    job = make_job()
    run_pass()
    job.refresh_from_db()
    assert job.pool is not None
    assert (job.status, job.pool.name, job.lost_attempts) == ("provisioning", "second", 0)
    assert reason in JobEvent.objects.filter(job=job).values_list("reason", flat=True)


def test_a_rate_limit_is_waited_for_where_it_was_told_and_fails_nothing() -> None:
    make_pool(name="first", priority=1)
    make_pool(name="second")
    job = make_job()
    answered(job, "rate_limited")
    provision = Provision.objects.get()
    assert (job.status, provision.pool.name, provision.status) == ("provisioning", "first", "requested")
    assert provision.retry_at is not None
    assert Pool.objects.get(name="first").capacity_retry_at == {}


def test_a_refused_credential_is_told_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    make_pool(name="west")
    jobs = [make_job(), make_job()]
    claims = admission(places(), lambda: None).claims
    with caplog.at_level(logging.ERROR, "jobs"):
        for claim in claims:
            recorded(claim, error("invalid_credential", "the key is gone"))
    assert [record.getMessage() for record in caplog.records] == ["pool west is disabled: the key is gone"]
    assert set(Job.objects.values_list("status", flat=True)) == {"pending"}
    assert len(claims) == len(jobs)


def test_attempts_are_bounded_by_no_number() -> None:
    make_pool()
    job = make_job()
    for _ in range(9):
        answered(job, "capacity")
        Pool.objects.update(capacity_retry_at={})
    assert (job.status, job.lost_attempts) == ("pending", 0)


def test_when_all_are_full_each_pools_answer_is_told() -> None:
    make_pool(name="a", priority=9)
    make_pool(name="b", priority=8)
    slow = make_pool(name="c", priority=7)
    make_pool(name="d", max_live=0)
    make_pool(name="e", is_enabled=False, disabled_reason="the key is gone")
    make_pool(name="f", max_live_accelerators=1)
    make_pool(name="other", accelerator_types=["A100"])
    job = make_job(accelerator_count=2)
    answered(job, "capacity")
    answered(job, "capacity", code="quota")
    found = admission(places(), lambda: None).claims[0]
    assert found.provision is not None
    Provision.objects.filter(pk=found.provision.pk).update(
        status="provisioning", deadline_at=timezone.now() - timedelta(seconds=1)
    )
    Pool.objects.filter(pk=slow.pk).update(observed_at=timezone.now())
    Job.objects.filter(pk=job.pk).update(due_at=timezone.now() - timedelta(seconds=1), lease_expires_at=None)
    claimed()
    job.refresh_from_db()
    waiting = planner.waiting_for(job)
    assert (job.status, waiting.code) == ("pending", "pools_full")
    assert [(answer.pool, answer.code) for answer in waiting.pools] == [
        ("a", "capacity"),
        ("b", "quota"),
        ("c", "ready_timeout"),
        ("d", "full"),
        ("f", "too_large"),
        ("e", "held"),
    ]
    assert [answer.retry_at is not None for answer in waiting.pools] == [True, True, True, False, False, False]
    for answer in waiting.pools[:5]:
        assert answer.sentence in waiting.sentence
    assert planner.waiting_for_each([job])[job.id].pools == waiting.pools


# --- what a job accepts ---


def test_a_job_goes_only_where_it_accepts_to_go() -> None:
    make_pool(name="east", region="us-east", priority=3)
    make_pool(name="west", region="us-west", priority=2)
    make_pool(name="other", provider="passthrough", priority=1)
    accepts: list[Any] = [{}, {"regions": ["us-west"]}, {"pools": ["other", "west"]}, {"providers": ["passthrough"]}]
    jobs = [make_job(accepts=each) for each in accepts]
    found = admitted()
    assert [found[job.id] for job in jobs] == ["east", "west", "west", "other"]


def test_a_class_whose_pools_are_full_holds_up_no_other_and_keeps_its_order() -> None:
    make_pool(name="east", max_live=1)
    make_pool(name="west", max_live=1)
    choosy = [make_job(accepts={"pools": ["east"]}) for _ in range(2)]
    free = [make_job() for _ in range(2)]
    found = admitted()
    assert [found.get(job.id) for job in (*choosy, *free)] == ["east", None, "west", None]
    assert planner.waiting_for(choosy[1]).sentence == (
        "Waiting for H100: pool east is full (limits: 1 held, 10 starting)."
    )


def test_the_deadline_counts_the_pools_that_are_accepted() -> None:
    make_pool(name="east", ready_timeout_seconds=60)
    make_pool(name="west", ready_timeout_seconds=6000)
    job = make_job(accepts={"pools": ["east"]}, completion_window_seconds=3600)
    admitted()
    job.refresh_from_db()
    assert job.provisioning_at is not None
    assert job.deadline_at == job.provisioning_at + timedelta(seconds=60 + 3600)


def test_a_job_that_accepts_no_pool_there_is_any_more_says_so() -> None:
    make_pool(name="west")
    job = make_job(accepts={"pools": ["east"], "regions": ["eu"]})
    assert admitted() == {}
    waiting = planner.waiting_for(job)
    assert waiting.code == "no_pool"
    assert waiting.sentence == "No pool it accepts (pools: east; regions: eu) offers H100."


def test_what_is_accepted_is_stored_as_one_choice_and_shown() -> None:
    make_pool(name="east", region="us")
    make_pool(name="west", region="us")
    client = api()
    bodies = [{"pools": ["west", "east", "west"], "regions": []}, {"pools": "east, west"}]
    answers = [client.post("/jobs", job_body(client.user, resource_request=each)).json() for each in bodies]
    assert [answer["accepts"] for answer in answers] == [
        {"providers": [], "pools": ["east", "west"], "regions": []}
    ] * 2
    assert Job.objects.values_list("queue_class", flat=True).distinct().count() == 1


def test_what_no_pool_is_all_of_is_refused() -> None:
    make_pool(name="east", region="us")
    make_pool(name="west", region="eu")
    client = api()
    body = job_body(client.user, resource_request={"pools": ["east"], "regions": ["eu"]})
    assert_refused(client.post("/jobs", body), 400, 3, field="resource_request")
    assert not Job.objects.exists()
