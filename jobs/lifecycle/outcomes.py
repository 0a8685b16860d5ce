"""What a recorded call changes: pure functions of the rows, the answer and the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from jobs.batch_client import Batch
from jobs.conf import times
from jobs.errors import MAX_CODE_LENGTH, OVER_QUOTA, PUT_OFF, UpstreamError, UpstreamKind, without_addresses
from jobs.lifecycle.changes import (
    NO_ERROR,
    NOT_MISSED,
    back_to_pending,
    end_job,
    lose_resource,
    move_job,
    pause_after,
)
from jobs.lifecycle.losses import resource_gone
from jobs.lifecycle.steps import CallKind, Change, Event
from jobs.models import Job, JobEvent, Provision
from jobs.provisioners.base import Resource, ResourceState
from jobs.statuses import RUNNING, RUNNING_ORDER, FailureStage, JobStatus, ProvisionStatus

MDS = JobEvent.Source.MDS
PROVIDER = JobEvent.Source.PROVIDER


@dataclass(frozen=True)
class NotSent:
    """The call was given up before it left: its answer could have come after the lease's end."""


Answer = Resource | Batch | UpstreamError | NotSent | None


def apply_answer(kind: CallKind, job: Job, provision: Provision | None, answer: Answer, now: datetime) -> Change:
    """The change a finished call makes to a job still in the state the call was decided in."""
    return _OUTCOMES[kind](job, provision, answer, now)


def _created(job: Job, provision: Provision | None, answer: Answer, now: datetime) -> Change:
    assert provision is not None  # noqa: S101 - a create is only ever decided with one
    ended = Change(provision={"create_ended_at": _create_over(provision, now)})
    if isinstance(answer, NotSent):
        return ended
    if isinstance(answer, UpstreamError):
        return _create_failed(job, provision, answer, now)
    assert isinstance(answer, Resource)  # noqa: S101 - what `ensure` returns
    columns: dict[str, Any] = resource_facts(answer, now) | NO_ERROR
    if provision.status == ProvisionStatus.REQUESTED:
        columns["status"] = ProvisionStatus.PROVISIONING
    event = Event(
        "resource_created",
        without_addresses(answer.message),
        PROVIDER,
        data={"external_ids": list(answer.external_ids)},
    )
    return ended.and_then(Change(provision=columns, events=(event,)))


def _create_over(provision: Provision, now: datetime) -> datetime:
    """From when on no create of it can take effect: this one has ended, an unanswered one before may have not."""
    return max(now, provision.create_unsure_until or now)


def resource_facts(resource: Resource, now: datetime) -> dict[str, Any]:
    """The observed columns of a provision whose resource was seen."""
    facts: dict[str, Any] = {
        "observed_state": resource.state.value,
        "observed_at": now,
        "absent_since_at": None,
        "external_ids": list(resource.external_ids),
        "region": resource.region,
        "detail": resource.detail,
    }
    if resource.state == ResourceState.FAILED:
        said = without_addresses(resource.message)
        facts |= {"last_error_code": "resource_failed", "last_error": said, "last_error_at": now}
    return facts


def _create_failed(job: Job, provision: Provision, error: UpstreamError, now: datetime) -> Change:
    # an ambiguous create may still be applied after we hung up: its end stays unknown
    is_over = error.kind != UpstreamKind.AMBIGUOUS
    columns = _error_columns(provision.retry_count, error, now)
    if is_over:
        columns["create_ended_at"] = _create_over(provision, now)
    else:
        # what it may have made is not looked up, and missed, before the pool would list it; for a pool that lists it
        # even later than this a second one is made, and given back as surplus
        unlisted = timedelta(seconds=min(provision.pool.absence_confirm_seconds, times().retry_max))
        columns["retry_at"] = max(columns["retry_at"], now + unlisted)
    failed = Change(provision=columns)
    if error.kind in {UpstreamKind.PERMANENT, UpstreamKind.CONFLICT, UpstreamKind.NOT_FOUND}:
        failed = failed.and_then(Change(provision={"failed_at": now}))
        end = end_job(
            JobStatus.FAILED,
            provision,
            now,
            reason=error.code,
            message=str(error),
            stage=FailureStage.PROVISION,
            source=PROVIDER,
        )
        return failed.and_then(end)
    if error.kind == UpstreamKind.CAPACITY:
        code = OVER_QUOTA if error.code == OVER_QUOTA else error.kind.value
        event = Event(f"no_{code}", str(error), PROVIDER, data={"pool_id": provision.pool_id})
        back = back_to_pending(job, provision, now, event)
        full = Change(pool_full_for=job.accelerator_type, pool_full_code=code)
        return failed.and_then(back).and_then(full)
    if error.kind == UpstreamKind.INVALID_CREDENTIAL:
        event = Event("pool_disabled", str(error), PROVIDER, data={"pool_id": provision.pool_id})
        back = back_to_pending(job, provision, now, event)
        return failed.and_then(back).and_then(Change(pool_disabled=str(error)))
    if not provision.last_error_code:
        failed = failed.and_then(Change(events=(Event("create_delayed", str(error), PROVIDER),)))
    return failed


def _submitted(job: Job, provision: Provision | None, answer: Answer, now: datetime) -> Change:
    if isinstance(answer, NotSent):
        return Change(job={"submit_started_at": None, "submit_ended_at": None})
    if isinstance(answer, Batch):
        event = Event("batch_created", f"Batch {answer.id}.", MDS, data={"batch_id": answer.id, "attempt": job.attempt})
        known = Change(job={"batch_id": answer.id, "submit_ended_at": now}, events=(event,))
        return known.and_then(apply_batch(job, provision, answer, now))
    assert isinstance(answer, UpstreamError)  # noqa: S101 - nothing else can come of a submit
    if answer.kind in {UpstreamKind.PERMANENT, UpstreamKind.NOT_FOUND, UpstreamKind.CONFLICT}:
        return end_job(
            JobStatus.FAILED,
            provision,
            now,
            reason=answer.code,
            message=str(answer),
            stage=FailureStage.SUBMIT,
            source=MDS,
        )
    failed = _job_error(job, answer, now)
    if answer.kind == UpstreamKind.AMBIGUOUS:
        event = Event("submit_unknown", f"{answer} Whether the batch exists is being looked up.", MDS)
        return failed.and_then(Change(job={"submit_ended_at": now}, events=(event,), scan=True))
    not_sent = Change(job={"submit_started_at": None, "submit_ended_at": None})
    return failed.and_then(not_sent)


def _seen(job: Job, provision: Provision | None, answer: Answer, now: datetime) -> Change:
    """A poll, or a cancel (which answers with the batch as it is afterwards)."""
    if isinstance(answer, NotSent):
        return Change()
    if isinstance(answer, Batch):
        return apply_batch(job, provision, answer, now)
    assert isinstance(answer, UpstreamError)  # noqa: S101 - nothing else can come of it
    if answer.kind == UpstreamKind.NOT_FOUND:
        return _batch_missing(job, provision, now)
    return _job_error(job, answer, now)


def _batch_missing(job: Job, provision: Provision | None, now: datetime) -> Change:
    """The MDS does not know a batch it once gave us: believed only when it says so for a while."""
    if job.batch_missing_at is None:
        event = Event("batch_missing", f"The MDS does not know batch {job.batch_id}; looking again.", MDS)
        return Change(job={"batch_missing_at": now, "batch_seen_at": now, **NO_ERROR}, events=(event,))
    if now < job.batch_missing_at + timedelta(seconds=times().batch_missing_grace):
        return Change(job={"batch_seen_at": now, **NO_ERROR})
    if job.cancel_requested_at is not None:
        return end_job(JobStatus.CANCELLED, provision, now, reason="cancelled", message="Its batch no longer exists.")
    message = f"The MDS lost batch {job.batch_id}."
    if job.is_imported:  # its input is another client's affair: it cannot be run again
        stage = FailureStage.BATCH
        return end_job(JobStatus.FAILED, None, now, reason="batch_lost", message=message, stage=stage, source=MDS)
    event = Event("batch_lost", message, MDS, data={"batch_id": job.batch_id})
    return back_to_pending(job, provision, now, event, unasked=True)


def apply_batch(job: Job, provision: Provision | None, batch: Batch, now: datetime) -> Change:
    """The MDS's view of the job's batch: facts always, status forward only, terminal when every line is told of."""
    facts = Change(job=_batch_facts(job, batch, now))
    if batch.status in {"completed", "failed", "expired", "cancelled"}:
        return facts.and_then(_batch_ended(job, provision, batch, now))
    if batch.status in RUNNING:
        status = JobStatus(batch.status)
        if job.status == JobStatus.SUBMITTING or (job.status in RUNNING and _rank(status) > _rank(job.status)):
            return facts.and_then(move_job(status, now, Event(status.value, source=MDS)))
        return facts
    known = (job.batch_view or {}).get("status")
    unknown = batch.status not in {JobStatus.CANCELLING, "cancelled"} and known != batch.status
    if unknown:
        event = Event("unknown_status", f"The MDS says {batch.status!r}; taken as still running.", MDS)
        facts = facts.and_then(Change(events=(event,)))
    if job.status == JobStatus.SUBMITTING:
        return facts.and_then(move_job(JobStatus.SCHEDULING, now, Event("scheduling", source=MDS)))
    return facts


def _rank(status: str) -> int:
    return RUNNING_ORDER.index(JobStatus(status))


def _batch_facts(job: Job, batch: Batch, now: datetime) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "batch_view": batch.raw,
        "batch_seen_at": now,
        "batch_missing_at": None,
        **NO_ERROR,
    }
    if batch.total is not None:  # before it runs and when it ends early the MDS tells no counts: none, not zero
        counts = {"request_total": batch.total, "request_completed": batch.completed, "request_failed": batch.failed}
        facts |= counts
    if batch.expires_at is not None:
        facts["deadline_at"] = batch.expires_at
    if batch.usage is not None:
        facts["usage"] = batch.usage
    if batch.output_file_id:
        facts["output_file_id"] = batch.output_file_id
    if batch.error_file_id:
        facts["error_file_id"] = batch.error_file_id
    return facts


def _batch_ended(job: Job, provision: Provision | None, batch: Batch, now: datetime) -> Change:
    if batch.status == "completed":
        return _batch_completed(job, provision, batch, now)
    if batch.status == "expired":
        message = "The batch ended at its deadline."
        return end_job(JobStatus.EXPIRED, provision, now, reason="deadline", message=message, source=MDS)
    gone = resource_gone(job, provision, now)
    if provision is not None and gone is not None and job.cancel_requested_at is None:
        is_lost = gone.source != JobEvent.Source.OPERATOR
        message = f"{gone.message or 'It broke.'} Its batch is over."
        event = replace(gone, message=message)
        return lose_resource(job, provision, now, event, unasked=is_lost, retries=provision.pool.loss_retries)
    if batch.status == "failed":
        code, message = _first_error(batch)
        return end_job(
            JobStatus.FAILED, provision, now, reason=code, message=message, stage=FailureStage.BATCH, source=MDS
        )
    if job.cancel_requested_at is not None or job.is_imported:
        return end_job(JobStatus.CANCELLED, provision, now, reason="cancelled", source=MDS)
    if job.deadline_at is not None and job.deadline_at <= now:
        message = "Stopped after its deadline."
        return end_job(JobStatus.EXPIRED, provision, now, reason="deadline", message=message)
    event = Event("cancelled_upstream", "Somebody else cancelled its batch.", MDS, data={"batch_id": batch.id})
    return back_to_pending(job, provision, now, event, unasked=True)


def _batch_completed(job: Job, provision: Provision | None, batch: Batch, now: datetime) -> Change:
    total = batch.total if batch.total is not None else job.request_total
    if total is not None and batch.completed + batch.failed == total:
        return end_job(JobStatus.COMPLETED, provision, now, reason="completed", source=MDS)
    message = f"{batch.completed + batch.failed} of {'?' if total is None else total} requests are accounted for."
    ended_at = batch.completed_at or now
    near = timedelta(seconds=times().partial_expiry_margin)
    if batch.expires_at is not None and ended_at >= batch.expires_at - near:
        return end_job(JobStatus.EXPIRED, provision, now, reason="deadline", message=message, source=MDS)
    return end_job(
        JobStatus.FAILED,
        provision,
        now,
        reason="incomplete_output",
        message=message,
        stage=FailureStage.BATCH,
        source=MDS,
    )


def _first_error(batch: Batch) -> tuple[str, str]:
    for error in batch.errors:
        line = f" (line {error['line']})" if error.get("line") else ""
        code = str(error.get("code") or "batch_failed")[:MAX_CODE_LENGTH]
        said = without_addresses(str(error.get("message") or "The batch failed."))
        return code, f"{said}{line}"
    return "batch_failed", "The batch failed; the MDS gives no reason."


def _release_taken(job: Job, provision: Provision | None, answer: Answer, now: datetime) -> Change:
    """The provider took the delete (absence is still to be seen), or did not."""
    assert provision is not None  # noqa: S101 - a release is always of one
    if isinstance(answer, NotSent):
        return Change()
    if isinstance(answer, UpstreamError):
        longest = times().release_retry_max
        if answer.code == PUT_OFF:  # the provider was not asked: nothing failed
            return Change(provision={"retry_at": now + pause_after(answer, 1, longest)})
        failed = Change(provision=_error_columns(provision.retry_count, answer, now, longest=longest))
        if provision.is_release_failing:
            return failed
        return failed.and_then(Change(events=(Event("release_delayed", str(answer), PROVIDER),)))
    columns = {"release_sent_at": now, "retry_count": provision.retry_count + 1, "retry_at": None, **NOT_MISSED}
    if provision.is_release_failing:
        columns |= {"last_error_code": "", "last_error": "", "last_error_at": None}
    return Change(provision=columns)


def _error_columns(
    retry_count: int, error: UpstreamError, now: datetime, *, longest: float | None = None
) -> dict[str, Any]:
    return {
        "retry_count": retry_count + (error.code != PUT_OFF),
        "retry_at": now + pause_after(error, retry_count + 1, longest or times().retry_max),
        "last_error_code": error.code,
        "last_error": str(error),
        "last_error_at": now,
    }


def _job_error(job: Job, error: UpstreamError, now: datetime) -> Change:
    """An error that only delays: said once in the timeline, kept on the row until it is over."""
    columns = _error_columns(job.retry_count, error, now)
    events = () if job.last_error_code else (Event("mds_delayed", str(error), MDS),)
    return Change(job=columns, events=events)


_OUTCOMES: dict[CallKind, Callable[[Job, Provision | None, Answer, datetime], Change]] = {
    CallKind.CREATE: _created,
    CallKind.SUBMIT: _submitted,
    CallKind.POLL: _seen,
    CallKind.CANCEL: _seen,
    CallKind.RELEASE: _release_taken,
}
