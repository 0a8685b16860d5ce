"""What to do next: a pure function of the rows and the clock. Level-triggered: how a row got here does not matter.

`decide` answers a `Change` (write this, then ask again), a `Call` (commit its intent, make it, record what came) or
a `Wait`. It is asked again after every change and every recorded call, by whoever claims the row.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from jobs.conf import MAX_CRASHES, times
from jobs.errors import without_addresses
from jobs.lifecycle.changes import (
    back_to_pending,
    backoff,
    end_job,
    lose_resource,
    move_job,
    released,
)
from jobs.lifecycle.losses import resource_gone
from jobs.lifecycle.steps import Call, CallKind, Change, Event, Step, Wait
from jobs.models import Job, JobEvent, Provision
from jobs.provisioners.base import ResourceState
from jobs.statuses import RUNNING, FailureStage, JobStatus, ProvisionStatus


def decide(job: Job, provision: Provision | None, now: datetime) -> Step:
    """The next step of a live job. `provision` is its newest one, live or not."""
    is_in_doubt = job.submit_started_at is not None and not job.batch_id
    if job.crashes >= MAX_CRASHES and is_in_doubt and job.status in {JobStatus.SUBMITTING, JobStatus.CANCELLING}:
        return _await_scan(job, now)  # what it may have submitted is looked up, before its resource is taken away
    if job.crashes >= MAX_CRASHES:
        end = end_job(
            JobStatus.FAILED,
            provision,
            now,
            reason="internal_error",
            stage=_stage(job),
            message=f"Given up after {job.crashes} attempts to work on it that each ended without a result.",
        )
        return end.and_then(_stopped_by_scan(job))
    return _DECISIONS[JobStatus(job.status)](job, provision, now)


def _stage(job: Job) -> FailureStage:
    if job.status in {JobStatus.PENDING, JobStatus.PROVISIONING}:
        return FailureStage.PROVISION
    return FailureStage.BATCH if job.batch_id else FailureStage.SUBMIT


def decide_release(provision: Provision, now: datetime) -> Step:
    """The next step of a provision in `releasing`: delete until two listings have missed it (G3)."""
    if not provision.holds_resources or provision.create_started_at is None:
        return released(now, "Nothing was ever created for it.")
    if provision.release_sent_at is not None and provision.absence_confirmed_at is not None:
        return released(now, "The provider confirms that it is gone.")
    if provision.retry_count or provision.retry_at is not None:
        next_try = _next_release(provision)
        if now < next_try:
            return Wait(next_try)
    return Call(CallKind.RELEASE)


def _next_release(provision: Provision) -> datetime:
    """When to delete once more: soon if it failed, later if it was taken, late once a listing has missed it."""
    if provision.retry_at is not None:
        return provision.retry_at
    pause = backoff(provision.retry_count, times().release_retry_max)
    sent_at = provision.release_sent_at or provision.requested_at
    if provision.absent_since_at is not None:
        # observation confirms it, for which a further delete would have it begin anew: so not before it had its time;
        # should the resource come back, that makes the provision due
        confirmed = 2 * (provision.pool.absence_confirm_seconds + provision.pool.observe_interval_seconds)
        return max(sent_at, provision.absent_since_at) + timedelta(seconds=times().release_retry_max + confirmed)
    return sent_at + max(pause, timedelta(seconds=times().call_timeout))


def _pending(job: Job, provision: Provision | None, now: datetime) -> Step:
    if job.cancel_requested_at is not None:
        return end_job(JobStatus.CANCELLED, None, now, reason="cancelled", message="Cancelled before it was admitted.")
    if job.deadline_at is not None:
        if job.deadline_at <= now:
            return _expired(job, None, now)
        return Wait(job.deadline_at)
    if job.queue_timeout_seconds is None:
        return Wait(None)
    queue_end = job.accepted_at + timedelta(seconds=job.queue_timeout_seconds)
    if queue_end <= now:
        message = f"Not admitted within its queue timeout of {job.queue_timeout_seconds} s."
        return end_job(JobStatus.EXPIRED, None, now, reason="queue_timeout", message=message)
    return Wait(queue_end)


def _provisioning(job: Job, provision: Provision | None, now: datetime) -> Step:
    assert provision is not None  # noqa: S101 - a check constraint holds it
    if job.cancel_requested_at is not None:
        return end_job(JobStatus.CANCELLED, provision, now, reason="cancelled", message="Cancelled before submission.")
    if job.deadline_at is not None and job.deadline_at <= now:
        return _expired(job, provision, now)
    gone = resource_gone(job, provision, now)
    if gone is not None:
        return lose_resource(job, provision, now, gone, unasked=gone.reason == "resource_failed")
    if provision.status != ProvisionStatus.REQUESTED and provision.observed_state == ResourceState.READY:
        ready = Change(provision={"status": ProvisionStatus.READY, "ready_at": now})
        event = Event("resource_ready", source=JobEvent.Source.PROVIDER, data={"provision_id": str(provision.id)})
        return ready.and_then(move_job(JobStatus.SUBMITTING, now, event))
    if provision.deadline_at <= now:
        return _not_ready_in_time(job, provision, now)
    if provision.status == ProvisionStatus.REQUESTED:
        return _create(job, provision, now)
    return Wait(_earlier(provision.deadline_at, job.deadline_at))


def _not_ready_in_time(job: Job, provision: Provision, now: datetime) -> Step:
    """Back to the queue; but first a look, if it was our own outage that nobody has looked since."""
    is_created = provision.status != ProvisionStatus.REQUESTED
    looked_at = provision.pool.observed_at or provision.requested_at
    if is_created and looked_at < provision.deadline_at and not provision.pool.observe_failures:
        return Wait(_earlier(now + timedelta(seconds=times().retry_max), job.deadline_at))
    why = str(provision.detail.get("message") or "")  # such as the scheduler's, that no node has room
    told = without_addresses(f"The resource was not ready within the pool's timeout. {why}").rstrip()
    event = Event("ready_timeout", told)
    back = back_to_pending(job, provision, now, event)
    if not is_created and not provision.retry_count:
        return back  # no call for it has come to an answer, be it for our own pace: that says nothing of the pool
    return back.and_then(Change(pool_full_for=job.accelerator_type, pool_full_code=event.reason))


def _create(job: Job, provision: Provision, now: datetime) -> Step:
    if provision.retry_at is not None and now < provision.retry_at:
        return Wait(min(_earlier(provision.retry_at, job.deadline_at), provision.deadline_at))
    intent: dict[str, Any] = {"create_started_at": now, "create_ended_at": None}
    if provision.create_started_at is not None and provision.create_ended_at is None:
        # the one before was never answered; whoever sent it may have done so as late as his lease let him
        intent["create_unsure_until"] = provision.create_started_at + timedelta(seconds=times().lease)
    return Call(CallKind.CREATE, Change(provision=intent))


def _submitting(job: Job, provision: Provision | None, now: datetime) -> Step:
    if job.batch_id:
        return _running(job, provision, now)
    if job.submit_started_at is not None:
        return _await_scan(job, now)
    if job.cancel_requested_at is not None:
        return end_job(JobStatus.CANCELLED, provision, now, reason="cancelled", message="Cancelled before submission.")
    if job.deadline_at is not None and job.deadline_at <= now:
        return _expired(job, provision, now)
    gone = resource_gone(job, provision, now)
    if gone is not None:
        return lose_resource(job, provision, now, gone, unasked=gone.reason == "resource_failed")
    if job.retry_at is not None and now < job.retry_at:
        return Wait(_earlier(job.retry_at, job.deadline_at))
    if provision is not None and provision.observed_state == ResourceState.PENDING:
        return _no_longer_ready(job, provision, now)
    return Call(CallKind.SUBMIT, Change(job={"submit_started_at": now, "submit_ended_at": None}))


def _no_longer_ready(job: Job, provision: Provision, now: datetime) -> Step:
    """It was ready, and now something that a submission needs is not told: it gets the time to get ready once more."""
    since = provision.observed_at or provision.requested_at  # of the last look that told anything new
    until = since + timedelta(seconds=provision.pool.ready_timeout_seconds)
    if now < until:
        return Wait(_earlier(_earlier(until, job.deadline_at), provision.lifetime_ends_at))
    event = Event("resource_lost", "The resource is no longer ready.", JobEvent.Source.PROVIDER)
    return lose_resource(job, provision, now, event, unasked=True)


def _await_scan(job: Job, now: datetime) -> Step:
    """This attempt may have been sent: only the scan of the MDS's list can tell (G2)."""
    if job.submit_ended_at is None:
        # claimed with the intent set and no result: its worker died or was stopped in the middle
        event = Event("submit_unknown", "Whether the MDS accepted the batch is not known; it is being looked up.")
        return Change(job={"submit_ended_at": now}, events=(event,), scan=True)
    if job.cancel_requested_at is not None and job.status != JobStatus.CANCELLING:
        return move_job(JobStatus.CANCELLING, now, Event("cancelling", "Its batch is being looked up first."))
    # the scan settles it, and claims itself; this look changes nothing, but every job has a next one
    return Wait(now + timedelta(seconds=times().scan_interval))


def _running(job: Job, provision: Provision | None, now: datetime) -> Step:
    """A batch is known. It is stopped, and seen to have stopped, before anything is released."""
    if job.cancel_requested_at is not None and job.status != JobStatus.CANCELLING:
        # what delayed the polls does not delay the stop
        return move_job(JobStatus.CANCELLING, now, Event("cancelling"), retry_at=None)
    gone = resource_gone(job, provision, now)
    is_ready = provision is not None and provision.status == ProvisionStatus.READY
    if is_ready and gone is not None and gone.source != JobEvent.Source.OPERATOR:
        return Change(provision={"status": ProvisionStatus.LOST, "lost_at": now}, events=(gone,))
    given_up = _given_up(job, provision, now)
    if given_up is not None:
        return given_up.and_then(_stopped_by_scan(job))
    if job.retry_at is not None and now < job.retry_at:
        return Wait(job.retry_at)
    must_stop = _must_stop(job, provision, now)
    interval = _soon(job) if must_stop else poll_interval(job)
    next_poll = now if job.batch_seen_at is None else job.batch_seen_at + interval
    if not must_stop:
        next_look = _earlier(next_poll, _must_stop_at(job, provision, now))
        return Call(CallKind.POLL) if next_poll <= now else Wait(next_look)
    next_stop = now if job.stop_sent_at is None else job.stop_sent_at + _stop_interval(job)
    if next_stop <= now:
        return Call(CallKind.CANCEL, Change(job={"stop_sent_at": now}))
    return Call(CallKind.POLL) if next_poll <= now else Wait(min(next_stop, next_poll))


def _must_stop_at(job: Job, provision: Provision | None, now: datetime) -> datetime | None:
    """The next moment at which its batch must be stopped unless it has ended."""
    moments = [job.deadline_at and job.deadline_at + timedelta(seconds=times().deadline_grace)]
    if provision is not None:
        moments.append(provision.lifetime_ends_at)
    return min((at for at in moments if at is not None and at > now), default=None)


def _stop_interval(job: Job) -> timedelta:
    """How soon a batch that goes on is stopped once more: late if the MDS says that it is being cancelled."""
    is_cancelling = (job.batch_view or {}).get("status") == JobStatus.CANCELLING
    return timedelta(seconds=times().deadline_grace) if is_cancelling else _soon(job)


def _stopped_by_scan(job: Job) -> Change:
    """Nobody follows its batch any more; one that somebody else has made is not ours to stop."""
    return Change(unwanted_batch="" if job.is_imported else job.batch_id)


def _must_stop(job: Job, provision: Provision | None, now: datetime) -> bool:
    if job.status == JobStatus.CANCELLING:
        return True
    if job.is_imported:
        return False  # it needs no resource of ours, and its deadline is between its client and the MDS
    if resource_gone(job, provision, now) is not None:
        return True
    return job.deadline_at is not None and job.deadline_at + timedelta(seconds=times().deadline_grace) <= now


def _given_up(job: Job, provision: Provision | None, now: datetime) -> Change | None:
    """The end of a job whose batch goes on long after it had to be over, as the MDS itself has told since.

    An outage of it proves nothing. A metadata service killed while it finalizes a batch leaves it so for ever.
    """
    seen_at = job.batch_seen_at
    if seen_at is None:
        return None
    if job.deadline_at is not None and job.deadline_at <= now:
        is_stopped = job.stop_sent_at is not None or job.is_imported
        if not is_stopped or seen_at < job.deadline_at + timedelta(seconds=times().finalize_grace):
            return None
        message = f"Its deadline passed; the MDS has neither ended nor stopped batch {job.batch_id} since."
        return end_job(JobStatus.EXPIRED, provision, now, reason="deadline", message=message)
    told = (job.batch_view or {}).get("status")
    since = {JobStatus.FINALIZING: job.finalizing_at, JobStatus.CANCELLING: job.cancelling_at}.get(
        JobStatus(job.status)
    )
    patience = timedelta(seconds=times().wind_up_timeout)
    if since is None or told not in {JobStatus.FINALIZING, JobStatus.CANCELLING} or seen_at < since + patience:
        return None
    message = f"The MDS still calls batch {job.batch_id} {told} after {patience.total_seconds():.0f} s."
    if job.status == JobStatus.CANCELLING:
        return end_job(JobStatus.CANCELLED, provision, now, reason="cancelled", message=message)
    return end_job(
        JobStatus.FAILED, provision, now, reason="wind_up_timeout", message=message, stage=FailureStage.BATCH
    )


def poll_interval(job: Job) -> timedelta:
    """How long after the last look at a batch the next one comes; `poll_far` at most.

    Half of its age, within bounds; of hours a hundredth: what its resource costs in vain at the end stays below that,
    and ten thousand of them ask the MDS for no more than it can answer.
    """
    if job.status != JobStatus.IN_PROGRESS or job.batch_missing_at is not None:
        return _soon(job)
    far = timedelta(seconds=_spread(job) * min(times().poll_far, _age(job) / 100))
    return max(_soon(job), far)


def _soon(job: Job) -> timedelta:
    """Of one that is about to end: half of its age, within bounds."""
    return timedelta(seconds=_spread(job) * min(times().poll_max, max(times().poll_min, _age(job) / 2)))


def _age(job: Job) -> float:
    """In seconds: how long it has been running, or being finalized."""
    began_at = job.finalizing_at if job.status == JobStatus.FINALIZING else job.submitting_at
    return (job.batch_seen_at - began_at).total_seconds() if job.batch_seen_at and began_at else 0.0


def _spread(job: Job) -> float:
    return 0.9 + 0.2 * (sum(job.id.encode()) % 64) / 64  # jobs submitted together drift apart


def _expired(job: Job, provision: Provision | None, now: datetime) -> Change:
    message = f"Its deadline passed while it was {job.status}."
    return end_job(JobStatus.EXPIRED, provision, now, reason="deadline", message=message)


def _earlier(first: datetime, second: datetime | None) -> datetime:
    return first if second is None else min(first, second)


_DECISIONS: dict[JobStatus, Callable[[Job, Provision | None, datetime], Step]] = {
    JobStatus.PENDING: _pending,
    JobStatus.PROVISIONING: _provisioning,
    JobStatus.SUBMITTING: _submitting,
    **dict.fromkeys(RUNNING, _running),
    JobStatus.CANCELLING: _submitting,
}
