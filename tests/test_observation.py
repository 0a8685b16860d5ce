"""Observation: one listing tells of a whole pool, absence is believed slowly, and a release ends only by absence."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from weakref import WeakSet

import pytest
from django.db import connection
from django.db.models.signals import post_init
from django.utils import timezone

from jobs import planner
from jobs.conf import times
from jobs.errors import UpstreamError
from jobs.lifecycle import observations
from jobs.lifecycle.claims import database_now
from jobs.lifecycle.observations import Observation, claim_observations, record_observation
from jobs.lifecycle.steps import CallKind
from jobs.models import Job, Pool, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls
from jobs.testing.script import Rule
from tests.answers import error, resource
from tests.clock import pass_time
from tests.engine import (
    claimed,
    locked,
    long_ago,
    passes_until,
    provisioning_job,
    recorded,
    releasing,
    running_job,
    simulated_pool,
    submitting_job,
)
from tests.factories import make_pool, make_user

pytestmark = pytest.mark.django_db


def begun(pool: Pool) -> Observation:
    """A listing under way, a second after everything that was written before."""
    pass_time(1)
    Pool.objects.filter(pk=pool.pk).update(observe_at=long_ago())
    (observation,) = claim_observations([pool.pk])
    return observation


def told(pool: Pool, *present: Any) -> bool:
    """A listing that showed exactly these resources."""
    return record_observation(begun(pool), {each.name: each for each in present})


def looked(pool: Pool) -> None:
    """A real listing at the pool's server."""
    observation = begun(pool)
    try:
        answer: Any = calls.observe(observation)
    except UpstreamError as failure:
        answer = failure
    assert record_observation(observation, answer)


def created(server: SimulatedServer, provision: Provision, **fields: Any) -> None:
    """The provision's object, at the server."""
    body = {"name": provision.name, "accelerator_count": 1, **fields}
    answer = server.create(body)
    assert answer is not None
    assert answer.status == 201


def row_versions() -> dict[str, str]:
    """What changes whenever a row is written."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, ctid::text FROM jobs_provision UNION SELECT id, ctid::text FROM jobs_job")
        return dict(cursor.fetchall())


def awaited(pool: Pool, **fields: Any) -> Provision:
    """Created, and not ready yet."""
    job = provisioning_job(pool, due_at=None)
    created_at = {"create_started_at": long_ago(), "create_ended_at": long_ago()}
    seen = {"observed_state": "pending", "observed_at": long_ago(), "external_ids": ["x1"]}
    Provision.objects.filter(job=job).update(status="provisioning", **created_at | seen | fields)
    return Provision.objects.get(job=job)


def is_due(job: Job) -> bool:
    job.refresh_from_db()
    return job.due_at is not None and job.due_at <= timezone.now()


def test_one_listing_serves_the_whole_pool(simulated_server: SimulatedServer) -> None:
    pool = simulated_pool(simulated_server)
    provisions = [awaited(pool) for _ in range(5)]
    for provision in provisions:
        created(simulated_server, provision)
    looked(pool)
    assert simulated_server.count("list") == 1
    assert set(Provision.objects.values_list("observed_state", flat=True)) == {"ready"}
    assert all(is_due(provision.job) for provision in provisions)
    pool.refresh_from_db()
    assert pool.observed_at is not None
    assert (pool.observe_error, pool.observe_lease_expires_at) == ("", None)


def test_only_what_changed_is_written() -> None:
    pool = make_pool()
    same, changed = awaited(pool), awaited(pool)
    observation = begun(pool)
    before = row_versions()
    listing = {p.name: resource(p.name, state) for p, state in ((same, "pending"), (changed, "ready"))}
    assert record_observation(observation, listing)
    written = {key for key, version in row_versions().items() if version != before[key]}
    assert written == {changed.name, changed.job_id}


def test_what_waits_and_has_no_news_is_not_read() -> None:
    pool = make_pool()
    same, changed = awaited(pool), awaited(pool)
    observation, read = begun(pool), []

    def note(instance: Provision, **_: Any) -> None:
        read.append(instance.name)

    post_init.connect(note, sender=Provision)
    try:
        listing = {p.name: resource(p.name, state) for p, state in ((same, "pending"), (changed, "ready"))}
        assert record_observation(observation, listing)
    finally:
        post_init.disconnect(note, sender=Provision)
    assert set(read) == {changed.name}


def test_what_is_all_gone_at_once_is_held_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations, "_ROWS_AT_ONCE", 2)
    pool = make_pool()
    gone = [awaited(pool).id for _ in range(5)]
    held: WeakSet[Job] = WeakSet()
    most = 0

    def note(instance: Job, **_: Any) -> None:
        nonlocal most
        held.add(instance)
        most = max(most, len(held))

    observation = begun(pool)
    post_init.connect(note, sender=Job)
    try:
        assert record_observation(observation, {})
    finally:
        post_init.disconnect(note, sender=Job)
    assert most == 2
    assert Provision.objects.filter(id__in=gone, absent_since_at=observation.began_at).count() == 5


def test_a_listing_is_made_by_one_worker_at_a_time() -> None:
    pool = make_pool()
    awaited(pool)
    begun(pool)
    Pool.objects.update(observe_at=long_ago())
    assert claim_observations([pool.pk]) == []
    pass_time(times().lease)
    (again,) = claim_observations([pool.pk])
    assert again.version == 2


def test_a_listing_that_comes_too_late_writes_nothing() -> None:
    pool = make_pool()
    provision = awaited(pool)
    late = begun(pool)
    pass_time(times().lease)
    (again,) = claim_observations([pool.pk])
    before = row_versions()
    assert not record_observation(late, {provision.name: resource(provision.name)})
    assert not record_observation(late, error("transient"))
    assert row_versions() == before
    assert record_observation(again, {provision.name: resource(provision.name)})


def test_a_pool_that_holds_nothing_is_not_listed() -> None:
    pool = make_pool(observe_at=long_ago())
    assert claim_observations([pool.pk]) == []
    pool.refresh_from_db()
    assert (pool.observe_at, pool.observe_lease_expires_at) == (None, None)


def test_a_pool_is_looked_at_from_the_first_create_on_and_then_at_its_interval() -> None:
    pool = make_pool(observe_interval_seconds=5)
    job = provisioning_job(pool)
    assert claim_observations([pool.pk]) == [], "nothing can be there yet"
    claimed()
    (observation,) = claim_observations([pool.pk])
    assert job.provision is not None
    assert observation.names == (job.provision.name,)
    record_observation(observation, {})
    pool.refresh_from_db()
    assert pool.observe_at is not None
    assert timedelta(seconds=4) < pool.observe_at - timezone.now() < timedelta(seconds=6)
    assert claim_observations([pool.pk]) == []


# --- absence ---


@pytest.mark.parametrize("make", [awaited, lambda pool: submitting_job(pool).provision])
def test_a_resource_is_lost_only_when_two_listings_far_enough_apart_miss_it(make: Any) -> None:
    pool = make_pool(absence_confirm_seconds=10)
    provision = make(pool)
    job = provision.job
    Job.objects.update(due_at=None)
    told(pool)
    provision.refresh_from_db()
    assert provision.absent_since_at is not None
    pass_time(5)
    told(pool)
    provision.refresh_from_db()
    assert (provision.absence_confirmed_at, job.status) == (None, job.status)
    pass_time(5)
    told(pool)
    provision.refresh_from_db()
    assert provision.absence_confirmed_at is not None
    pass_time(60)  # more than the test has taken so far: the claim is in the same transaction
    claimed()
    job.refresh_from_db()
    provision.refresh_from_db()
    assert (job.status, job.lost_attempts, provision.status) == ("pending", 0, "releasing")
    (claim,) = claimed().claims
    assert claim.kind == CallKind.RELEASE, "a listing that was only late must not hide what is still there"


def test_a_resource_that_shows_again_was_never_absent() -> None:
    pool = make_pool(absence_confirm_seconds=0)
    provision = awaited(pool)
    told(pool)
    told(pool, resource(provision.name, "pending"))
    provision.refresh_from_db()
    assert (provision.absent_since_at, provision.absence_confirmed_at) == (None, None)
    assert provision.shown_state == "pending"
    told(pool)
    provision.refresh_from_db()
    assert provision.absence_confirmed_at is None


def test_a_running_batch_is_stopped_when_its_resource_is_lost() -> None:
    pool = make_pool(absence_confirm_seconds=0)
    job = running_job(pool, due_at=None)
    told(pool)
    told(pool)
    pass_time(1)
    (claim,) = claimed().claims
    assert (claim.kind, claim.job.id) == (CallKind.CANCEL, job.id)
    assert Provision.objects.get().status == "lost"


def test_a_listing_that_began_before_the_create_ended_proves_nothing() -> None:
    pool = make_pool(absence_confirm_seconds=0)
    awaited(pool)
    observation = begun(pool)
    Provision.objects.update(create_ended_at=timezone.now())
    record_observation(observation, {})
    assert Provision.objects.get().absent_since_at is None
    told(pool)
    assert Provision.objects.get().absent_since_at is not None


def test_a_create_of_unknown_fate_is_given_the_time_of_its_lease() -> None:
    pool = make_pool(absence_confirm_seconds=0)
    sent = {"release_sent_at": timezone.now(), "retry_count": 1}
    releasing(pool, create_started_at=timezone.now(), create_ended_at=None, **sent)
    told(pool)
    assert Provision.objects.get().absent_since_at is None
    pass_time(times().lease)
    told(pool)
    assert Provision.objects.get().absent_since_at is not None


def test_a_refusal_after_a_create_without_an_answer_does_not_prove_that_nothing_can_appear() -> None:
    pool = make_pool(absence_confirm_seconds=0)
    job = provisioning_job(pool)
    recorded(claimed().claims[0], error("ambiguous"))
    pass_time(times().retry_max)
    (again,) = claimed().claims
    assert again.kind == CallKind.CREATE
    recorded(again, error("permanent"))
    job.refresh_from_db()
    assert job.status == "failed"
    (release,) = claimed().claims
    recorded(release, None)
    told(pool)
    told(pool)
    claimed()
    assert Provision.objects.get().status == "releasing"
    pass_time(times().lease)
    told(pool)
    told(pool)
    claimed()
    assert Provision.objects.get().status == "released"


def test_what_is_there_is_believed_while_an_earlier_create_may_still_take_effect() -> None:
    pool = make_pool()
    provision = awaited(pool, create_ended_at=timezone.now() + timedelta(hours=1))
    told(pool, resource(provision.name, "ready"))
    provision.refresh_from_db()
    assert (provision.observed_state, is_due(provision.job)) == ("ready", True)


def test_a_listing_from_before_the_delete_proves_no_absence() -> None:
    pool = make_pool(absence_confirm_seconds=0)
    releasing(pool)
    before = begun(pool)
    (claim,) = claimed().claims
    recorded(claim, None)
    Provision.objects.update(release_sent_at=before.began_at + timedelta(microseconds=1))
    record_observation(before, {})
    assert Provision.objects.get().absent_since_at is None


@pytest.mark.django_db(transaction=True)
def test_a_locked_row_waits_a_round_and_delays_no_other() -> None:
    pool = make_pool()
    busy, free = awaited(pool), awaited(pool)
    observation = begun(pool)
    with locked("jobs_job", busy.job_id):
        record_observation(observation, {name: resource(name) for name in (busy.name, free.name)})
        states = dict(Provision.objects.values_list("name", "observed_state"))
        assert states == {busy.name: "pending", free.name: "ready"}
    told(pool, resource(busy.name), resource(free.name))
    assert set(Provision.objects.values_list("observed_state", flat=True)) == {"ready"}


# --- what the server has that it should not ---


@pytest.mark.django_db(transaction=True)
def test_surplus_objects_are_deleted_singly(simulated_server: SimulatedServer, no_mds: None) -> None:
    pool = simulated_pool(simulated_server)
    provision = awaited(pool)
    for _ in range(3):
        created(simulated_server, provision)
    oldest = simulated_server.live()[0]
    simulated_server.add_rule(Rule("delete", status=503))  # spares no other, and is made up for at the next listing
    passes_until(lambda: len(simulated_server.live()) == 1, what="the deletion")
    assert [held.id for held in simulated_server.live()] == [oldest.id]
    assert simulated_server.count("delete") == 3
    provision.refresh_from_db()
    assert (provision.external_ids, provision.observed_state) == ([oldest.id], "ready")


def test_a_failing_listing_backs_off_and_says_so(simulated_server: SimulatedServer) -> None:
    pool = simulated_pool(simulated_server)
    awaited(pool)
    simulated_server.add_rule(Rule("list", times=None, status=503))
    pauses = []
    for failures in (1, 2, 3):
        looked(pool)
        pool.refresh_from_db()
        assert pool.observe_at is not None
        assert (pool.observe_failures, bool(pool.observe_error)) == (failures, True)
        pauses.append((pool.observe_at - database_now()).total_seconds())
    assert pauses[0] < pauses[1] < pauses[2]
    assert Provision.objects.get().absent_since_at is None, "an outage is no absence"


def test_a_listing_that_works_again_forgets_the_failures(simulated_server: SimulatedServer) -> None:
    pool = simulated_pool(simulated_server, observe_failures=4, observe_error="down")
    created(simulated_server, awaited(pool))
    looked(pool)
    pool.refresh_from_db()
    assert (pool.observe_failures, pool.observe_error) == (0, "")


def test_a_refused_credential_disables_the_pool_and_observation_goes_on(simulated_server: SimulatedServer) -> None:
    pool = simulated_pool(simulated_server)
    created(simulated_server, awaited(pool))
    simulated_server.add_rule(Rule("list", times=1, status=401))
    looked(pool)
    pool.refresh_from_db()
    assert not pool.is_enabled
    assert pool.disabled_reason
    assert (pool.held_by, pool.held_at is not None) == ("", True)
    looked(pool)
    assert Provision.objects.get().observed_state == "ready"


def test_a_refused_credential_leaves_an_operators_hold_as_it_is(simulated_server: SimulatedServer) -> None:
    held = {"is_enabled": False, "disabled_reason": "firmware", "held_by": "oscar@example.org"}
    pool = simulated_pool(simulated_server, **held)
    created(simulated_server, awaited(pool))
    simulated_server.add_rule(Rule("list", times=1, status=401))
    looked(pool)
    assert Pool.objects.values(*held).get() == held
    assert Pool.objects.exclude(observe_error="").exists()


# --- release ---


def test_a_release_is_over_only_when_two_listings_miss_the_resource(simulated_server: SimulatedServer) -> None:
    pool = simulated_pool(simulated_server, is_enabled=False, absence_confirm_seconds=10)
    provision = releasing(pool)
    created(simulated_server, provision)
    (claim,) = claimed().claims
    assert calls.perform(claim) is None
    recorded(claim, None)
    assert simulated_server.live() == []
    looked(pool)
    claimed()
    provision.refresh_from_db()
    assert (provision.status, provision.absent_since_at is not None) == ("releasing", True)
    pass_time(10)
    looked(pool)
    pass_time(1)
    assert claimed().claims == []
    provision.refresh_from_db()
    assert (provision.status, provision.released_at is not None, provision.due_at) == ("released", True, None)
    assert provision.shown_state == "absent", "as last observed, which is when it was released"


def test_a_resource_that_is_slow_to_go_is_no_failing_release(simulated_server: SimulatedServer) -> None:
    pool = simulated_pool(simulated_server)
    provision = releasing(pool)
    created(simulated_server, provision)
    simulated_server.add_rule(Rule("delete", linger_seconds=3600))
    (claim,) = claimed().claims
    calls.perform(claim)
    recorded(claim, None)
    looked(pool)
    provision.refresh_from_db()
    assert provision.observed_state == "failed", "what is terminating is of no use"
    assert (provision.is_release_failing, provision.last_error) == (False, "")


def test_a_resource_that_comes_back_is_deleted_again_at_once() -> None:
    pool = make_pool()
    sent = {"retry_count": 1, "release_sent_at": long_ago(), "absent_since_at": timezone.now()}
    provision = releasing(pool, due_at=None, **sent)
    assert claimed().claims == []
    told(pool, resource(provision.name))
    (claim,) = claimed().claims
    assert claim.kind == CallKind.RELEASE


def test_a_release_that_fails_is_tried_for_ever_and_an_operator_may_ask_for_it_now() -> None:
    provision = releasing(make_pool())
    for failures in range(1, 25):
        (claim,) = claimed().claims
        recorded(claim, error("transient", "no delete"))
        provision.refresh_from_db()
        assert (provision.status, provision.retry_count) == ("releasing", failures)
        assert provision.is_release_failing
        assert claimed().claims == [], "not before its pause is over"
        if failures < 24:
            pass_time(times().release_retry_max)
    planner.release(make_user("operator"), str(provision.pk))
    pass_time(times().release_retry_max / 2)
    (claim,) = claimed().claims
    assert claim.kind == CallKind.RELEASE


@pytest.mark.parametrize("asked_for", [86_400.0, 1e30])
def test_a_provider_that_asks_to_be_left_alone_for_a_day_is_looked_at_again_soon(asked_for: float) -> None:
    pool = make_pool()
    awaited(pool)
    now = database_now()
    assert record_observation(begun(pool), error("rate_limited", retry_after_seconds=asked_for))
    pool.refresh_from_db()
    assert pool.observe_at is not None
    assert pool.observe_at - now <= timedelta(seconds=times().retry_after_max)
