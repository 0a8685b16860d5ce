"""The moves a job and its provision can make, as changes not yet written."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from jobs.conf import MAX_LOST_ATTEMPTS, times
from jobs.errors import PUT_OFF, UpstreamError
from jobs.lifecycle.steps import Change, Event
from jobs.models import Job, JobEvent, Provision
from jobs.statuses import FailureStage, JobStatus, ProvisionStatus

NO_ERROR: dict[str, Any] = {
    "retry_count": 0,
    "retry_at": None,
    "last_error_code": "",
    "last_error": "",
    "last_error_at": None,
}

# A listing that missed a resource before its delete was sent proves nothing of what is there after it.
NOT_MISSED: dict[str, Any] = {"absent_since_at": None, "absence_confirmed_at": None}


def backoff(retries: int, longest: float) -> timedelta:
    """`retry_min`, doubled by each further retry, at most `longest` seconds."""
    return timedelta(seconds=min(longest, times().retry_min * 2 ** min(retries - 1, 20)))


def pause_after(error: UpstreamError, retries: int, longest: float) -> timedelta:
    """How long to leave an upstream alone after its so many-th error: the back-off, or as long as it asked, capped."""
    asked_for = timedelta(seconds=min(error.retry_after_seconds or 0, times().retry_after_max))
    return max(asked_for, backoff(1 if error.code == PUT_OFF else retries, longest))


def move_job(status: JobStatus, now: datetime, event: Event, **columns: Any) -> Change:
    """To `status`, with its time and an event."""
    return Change(job={"status": status, f"{status.value}_at": now, **columns}, events=(event,))


def end_job(
    status: JobStatus,
    provision: Provision | None,
    now: datetime,
    *,
    reason: str,
    message: str = "",
    stage: FailureStage | None = None,
    source: JobEvent.Source = JobEvent.Source.PLANNER,
) -> Change:
    """To a terminal status; its resource, if it has one, begins a release of its own."""
    columns: dict[str, Any] = {"due_at": None, **NO_ERROR}  # whoever ends it: nobody looks at it again
    if status != JobStatus.COMPLETED and reason != "cancelled":
        columns |= {"error_code": reason, "error_message": message}
    if stage is not None:
        columns["failure_stage"] = stage
    ended = move_job(status, now, Event(reason, message, source), **columns)
    return ended if provision is None else ended.and_then(release_provision(provision, now))


def release_provision(provision: Provision, now: datetime) -> Change:
    """To `releasing`, unless it is there already: from then on the provision is worked on by itself."""
    if provision.status not in {
        ProvisionStatus.REQUESTED,
        ProvisionStatus.PROVISIONING,
        ProvisionStatus.READY,
        ProvisionStatus.LOST,
        ProvisionStatus.FAILED,
    }:
        return Change()
    return Change(
        provision={
            "status": ProvisionStatus.RELEASING,
            "releasing_at": now,
            "release_requested_at": provision.release_requested_at or now,
            "due_at": now,
            "retry_count": 0,
            "retry_at": None,
            **NOT_MISSED,
        },
    )


def released(now: datetime, message: str) -> Change:
    """To `released`: the provider holds nothing of it any more."""
    return Change(
        provision={"status": ProvisionStatus.RELEASED, "released_at": now, "due_at": None, "retry_count": 0},
        events=(Event("released", message, JobEvent.Source.PROVIDER),),
    )


def written_off(now: datetime, event: Event) -> Change:
    """To `written_off`: somebody answers for it that nothing is held any more, or that it is nobody's business here."""
    return Change(
        provision={"status": ProvisionStatus.WRITTEN_OFF, "written_off_at": now, "due_at": None, "retry_at": None},
        events=(event,),
    )


def disabled(reason: str, now: datetime) -> dict[str, Any]:
    """The columns of a pool that the planner holds: an operator's hold names the operator."""
    return {"is_enabled": False, "disabled_reason": reason, "held_by": "", "held_at": now}


def new_attempt(job: Job) -> dict[str, Any]:
    """The columns of a job whose next submission is another attempt; what the old batch did is in the timeline."""
    return {
        "attempt": job.attempt + 1,
        "submit_started_at": None,
        "submit_ended_at": None,
        "batch_id": "",
        "batch_view": None,
        "batch_seen_at": None,
        "batch_missing_at": None,
        "stop_sent_at": None,
        "request_completed": 0,
        "request_failed": 0,
        "usage": None,
        "output_file_id": "",
        "error_file_id": "",
    }


def _told_of_batch(job: Job, event: Event) -> Event:
    """The event with what the attempt leaves behind: its columns are about to be another attempt's."""
    if not job.batch_id:
        return event
    left = {"attempt": job.attempt, "batch_id": job.batch_id, "batch_view": job.batch_view}
    return replace(event, data=left | event.data)


def back_to_pending(
    job: Job,
    provision: Provision | None,
    now: datetime,
    event: Event,
    *,
    unasked: bool = False,
    retries: int = MAX_LOST_ATTEMPTS,
) -> Change:
    """Wait for another resource, at the old place in the queue.

    `unasked` counts an attempt that somebody else ended; after more than `retries` of them the job fails.
    """
    lost = job.lost_attempts + unasked
    if lost > retries:
        stage = FailureStage.BATCH if job.batch_id else FailureStage.PROVISION
        return end_job(JobStatus.FAILED, provision, now, reason=event.reason, message=event.message, stage=stage)
    columns: dict[str, Any] = {"lost_attempts": lost, **NO_ERROR}
    if job.submit_started_at is not None:
        columns |= new_attempt(job)
    elif job.attempt == 1:
        # nothing was ever submitted: waiting for a resource takes nothing of the completion window
        columns["deadline_at"] = None
    pending = move_job(JobStatus.PENDING, now, _told_of_batch(job, event), **columns)
    return pending if provision is None else pending.and_then(release_provision(provision, now))


def lose_resource(
    job: Job,
    provision: Provision | None,
    now: datetime,
    gone: Event,
    *,
    unasked: bool,
    retries: int = MAX_LOST_ATTEMPTS,
) -> Change:
    """Back to `pending`, since its resource is gone; unless an operator took that away, its pool has lost one."""
    back = back_to_pending(job, provision, now, gone, unasked=unasked, retries=retries)
    if provision is None or provision.lost_at is not None or gone.source == JobEvent.Source.OPERATOR:
        return back
    return back.and_then(Change(provision={"lost_at": now}))
