"""What operators do to the queue: hold and resume a job, an owner, a pool or all of it, and change a priority.

A hold is about admission only: what is admitted already goes on. Each call is one transaction, and `planner` offers it.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from jobs import queueing, wakeup
from jobs.access_rules import VIEW_ALL_JOBS, actor_name, get_job
from jobs.conf import MAX_PRIORITY
from jobs.errors import Conflict, Forbidden, InvalidRequest, NotFound
from jobs.limits import the_queue
from jobs.models import Job, JobEvent, OwnerQuota, Pool, Queue
from jobs.statuses import LIVE, JobStatus
from jobs.validation import check_text, is_storable

logger = logging.getLogger(__name__)

HOLD_JOB = "jobs.hold_job"
PRIORITISE_JOB = "jobs.prioritise_job"
HOLD_OWNER = "jobs.hold_owner"
HOLD_POOL = "jobs.hold_pool"
HOLD_QUEUE = "jobs.hold_queue"
MAX_REASON_LENGTH = 1000

Held = TypeVar("Held", Queue, OwnerQuota, Pool)


def record(job: Job, sequence: int, reason: str, user: User, **fields: Any) -> None:
    """Write the event of a change of intent, with who asked for it."""
    log_change(JobEvent.objects.create(job=job, sequence=sequence, reason=reason, actor=actor_name(user), **fields))


def log_change(event: JobEvent) -> None:
    """Log the event of a change of intent, once it is committed."""
    words = {"job": event.job_id, "reason": event.reason}
    transaction.on_commit(lambda: logger.info("job %s: %s by %s", event.job_id, event.reason, event.actor, extra=words))


def checked_reason(reason: str) -> str:
    """What somebody gives as a reason; `InvalidRequest` if it cannot be stored."""
    return check_text("reason", reason, MAX_REASON_LENGTH)


def hold_job(user: User, job_id: str, *, reason: str = "") -> Job:
    """Keep one job from being admitted. Of a held one the newest reason stands; none given changes nothing.

    Raises `InvalidRequest`, `NotFound`, `Forbidden`, `Conflict` (over).
    """
    columns = {"hold": True, "hold_reason": checked_reason(reason)}
    is_told = Q(**columns) if reason else Q(hold=True)
    return _steer(user, job_id, HOLD_JOB, columns, is_told, "held", reason)


def resume_job(user: User, job_id: str, *, reason: str = "") -> Job:
    """End the hold of one job; it keeps its place. Raises like `hold_job`."""
    return _steer(user, job_id, HOLD_JOB, {"hold": False, "hold_reason": ""}, Q(hold=False), "resumed", reason)


def prioritise(user: User, job_id: str, priority: int, *, reason: str = "") -> Job:
    """Change the priority of a pending job, 0 to 100; it counts under the policy `priority`.

    Raises `InvalidRequest`, `NotFound`, `Forbidden`, `Conflict` (not pending any more).
    """
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= MAX_PRIORITY:
        raise InvalidRequest("priority", f"must be a whole number from 0 to {MAX_PRIORITY}")
    columns = {"priority": priority, "ranked_at": F("accepted_at") - queueing.priority_span(priority)}
    is_told = Q(priority=priority)
    return _steer(user, job_id, PRIORITISE_JOB, columns, is_told, "prioritised", reason, {"priority": priority})


def _steer(
    user: User,
    job_id: str,
    permission: str,
    columns: dict[str, Any],
    is_told: Q,
    event: str,
    reason: str,
    data: Any = None,
) -> Job:
    """Write the columns and the event, unless the row `is_told` already."""
    message = checked_reason(reason)
    with transaction.atomic():
        job = get_job(user, job_id)
        if not user.has_perm(permission):
            raise Forbidden("only operators can do this")
        allowed = [JobStatus.PENDING] if permission == PRIORITISE_JOB else sorted(LIVE)
        rows = Job.objects.filter(~is_told, pk=job.pk, status__in=allowed)
        is_changed = rows.update(**columns, event_count=F("event_count") + 1)
        job = get_job(user, job_id)
        if is_changed:
            source = JobEvent.Source.OPERATOR
            record(job, job.event_count, event, user, source=source, message=message, data=data or {})
            wakeup.send_hint()
        elif job.status not in allowed:
            raise Conflict(f"job is already {job.shown_status}")
        return job


def hold_owner(user: User, username: str, *, reason: str = "") -> OwnerQuota:
    """Keep all jobs of one owner from being admitted; reasons as of a job. Raises `NotFound`, `Forbidden`."""
    return _set_owner_hold(user, username, True, reason)


def resume_owner(user: User, username: str, *, reason: str = "") -> OwnerQuota:
    """End that hold. Raises `NotFound`, `Forbidden`."""
    return _set_owner_hold(user, username, False, reason)


def _set_owner_hold(user: User, username: str, hold: bool, reason: str) -> OwnerQuota:
    message = checked_reason(reason)
    require(user, HOLD_OWNER)
    owner = User.objects.filter(username=username).first() if is_storable(username) else None
    if owner is None:
        raise NotFound(f'owner "{username}" not found')
    with transaction.atomic():
        quota, _ = OwnerQuota.objects.select_for_update().get_or_create(owner=owner)
        return _set_hold(user, quota, hold, message)


def hold_queue(user: User, *, reason: str = "") -> Queue:
    """Drain: accept jobs and admit none, so that what runs comes to its end; reasons as of a job.

    Raises `Forbidden`.
    """
    return _set_queue_hold(user, True, reason)


def resume_queue(user: User, *, reason: str = "") -> Queue:
    """Admit again. Raises `Forbidden`."""
    return _set_queue_hold(user, False, reason)


def _set_queue_hold(user: User, hold: bool, reason: str) -> Queue:
    message = checked_reason(reason)
    require(user, HOLD_QUEUE)
    with transaction.atomic():
        queue, _ = Queue.objects.select_for_update().get_or_create(pk=1)
        return _set_hold(user, queue, hold, message)


def hold_pool(user: User, name: str, *, reason: str = "") -> Pool:
    """Admit no job to one pool; nothing else changes; reasons as of a job. Raises `NotFound`, `Forbidden`."""
    return _set_pool_hold(user, name, True, reason)


def resume_pool(user: User, name: str, *, reason: str = "") -> Pool:
    """Admit jobs to it again, and forget why it was held. Raises `NotFound`, `Forbidden`."""
    return _set_pool_hold(user, name, False, reason)


def _set_pool_hold(user: User, name: str, hold: bool, reason: str) -> Pool:
    message = checked_reason(reason)
    require(user, HOLD_POOL)
    with transaction.atomic():
        pools = Pool.objects.select_for_update(no_key=True)
        pool = pools.filter(name=name).first() if is_storable(name) else None
        if pool is None:
            raise NotFound(f'pool "{name}" not found')
        return _set_hold(user, pool, hold, message)


def _set_hold(user: User, row: Held, hold: bool, reason: str) -> Held:
    is_news = hold and reason not in ("", row.hold_reason)
    if row.hold != hold or is_news:
        row.save(update_fields=mark_hold(row, user, hold, reason))
        wakeup.send_hint()
    return row


def mark_hold(row: Queue | OwnerQuota | Pool, user: User, hold: bool, reason: str) -> tuple[str, ...]:
    """Write on the row, unsaved, that it is held, since when, by whom and why; or that it is not. The columns.

    An admission that does not know of it is over then: who is told of a hold sees all that it let through. The row is
    locked before: whoever locked the admission first would wait for a row whose holder waits for the admission.
    """
    queueing.lock_admission()
    told = reason if hold else ""
    row.held_by, row.held_at = (actor_name(user), timezone.now()) if hold else ("", None)
    if isinstance(row, Pool):
        row.is_enabled, row.disabled_reason = not hold, told
        return "is_enabled", "disabled_reason", "held_by", "held_at"
    row.hold, row.hold_reason = hold, told
    return "hold", "hold_reason", "held_by", "held_at"


def standing_holds(user: User) -> list[Queue | OwnerQuota | Pool]:
    """The holds on the queue, on pools and on owners; on other owners only for who may see everybody's jobs."""
    queue = the_queue()
    pools = Pool.objects.filter(is_enabled=False)
    owners = OwnerQuota.objects.filter(hold=True).select_related("owner").order_by("owner__username")
    if not user.has_perm(VIEW_ALL_JOBS):
        owners = owners.filter(owner=user)
    return [*([queue] if queue.hold else []), *pools, *owners]


def require(user: User, permission: str) -> None:
    """`Forbidden` without the permission."""
    if not user.has_perm(permission):
        raise Forbidden("only operators can do this")
