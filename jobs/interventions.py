"""What operators do out of turn: have something looked at again, and give a resource up. `planner` offers it."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from jobs import wakeup
from jobs.access_rules import actor_name, get_job, get_provision
from jobs.errors import Conflict, InvalidRequest, NotFound
from jobs.holds import checked_reason, record, require
from jobs.lifecycle.write_offs import write_off as give_up
from jobs.models import Job, JobEvent, Pool, Provision
from jobs.statuses import LIVE, ProvisionStatus
from jobs.validation import is_storable

REFRESH_JOB = "jobs.refresh_job"
REFRESH_POOL = "jobs.refresh_pool"
WRITE_OFF_PROVISION = "jobs.write_off_provision"


def refresh_job(user: User, job_id: str, *, reason: str = "") -> Job:
    """Have a job looked at again at once, its back-off forgotten; what is due already stays as it is.

    Raises `NotFound`, `Forbidden`, `Conflict` (over).
    """
    message = checked_reason(reason)
    with transaction.atomic():
        job = get_job(user, job_id)
        require(user, REFRESH_JOB)
        later = Job.objects.filter(pk=job.pk, status__in=sorted(LIVE)).exclude(due_at__lte=Now())
        is_changed = later.update(due_at=Now(), retry_at=None, event_count=F("event_count") + 1)
        job = get_job(user, job_id)
        if is_changed:
            job.provisions.filter(status=ProvisionStatus.REQUESTED).update(retry_at=None)
            source = JobEvent.Source.OPERATOR
            record(job, job.event_count, "refresh_requested", user, source=source, message=message)
            wakeup.send_hint()
        elif job.is_terminal:
            raise Conflict(f"job is already {job.shown_status}")
        return job


def refresh_pool(user: User, name: str) -> Pool:
    """Have the provider asked at once what is there; nothing changes where nothing is held, or while it is asked.

    Raises `NotFound`, `Forbidden`.
    """
    with transaction.atomic():
        require(user, REFRESH_POOL)
        pool = Pool.objects.filter(name=name).first() if is_storable(name) else None
        if pool is None:
            raise NotFound(f'pool "{name}" not found')
        if Pool.objects.filter(pk=pool.pk, observe_at__gt=Now()).update(observe_at=Now()):
            wakeup.send_hint()
            pool.refresh_from_db()
        return pool


def write_off(user: User, provision_id: str, *, reason: str) -> Provision:
    """Give up a resource whose release does not come to an end, without proof that it is gone. For good.

    It no longer counts against its pool, and nobody deletes it any more but the orphan sweep, should it be listed.
    Raises `InvalidRequest` (no reason), `NotFound`, `Forbidden`, `Conflict` (not being released).
    """
    message = checked_reason(reason)
    if not message:
        raise InvalidRequest("reason", "is needed: this is on somebody's word")
    with transaction.atomic():
        provision = get_provision(user, provision_id)
        require(user, WRITE_OFF_PROVISION)
        # Job first, then provision: the engine's order.
        job = Job.objects.select_for_update(no_key=True).annotate(now=Now()).get(pk=provision.job_id)
        provision = Provision.objects.select_for_update(no_key=True).get(pk=provision.pk)
        if provision.status != ProvisionStatus.RELEASING:
            raise Conflict(f"provision is {ProvisionStatus(provision.status).label.lower()}, not being released")
        give_up(job, provision, actor_name(user), message, job.now)
        wakeup.send_hint()
        return get_provision(user, provision_id)
