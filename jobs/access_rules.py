"""Who may see what and act on what, so that every front door hides and refuses the same things.

What somebody may not see does not exist for them: `NotFound`, never `Forbidden`.
"""

from __future__ import annotations

import uuid

from django.contrib.auth.models import User
from django.db.models import QuerySet

from jobs.errors import NotFound
from jobs.models import Job, Provision
from jobs.validation import is_storable

VIEW_ALL_JOBS = "jobs.view_all_jobs"
SUBMIT_JOB = "jobs.submit_job"
CANCEL_ANY_JOB = "jobs.cancel_any_job"
RETRY_ANY_JOB = "jobs.retry_any_job"
RELEASE_PROVISION = "jobs.release_provision"


def actor_name(user: User) -> str:
    """What a user is called in rows and events: e-mail, or else user name. Owners are told apart by it on the wire."""
    return user.email or user.username


def visible_jobs(user: User) -> QuerySet[Job]:
    """The jobs this user may see, with pool and provision: submitters their own, viewers and operators all."""
    jobs = Job.objects.select_related("pool", "provision__pool")
    return jobs if user.has_perm(VIEW_ALL_JOBS) else jobs.filter(owner=user)


def get_job(user: User, job_id: str) -> Job:
    """One job this user may see; `NotFound` otherwise."""
    job = visible_jobs(user).filter(pk=job_id).first() if is_storable(job_id) else None
    if job is None:
        raise NotFound(f'job "{job_id}" not found')
    return job


def can_cancel(user: User, job: Job) -> bool:
    """Whether this user may cancel this job (its state aside)."""
    return job.owner_id == user.pk or user.has_perm(CANCEL_ANY_JOB)


def visible_provisions(user: User) -> QuerySet[Provision]:
    """The provisions of the jobs this user may see, with pool and job."""
    provisions = Provision.objects.select_related("pool", "job")
    return provisions if user.has_perm(VIEW_ALL_JOBS) else provisions.filter(job__owner=user)


def get_provision(user: User, provision_id: str) -> Provision:
    """One provision of a job this user may see; `NotFound` otherwise."""
    try:
        key = uuid.UUID(str(provision_id))
        return visible_provisions(user).get(pk=key)
    except (ValueError, Provision.DoesNotExist):
        raise NotFound(f'provision "{provision_id}" not found') from None


def may_use_any_file(user: User) -> bool:
    """Whether other people's files are this user's too: operators, who answer for everybody's jobs."""
    return user.has_perm(CANCEL_ANY_JOB)
