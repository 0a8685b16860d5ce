"""Taking rows in hand: leases, versions, and what one broken row does to the others."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import reduce
from typing import Any

import pytest
from django.utils import timezone

from jobs import planner
from jobs.conf import LONE_CRASHES, MAX_CRASHES, times
from jobs.lifecycle import claims, decisions, due
from jobs.lifecycle.claims import Claim, step
from jobs.lifecycle.outcomes import NotSent
from jobs.lifecycle.steps import CallKind
from jobs.models import BatchScan, Job, JobEvent, Provision
from jobs.statuses import MDS_CANCEL, MDS_FOLLOW
from tests.answers import batch, error, resource
from tests.clock import pass_time
from tests.engine import (
    another_connection,
    claimed,
    locked,
    places,
    provisioning_job,
    recorded,
    releasing,
    running_job,
    submitting_job,
)
from tests.factories import make_job, make_pool

pytestmark = pytest.mark.django_db


def only(taken: claims.Taken) -> Claim:
    (claim,) = taken.claims
    return claim


def kinds(taken: claims.Taken) -> list[str]:
    return sorted(claim.kind.value for claim in taken.claims)


def reasons(job: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=job).order_by("sequence").values_list("reason", flat=True))


def test_it_works() -> None:
    job = provisioning_job()
    claim = only(claimed())
    job.refresh_from_db()
    assert (claim.kind, claim.job.id, claim.version) == (CallKind.CREATE, job.id, job.version)
    assert job.lease_expires_at is not None
    assert job.due_at is None
    assert (job.version > 0, job.crashes) == (True, 0)
    assert claimed().claims == [], "a leased row is in somebody's hands"
    recorded(claim, resource("r", "pending"))
    job.refresh_from_db()
    assert job.provision is not None
    assert job.provision.status == "provisioning"
    assert claimed().claims == [], "there is nothing to do before it is ready"
    assert job.due_at == job.provision.deadline_at


@pytest.mark.django_db(transaction=True)
def test_the_intent_is_committed_before_the_call() -> None:
    created, submitted = provisioning_job(), submitting_job()
    assert kinds(claimed()) == ["create", "submit"]
    with another_connection() as other, other.cursor() as cursor:
        cursor.execute(
            "SELECT p.create_started_at, p.create_ended_at, j.lease_expires_at FROM jobs_provision p"
            " JOIN jobs_job j ON j.id = p.job_id WHERE j.id = %s",
            [created.id],
        )
        started_at, ended_at, lease = cursor.fetchone()
        assert started_at is not None
        assert (ended_at, lease is not None) == (None, True)
        cursor.execute("SELECT submit_started_at, submit_ended_at FROM jobs_job WHERE id = %s", [submitted.id])
        started_at, ended_at = cursor.fetchone()
        assert (started_at is not None, ended_at) == (True, None)


def test_claims_take_the_longest_due_and_no_more_than_there_are_places() -> None:
    pool = make_pool()
    jobs = [running_job(pool, due_at=timezone.now() - timedelta(hours=hours)) for hours in (2, 3, 1)]
    taken = claimed({("job", MDS_FOLLOW): 2})
    assert {claim.job.id for claim in taken.claims} == {jobs[0].id, jobs[1].id}
    assert taken.has_more
    assert not claimed({("job", MDS_FOLLOW): 2}).has_more
    assert claimed({("job", MDS_CANCEL): 2}).claims == []


def test_a_step_without_a_free_place_for_its_call_stays_due() -> None:
    job = submitting_job()
    Job.objects.update(cancel_requested_at=timezone.now(), batch_id="b1", submit_started_at=timezone.now())
    assert claimed({("job", MDS_CANCEL): 0}).claims == []
    assert only(claimed()).kind == CallKind.CANCEL
    job.refresh_from_db()
    assert job.status == "cancelling"


# --- the version guard ---


def test_a_late_result_writes_nothing() -> None:
    job = submitting_job()
    late = only(claimed())
    pass_time(times().lease)
    claimed()  # by somebody else, who finds out that the fate of the submit is unknown
    before = Job.objects.values().get(pk=job.pk)
    taken = recorded(late, batch("scheduling", "b9"))
    assert [finished.claim for finished in taken.stale] == [late]
    assert (taken.left, taken.claims) == ([], [])
    assert Job.objects.values().get(pk=job.pk) == before
    assert before["batch_id"] == ""
    assert reasons(job)[-1] == "submit_unknown"


def test_a_late_result_of_a_release_writes_nothing() -> None:
    provision = releasing()
    late = only(claimed())
    pass_time(times().lease)
    assert only(claimed()).version > late.version
    before = Provision.objects.values().get(pk=provision.pk)
    assert len(recorded(late, None).stale) == 1
    assert Provision.objects.values().get(pk=provision.pk) == before


def test_a_lease_that_ran_out_counts_as_a_crash_and_any_record_forgives_it() -> None:
    job = provisioning_job()
    only(claimed())
    pass_time(times().lease)
    claim = only(claimed())
    assert Job.objects.get().crashes == 1
    recorded(claim, error("transient"))
    job.refresh_from_db()
    assert (job.crashes, job.status) == (0, "provisioning")


def test_what_the_databases_own_end_kept_from_being_recorded_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    provisioning_job()
    for seconds_after_the_claim, crashes in ((-1, 1), (1, 0)):
        claim = only(claimed())
        started_at = timezone.now() - timedelta(seconds=times().lease - seconds_after_the_claim)
        monkeypatch.setattr(due, "database_started_at", lambda at=started_at: at)
        pass_time(times().lease)
        claim = only(claimed())
        assert Job.objects.get().crashes == crashes
        recorded(claim, error("transient"))
        pass_time(times().retry_max)


@pytest.mark.parametrize("answer", [batch("scheduling"), error("capacity"), error("transient"), error("ambiguous")])
def test_a_result_whose_commit_was_not_confirmed_counts_once(answer: Any) -> None:
    """The record was committed and its answer lost with the connection: the pass brings the same result again."""
    submitting_job()
    claim = only(claimed())
    recorded(claim, answer)
    before = Job.objects.values().get(), JobEvent.objects.count()
    again = recorded(claim, answer)
    assert (len(again.stale), again.claims) == (1, [])
    assert (Job.objects.values().get(), JobEvent.objects.count()) == before


def test_a_lease_of_a_release_that_ran_out_fails_nothing_ever() -> None:
    provision = releasing()
    for _ in range(MAX_CRASHES + 2):
        assert only(claimed()).kind == CallKind.RELEASE
        pass_time(times().lease)
    provision.refresh_from_db()
    assert (provision.status, provision.crashes) == ("releasing", MAX_CRASHES)


def test_a_release_taken_by_somebody_else_since_the_look_is_left_to_him(monkeypatch: pytest.MonkeyPatch) -> None:
    provision = releasing()
    only(claimed())
    before = Provision.objects.values().get(pk=provision.pk)
    # what a statement that began before that claim was committed still sees
    stale_look = "SELECT id, job_id FROM jobs_provision WHERE pool_id = ANY(%s) AND cardinality(%s::int[]) > 0"
    monkeypatch.setattr(due, "_DUE_RELEASES", stale_look)
    assert claimed().claims == []
    assert Provision.objects.values().get(pk=provision.pk) == before


# --- rows in somebody else's hands ---


@pytest.mark.django_db(transaction=True)
def test_a_locked_row_delays_no_other() -> None:
    pool = make_pool()
    held, free = provisioning_job(pool), provisioning_job(pool)
    with locked("jobs_job", held.pk):
        assert only(claimed()).job.id == free.id
    assert only(claimed()).job.id == held.id


@pytest.mark.django_db(transaction=True)
def test_a_result_for_a_locked_row_is_kept_and_recorded_later() -> None:
    job = provisioning_job()
    claim = only(claimed())
    with locked("jobs_job", job.pk):
        left = recorded(claim, resource("r", "pending")).left
        assert [finished.claim for finished in left] == [claim]
        assert Provision.objects.get().status == "requested"
    assert step(left, {}).left == []
    assert Provision.objects.get().status == "provisioning"


def test_two_results_for_one_job_are_recorded_one_after_the_other() -> None:
    provision = releasing()
    job = provision.job
    Job.objects.filter(pk=job.pk).update(status="in_progress", batch_id="b1", provision=None, due_at=timezone.now())
    pass_time(1)
    poll = only(claimed({("job", MDS_FOLLOW): 1}))
    release = only(claimed({("release", provision.pool_id): 1}))
    taken = step([claims.Finished(poll, batch()), claims.Finished(release, None)], {})
    assert [finished.claim for finished in taken.left] == [release]
    assert step(taken.left, {}).left == []


# --- rows that may kill their worker ---


@pytest.mark.parametrize("crashes", range(LONE_CRASHES, MAX_CRASHES))
def test_a_suspect_is_claimed_alone(crashes: int) -> None:
    pool = make_pool()
    suspect, innocent = provisioning_job(pool, crashes=crashes), provisioning_job(pool)
    alone = claimed(lone=True)
    assert [claim.job.id for claim in alone.claims] == [suspect.id]
    assert [claim.job.id for claim in claimed().claims] == [innocent.id]
    assert claimed(lone=True).claims == []


def test_of_many_suspects_one_is_in_hand_at_a_time_and_every_one_gets_its_turn() -> None:
    pool = make_pool()
    suspects = {provisioning_job(pool, crashes=LONE_CRASHES).id for _ in range(3)}
    done = []
    for _ in suspects:
        claim = only(claimed(lone=True))
        assert (claimed(lone=True).claims, claimed().claims) == ([], []), "the others wait"
        recorded(claim, resource(claim.job.id, "pending"))
        done.append(claim.job.id)
    assert set(done) == suspects
    assert not claimed(lone=True).has_more


def test_a_lease_that_ran_out_twice_makes_a_suspect() -> None:
    provisioning_job()
    for _ in range(LONE_CRASHES):
        only(claimed())
        pass_time(times().lease)
    assert claimed().claims == []
    assert only(claimed(lone=True)).kind == CallKind.CREATE


def test_a_job_that_crashed_five_times_fails_and_gives_its_resource_back() -> None:
    job = provisioning_job()
    for crashes in range(MAX_CRASHES):
        only(claimed(lone=crashes >= LONE_CRASHES))
        pass_time(times().lease)
    assert claimed(lone=True).claims == []
    job.refresh_from_db()
    assert job.provision is not None
    assert (job.status, job.error_code, job.failure_stage) == ("failed", "internal_error", "provision")
    assert job.provision.status == "releasing"
    assert only(claimed()).kind == CallKind.RELEASE


def test_the_batch_of_a_job_that_was_given_up_is_left_to_the_scan_to_stop() -> None:
    job = running_job(crashes=MAX_CRASHES)
    BatchScan.objects.create(unwanted=["b0"], due_at=timezone.now() + timedelta(hours=1))
    claimed(lone=True)
    job.refresh_from_db()
    assert (job.status, job.error_code, job.failure_stage) == ("failed", "internal_error", "batch")
    scan = BatchScan.objects.get()
    assert scan.unwanted == ["b0", "b1"]
    assert scan.due_at is not None
    assert scan.due_at <= timezone.now()


# --- one broken row ---


def test_a_row_that_cannot_be_decided_steps_aside(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = provisioning_job(make_pool()), provisioning_job(make_pool())
    decide = decisions.decide

    def broken_for_one(job: Job, *args: Any) -> Any:
        if job.id == broken.id:
            raise ZeroDivisionError("a defect")
        return decide(job, *args)

    monkeypatch.setattr(claims, "decide", broken_for_one)
    assert only(claimed()).job.id == sound.id
    broken.refresh_from_db()
    assert (broken.status, broken.crashes, broken.lease_expires_at) == ("provisioning", 1, None)
    assert broken.due_at is not None
    assert broken.due_at > timezone.now() - timedelta(seconds=1)
    assert "a defect" in caplog.text
    for _ in range(MAX_CRASHES):
        pass_time(times().retry_max)
        claimed(lone=True)
        claimed()
    assert Job.objects.get(pk=broken.pk).crashes == MAX_CRASHES


def test_an_exception_of_our_own_in_a_call_counts_as_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    job = provisioning_job()
    recorded(only(claimed()), ZeroDivisionError("a defect"))
    job.refresh_from_db()
    assert (job.crashes, job.lease_expires_at, job.status) == (1, None, "provisioning")
    assert "a defect" in caplog.text


@pytest.mark.parametrize(
    "unwritable",
    [
        {"output_file_id": "x" * 200},
        {"total": 2**40},
        {"output_file_id": "nul\0"},
        {"output_file_id": "half a pair \ud800"},
        {"raw": {"id": "b1", "status": "in_progress", "odd": "nul\0"}},
        {"raw": {"id": "b1", "status": "in_progress", "odd": reduce(lambda inner, _: [inner], range(2000), [])}},
    ],
    ids=["too long", "too large", "nul", "surrogate", "nul in json", "too deep"],
)
def test_an_answer_that_the_database_refuses_stops_nobody_else(
    unwritable: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool()
    broken, sound, waiting = running_job(pool), running_job(pool), submitting_job(pool)
    calls = {claim.job.id: claim for claim in claimed({("job", MDS_FOLLOW): 2}).claims}
    taken = step(
        [
            claims.Finished(calls[broken.id], batch(**unwritable)),
            claims.Finished(calls[sound.id], batch("finalizing")),
        ],
        places(),
    )
    assert [claim.job.id for claim in taken.claims] == [waiting.id]
    for job in (broken, sound):
        job.refresh_from_db()
    assert (sound.status, sound.crashes) == ("finalizing", 0)
    assert (broken.status, broken.crashes, broken.lease_expires_at) == ("in_progress", 1, None)
    assert "refused" in caplog.text


# --- time and news ---


@pytest.mark.parametrize("kind", [CallKind.CREATE, CallKind.SUBMIT])
def test_a_call_is_over_before_its_lease_is(kind: CallKind) -> None:
    began = time.monotonic()
    provisioning_job() if kind == CallKind.CREATE else submitting_job()
    claim = only(claimed())
    assert claim.kind == kind
    spent = claims.call_timeout(kind) + times().send_margin
    assert began <= claim.send_by - times().lease + spent <= time.monotonic()


@pytest.mark.parametrize("kind", [CallKind.CREATE, CallKind.SUBMIT])
def test_a_call_given_up_is_made_again_and_counts_as_nothing(kind: CallKind) -> None:
    job = provisioning_job() if kind == CallKind.CREATE else submitting_job()
    taken = recorded(only(claimed()), NotSent(), places())
    assert only(taken).kind == kind
    job.refresh_from_db()
    assert (job.crashes, job.retry_count, job.attempt) == (0, 0, 1)


def test_a_cancel_during_a_create_is_acted_on_as_soon_as_it_ends() -> None:
    job = provisioning_job()
    claim = only(claimed())
    planner.cancel(job.owner, job.id)
    assert claimed().claims == [], "the call under way is not disturbed"
    recorded(claim, resource("r", "ready"))
    job.refresh_from_db()
    assert job.provision is not None
    assert (job.status, job.provision.status) == ("cancelled", "releasing")
    assert only(claimed()).kind == CallKind.RELEASE


def test_a_cancel_during_a_submit_is_acted_on_as_soon_as_it_ends() -> None:
    job = submitting_job()
    claim = only(claimed())
    planner.cancel(job.owner, job.id)
    taken = recorded(claim, batch("scheduling", "b9"), places())
    call = only(taken)
    assert (call.kind, call.job.batch_id) == (CallKind.CANCEL, "b9")
    job.refresh_from_db()
    assert (job.status, job.batch_id) == ("cancelling", "b9")


@pytest.mark.parametrize("answer", [error("transient"), error("rate_limited"), NotSent()])
def test_a_cancel_during_a_submit_that_was_not_sent_ends_the_job(answer: Any) -> None:
    job = submitting_job()
    claim = only(claimed())
    planner.cancel(job.owner, job.id)
    assert recorded(claim, answer, places()).claims[:1] == []
    job.refresh_from_db()
    assert job.provision is not None
    assert (job.status, job.batch_id, job.provision.status) == ("cancelled", "", "releasing")


def test_a_cancel_in_time_needs_no_call() -> None:
    jobs = [make_job(), provisioning_job(), submitting_job()]
    for job in jobs:
        planner.cancel(job.owner, job.id)
    pass_time(60)  # the test's own transaction has begun before the cancel
    taken = claimed(places(pools=False))
    assert (taken.claims, taken.is_moved) == ([], True)
    assert set(Job.objects.values_list("status", flat=True)) == {"cancelled"}
    assert set(Provision.objects.values_list("status", flat=True)) == {"releasing"}


def test_a_job_that_ended_is_never_due_again() -> None:
    job = running_job()
    recorded(only(claimed()), batch("failed"))
    job.refresh_from_db()
    assert (job.status, job.due_at, job.lease_expires_at) == ("failed", None, None)
    Job.objects.update(due_at=timezone.now() - timedelta(minutes=1))
    assert claimed(places(pools=False)).claims == []
    assert Job.objects.get().due_at is None
