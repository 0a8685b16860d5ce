"""Why a job is where it is and what it waits for, in a sentence. Computed from rows on read; writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from django.db.models import Min, Q
from django.utils import timezone

from jobs import conf, queueing
from jobs.models import Job, Pool
from jobs.statuses import IN_STATUS_SINCE, LIVE, PROVISION_LIVE, JobStatus, ProvisionStatus

_COUNTED_AHEAD = 1000  # the queue in front of a job is counted no further
_NAMED_POOLS = 5


def waiting_reason(job: Job) -> str:
    """Why the job is where it is and what it waits for, in a sentence; "" when terminal.

    Costs no query but for a pending job, if its pool and provision were selected with it.
    """
    if not _waits_for_pools(job):
        return _own_reason(job)
    refusal = _pools_refusal(job, queueing.room())
    return (refusal or _place_in_queue(job)) + _queue_timeout(job)


def waiting_reasons(jobs: Iterable[Job]) -> dict[str, str]:
    """The same for the rows of a list, by job id: two queries for all of them, and no places in the queue."""
    jobs = list(jobs)
    rooms = queueing.room() if any(_waits_for_pools(job) for job in jobs) else []
    return {
        job.pk: (_pools_refusal(job, rooms) or f"Queued for {_resources(job)}.")
        if _waits_for_pools(job)
        else _own_reason(job)
        for job in jobs
    }


def oldest_in_status() -> dict[str, datetime]:
    """For each live status that some job has: since when the one that is longest in it is there."""
    live = Job.objects.filter(status__in=sorted(LIVE)).order_by()
    return dict(live.values_list("status").annotate(since=Min(IN_STATUS_SINCE)))


def _waits_for_pools(job: Job) -> bool:
    return job.status == JobStatus.PENDING and job.cancel_requested_at is None and not job.hold


def _own_reason(job: Job) -> str:
    """What the job's own rows tell."""
    if job.is_terminal:
        return ""
    if job.cancel_requested_at is not None or job.status == JobStatus.CANCELLING:
        return _cancelling(job)
    if job.status == JobStatus.PENDING:
        return "Held by an operator."
    provision = job.provision
    if provision and provision.status in PROVISION_LIVE and provision.release_requested_at is not None:
        who = provision.release_requested_by or "the planner"
        return f"The resource at pool {provision.pool} is being taken away by {who}; the job is then queued again."
    if job.status == JobStatus.PROVISIONING:
        return _provisioning(job)
    if job.status == JobStatus.SUBMITTING:
        return _submitting(job)
    return _running(job)


def _pools_refusal(job: Job, rooms: list[queueing.Room]) -> str:
    """Why no pool takes the job now; empty if one has room."""
    now = timezone.now()
    fitting = [room for room in rooms if _offers_type(room.pool, job.accelerator_type)]
    if not fitting:
        return f"No enabled pool offers {_resources(job)}."
    refusals = [refusal for room in fitting if (refusal := _refusal(room, job.accelerator_type, now))]
    if len(refusals) < len(fitting):
        return ""
    named = "; ".join(refusals[:_NAMED_POOLS]) + ("; ..." if len(refusals) > _NAMED_POOLS else "")
    return f"Waiting for {_resources(job)}: {named}."


def _offers_type(pool: Pool, accelerator_type: str) -> bool:
    return not pool.accelerator_types or not accelerator_type or accelerator_type in pool.accelerator_types


def _refusal(room: queueing.Room, accelerator_type: str, now: datetime) -> str:
    """Why the pool takes no job of this type now; empty if it does."""
    if room.free <= 0:
        return f"pool {room.pool} is full (limits: {room.pool.max_live} held, {room.pool.max_provisioning} starting)"
    if not room.offers(accelerator_type, now):
        retry_at = datetime.fromtimestamp(float(room.pool.capacity_retry_at[accelerator_type]["at"]), UTC)
        return f"pool {room.pool} has none left, asked again at {_clock(retry_at)}"
    return ""


def _place_in_queue(job: Job) -> str:
    earlier = Q(accepted_at__lt=job.accepted_at) | Q(accepted_at=job.accepted_at, pk__lt=job.pk)
    ahead = queueing.admissible().filter(earlier, queue_class=job.queue_class).order_by()[:_COUNTED_AHEAD].count()
    if not ahead:
        return "There is room: the workers take it next."
    count = f"{ahead} or more" if ahead == _COUNTED_AHEAD else str(ahead)
    return f"Queued behind {count} other job{'' if ahead == 1 else 's'} for {_resources(job)}."


def _queue_timeout(job: Job) -> str:
    if job.queue_timeout_seconds is None:
        return ""
    return f" It expires in the queue at {_clock(job.accepted_at + timedelta(seconds=job.queue_timeout_seconds))}."


def _provisioning(job: Job) -> str:
    provision = job.provision
    if provision is None:
        return "Waiting for a resource."
    where = f"pool {provision.pool}"
    match provision.status:
        case ProvisionStatus.REQUESTED if provision.create_started_at is None:
            reason = f"Reserved at {where}: the resource is created next."
        case ProvisionStatus.REQUESTED:
            reason = f"The resource is being created at {where} since {_clock(provision.create_started_at)}."
        case ProvisionStatus.PROVISIONING:
            since = _clock(provision.create_started_at or provision.requested_at)
            reason = f"Created at {where}; waiting since {since} for it to be ready, at most until "
            reason += f"{_clock(provision.deadline_at)}."
        case ProvisionStatus.READY:
            reason = f"The resource at {where} is ready: it is submitted next."
        case _:
            reason = f"The resource at {where} is {provision.status}: it is given back."
    return reason + _trouble(provision.last_error or job.last_error, _next_look(job))


def _submitting(job: Job) -> str:
    if job.submit_started_at is None:
        reason = "To be submitted to the metadata service."
    elif job.submit_ended_at is None and timezone.now() - job.submit_started_at < timedelta(
        seconds=conf.times().create_batch_timeout
    ):
        reason = f"Submitted; waiting for the metadata service's answer since {_clock(job.submit_started_at)}."
    else:
        reason = "The answer to the submission was lost: its batch is being looked up at the metadata service."
    return reason + _trouble(job.last_error, _next_look(job))


def _running(job: Job) -> str:
    batch = f"Batch {job.batch_id}"
    if job.batch_missing_at is not None:
        return f"{batch} is unknown to the metadata service since {_clock(job.batch_missing_at)}." + _trouble(
            job.last_error, _next_look(job)
        )
    seen = ""
    if job.batch_seen_at is not None:
        seen = f", seen {max(0, round((timezone.now() - job.batch_seen_at).total_seconds()))} s ago"
    return f"{batch} is {job.status} at the metadata service{seen}." + _trouble(job.last_error, _next_look(job))


def _cancelling(job: Job) -> str:
    match job.status:
        case JobStatus.PENDING:
            reason = "Cancel requested: the workers end it next."
        case JobStatus.PROVISIONING:
            reason = "Cancel requested: the resource is given up."
        case JobStatus.SUBMITTING if job.submit_started_at is None:
            reason = "Cancel requested: nothing was submitted, the resource is given up."
        case JobStatus.SUBMITTING:
            reason = "Cancel requested: waiting for the outcome of the submission under way, to cancel its batch."
        case _:
            reason = f"Cancel requested: waiting for the metadata service to stop batch {job.batch_id}."
    return reason + _trouble(job.last_error, _next_look(job))


def _resources(job: Job) -> str:
    return job.accelerator_type or "a place in a pool"


def _trouble(error: str, next_look: str) -> str:
    return f" Last error: {error.rstrip('.')}; {next_look}." if error else ""


def _next_look(job: Job) -> str:
    """When the workers look at the job again; a lease means that one has it in hand."""
    if job.lease_expires_at is not None or job.due_at is None or job.due_at <= timezone.now():
        return "tried again now"
    return f"tried again at {_clock(job.due_at)}"


def _clock(at: datetime | None) -> str:
    return "an unknown time" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
