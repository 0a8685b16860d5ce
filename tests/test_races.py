"""Races on a real PostgreSQL: two hands on the same rows, stopped in the middle by barriers and let go in either order.

Each race ends with passes until everything is quiet, and then nothing is lost, doubled or left behind.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from jobs import planner
from jobs.conf import times
from jobs.errors import Conflict
from jobs.lifecycle.claims import Claim, Finished, step
from jobs.lifecycle.observations import record_observation
from jobs.lifecycle.outcomes import NotSent
from jobs.lifecycle.scans import external_job_id
from jobs.lifecycle.steps import CallKind
from jobs.models import Job, Pool, Provision, QueueMessage
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls
from jobs.reconciler.admission import admission
from jobs.statuses import NO_CALL
from jobs.tasks import run_pass
from jobs.testing.fake_mds import FakeMds
from jobs.wakeup import send_hint
from tests.answers import error
from tests.clock import pass_time
from tests.engine import claimed, long_ago, places, releasing, simulated_pool
from tests.factories import make_job, make_pool
from tests.races import (
    become,
    both_orders,
    cancel,
    cancel_if_in_time,
    cancelled_beside,
    carry_on,
    created,
    ends,
    listed,
    now,
    only,
    reasons,
    record,
    release,
    running,
    submitting,
    to_be_submitted,
)
from tests.threads import at_once, elsewhere, stopped, until_waiting

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def pool(fake_mds: FakeMds, simulated_server: SimulatedServer, settings: Any) -> Pool:
    """One pool on a server of its own; batches go to the fake MDS. A lease lasts as long as any test."""
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "lease": 60}
    return simulated_pool(simulated_server)


# --- two reconcilers ---


def test_a_second_reconciler_takes_nothing_of_what_the_first_is_taking(pool: Pool) -> None:
    jobs = to_be_submitted(pool, 3)
    given_back = releasing(pool)
    pass_time(1)
    free = places()
    with stopped(lambda: claimed(free)) as first:
        assert claimed(free).claims == []
        taken = first.result()
    assert {claim.job.id for claim in taken.claims} == {job.id for job in [*jobs, given_back.job]}
    assert claimed(free).claims == [], "all of it is leased now"


def test_two_reconcilers_share_what_is_due(pool: Pool) -> None:
    jobs = {job.id for job in to_be_submitted(pool, 6)}
    free = places(4)
    with stopped(lambda: claimed(free)) as first:
        second = {claim.job.id for claim in claimed(free).claims}
        other = {claim.job.id for claim in first.result().claims}
    assert (len(second), len(other)) == (2, 4)
    assert second | other == jobs


def test_reconcilers_and_cancels_at_once_make_each_call_once(
    pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    """Where no barrier can be: whole passes, beginning together with cancels, many times and in any order."""
    jobs: list[Job] = []
    chosen: list[Job] = []
    for turn in range(20):
        jobs.append(make_job())
        asked = random.sample([job for job in jobs if job not in chosen], turn % 2)
        chosen += asked
        work: list[Callable[[], Any]] = [run_pass, run_pass, *(cancel_if_in_time(job) for job in asked)]
        random.shuffle(work)
        at_once(*work)
        pass_time(1)
    for job, end in zip(jobs, ends(simulated_server, fake_mds, *jobs), strict=True):
        assert end in ({"cancelled", "completed"} if job in chosen else {"completed"})
        assert Provision.objects.filter(job=job).count() <= 1
    made = [each.job_id for each in fake_mds.batches()]
    assert len(set(made)) == len(made) == fake_mds.count("create") == Job.objects.exclude(batch_id="").count()
    asked_for = Provision.objects.filter(create_started_at__isnull=False).count()
    assert simulated_server.stats()["bill"]["objects_created"] <= asked_for


# --- cancel against ready ---


def test_a_cancel_that_waits_for_ready_to_be_recorded_is_honoured(
    pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    (job,) = created()
    listing = listed(pool)
    is_written, answer = both_orders(lambda: record_observation(*listing), cancel(job))
    assert (is_written, answer.shown_status) == (True, "cancelling")
    assert now(job).provision.observed_state == "ready"  # type: ignore[union-attr]
    assert ends(simulated_server, fake_mds, job) == ["cancelled"]
    assert fake_mds.batches() == []


def test_ready_that_comes_while_a_cancel_is_written_waits_for_another_listing(
    pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    (job,) = created()
    listing = listed(pool)
    before = Provision.objects.values().get()
    with stopped(cancel(job)) as held:
        assert record_observation(*listing)
        assert Provision.objects.values().get() == before
        held.result()
    assert ends(simulated_server, fake_mds, job) == ["cancelled"]
    assert fake_mds.batches() == []


# --- cancel against submit ---


def test_a_cancel_that_waits_for_the_intent_to_submit_stops_the_batch(
    pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    (job,) = to_be_submitted(pool)
    free = places()
    taken, _ = both_orders(lambda: claimed(free), cancel(job))
    claim = only(taken, CallKind.SUBMIT)
    assert claimed().claims == [], "the intent stands: nobody may act before its outcome is known"
    carry_on(record(claim, calls.perform(claim))())
    assert ends(simulated_server, fake_mds, job) == ["cancelled"]
    assert [each.status for each in fake_mds.batches()] == ["cancelled"]


def test_a_submit_is_not_even_decided_while_a_cancel_is_written(
    pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    (job,) = to_be_submitted(pool)
    free = places()
    with stopped(cancel(job)) as held:
        assert claimed(free).claims == []
        held.result()
    assert ends(simulated_server, fake_mds, job) == ["cancelled"]
    assert fake_mds.batches() == []


ANSWERS_TO_A_SUBMIT: dict[str, Callable[[Claim], Any]] = {
    "made": calls.perform,
    "made but the answer lost": lambda claim: (calls.perform(claim), error("ambiguous"))[1],
    "lost on the way": lambda claim: error("ambiguous"),
    "turned away": lambda claim: error("transient"),
    "refused": lambda claim: error("permanent"),
    "given up": lambda claim: NotSent(),
}


@pytest.mark.parametrize("is_cancel_first", [True, False], ids=["cancel first", "answer first"])
def test_a_cancel_and_the_answer_to_a_submit_in_either_order_end_the_same(
    is_cancel_first: bool, pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    jobs = {}
    for answered, (job, claim) in zip(ANSWERS_TO_A_SUBMIT, submitting(pool, len(ANSWERS_TO_A_SUBMIT)), strict=True):
        writing = record(claim, ANSWERS_TO_A_SUBMIT[answered](claim))
        outcome = cancelled_beside(writing, job, is_cancel_first=is_cancel_first)
        assert isinstance(outcome, Conflict) == (answered == "refused" and not is_cancel_first)
        jobs[answered] = job
    statuses = dict(zip(jobs, ends(simulated_server, fake_mds, *jobs.values()), strict=True))
    assert statuses == {answered: "failed" if answered == "refused" else "cancelled" for answered in jobs}
    sent = {"made", "made but the answer lost"}
    if not is_cancel_first:
        sent.add("given up")  # and then sent by the same transaction, which knew of no cancel
    assert {each.job_id for each in fake_mds.batches()} == {external_job_id(jobs[answered]) for answered in sent}


# --- cancel against record ---


@pytest.mark.parametrize("is_cancel_first", [True, False], ids=["cancel first", "record first"])
def test_a_cancel_and_what_the_batch_became_in_either_order_agree(
    is_cancel_first: bool, pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    seen = ["in_progress", "finalizing", "completed", "failed", "expired", "cancelled"]
    jobs = {}
    for status, (job, claim) in zip(seen, running(pool, len(seen)), strict=True):
        writing = record(claim, become(fake_mds, now(job).batch_id, status))
        outcome = cancelled_beside(writing, job, is_cancel_first=is_cancel_first)
        was_over = status in {"completed", "failed", "expired"} and not is_cancel_first
        assert isinstance(outcome, Conflict) == was_over
        jobs[status] = job
    statuses = dict(zip(jobs, ends(simulated_server, fake_mds, *jobs.values()), strict=True))
    assert statuses == {
        "in_progress": "cancelled",
        "finalizing": "completed",  # cannot be cancelled any more
        "completed": "completed",
        "failed": "failed",
        "expired": "expired",
        "cancelled": "cancelled",
    }
    # it was cancelled by somebody else before anybody here asked: that attempt was lost, the next one cancelled
    assert now(jobs["cancelled"]).attempt == (1 if is_cancel_first else 2)


# --- release against release ---


def test_two_operators_who_release_at_once_make_one_release(
    pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    [(job, _)] = running(pool)
    provision = now(job).provision
    assert provision is not None
    hints = QueueMessage.objects.count()
    first, second = both_orders(release(provision), release(provision))
    assert first.release_requested_by == second.release_requested_by != ""
    assert reasons(job).count("release_requested") == 1
    assert QueueMessage.objects.count() == hints + 1
    pass_time(times().lease)
    assert ends(simulated_server, fake_mds, job) == ["completed"]


@pytest.mark.parametrize("is_operator_first", [True, False], ids=["operator first", "engine first"])
def test_an_operator_and_the_engine_who_release_at_once_lose_nothing(
    is_operator_first: bool, pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    """The engine is about to delete; the operator's word makes it look again, and the resource goes once."""
    (job,) = created()
    planner.cancel(job.owner, job.pk)
    pass_time(1)
    claimed({("job", NO_CALL): 9})  # cancelled: from here on the release is due
    pass_time(1)
    provision = now(job).provision
    assert provision is not None
    assert provision.status == "releasing"
    free = places()
    if is_operator_first:
        with stopped(release(provision)) as held:
            assert claimed(free).claims == []
            held.result()
    else:
        taken, answer = both_orders(lambda: claimed(free), release(provision))
        assert answer.due_at is not None
        assert claimed(free).claims == [], "it is in hand"
        carry_on(taken)
    assert ends(simulated_server, fake_mds, job) == ["cancelled"]
    assert simulated_server.stats()["bill"]["objects_created"] == 1
    assert reasons(job).count("released") == 1


def test_an_operator_who_comes_while_released_is_written_is_told_so(
    pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    provision = releasing(pool, release_sent_at=long_ago(), absence_confirmed_at=long_ago())
    free = places()
    taken, answer = both_orders(lambda: claimed(free), release(provision))
    assert (taken.claims, taken.is_moved) == ([], True)
    assert isinstance(answer, Conflict)
    provision.refresh_from_db()
    assert (provision.status, provision.due_at, provision.release_requested_by) == ("released", None, "")


@pytest.mark.parametrize("is_operator_first", [True, False], ids=["operator first", "end first"])
def test_an_operator_who_releases_while_the_batch_ends_changes_no_end(
    is_operator_first: bool, pool: Pool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    [(job, claim)] = running(pool)
    provision = now(job).provision
    assert provision is not None
    writing = record(claim, become(fake_mds, now(job).batch_id, "completed"))
    if is_operator_first:
        with stopped(release(provision)) as held:
            left = writing().left
            held.result()
        assert len(left) == 1
        step(left, {})
    else:
        both_orders(writing, release(provision))
    assert ends(simulated_server, fake_mds, job) == ["completed"]
    assert (now(job).attempt, len(fake_mds.batches())) == (1, 1)


# --- admission by two ---


def test_a_limit_of_one_holds_against_an_admitter_who_waited_for_the_other(pool: Pool) -> None:
    Pool.objects.update(max_live=1)
    jobs = [make_job() for _ in range(2)]
    free = places()
    first, second = both_orders(lambda: admission(free, send_hint), lambda: admission(free, send_hint))
    assert (len(first.claims), second.claims) == (1, [])
    assert first.claims[0].job.id == jobs[0].id
    assert Provision.objects.count() == 1


def test_a_place_given_back_while_an_admitter_waits_is_seen_by_him(pool: Pool) -> None:
    Pool.objects.update(max_live=1)
    held, _waiting = make_job(), make_job()
    free = places()
    only(admission(free, send_hint), CallKind.CREATE)
    other = make_pool(name="other", max_live=1)
    free = places()
    Pool.objects.filter(pk=other.pk).update(is_enabled=False)
    with stopped(lambda: admission(free, send_hint)) as first:
        waiting = elsewhere(lambda: admission(free, send_hint))
        until_waiting()
        Pool.objects.filter(pk=other.pk).update(is_enabled=True)
        assert first.result().claims == []
        claim = only(waiting.result(30), CallKind.CREATE)
    assert (claim.job.id != held.id, claim.provision is not None and claim.provision.pool_id) == (True, other.pk)


# --- one result, one record ---


def test_a_result_recorded_twice_counts_once(pool: Pool) -> None:
    """As when the commit was done and its answer lost: the pass still has the result, and hands it in again."""
    [(job, claim)] = submitting(pool)
    result = Finished(claim, calls.perform(claim))
    step([result], {})
    before = Job.objects.values().get()
    again = step([result], {})
    assert ([finished.claim for finished in again.stale], again.left) == ([claim], [])
    assert Job.objects.values().get() == before
    assert reasons(job).count("batch_created") == 1


def test_a_result_recorded_by_two_at_once_counts_once(pool: Pool) -> None:
    [(job, claim)] = submitting(pool)
    result = Finished(claim, calls.perform(claim))
    with stopped(lambda: step([result], {})) as first:
        left = step([result], {}).left
        assert left == [result]
        first.result()
    assert step(left, {}).stale == [result]
    assert reasons(job).count("batch_created") == 1
