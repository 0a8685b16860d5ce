"""What an answer changes: for the batch, for the resource, and for the errors of both."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.conf import MAX_LOST_ATTEMPTS, times
from jobs.errors import UpstreamKind
from jobs.lifecycle.changes import NO_ERROR
from jobs.lifecycle.decisions import decide
from jobs.lifecycle.outcomes import NotSent, apply_answer, apply_batch
from jobs.lifecycle.steps import Call, CallKind, Change
from jobs.lifecycle.writing import Row
from jobs.models import Job, Pool, Provision
from jobs.statuses import LIVE, RUNNING, RUNNING_ORDER, TERMINAL, JobStatus
from tests.answers import batch, error, resource

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(days=1)


def a_row(status: str = "in_progress", held: str = "ready", **fields: Any) -> Row:
    """A job and its provision, in no database: submitted as batch b1 once it is past `submitting`."""
    if status in RUNNING or status == "cancelling":
        fields = {"batch_id": "b1", "submit_started_at": NOW, "submit_ended_at": NOW} | fields
    fields = {"accelerator_type": "H100", "accepted_at": NOW, "submitting_at": NOW} | fields
    job = Job(**{"id": "job_1", "status": status, **fields})
    provision = Provision(
        id=uuid.UUID(int=1), pool=Pool(id=7), name="abp-1", status=held, deadline_at=LATER, expires_at=LATER
    )
    provision.requested_at = provision.create_started_at = NOW
    return Row(job, provision)


def after(row: Row, kind: CallKind, answer: Any) -> Row:
    """The row once the answer is recorded; an illegal move raises."""
    row.apply(apply_answer(kind, row.job, row.provision, answer, NOW), NOW)
    return row


def told(row: Row) -> list[str]:
    return [event.reason for event in row.events]


def held(row: Row) -> str:
    assert row.provision is not None
    return row.provision.status


# --- the batch ---


@pytest.mark.parametrize(("done", "failed", "total"), [(3, 0, 3), (2, 1, 3), (0, 3, 3), (0, 0, 0)])
def test_a_job_is_completed_when_every_line_is_accounted_for(done: int, failed: int, total: int) -> None:
    row = after(a_row(), CallKind.POLL, batch("completed", completed=done, failed=failed, total=total))
    assert (row.job.status, row.job.completed_at, held(row)) == ("completed", NOW, "releasing")
    assert (row.job.request_completed, row.job.request_failed, row.job.request_total) == (done, failed, total)


@pytest.mark.parametrize(("done", "total"), [(0, 3), (2, 3), (4, 3), (2, None)])
@pytest.mark.parametrize(
    ("early_by", "status", "code"),
    [(0, "expired", "deadline"), (times().partial_expiry_margin, "expired", "deadline"), (10, "failed", "incomplete")],
)
def test_partial_output_near_the_deadline_expired_and_otherwise_failed(
    done: int, total: int | None, early_by: float, status: str, code: str
) -> None:
    answer = batch(
        "completed",
        completed=done,
        total=total,
        completed_at=NOW,
        expires_at=NOW + timedelta(seconds=early_by),
        output_file_id="out",
        error_file_id="err",
    )
    row = after(a_row(), CallKind.POLL, answer)
    assert row.job.status == status
    assert row.job.error_code.startswith(code)
    assert (row.job.output_file_id, row.job.error_file_id) == ("out", "err")
    assert row.job.failure_stage == ("batch" if status == "failed" else "")
    assert held(row) == "releasing"


def test_the_count_from_the_upload_stands_in_for_a_missing_total() -> None:
    row = after(a_row(request_total=3), CallKind.POLL, batch("completed", completed=3))
    assert row.job.status == "completed"


@pytest.mark.parametrize("asked", [None, NOW], ids=["unasked", "cancelled"])
@pytest.mark.parametrize("end", ["completed", "failed", "expired", "cancelled"])
def test_what_a_batch_did_outlives_its_end_whatever_the_end(end: str, asked: datetime | None) -> None:
    """Partial output, counts and the batch's id stay on a job that ended; nobody blanks them afterwards."""
    did: dict[str, Any] = {
        "completed": 2,
        "total": 3,
        "output_file_id": "out",
        "error_file_id": "err",
        "usage": {"total_tokens": 5},
    }
    job = after(a_row(cancel_requested_at=asked, deadline_at=NOW), CallKind.POLL, batch(end, **did)).job
    assert job.status in TERMINAL
    assert (job.batch_id, job.output_file_id, job.error_file_id) == ("b1", "out", "err")
    assert (job.request_completed, job.request_total, job.usage) == (2, 3, {"total_tokens": 5})


@pytest.mark.parametrize(("errors", "code", "message"), [
    ([], "batch_failed", "gives no reason"),
    ([{"code": "validation_error", "message": "bad", "line": 4}], "validation_error", "bad (line 4)"),
    ([{}], "batch_failed", "The batch failed."),
    ([{"code": "x" * 200, "message": "m"}], "x" * 64, "m"),
])  # fmt: skip
def test_a_failed_batch_fails_the_job_with_its_first_error(
    errors: list[dict[str, Any]], code: str, message: str
) -> None:
    row = after(a_row(), CallKind.POLL, batch("failed", errors=errors))
    assert (row.job.status, row.job.failure_stage, row.job.error_code) == ("failed", "batch", code)
    assert message in row.job.error_message


@given(
    st.text(min_size=1).filter(lambda word: word not in {*RUNNING_ORDER, "cancelling", *TERMINAL}),
    st.sampled_from(sorted(RUNNING)),
)
def test_an_unknown_status_means_still_running_and_is_told_once(word: str, status: JobStatus) -> None:
    row = after(a_row(status), CallKind.POLL, batch(word))
    after(row, CallKind.POLL, batch(word))
    assert (row.job.status, told(row)) == (status, ["unknown_status"])
    row.job.batch_seen_at = NOW - timedelta(hours=1)
    assert decide(row.job, row.provision, NOW) == Call(CallKind.POLL)


def test_an_unknown_status_in_the_answer_to_a_submit_is_taken_as_scheduling() -> None:
    row = after(a_row("submitting", submit_started_at=NOW), CallKind.SUBMIT, batch("resting"))
    assert (row.job.status, row.job.batch_id) == ("scheduling", "b1")


@pytest.mark.parametrize("status", RUNNING_ORDER)
@pytest.mark.parametrize("says", RUNNING_ORDER)
def test_a_status_only_moves_forward(status: JobStatus, says: JobStatus) -> None:
    row = after(a_row(status), CallKind.POLL, batch(says, total=5, completed=2))
    assert row.job.status == max(status, says, key=RUNNING_ORDER.index)
    assert (row.job.request_total, row.job.request_completed) == (5, 2), "facts are written always"
    assert row.job.batch_view == {"id": "b1", "status": says}


@pytest.mark.parametrize("says", [*RUNNING_ORDER, "cancelling"])
def test_a_job_being_cancelled_stays_so_until_its_batch_is_over(says: str) -> None:
    row = after(a_row("cancelling", cancel_requested_at=NOW), CallKind.CANCEL, batch(says))
    assert (row.job.status, row.events, held(row)) == ("cancelling", [], "ready")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (batch("cancelled"), "cancelled"),
        (batch("completed", completed=3, total=3), "completed"),
        (batch("expired"), "expired"),
        (batch("failed"), "failed"),
    ],
)
@pytest.mark.parametrize("was", sorted(LIVE - {JobStatus.PENDING, JobStatus.PROVISIONING}))
def test_a_cancel_ends_as_the_batch_ended(was: JobStatus, answer: Any, status: str) -> None:
    row = after(a_row(was, cancel_requested_at=NOW, batch_id="b1"), CallKind.CANCEL, answer)
    assert (row.job.status, held(row)) == (status, "releasing")


def test_a_batch_that_somebody_else_cancelled_is_repeated_three_times_and_then_fails() -> None:
    for lost in range(MAX_LOST_ATTEMPTS):
        row = after(a_row(attempt=2, lost_attempts=lost), CallKind.POLL, batch("cancelled"))
        assert (row.job.status, row.job.attempt, row.job.batch_id) == ("pending", 3, "")
        assert (row.job.submit_started_at, row.job.lost_attempts, held(row)) == (None, lost + 1, "releasing")
    row = after(a_row(lost_attempts=MAX_LOST_ATTEMPTS), CallKind.POLL, batch("cancelled"))
    assert (row.job.status, row.job.failure_stage, row.job.error_code) == ("failed", "batch", "cancelled_upstream")


def test_a_batch_we_stopped_after_its_deadline_expired() -> None:
    row = after(a_row(deadline_at=NOW), CallKind.CANCEL, batch("cancelled"))
    assert (row.job.status, row.job.error_code) == ("expired", "deadline")


@pytest.mark.parametrize("word", ["cancelled", "failed"])
@pytest.mark.parametrize(
    ("state", "code"),
    [
        ({"status": "lost"}, "resource_lost"),
        ({"absence_confirmed_at": NOW}, "resource_lost"),  # told by a listing, and not looked at yet
        ({"status": "lost", "observed_state": "failed"}, "resource_failed"),
        ({"status": "lost", "lifetime_ends_at": NOW}, "resource_expired"),
    ],
)
def test_a_batch_whose_resource_was_lost_is_repeated_as_often_as_its_pool_says(
    word: str, state: dict[str, Any], code: str
) -> None:
    for lost, retries in ((0, 1), (1, 1), (0, 0), (5, 6)):
        row = a_row(lost_attempts=lost)
        assert row.provision is not None
        row.provision.pool.loss_retries = retries
        for name, value in state.items():
            setattr(row.provision, name, value)
        after(row, CallKind.CANCEL, batch(word))
        assert (row.events[-1].reason, held(row)) == (code, "releasing")
        if lost < retries:
            assert (row.job.status, row.job.attempt, row.job.lost_attempts) == ("pending", 2, lost + 1)
        else:
            assert (row.job.status, row.job.failure_stage, row.job.error_code) == ("failed", "batch", code)


def test_a_batch_that_an_operator_ended_by_a_release_is_repeated_and_costs_no_attempt() -> None:
    row = a_row()
    assert row.provision is not None
    row.provision.release_requested_at, row.provision.release_requested_by = NOW, "op@example.org"
    after(row, CallKind.CANCEL, batch("cancelled"))
    assert (row.job.status, row.job.lost_attempts, held(row)) == ("pending", 0, "releasing")


def test_a_batch_that_failed_with_the_room_it_was_given_has_lost_nothing() -> None:
    row = a_row()
    assert row.provision is not None
    row.provision.hands_over, row.provision.absence_confirmed_at = True, NOW
    after(row, CallKind.POLL, batch("failed"))
    assert (row.job.status, row.job.attempt, held(row)) == ("failed", 1, "releasing")


def test_a_batch_that_completed_by_itself_counts_although_its_resource_was_lost() -> None:
    row = after(a_row(held="lost"), CallKind.CANCEL, batch("completed", completed=3, total=3))
    assert row.job.status == "completed"


@pytest.mark.parametrize("word", ["completed", "failed", "expired", "cancelled"])
@pytest.mark.parametrize("was", ["submitting", *RUNNING_ORDER])
def test_every_end_of_a_batch_is_an_end_or_another_attempt(was: str, word: str) -> None:
    row = after(a_row(was, batch_id="b1", submit_started_at=NOW), CallKind.POLL, batch(word))
    assert row.job.status in {*TERMINAL, "pending"}
    assert held(row) == "releasing"


# --- a batch that the MDS does not know ---


def test_a_missing_batch_is_looked_for_again_before_it_counts_as_lost() -> None:
    row = after(a_row(), CallKind.POLL, error("not_found"))
    assert (row.job.status, row.job.batch_missing_at, told(row)) == ("in_progress", NOW, ["batch_missing"])
    after(row, CallKind.POLL, error("not_found"))
    assert (row.job.status, told(row)) == ("in_progress", ["batch_missing"])
    row.job.batch_missing_at = NOW - timedelta(seconds=times().batch_missing_grace)
    after(row, CallKind.POLL, error("not_found"))
    assert (row.job.status, row.job.attempt, row.job.lost_attempts) == ("pending", 2, 1)
    assert told(row) == ["batch_missing", "batch_lost"]


def test_a_missing_batch_that_is_there_again_is_forgiven() -> None:
    row = after(a_row(batch_missing_at=NOW - timedelta(hours=1)), CallKind.POLL, batch())
    assert row.job.batch_missing_at is None
    after(row, CallKind.POLL, error("not_found"))
    assert row.job.status == "in_progress"


def test_a_missing_batch_of_a_cancelled_job_is_gone() -> None:
    row = a_row("cancelling", cancel_requested_at=NOW, batch_missing_at=NOW - timedelta(hours=1))
    after(row, CallKind.CANCEL, error("not_found"))
    assert (row.job.status, row.job.error_code, held(row)) == ("cancelled", "", "releasing")


@pytest.mark.parametrize("kind", ["transient", "rate_limited", "conflict", "permanent", "ambiguous"])
@pytest.mark.parametrize("call", [CallKind.POLL, CallKind.CANCEL])
def test_an_outage_of_the_mds_delays_and_is_told_once(kind: str, call: CallKind) -> None:
    row = after(a_row(), call, error(kind, retry_after_seconds=9))
    after(row, call, error(kind, retry_after_seconds=1e9))
    assert (row.job.status, row.job.retry_count, told(row)) == ("in_progress", 2, ["mds_delayed"])
    assert (row.job.last_error_at, row.job.retry_at) == (NOW, NOW + timedelta(seconds=times().retry_after_max))
    after(row, call, batch())
    assert {name: getattr(row.job, name) for name in NO_ERROR} == NO_ERROR


# --- submitting ---


def test_a_created_batch_is_recorded_with_its_deadline() -> None:
    row = after(
        a_row("submitting", submit_started_at=NOW), CallKind.SUBMIT, batch("scheduling", "b9", expires_at=LATER)
    )
    assert (row.job.status, row.job.batch_id, row.job.deadline_at) == ("scheduling", "b9", LATER)
    assert (row.job.submit_ended_at, told(row)) == (NOW, ["batch_created", "scheduling"])


@pytest.mark.parametrize("kind", ["permanent", "not_found", "conflict"])
def test_a_refused_submit_fails_the_job(kind: str) -> None:
    row = after(a_row("submitting", submit_started_at=NOW), CallKind.SUBMIT, error(kind, code="submit_refused"))
    assert (row.job.status, row.job.failure_stage, row.job.error_code) == ("failed", "submit", "submit_refused")
    assert held(row) == "releasing"


@pytest.mark.parametrize("kind", ["transient", "rate_limited", "capacity", "invalid_credential"])
def test_a_submit_that_was_certainly_not_sent_is_repeated_in_the_same_attempt(kind: str) -> None:
    row = after(a_row("submitting", submit_started_at=NOW), CallKind.SUBMIT, error(kind))
    assert (row.job.status, row.job.attempt, row.job.submit_started_at) == ("submitting", 1, None)
    assert row.job.retry_count == 1
    assert not row.elsewhere.scan


def test_a_submit_of_unknown_fate_is_looked_up_and_not_repeated() -> None:
    row = after(a_row("submitting", submit_started_at=NOW), CallKind.SUBMIT, error("ambiguous"))
    assert (row.job.status, row.job.submit_started_at, row.job.submit_ended_at) == ("submitting", NOW, NOW)
    assert row.elsewhere.scan
    assert not isinstance(decide(row.job, row.provision, NOW), Call | Change)


# --- the resource ---


def test_a_created_resource_is_recorded_with_its_facts() -> None:
    row = after(a_row("provisioning", "requested"), CallKind.CREATE, resource("abp-1", "pending", region="here"))
    assert row.provision is not None
    assert (held(row), row.provision.observed_state, row.provision.region) == ("provisioning", "pending", "here")
    assert (row.provision.external_ids, row.provision.create_ended_at) == (["x1"], NOW)


@pytest.mark.parametrize("kind", ["permanent", "conflict", "not_found"])
def test_a_refused_create_fails_the_job_and_releases_what_may_be_there(kind: str) -> None:
    row = after(a_row("provisioning", "requested"), CallKind.CREATE, error(kind, code="bad_shape"))
    assert (row.job.status, row.job.failure_stage, row.job.error_code) == ("failed", "provision", "bad_shape")
    assert held(row) == "releasing"


def test_a_pool_without_capacity_sends_the_job_back_at_no_cost() -> None:
    row = after(a_row("provisioning", "requested"), CallKind.CREATE, error("capacity"))
    assert (row.job.status, row.job.lost_attempts, held(row)) == ("pending", 0, "releasing")
    assert row.elsewhere.pool_full_for == "H100"


def test_an_invalid_credential_disables_the_pool_and_fails_no_job() -> None:
    row = after(a_row("provisioning", "requested"), CallKind.CREATE, error("invalid_credential", "no such key"))
    assert (row.job.status, row.job.lost_attempts, row.job.error_code) == ("pending", 0, "")
    assert row.elsewhere.pool_disabled == "no such key"


@pytest.mark.parametrize(("kind", "ended_at"), [("transient", NOW), ("rate_limited", NOW), ("ambiguous", None)])
def test_a_create_that_failed_is_repeated_and_an_unknown_end_stays_unknown(kind: str, ended_at: Any) -> None:
    row = after(a_row("provisioning", "requested"), CallKind.CREATE, error(kind))
    after(row, CallKind.CREATE, error(kind))
    assert row.provision is not None
    assert (row.job.status, held(row), row.provision.create_ended_at) == ("provisioning", "requested", ended_at)
    assert (row.provision.retry_count, told(row)) == (2, ["create_delayed"])


def test_a_create_without_an_answer_is_looked_up_once_the_pool_would_list_what_it_made() -> None:
    pauses = {}
    for kind in ("transient", "ambiguous"):
        row = after(a_row("provisioning", "requested"), CallKind.CREATE, error(kind))
        assert row.provision is not None
        assert row.provision.retry_at is not None
        pauses[kind] = (row.provision.retry_at - NOW).total_seconds()
    longest = min(row.provision.pool.absence_confirm_seconds, times().retry_max)
    assert pauses["transient"] < pauses["ambiguous"] == longest


def test_a_release_that_fails_is_told_once_and_stays_visible() -> None:
    row = a_row("completed", "releasing")
    assert row.provision is not None
    row.provision.releasing_at = NOW
    row.is_release = True
    for retries in (1, 2, 3):
        after(row, CallKind.RELEASE, error("transient", "no delete"))
        assert (row.provision.retry_count, row.provision.last_error) == (retries, "no delete")
        assert row.provision.is_release_failing
    assert told(row) == ["release_delayed"]
    after(row, CallKind.RELEASE, None)
    assert (row.provision.is_release_failing, row.provision.release_sent_at) == (False, NOW)


@pytest.mark.parametrize("kind", list(CallKind))
def test_a_call_given_up_before_it_left_costs_nothing(kind: CallKind) -> None:
    row = after(a_row("submitting", submit_started_at=NOW), kind, NotSent())
    assert (row.job.status, row.job.retry_count, row.job.lost_attempts, row.events) == ("submitting", 0, 0, [])
    assert row.job.submit_started_at == (None if kind == CallKind.SUBMIT else NOW)


@pytest.mark.parametrize("kind", list(CallKind))
@pytest.mark.parametrize("says", list(UpstreamKind))
def test_no_error_is_an_illegal_move(kind: CallKind, says: UpstreamKind) -> None:
    status = {CallKind.CREATE: "provisioning", CallKind.SUBMIT: "submitting", CallKind.RELEASE: "completed"}
    row = a_row(status.get(kind, "in_progress"), {"create": "requested", "release": "releasing"}.get(kind, "ready"))
    before = row.job.status
    after(row, kind, error(says))
    assert row.job.status in {before, "pending", "failed"}


def test_the_view_of_a_batch_is_kept_as_it_came() -> None:
    answer = batch(raw={"aibrix": {"job_id": "x"}}, usage={"total_tokens": 7})
    change = apply_batch(a_row().job, None, answer, NOW)
    assert change.job["batch_view"] == {"id": "b1", "status": "in_progress", "aibrix": {"job_id": "x"}}
    assert change.job["usage"] == {"total_tokens": 7}
