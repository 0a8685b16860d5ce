"""Why a job is where it is and what it waits for, in a sentence. Computed from rows on read; writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from django.db.models import Min
from django.utils import timezone

from jobs import conf, limits, queueing
from jobs.models import Job, Pool
from jobs.placement import Wanted, wanted_by
from jobs.statuses import IN_STATUS_SINCE, LIVE, PROVISION_LIVE, JobStatus, ProvisionStatus

_COUNTED_AHEAD = 1000  # the queue in front of a job is counted no further
_NAMED_POOLS = 5


@dataclass(frozen=True)
class PoolAnswer:
    """Why one pool does not take a job now: a name for machines, words for people."""

    pool: str
    code: str  # too_large, full, capacity, quota, ready_timeout, held
    sentence: str
    retry_at: datetime | None = None  # when it is asked again


@dataclass(frozen=True)
class Waiting:
    """What a job waits for: a name that is stable for machines, a sentence for people, and its place in the queue."""

    code: str
    sentence: str
    position: str = ""  # 1 is next; counted up to 1,000; "" where no place is told
    pools: tuple[PoolAnswer, ...] = ()  # where no pool takes it: each one's answer, held ones last

    def __str__(self) -> str:
        return self.sentence


def waiting_for(job: Job) -> Waiting:
    """Why the job is where it is and what it waits for; empty when terminal.

    Costs no query but for a pending job, if its pool and provision were selected with it.
    """
    if not _waits_for_pools(job):
        return _own_reason(job)
    return _with_timeout(job, _refusal(job, limits.Rooms()) or _place_in_queue(job))


def waiting_at_first(job: Job) -> Waiting:
    """The same for a job accepted a moment ago, without a query: it waits for its turn, whatever comes next."""
    return _queued(job) if _waits_for_pools(job) else _own_reason(job)


def waiting_for_each(jobs: Iterable[Job]) -> dict[str, Waiting]:
    """The same for the rows of a list, by job id: a few queries for all of them, and no places in the queue."""
    jobs = list(jobs)
    rooms = limits.Rooms() if any(_waits_for_pools(job) for job in jobs) else None
    return {
        job.pk: (_refusal(job, rooms) or _queued(job))
        if rooms is not None and _waits_for_pools(job)
        else _own_reason(job)
        for job in jobs
    }


def place_in_queue(job: Job) -> str:
    """A pending job's place among those of its class, whatever else it waits for; as `Waiting.position`.

    Costs a few queries; "" for one that is in no queue.
    """
    return _place_in_queue(job).position if _waits_for_pools(job) else ""


def oldest_in_status() -> dict[str, datetime]:
    """For each live status that some job has: since when the one that is longest in it is there.

    Costs the jobs at work, and two looks into indexes for those that are pending, however many there are.
    """
    at_work = Job.objects.filter(status__in=sorted(LIVE - {JobStatus.PENDING})).order_by()
    by_status = at_work.values_list("status").annotate(since=Min(IN_STATUS_SINCE))
    found = {status: since for status, since in by_status if since is not None}  # a row made by hand may lack its time
    pending = Job.objects.filter(status=JobStatus.PENDING)
    first = pending.filter(pending_at__isnull=True).order_by("accepted_at").values_list("accepted_at", flat=True)[:1]
    back = pending.filter(pending_at__isnull=False).order_by("pending_at").values_list("pending_at", flat=True)[:1]
    if waits := [since for since in (*first, *back) if since is not None]:
        found[JobStatus.PENDING.value] = min(waits)
    return found


def _waits_for_pools(job: Job) -> bool:
    return job.status == JobStatus.PENDING and job.cancel_requested_at is None and not job.hold


def _queued(job: Job) -> Waiting:
    return Waiting("queued", f"Queued for {_resources(job)}.")


def _own_reason(job: Job) -> Waiting:
    """What the job's own rows tell."""
    if job.is_terminal:
        return Waiting("", "")
    if job.cancel_requested_at is not None or job.status == JobStatus.CANCELLING:
        return Waiting("cancelling", _cancelling(job))
    if job.status == JobStatus.PENDING:
        return Waiting("job_held", "Held by an operator." + _because(job.hold_reason))
    provision = job.provision
    if provision and provision.status in PROVISION_LIVE and provision.release_requested_at is not None:
        who = provision.release_requested_by or "the planner"
        sentence = f"The resource at pool {provision.pool} is being taken away by {who}; the job is then queued again."
        return Waiting("resource_released", sentence)
    if job.status == JobStatus.PROVISIONING:
        return Waiting("provisioning", _provisioning(job))
    if job.status == JobStatus.SUBMITTING:
        return Waiting("submitting", _submitting(job))
    if provision and provision.status == ProvisionStatus.LOST:
        sentence = f"The resource at pool {provision.pool} is lost: batch {job.batch_id} is being stopped, then the "
        return Waiting("resource_lost", f"{sentence}job is queued again.{_trouble(job.last_error, _next_look(job))}")
    return Waiting("running", _running(job))


def _refusal(job: Job, rooms: limits.Rooms) -> Waiting | None:
    """Why the job could not be admitted now even if it were the first of all; None if it could."""
    return _hold(job, rooms) or _owner_refusal(job, rooms) or _pools_refusal(job, rooms)


def _hold(job: Job, rooms: limits.Rooms) -> Waiting | None:
    if rooms.queue.hold:
        return Waiting("queue_held", "The queue is held by an operator." + _because(rooms.queue.hold_reason))
    quota = rooms.hold_on(job.owner_id)
    if quota is not None:
        return Waiting("owner_held", f"All jobs of {job.created_by} are held." + _because(quota.hold_reason))
    return None


def _owner_refusal(job: Job, rooms: limits.Rooms) -> Waiting | None:
    room, size = rooms.of_owner(job.owner_id), limits.accelerators_of(job)
    if not room.could_ever_fit(size):
        sentence = f"It needs {size} accelerators, more than its owner may ever have (limits: {room.limits})."
        return Waiting("too_large", sentence)
    if not room.fits(size):
        sentence = f"Its owner has as much as allowed (limits: {room.limits}): it waits for another job's end."
        return Waiting("owner_limit", sentence)
    return None


def _pools_refusal(job: Job, rooms: limits.Rooms) -> Waiting | None:
    wanted, size, now = wanted_by(job), limits.accelerators_of(job), timezone.now()
    fitting = [pool for pool in rooms.pools if wanted.suits(pool.pool)]
    held = tuple(_held(pool.pool) for pool in rooms.held_pools if wanted.suits(pool.pool))
    if not fitting:
        return _no_pool(job, wanted, held)
    answers = [answer for pool in fitting if (answer := _pool_answer(pool, job.accelerator_type, size, now))]
    if len(answers) < len(fitting):
        return None
    codes, told = {answer.code for answer in answers}, (*answers, *held)
    if codes == {"too_large"}:
        most = max(pool.room.most_accelerators for pool in fitting)
        sentence = f"It needs {size} accelerators, and no pool that offers {_resources(job)} takes more than {most:g}."
        return Waiting("too_large", sentence, pools=told)
    code = "pools_full" if "full" in codes else "out_of_capacity"
    named = _named(answer.sentence for answer in told)
    return Waiting(code, f"Waiting for {_resources(job)}: {named}.", pools=told)


def _no_pool(job: Job, wanted: Wanted, held: tuple[PoolAnswer, ...]) -> Waiting:
    those = f"pool it accepts ({wanted})" if str(wanted) else "pool"
    if not held:
        return Waiting("no_pool", f"No {those} offers {_resources(job)}.")
    named = _named(answer.sentence.replace(" is held", "", 1) for answer in held)
    return Waiting("pools_held", f"Every {those} that offers {_resources(job)} is held: {named}.", pools=held)


def _held(pool: Pool) -> PoolAnswer:
    return PoolAnswer(pool.name, "held", f"pool {pool} is held{_because(pool.disabled_reason, ' (', ')')}")


# What a pool said, by the code that is kept of it.
_SAID = {"quota": "is at its quota", "ready_timeout": "got nothing ready in time"}


def _pool_answer(pool: limits.PoolRoom, kind: str, size: int, now: datetime) -> PoolAnswer | None:
    """Why the pool takes no job of this type and size now; None if it does."""
    name = pool.pool.name
    if not pool.room.could_ever_fit(size):
        sentence = f"pool {name} takes no job of {size} accelerators (limits: {pool.room.limits})"
        return PoolAnswer(name, "too_large", sentence)
    if not pool.room.fits(size):
        return PoolAnswer(name, "full", f"pool {name} is full (limits: {pool.room.limits})")
    if pool.offers(kind, now):
        return None
    told = pool.pool.capacity_retry_at[kind]
    retry_at = datetime.fromtimestamp(float(told["at"]), UTC)
    code = str(told.get("code") or "capacity")
    sentence = f"pool {name} {_SAID.get(code, 'has none left')}, asked again at {_clock(retry_at)}"
    return PoolAnswer(name, code, sentence, retry_at)


def _named(those: Iterable[str]) -> str:
    names = list(those)
    return "; ".join(names[:_NAMED_POOLS]) + ("; ..." if len(names) > _NAMED_POOLS else "")


def _because(reason: str, before: str = " ", after: str = "") -> str:
    return f"{before}{reason}{after}" if reason else ""


def _place_in_queue(job: Job) -> Waiting:
    ahead = queueing.policy().ahead(job, _COUNTED_AHEAD)
    if not ahead:
        return Waiting("next", "There is room: the workers take it next.", "1")
    is_counted = ahead < _COUNTED_AHEAD
    count = str(ahead) if is_counted else f"{_COUNTED_AHEAD:,} or more"
    sentence = f"Queued behind {count} other job{'' if ahead == 1 else 's'} for {_resources(job)}."
    return Waiting("queued", sentence, str(ahead + 1) if is_counted else f"more than {_COUNTED_AHEAD:,}")


def _with_timeout(job: Job, waiting: Waiting) -> Waiting:
    if job.queue_timeout_seconds is None or job.deadline_at is not None:
        return waiting
    at = _clock(job.accepted_at + timedelta(seconds=job.queue_timeout_seconds))
    return replace(waiting, sentence=f"{waiting.sentence} It expires in the queue at {at}.")


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
