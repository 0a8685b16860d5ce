"""What to do next: for every state a row can be in, and then each rule by itself."""

from __future__ import annotations

import copy
import itertools
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs.conf import MAX_CRASHES, times
from jobs.errors import PUT_OFF
from jobs.lifecycle.changes import backoff
from jobs.lifecycle.claims import bulkhead_of
from jobs.lifecycle.decisions import decide, decide_release, poll_interval
from jobs.lifecycle.outcomes import apply_answer
from jobs.lifecycle.steps import Call, CallKind, Change, Step, Wait
from jobs.lifecycle.writing import Row
from jobs.models import Job, Pool, Provision
from jobs.statuses import LIVE, PROVISION_LIVE, RUNNING, TERMINAL, JobStatus, ProvisionStatus
from tests.answers import batch, error
from tests.factories import make_job, make_provision, make_user

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LONG_AGO, SOON, LATER = NOW - timedelta(days=1), NOW + timedelta(milliseconds=1), NOW + timedelta(days=1)
JUST_NOW = NOW - timedelta(milliseconds=1)
POOL = 7
FOLLOWED = RUNNING | {JobStatus.CANCELLING}
STOP = Call(CallKind.CANCEL, Change(job={"stop_sent_at": NOW}))

_SUBMITS: tuple[dict[str, Any], ...] = (
    {},
    {"submit_started_at": LONG_AGO},
    {"submit_started_at": LONG_AGO, "submit_ended_at": JUST_NOW},
)
_BATCHES = tuple(
    {"batch_id": "b1", "submit_started_at": LONG_AGO, "submit_ended_at": LONG_AGO, "batch_view": view, **seen}
    for view in (None, {"status": "in_progress"}, {"status": "finalizing"}, {"status": "cancelling"})
    for seen in (
        {"batch_seen_at": LONG_AGO},
        {"batch_seen_at": JUST_NOW},
        {"batch_seen_at": None},
        {"batch_seen_at": JUST_NOW, "stop_sent_at": JUST_NOW},
        {"batch_seen_at": LONG_AGO, "stop_sent_at": LONG_AGO},
    )
)
_RETRIES: tuple[dict[str, Any], ...] = ({}, {"retry_count": 3, "retry_at": SOON})


def job_shapes() -> Iterator[dict[str, Any]]:
    """Every live state of a job's row that the engine can write.

    What runs has a batch, and a cancel that was never asked for cannot be under way.
    """
    for status, attempt, cancel, deadline, retry in itertools.product(
        sorted(LIVE), (*_SUBMITS, *_BATCHES), (None, JUST_NOW), (None, LONG_AGO, LATER), _RETRIES
    ):
        is_possible = "batch_id" in attempt if status in RUNNING else status != JobStatus.CANCELLING or cancel
        if is_possible:
            yield {"status": status, "cancel_requested_at": cancel, "deadline_at": deadline, **attempt, **retry}


def provision_shapes() -> Iterator[dict[str, Any]]:
    """Every state of a provision that a decision looks at."""
    for status in ProvisionStatus.values:
        yield {"status": status}
    for status, state in itertools.product(sorted(PROVISION_LIVE), ("pending", "ready", "failed")):
        yield {"status": status, "observed_state": state}
    for status in sorted(PROVISION_LIVE):
        yield {"status": status, "release_requested_at": JUST_NOW, "release_requested_by": "op@example.org"}
        yield {"status": status, "deadline_at": LONG_AGO}
        yield {"status": status, "absent_since_at": LONG_AGO, "absence_confirmed_at": JUST_NOW}
    yield {"status": "ready", "hands_over": True, "absence_confirmed_at": JUST_NOW}
    yield {"status": "requested", "retry_count": 2, "retry_at": SOON}
    yield {"status": "requested", "create_started_at": LONG_AGO}
    yield {"status": "ready", "observed_state": "ready", "lifetime_ends_at": JUST_NOW}


def a_job(**fields: Any) -> Job:
    """A job's row that is in no database; submitted a minute ago if it was submitted."""
    return Job(**{"id": "job_1", "pool_id": POOL, "accepted_at": LONG_AGO, "submitting_at": LONG_AGO, **fields})


def a_provision(**fields: Any) -> Provision:
    """A provision's row that is in no database; its pool has just been listed."""
    times_given = {"deadline_at": LATER, "expires_at": LATER, "requested_at": LONG_AGO}
    pool = Pool(id=POOL, observed_at=NOW)
    return Provision(**{"id": uuid.UUID(int=1), "pool": pool, "name": "abp-1", **times_given, **fields})


def settled(job: Job, provision: Provision | None) -> tuple[Step, Row]:
    """Decide as a claim does, until there is a call or a wait."""
    row = Row(job, provision)
    for _ in range(12):
        if row.job.status in TERMINAL:
            return Wait(None), row
        step = decide(row.job, row.provision, NOW)
        if not isinstance(step, Change):
            return step, row
        row.apply(step, NOW)
    raise AssertionError(f"goes in circles: {row.job_columns}")


def shapes() -> Iterator[tuple[Job, Provision | None]]:
    """Every live job with every provision. One in `provisioning` has one, and has left when that was seen ready."""
    provisions = [a_provision(**shape) for shape in provision_shapes()]
    for shape in job_shapes():
        job = a_job(**shape)
        for provision in (None, *provisions):
            if job.status != JobStatus.PROVISIONING or (provision is not None and provision.status != "ready"):
                yield copy.copy(job), copy.copy(provision)


def test_an_imported_job_is_never_run_again_and_its_batch_is_stopped_only_if_that_was_asked_for() -> None:
    shapes_of_running = [shape for shape in job_shapes() if "batch_id" in shape and shape["status"] in FOLLOWED]
    assert shapes_of_running
    for shape in shapes_of_running:
        for crashes in (0, MAX_CRASHES):
            step, row = settled(a_job(imported_at=LONG_AGO, crashes=crashes, **shape), None)
            assert row.job.status != JobStatus.PENDING
            assert row.elsewhere.unwanted_batch == ""
            is_stop = isinstance(step, Call) and step.kind == CallKind.CANCEL
            assert not is_stop or shape["cancel_requested_at"] is not None or shape["status"] == JobStatus.CANCELLING


def _told_apart(job: Job) -> tuple[str, bool, bool, bool]:
    return (job.status, job.batch_id != "", job.submit_started_at is not None, job.cancel_requested_at is not None)


@pytest.fixture
def column(db: None) -> dict[tuple[str, bool, bool, bool], int]:
    """`Job.bulkhead` as the database derives it, for every state that it tells apart."""
    owner = make_user()
    provision = make_provision(make_job(owner))
    rows = [
        Job(
            owner=owner,
            status=status,
            batch_id=batch_id,
            submit_started_at=submit,
            cancel_requested_at=cancel,
            pool=provision.pool,
            provision=provision,
            queue_class="",
            completion_window_seconds=1,
            **({f"{status.value}_at": NOW} if status in TERMINAL else {}),
        )
        for status in JobStatus
        for batch_id, submit, cancel in itertools.product(("", "b1"), (None, NOW), (None, NOW))
    ]
    Job.objects.bulk_create(rows)
    pool_id = provision.pool_id
    derived = {_told_apart(job): job.bulkhead for job in Job.objects.filter(queue_class="")}
    return {key: POOL if bulkhead == pool_id else bulkhead for key, bulkhead in derived.items()}


def test_every_state_has_a_legal_next_step_on_the_right_bulkhead(
    column: dict[tuple[str, bool, bool, bool], int],
) -> None:
    seen = set()
    longest = timedelta(seconds=max(times().retry_max, times().scan_interval, times().deadline_grace))
    for job, provision in shapes():
        came_from = _told_apart(job)
        is_late = job.deadline_at == LONG_AGO
        step, row = settled(job, provision)  # raises on an illegal move, and on a circle
        seen.add((type(step), row.job.status))
        if isinstance(step, Call):
            assert bulkhead_of(step.kind, row.job, row.provision) == ("job", column[_told_apart(row.job)]), came_from
        elif row.job.status not in {*TERMINAL, JobStatus.PENDING}:
            assert isinstance(step, Wait)
            assert step.until is not None, f"forgotten: {came_from}"
            assert step.until > NOW, f"looked at without a pause: {came_from}"
            assert not is_late or step.until <= NOW + longest, f"waits on past its deadline: {came_from}"
    calls = {status for kind, status in seen if kind is Call}
    assert calls == {*LIVE} - {JobStatus.PENDING}, "the shapes reach every status that makes calls"


def test_a_cancel_is_honoured_in_every_state() -> None:
    for job, provision in shapes():
        if job.cancel_requested_at is None:
            continue
        came_from = _told_apart(job)
        job.retry_at = None  # the pause after a failed call is over
        step, row = settled(job, provision)
        if isinstance(step, Call):
            assert step.kind in {CallKind.CANCEL, CallKind.POLL}, f"{came_from}: {step}"
            row.apply(apply_answer(step.kind, row.job, row.provision, batch("cancelled"), NOW), NOW)
        elif row.job.status not in TERMINAL:
            # the scan has to tell first, or the batch has been told to stop
            assert row.job.status == JobStatus.CANCELLING, came_from
            assert not row.job.batch_id or row.job.stop_sent_at is not None, came_from
            continue
        if not (row.job.status == JobStatus.EXPIRED and row.job.batch_id):  # given up: what runs is not "cancelled"
            assert row.job.status == JobStatus.CANCELLED, came_from


def test_a_job_that_ends_or_goes_back_keeps_no_live_provision() -> None:
    for job, provision in shapes():
        was_pending = job.status == JobStatus.PENDING
        _, row = settled(job, provision)
        if row.job.status in {*TERMINAL, JobStatus.PENDING} and row.provision is not None and not was_pending:
            assert row.provision.status in {"releasing", "released", "written_off"}, _told_apart(job)


def test_no_batch_is_submitted_twice_in_one_attempt() -> None:
    for job, provision in shapes():
        was_sent = job.submit_started_at is not None
        step, row = settled(job, provision)
        if was_sent and isinstance(step, Call) and step.kind == CallKind.SUBMIT:
            assert row.job.attempt > 1, _told_apart(job)


@pytest.mark.parametrize("status", sorted(LIVE))
def test_a_job_that_kills_its_workers_fails_in_the_end(status: JobStatus) -> None:
    job = a_job(status=status, crashes=MAX_CRASHES, cancel_requested_at=NOW if status == "cancelling" else None)
    step, row = settled(job, a_provision(status="ready"))
    assert step == Wait(None)
    assert (row.job.status, row.job.error_code) == ("failed", "internal_error")
    assert row.provision is not None
    assert row.provision.status == "releasing"
    stage = "provision" if status in {"pending", "provisioning"} else "submit"
    assert row.job.failure_stage == stage


@pytest.mark.parametrize("status", ["submitting", "cancelling"])
def test_a_job_that_kills_its_workers_is_looked_up_before_it_is_given_up(status: str) -> None:
    """It may have submitted a batch, whose resource is not to go first."""
    cancelled = {"cancel_requested_at": NOW} if status == "cancelling" else {}
    sent = {"submit_started_at": NOW - timedelta(hours=1), "submit_ended_at": NOW - timedelta(hours=1)}
    job = a_job(status=status, crashes=MAX_CRASHES, **sent, **cancelled)
    step, row = settled(job, a_provision(status="ready"))
    assert isinstance(step, Wait)
    assert (row.job.status, row.provision and row.provision.status) == (status, "ready")
    job.batch_id = "b1"
    _, row = settled(job, a_provision(status="ready"))
    assert (row.job.status, row.job.error_code) == ("failed", "internal_error")


def test_a_pending_job_waits_for_its_queue_timeout_then_expires() -> None:
    job = a_job(status="pending", accepted_at=NOW - timedelta(seconds=59), queue_timeout_seconds=60)
    assert decide(job, None, NOW) == Wait(NOW + timedelta(seconds=1))
    job.accepted_at = NOW - timedelta(seconds=60)
    _, row = settled(job, None)
    assert (row.job.status, row.job.error_code) == ("expired", "queue_timeout")


def test_a_pending_job_without_a_timeout_waits_for_news_alone() -> None:
    assert decide(a_job(status="pending"), None, NOW) == Wait(None)


def test_a_job_that_has_submitted_before_keeps_its_deadline_and_no_queue_timeout() -> None:
    admitted = {"provisioning_at": NOW - timedelta(hours=1), "queue_timeout_seconds": 1}
    assert decide(a_job(status="pending", deadline_at=LATER, **admitted), None, NOW) == Wait(LATER)


def test_the_queue_timeout_bounds_the_wait_of_a_job_that_pools_have_refused() -> None:
    refused = {"provisioning_at": NOW, "pending_at": NOW, "accepted_at": NOW - timedelta(seconds=59)}
    job = a_job(status="pending", queue_timeout_seconds=60, **refused)
    assert decide(job, None, NOW) == Wait(NOW + timedelta(seconds=1))
    job.accepted_at = NOW - timedelta(seconds=60)
    assert settled(job, None)[1].job.error_code == "queue_timeout"


@pytest.mark.parametrize(("fields", "is_kept"), [({}, False), ({"attempt": 2}, True)])
def test_waiting_for_a_resource_takes_nothing_of_the_window_until_something_was_submitted(
    fields: dict[str, Any], is_kept: bool
) -> None:
    job = a_job(status="provisioning", deadline_at=LATER, provisioning_at=NOW - timedelta(hours=1), **fields)
    _, row = settled(job, a_provision(status="provisioning", deadline_at=NOW))
    assert (row.job.status, row.job.deadline_at) == ("pending", LATER if is_kept else None)


@pytest.mark.parametrize("status", ["pending", "provisioning", "submitting"])
def test_a_deadline_ends_a_job_that_has_no_batch(status: str) -> None:
    provision = a_provision(status="ready")
    _, row = settled(a_job(status=status, deadline_at=NOW), provision)
    assert (row.job.status, row.job.error_code) == ("expired", "deadline")


def test_a_running_batch_gets_its_grace_after_the_deadline_and_is_then_stopped() -> None:
    job = a_job(status="in_progress", batch_id="b1", batch_seen_at=LONG_AGO, deadline_at=LONG_AGO)
    assert decide(job, a_provision(status="ready"), NOW) == STOP
    job.deadline_at = NOW - timedelta(seconds=times().deadline_grace / 2)
    assert decide(job, a_provision(status="ready"), NOW) == Call(CallKind.POLL)


def test_a_resource_that_is_not_ready_in_time_is_given_back_and_the_pool_rests() -> None:
    waited_for = a_provision(status="provisioning", create_started_at=LONG_AGO, deadline_at=NOW)
    waited_for.detail = {"message": "0/5 nodes are available"}
    step = decide(a_job(status="provisioning", accelerator_type="H100"), waited_for, NOW)
    assert isinstance(step, Change)
    assert (step.job["status"], step.provision["status"]) == ("pending", "releasing")
    assert step.pool_full_for == "H100"
    assert step.events[0].message == "The resource was not ready within the pool's timeout. 0/5 nodes are available"


def test_after_an_outage_of_ours_a_resource_is_looked_at_before_it_counts_as_not_ready() -> None:
    job = a_job(status="provisioning", deadline_at=LATER)
    provision = a_provision(status="provisioning", create_started_at=LONG_AGO, deadline_at=JUST_NOW)
    provision.pool.observed_at = LONG_AGO
    assert isinstance(decide(job, provision, NOW), Wait)
    provision.pool.observe_failures = 1  # the provider's outage, not ours: another pool may be better
    assert isinstance(decide(job, provision, NOW), Change)
    provision.observed_state = "ready"  # late, and there
    assert settled(job, provision)[1].job.status == "submitting"


@pytest.mark.parametrize(
    ("tried", "rests_for"),
    [
        ({}, None),
        ({"create_started_at": LONG_AGO, "last_error_code": PUT_OFF}, None),  # by our own pace, at every turn
        ({"create_started_at": LONG_AGO, "last_error_code": PUT_OFF, "retry_count": 1}, "H100"),
        ({"create_started_at": LONG_AGO, "last_error_code": "rate_limited", "retry_count": 1}, "H100"),
    ],
)
def test_a_pool_rests_only_if_it_was_asked_in_vain(tried: dict[str, Any], rests_for: str | None) -> None:
    never_ready = a_provision(deadline_at=JUST_NOW, **tried)
    step = decide(a_job(status="provisioning", accelerator_type="H100"), never_ready, NOW)
    assert isinstance(step, Change)
    assert (step.job["status"], step.pool_full_for) == ("pending", rests_for)


def test_a_ready_resource_moves_the_job_on() -> None:
    step, row = settled(a_job(status="provisioning"), a_provision(status="provisioning", observed_state="ready"))
    assert row.provision is not None
    assert (row.job.status, row.provision.status, row.provision.ready_at) == ("submitting", "ready", NOW)
    assert isinstance(step, Call)
    assert step.kind == CallKind.SUBMIT
    assert step.intent.job == {"submit_started_at": NOW, "submit_ended_at": None}


def test_an_accepted_resource_is_waited_for() -> None:
    provision = a_provision(status="provisioning", observed_state="pending")
    assert decide(a_job(status="provisioning"), provision, NOW) == Wait(LATER)


@pytest.mark.parametrize(("status", "held"), [("provisioning", "provisioning"), ("submitting", "ready")])
def test_nothing_is_submitted_to_a_resource_that_failed(status: str, held: str) -> None:
    provision = a_provision(status=held, observed_state="failed", last_error="it broke")
    step, row = settled(a_job(status=status), provision)
    assert step == Wait(None)
    assert (row.job.status, row.job.lost_attempts, provision.status) == ("pending", 1, "releasing")
    assert [(event.reason, event.message) for event in row.events] == [("resource_failed", "it broke")]


@pytest.mark.parametrize(("since", "ends"), [(JUST_NOW, "submitting"), (LONG_AGO, "pending")])
def test_nothing_is_submitted_to_a_resource_that_is_no_longer_ready(since: datetime, ends: str) -> None:
    """Where its engine is reached may be told no more; it gets as long to become ready again as it had before."""
    provision = a_provision(status="ready", ready_at=LONG_AGO, observed_state="pending", observed_at=since)
    step, row = settled(a_job(status="submitting", deadline_at=LATER), provision)
    again_by = since + timedelta(seconds=provision.pool.ready_timeout_seconds)
    assert (step, row.job.status) == (Wait(again_by if ends == "submitting" else None), ends)
    assert [event.reason for event in row.events] == ["resource_lost"] * (ends == "pending")
    assert (row.job.lost_attempts, provision.lost_at) == ((1, NOW) if ends == "pending" else (0, None))


@pytest.mark.parametrize(
    "news", [{"absence_confirmed_at": JUST_NOW}, {"observed_state": "failed"}, {"lifetime_ends_at": NOW}]
)
def test_a_running_batch_whose_resource_is_gone_is_stopped_first(news: dict[str, Any]) -> None:
    job = a_job(status="in_progress", batch_id="b1", batch_view={"status": "in_progress"}, batch_seen_at=JUST_NOW)
    step, row = settled(job, a_provision(status="ready", **news))
    assert step == STOP
    assert row.provision is not None
    assert (row.job.status, row.provision.status) == ("in_progress", "lost")


@pytest.mark.parametrize("news", [{"absence_confirmed_at": JUST_NOW}, {"observed_state": "failed"}])
def test_a_batch_goes_on_without_the_room_that_it_was_given(news: dict[str, Any]) -> None:
    job = a_job(status="in_progress", batch_id="b1", batch_view={"status": "in_progress"}, batch_seen_at=JUST_NOW)
    provision = a_provision(status="ready", hands_over=True, **news)
    assert decide(job, provision, NOW) == Wait(JUST_NOW + poll_interval(job))
    provision.release_requested_at, provision.release_requested_by = JUST_NOW, "op@example.org"
    assert decide(job, provision, NOW) == STOP, "an operator takes it back all the same"


@pytest.mark.parametrize("news", [{"absence_confirmed_at": JUST_NOW}, {"observed_state": "failed"}])
def test_room_that_is_gone_before_a_batch_was_given_it_is_a_loss(news: dict[str, Any]) -> None:
    job, provision = a_job(status="submitting"), a_provision(status="ready", hands_over=True, **news)
    step, row = settled(job, provision)
    assert (step, row.job.status, provision.status) == (Wait(None), "pending", "releasing")
    assert (row.job.lost_attempts, row.events[0].reason) == (0, "resource_lost"), "no job breaks it"


def test_a_resource_within_its_lifetime_is_kept() -> None:
    job = a_job(status="in_progress", batch_id="b1", batch_seen_at=LONG_AGO)
    assert decide(job, a_provision(status="ready", lifetime_ends_at=SOON), NOW) == Call(CallKind.POLL)


def test_nothing_is_submitted_to_a_resource_whose_lifetime_is_over() -> None:
    _, row = settled(a_job(status="submitting"), a_provision(status="ready", lifetime_ends_at=NOW))
    assert (row.job.status, row.job.lost_attempts) == ("pending", 0)
    assert [event.reason for event in row.events] == ["resource_expired"]


@pytest.mark.parametrize("view", ["in_progress", "finalizing", "unheard_of"])
def test_a_batch_that_goes_on_is_stopped_again_at_the_pace_of_the_polls(view: str) -> None:
    job = a_job(status="cancelling", cancel_requested_at=LONG_AGO, batch_id="b1", batch_view={"status": view})
    job.batch_seen_at = job.stop_sent_at = JUST_NOW
    assert decide(job, a_provision(status="ready"), NOW) == Wait(JUST_NOW + poll_interval(job))
    job.stop_sent_at = LONG_AGO
    assert decide(job, a_provision(status="ready"), NOW) == STOP


def test_a_batch_that_is_being_cancelled_is_followed_and_reminded_only_late() -> None:
    job = a_job(status="cancelling", cancel_requested_at=LONG_AGO, batch_id="b1", batch_view={"status": "cancelling"})
    job.stop_sent_at, job.batch_seen_at = NOW - poll_interval(job), LONG_AGO
    assert decide(job, a_provision(status="ready"), NOW) == Call(CallKind.POLL)
    job.stop_sent_at = NOW - timedelta(seconds=times().deadline_grace)
    assert decide(job, a_provision(status="ready"), NOW) == STOP


def test_a_stop_does_not_wait_for_what_delays_the_polls() -> None:
    job = a_job(status="in_progress", cancel_requested_at=NOW, batch_id="b1", retry_at=LATER, retry_count=3)
    step, row = settled(job, a_provision(status="ready"))
    assert (step, row.job.status) == (STOP, "cancelling")


def test_an_upstreams_wish_to_be_left_alone_ends_at_the_deadline() -> None:
    job = a_job(status="provisioning", deadline_at=NOW + timedelta(seconds=5))
    provision = a_provision(retry_at=LATER, retry_count=1, deadline_at=LATER)
    assert decide(job, provision, NOW) == Wait(job.deadline_at)


def test_an_attempt_whose_worker_died_is_looked_up_and_not_repeated() -> None:
    step, row = settled(a_job(status="submitting", submit_started_at=LONG_AGO), a_provision(status="ready"))
    assert isinstance(step, Wait)
    assert row.elsewhere.scan
    assert (row.job.submit_ended_at, [event.reason for event in row.events]) == (NOW, ["submit_unknown"])


def test_pauses_double_up_to_their_limit() -> None:
    pauses = [backoff(retries, 1e9).total_seconds() for retries in (1, 2, 3)]
    assert pauses == pytest.approx([times().retry_min * factor for factor in (1, 2, 4)], abs=1e-5)
    assert backoff(10**6, times().retry_max) == timedelta(seconds=times().retry_max)


RELEASING = {"status": "releasing", "create_started_at": LONG_AGO, "releasing_at": LONG_AGO}


@pytest.mark.parametrize(
    "fields",
    [
        {"holds_resources": False},
        {"create_started_at": None},
        {"release_sent_at": LONG_AGO, "absence_confirmed_at": JUST_NOW},
    ],
)
def test_a_release_ends_when_nothing_can_be_there(fields: dict[str, Any]) -> None:
    step = decide_release(a_provision(**RELEASING | fields), NOW)
    assert isinstance(step, Change)
    assert step.provision["status"] == "released"


@pytest.mark.parametrize(
    "fields",
    [{}, {"absent_since_at": LONG_AGO}, {"absent_since_at": LONG_AGO, "absence_confirmed_at": LONG_AGO}],
)
def test_a_release_begins_with_a_delete(fields: dict[str, Any]) -> None:
    assert decide_release(a_provision(**RELEASING, **fields), NOW) == Call(CallKind.RELEASE)


def test_a_release_is_repeated_for_ever_with_a_pause_that_has_a_limit() -> None:
    pause = timedelta(seconds=times().release_retry_max)
    row = Row(a_job(), a_provision(**RELEASING, retry_count=40), is_release=True)
    row.apply(apply_answer(CallKind.RELEASE, row.job, row.provision, error("transient"), NOW), NOW)
    assert row.provision is not None
    assert decide_release(row.provision, NOW) == Wait(NOW + pause)
    assert decide_release(row.provision, NOW + pause) == Call(CallKind.RELEASE)


def test_a_delete_that_was_taken_is_repeated_unless_listings_miss_the_resource() -> None:
    taken = a_provision(**RELEASING, retry_count=1, release_sent_at=NOW)
    assert decide_release(taken, NOW) == Wait(NOW + timedelta(seconds=times().call_timeout))
    taken.absent_since_at = NOW
    confirmed = 2 * (taken.pool.absence_confirm_seconds + taken.pool.observe_interval_seconds)
    assert decide_release(taken, NOW) == Wait(NOW + timedelta(seconds=times().release_retry_max + confirmed))


def test_a_pool_that_takes_long_to_confirm_an_absence_gets_that_long() -> None:
    taken = a_provision(**RELEASING, retry_count=1, release_sent_at=NOW, absent_since_at=NOW)
    taken.pool.absence_confirm_seconds = 10 * times().release_retry_max
    assert isinstance(decide_release(taken, NOW + timedelta(seconds=taken.pool.absence_confirm_seconds + 1)), Wait)


def test_the_clock_of_a_decision_is_its_argument() -> None:
    job = a_job(status="pending", accepted_at=timezone.now(), queue_timeout_seconds=3600)
    assert isinstance(decide(job, None, timezone.now() + timedelta(hours=2)), Change)
