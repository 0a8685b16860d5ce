"""Turns at accounts that may be asked only so often: one row for all workers, and calls that keep to it."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.db import DatabaseError
from django.utils import timezone

from jobs.errors import PUT_OFF, UpstreamError, UpstreamKind
from jobs.lifecycle.decisions import decide_release
from jobs.lifecycle.observations import claim_observations, record_observation
from jobs.lifecycle.outcomes import apply_answer
from jobs.lifecycle.steps import CallKind, Wait
from jobs.models import AccountPace, Job, Pool, Provision
from jobs.reconciler import orphans, pacing
from jobs.testing.fake_lambda_cloud import REGION, FakeLambdaCloud
from jobs.testing.script import Rule
from jobs.turns import Turn, take_turn
from tests.engine import claimed, is_quiet, long_ago, provisioning_job, recorded, releasing, run_pass
from tests.factories import make_job, make_pool, make_provision
from tests.providers.lambda_cloud import ENVIRONMENT
from tests.threads import at_once
from tests.waiting import eventually

REQUEST, CREATE = 0.05, 0.9
ALLOWED = 0.45  # between two launches: a create's interval is longer by what may be lost on the way
HOUR = 3600


@pytest.fixture
def server(settings: Any) -> Iterator[FakeLambdaCloud]:
    # a busy machine needs more than a thirtieth of the time
    settings.PLANNER_TIMES = {
        **settings.PLANNER_TIMES,
        "call_timeout": 4,
        "lease": 12,
        "look_lease": 8,
        "retry_after_max": 2,
    }
    with FakeLambdaCloud() as running, patch.dict(os.environ, ENVIRONMENT):
        yield running


def paced_pool(server: FakeLambdaCloud, **fields: Any) -> Pool:
    options = {"base_url": f"{server.url}/api/v1", "regions": [REGION]}
    options |= {"request_interval_seconds": REQUEST, "create_interval_seconds": CREATE}
    given = {"observe_interval_seconds": 0.2, "absence_confirm_seconds": 0.1, "ready_timeout_seconds": 60, **fields}
    return make_pool(provider="lambda_cloud", options=options, **given)


def wait_of(turn: Turn) -> float:
    assert turn.is_taken
    return round(turn.seconds)


# --- taking turns ---


@pytest.mark.django_db
def test_turns_follow_one_another_and_one_too_far_away_is_not_taken() -> None:
    def take(span: float) -> Turn:
        return take_turn("one", span=span, patience=10)

    assert [wait_of(take(6)), wait_of(take(8))] == [0, 6]
    put_off = take(1)
    assert (put_off.is_taken, round(put_off.seconds)) == (False, 14)
    AccountPace.objects.update(request_at=timezone.now() + timedelta(seconds=9))
    assert wait_of(take(1)) == 9, "nobody waits behind a turn that was not taken"
    assert wait_of(take_turn("another", span=1, patience=0)) == 0


@pytest.mark.django_db
def test_creates_are_their_interval_apart_and_hold_up_nothing_else() -> None:
    def create(patience: float) -> Turn:
        return take_turn("one", span=5, patience=patience, create_after=4, create_interval=12)

    assert wait_of(create(0)) == 0
    assert wait_of(take_turn("one", span=1, patience=10)) == 5
    put_off = create(10)
    assert (put_off.is_taken, round(put_off.seconds)) == (False, 12)
    assert wait_of(create(20)) == 12, "so that its create leaves sixteen seconds from now, twelve after the first"
    assert wait_of(take_turn("one", span=1, patience=20)) == 17


@pytest.mark.django_db(transaction=True)
def test_no_two_workers_get_the_same_turn() -> None:
    turns = at_once(*[lambda: [take_turn("one", span=100, patience=HOUR) for _ in range(4)]] * 4)
    waits = sorted(round(turn.seconds, -2) for turn in itertools.chain(*turns))
    assert waits == [100 * number for number in range(16)]


# --- calls in their turns ---


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_launch_no_sooner_than_the_account_allows(server: FakeLambdaCloud, fake_mds: Any) -> None:
    server.launch_interval_seconds = ALLOWED
    pools = [paced_pool(server, name=name) for name in ("east", "west")]
    jobs = [make_job(accelerator_type="H100", replicas=replicas) for replicas in (1, 1, 2)]

    def work() -> bool:
        eventually(lambda: [run_pass(), Job.objects.filter(batch_id="").count() == 0][1], 60, what="all launches")
        return True

    assert at_once(work, work) == [True, True]
    launches = [call for call in server.calls if call.verb == "create"]
    assert [call.status for call in launches] == [200] * 4
    assert min(later.at - earlier.at for earlier, later in itertools.pairwise(launches)) >= ALLOWED
    assert {provision.pool_id for provision in Provision.objects.all()} <= {pool.id for pool in pools}
    assert len(jobs) == 3
    assert AccountPace.objects.count() == 1, "both pools are of one account"
    fake_mds.run_seconds = 0
    eventually(lambda: [run_pass(), is_quiet()][1], 60, what="quiescence")
    assert server.live() == []


@pytest.mark.django_db
def test_a_create_whose_turn_is_far_away_is_put_off_and_nobody_waits(server: FakeLambdaCloud) -> None:
    pool = paced_pool(server)
    job = provisioning_job(pool)
    account = pacing.provisioner_of(pool).pace.account  # type: ignore[attr-defined] # it has one
    assert wait_of(take_turn(account, span=40, patience=0)) == 0
    (claim,) = claimed().claims
    with pytest.raises(UpstreamError) as raised:
        pacing.of_claim(claim, lambda: pytest.fail("it was made"))()
    put_off = raised.value
    assert (put_off.kind, put_off.code) == (UpstreamKind.RATE_LIMITED, PUT_OFF)
    assert 35 < (put_off.retry_after_seconds or 0) <= 40
    recorded(claim, put_off)
    provision = Provision.objects.get(job=job)
    assert (provision.retry_count, provision.status) == (0, "requested"), "it tells nothing of the provider"
    assert provision.retry_at is not None
    assert provision.retry_at > timezone.now()
    assert "may be asked only so often" in provision.last_error


@pytest.mark.django_db
def test_however_often_it_is_put_off_it_is_said_once_and_the_pause_is_no_longer(server: FakeLambdaCloud) -> None:
    job = provisioning_job(paced_pool(server))
    assert job.provision is not None
    put_off = UpstreamError(UpstreamKind.RATE_LIMITED, "Not yet.", code=PUT_OFF, retry_after_seconds=0.1)
    now = timezone.now()
    events, pauses = [], []
    for _ in range(5):
        change = apply_answer(CallKind.CREATE, job, job.provision, put_off, now)
        for name, value in change.provision.items():
            setattr(job.provision, name, value)
        events += [event.reason for event in change.events]
        pauses.append(change.provision["retry_at"] - now)
    assert events == ["create_delayed"]
    assert max(pauses) == min(pauses)


@pytest.mark.django_db
def test_a_release_that_was_put_off_waits_for_its_turn(server: FakeLambdaCloud) -> None:
    provision = releasing(paced_pool(server))
    provision.retry_at = timezone.now() + timedelta(seconds=20)
    assert decide_release(provision, timezone.now()) == Wait(provision.retry_at)


@pytest.mark.django_db
def test_what_our_own_pace_puts_off_is_no_failure_of_the_provider(server: FakeLambdaCloud) -> None:
    pool = paced_pool(server)
    provision = releasing(pool)
    (claim,) = claimed().claims
    (observation,) = claim_observations([pool.pk])
    put_off = UpstreamError(UpstreamKind.RATE_LIMITED, "Not yet.", code=PUT_OFF, retry_after_seconds=1)
    recorded(claim, put_off, {})
    record_observation(observation, put_off)
    provision.refresh_from_db()
    pool.refresh_from_db()
    assert provision.retry_at is not None
    assert not provision.is_release_failing
    assert not provision.job.events.filter(reason="release_delayed").exists()
    assert (pool.observe_failures, pool.observe_error, pool.observe_lease_expires_at) == (0, "", None)
    assert pool.observe_at is not None


@pytest.mark.django_db
def test_a_call_that_is_late_for_its_turn_makes_no_create(server: FakeLambdaCloud) -> None:
    pool = paced_pool(server)
    call = pacing.in_turn(pool, lambda: "made", creates=True)
    with patch("jobs.reconciler.pacing.time.monotonic", return_value=float("inf")), pytest.raises(UpstreamError) as it:
        call()
    assert it.value.code == PUT_OFF
    assert pacing.in_turn(make_pool(provider="passthrough"), lambda: "made")() == "made"


@pytest.mark.django_db
def test_without_a_database_a_call_is_put_off_and_not_left_to_its_lease(server: FakeLambdaCloud) -> None:
    pool = paced_pool(server)
    with patch("jobs.reconciler.pacing.take_turn", side_effect=DatabaseError):
        call = pacing.in_turn(pool, lambda: pytest.fail("it was made"))
    with pytest.raises(UpstreamError) as raised:
        call()
    assert (raised.value.code, raised.value.retry_after_seconds) == (PUT_OFF, pacing.times().retry_min)


@pytest.mark.django_db
def test_the_sweep_takes_turns_as_everybody_does(server: FakeLambdaCloud, no_mds: None) -> None:
    paced_pool(server)
    orphans.sweep(seconds=5)
    assert server.count("list") == AccountPace.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_what_is_there_too_often_is_deleted_in_a_turn_of_its_own(server: FakeLambdaCloud, fake_mds: Any) -> None:
    pool = paced_pool(server)
    created = {"create_started_at": long_ago(), "create_ended_at": long_ago()}
    provision = make_provision(make_job(), pool, status="provisioning", **created)
    Job.objects.update(status="provisioning")
    owner = hashlib.sha256(b"default").hexdigest()[:8]
    named = {
        "name": f"{provision.name}-0-x1893456000-{owner}",
        "region_name": REGION,
        "instance_type_name": "gpu_1x_h100",
    }
    for _ in range(2):
        server.hold(Rule("create"), provision.name, 1, launched={**named, "tags": [], "ssh_key_names": ["planner"]})
    listing = server.add_rule(Rule("list", delay_seconds=60))
    account = pacing.provisioner_of(pool).pace.account  # type: ignore[attr-defined] # it has one

    def take_the_next_turns() -> None:
        assert server.wait_until(lambda: server.in_flight["list"] == 1)
        assert take_turn(account, span=40, patience=1).is_taken
        server.withdraw(listing)

    at_once(run_pass, take_the_next_turns)
    assert (server.count("delete"), len(server.live())) == (0, 2)
    Provision.objects.get(observed_state="ready")
    AccountPace.objects.all().delete()
    Pool.objects.update(observe_at=long_ago())
    eventually(lambda: [run_pass(), server.count("delete") == 1][1], 20, what="the deletion")
    assert len(server.live()) == 1
