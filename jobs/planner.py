"""The only way to change intent: enqueue, cancel, release, hold, prioritise. The same rules for everybody.

Each call is one transaction and makes no outside call. Reads of what a user may see are offered here too, so that
every front door hides the same things.
"""

from __future__ import annotations

import hashlib
import json

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from jobs import catalogue, queueing, wakeup
from jobs.accepting import accept
from jobs.access_rules import (
    RELEASE_PROVISION,
    RETRY_ANY_JOB,
    SUBMIT_JOB,
    actor_name,
    can_cancel,
    get_job,
    get_provision,
    may_use_any_file,
    visible_jobs,
    visible_provisions,
)
from jobs.catalogue_changes import (
    change_model,
    change_template,
    create_model,
    create_template,
    delete_model,
    delete_template,
)
from jobs.errors import Conflict, Forbidden, InvalidRequest, NotFound, QueueFull
from jobs.holds import (
    PRIORITISE_JOB,
    checked_reason,
    hold_job,
    hold_owner,
    hold_pool,
    hold_queue,
    mark_hold,
    prioritise,
    record,
    resume_job,
    resume_owner,
    resume_pool,
    resume_queue,
    standing_holds,
)
from jobs.interventions import refresh_job, refresh_pool, write_off
from jobs.limits import the_queue
from jobs.listing import JobFilter, begins_with, find_jobs, job_filter
from jobs.models import InputFile, Job, JobEvent, Pool, Provision
from jobs.placement import Wanted, queue_class
from jobs.statuses import LIVE, PROVISION_ENDED, ProvisionStatus
from jobs.validation import CheckedRequest, JobRequest, check, check_text
from jobs.waiting import (
    PoolAnswer,
    Waiting,
    oldest_in_status,
    place_in_queue,
    waiting_at_first,
    waiting_for,
    waiting_for_each,
)

__all__ = [
    "JobFilter",
    "JobRequest",
    "PoolAnswer",
    "Waiting",
    "announce_change",
    "begins_with",
    "can_cancel",
    "cancel",
    "change_model",
    "change_template",
    "create_model",
    "create_template",
    "delete_model",
    "delete_template",
    "enqueue",
    "find_jobs",
    "get_job",
    "get_provision",
    "hold_admission",
    "hold_job",
    "hold_owner",
    "hold_pool",
    "hold_queue",
    "job_filter",
    "lock_timeline",
    "mark_hold",
    "oldest_in_status",
    "place_in_queue",
    "prioritise",
    "refresh_job",
    "refresh_pool",
    "release",
    "resume_job",
    "resume_owner",
    "resume_pool",
    "resume_queue",
    "retry",
    "standing_holds",
    "the_queue",
    "visible_jobs",
    "visible_provisions",
    "waiting_at_first",
    "waiting_for",
    "waiting_for_each",
    "write_off",
]

FULL_QUEUE_RETRY_SECONDS = 30

# What a job that is made of another one takes over: the request as it was frozen, and whose it is.
_REQUEST = (
    "owner_id",
    "created_by",
    "name",
    "endpoint",
    "input_file_id",
    "completion_window",
    "completion_window_seconds",
    "metadata",
    "model_id",
    "model",
    "template_name",
    "template_version",
    "template_spec",
    "client",
    "replicas",
    "accelerator_type",
    "accelerator_count",
    "provider_config",
    "accepts",
    "queue_timeout_seconds",
    "queue_class",
)

# What a job needs to know of its file.
_FILE_COLUMNS = ("owner_id", "endpoint", "request_count", "deletion_requested_at")
_LOCK_FILE = f"SELECT {', '.join(_FILE_COLUMNS)} FROM jobs_inputfile WHERE id = %s FOR KEY SHARE"  # noqa: S608 - constants


def enqueue(user: User, request: JobRequest, *, idempotency_key: str = "") -> Job:
    """Check, freeze and commit one job. After it returns the job cannot be lost (G1).

    The same key with the same content answers the same job. Raises `InvalidRequest`, `Forbidden` (no permission to
    submit, or to set a priority), `Conflict` (key re-used with other content), `QueueFull`; each stores nothing.
    """
    if not user.has_perm(SUBMIT_JOB):
        raise Forbidden("you may not submit jobs")
    key = check_text("idempotency_key", idempotency_key, 255) or None
    checked = check(request)
    if checked.priority and not user.has_perm(PRIORITISE_JOB):
        raise Forbidden("only operators can set a priority")
    digest = _digest(request)
    with transaction.atomic():
        # Before what depends on rows: a repeat is answered even if its template has been retired since.
        if repeat := _repeated(user, key, digest):
            return repeat
        job = _frozen(user, checked)
        job.idempotency_key, job.request_digest = key, digest
        if queueing.queue_is_full():
            # It may have waited for its turn, and the twin of this request may have come first.
            if repeat := _repeated(user, key, digest):
                return repeat
            raise QueueFull("the queue is full", retry_after_seconds=FULL_QUEUE_RETRY_SECONDS)
        if accept(job, user, priority=checked.priority):
            return job
        if repeat := _repeated(user, key, digest):
            return repeat
        raise Conflict("a job with this idempotency key has just come and gone")


def retry(user: User, job_id: str, *, reason: str = "") -> Job:
    """Make a new job of one that has ended: the same owner, the same frozen request, linked to it.

    Raises `NotFound`, `Forbidden`, `InvalidRequest` (its input file is gone), `Conflict` (it is not over, or the last
    retry of it is not), `QueueFull`; each stores nothing.
    """
    message = checked_reason(reason)
    with transaction.atomic():
        old = get_job(user, job_id)
        if not user.has_perm(SUBMIT_JOB if old.owner_id == user.pk else RETRY_ANY_JOB):
            raise Forbidden("only the job owner or an operator can retry this job")
        # Locked, so that of two who press at once the second sees the first one's job.
        old = _locked(old.pk)
        if not old.is_terminal:
            raise Conflict(f"job is still {old.shown_status}")
        if other := Job.objects.filter(retry_of=old.pk, status__in=sorted(LIVE)).first():
            raise Conflict(f"job is being retried already, as {other.pk}")
        input_file = _input_file(user, old.input_file_id)
        if queueing.queue_is_full():
            raise QueueFull("the queue is full", retry_after_seconds=FULL_QUEUE_RETRY_SECONDS)
        job = Job(
            retry_of=old.pk, request_total=input_file.request_count, **{name: getattr(old, name) for name in _REQUEST}
        )
        priority = old.priority if user.has_perm(PRIORITISE_JOB) else 0
        accept(job, user, priority=priority, data={"retry_of": old.pk})
        Job.objects.filter(pk=old.pk).update(event_count=F("event_count") + 1)
        source = JobEvent.Source.PLANNER if old.owner_id == user.pk else JobEvent.Source.OPERATOR
        told = {"message": message, "data": {"retried_as": job.pk}}
        record(old, old.event_count + 1, "retried", user, source=source, **told)
        return get_job(user, job.pk)


def _locked(job_id: str) -> Job:
    """The job, which nobody changes before the caller's transaction ends; `NotFound` if a cleanup was just faster."""
    job = Job.objects.select_for_update(no_key=True).filter(pk=job_id).first()
    if job is None:
        raise NotFound(f'job "{job_id}" not found')
    return job


def cancel(user: User, job_id: str, *, reason: str = "") -> Job:
    """Record the wish to cancel; repeated calls change nothing. Raises `NotFound`, `Forbidden`, `Conflict` (over)."""
    message = checked_reason(reason)
    with transaction.atomic():
        job = get_job(user, job_id)
        if not can_cancel(user, job):
            raise Forbidden("only the job owner or an operator can cancel this job")
        is_changed = Job.objects.filter(pk=job.pk, status__in=sorted(LIVE), cancel_requested_at__isnull=True).update(
            cancel_requested_at=Now(),
            cancel_requested_by=actor_name(user),
            due_at=Now(),
            event_count=F("event_count") + 1,
        )
        job = get_job(user, job_id)
        if is_changed:
            source = JobEvent.Source.PLANNER if job.owner_id == user.pk else JobEvent.Source.OPERATOR
            record(job, job.event_count, "cancel_requested", user, source=source, message=message)
            wakeup.send_hint()
        elif job.is_terminal:
            raise Conflict(f"job is already {job.shown_status}")
        return job


def release(user: User, provision_id: str, *, reason: str = "") -> Provision:
    """Ask for a provision's release; a live job loses its resource and is provisioned again.

    A release that is backing off is tried again at once; otherwise repeated calls change nothing. Raises `NotFound`,
    `Forbidden`, `Conflict` (released or written off already).
    """
    message = checked_reason(reason)
    with transaction.atomic():
        provision = get_provision(user, provision_id)
        if not user.has_perm(RELEASE_PROVISION):
            raise Forbidden("you may not release provisions")
        # Job first, then provision: the engine's order. With both locked, what is read below stays true.
        job = _locked(provision.job_id)
        provision = Provision.objects.select_for_update(no_key=True).get(pk=provision.pk)
        if provision.status in PROVISION_ENDED:
            raise Conflict(f"provision is already {ProvisionStatus(provision.status).label.lower()}")
        row = Provision.objects.filter(pk=provision.pk)
        if provision.status == ProvisionStatus.RELEASING:
            is_changed = row.exclude(due_at__lte=Now()).update(due_at=Now(), retry_count=0, retry_at=None) > 0
        else:
            is_changed = provision.release_requested_at is None
        if provision.release_requested_at is None:
            row.update(release_requested_at=Now(), release_requested_by=actor_name(user))
        if is_changed:
            job_row = Job.objects.filter(pk=job.pk)
            job_row.update(event_count=F("event_count") + 1)
            if provision.status != ProvisionStatus.RELEASING:
                job_row.filter(status__in=sorted(LIVE)).update(due_at=Now())
            record(
                job,
                job.event_count + 1,
                "release_requested",
                user,
                source=JobEvent.Source.OPERATOR,
                message=message,
                data={"provision_id": str(provision.pk)},
            )
            wakeup.send_hint()
        return get_provision(user, provision_id)


def _frozen(user: User, request: CheckedRequest) -> Job:
    """The job to store, with everything it refers to copied into it (G9)."""
    input_file = _input_file(user, request.input_file_id)
    if input_file.endpoint not in ("", request.endpoint):
        raise InvalidRequest("endpoint", f'the requests of file "{input_file.pk}" are for {input_file.endpoint}')
    deployment = catalogue.resolve(request.model_id, request.template_name, request.template_version)
    supported = deployment.spec.get("supportedEndpoints")
    if isinstance(supported, list) and supported and request.endpoint not in supported:
        raise InvalidRequest(
            "endpoint", f'template "{deployment.template_name}" supports only {", ".join(map(str, supported))}'
        )
    wanted = Wanted.of(deployment.accelerator_type, request.accepts)
    _check_accepted(wanted)
    return Job(
        owner=user,
        created_by=actor_name(user),
        name=request.name,
        endpoint=request.endpoint,
        input_file_id=request.input_file_id,
        completion_window=request.completion_window,
        completion_window_seconds=request.completion_window_seconds,
        metadata=request.metadata,
        model_id=deployment.model_id,
        model=deployment.serving_name,
        template_name=deployment.template_name,
        template_version=deployment.template_version,
        template_spec=deployment.spec,
        client=request.client,
        replicas=request.replicas,
        accelerator_type=deployment.accelerator_type,
        accelerator_count=deployment.accelerator_count,
        provider_config=request.provider_config,
        request_total=input_file.request_count,
        queue_timeout_seconds=request.queue_timeout_seconds,
        accepts=request.accepts,
        queue_class=queue_class(deployment.accelerator_type, request.accepts),
    )


def _input_file(user: User, file_id: str) -> InputFile:
    """The file, which nobody can delete before the caller's transaction ends (as a foreign key would have it)."""
    with connection.cursor() as cursor:
        cursor.execute(_LOCK_FILE, [file_id])
        row = cursor.fetchone()
    found = None if row is None else InputFile(file_id, **dict(zip(_FILE_COLUMNS, row, strict=True)))
    if found is None or not (found.owner_id == user.pk or may_use_any_file(user)):
        raise InvalidRequest("input_dataset", f'unknown file "{file_id}"')
    if found.deletion_requested_at is not None:
        raise InvalidRequest("input_dataset", f'file "{file_id}" is being deleted')
    return found


def _check_accepted(wanted: Wanted) -> None:
    """What a job names must be there, or it would wait for ever; raises `InvalidRequest`."""
    if not str(wanted):
        return
    pools = Pool.objects.all()
    known = {
        "providers": (wanted.providers, {pool.provider for pool in pools}),
        "pools": (wanted.pools, {pool.name for pool in pools}),
        "regions": (wanted.regions, {pool.region for pool in pools}),
    }
    for kind, (named, there) in known.items():
        if unknown := [name for name in named if name not in there]:
            raise InvalidRequest(f"resource_request.{kind}", f'there is no pool of "{unknown[0]}"')
    if not any(wanted.accepts(pool) for pool in pools):
        raise InvalidRequest("resource_request", f"no pool is of all that it accepts ({wanted})")


def _digest(request: JobRequest) -> str:
    """What tells a repeat from a re-used key: the whole request as the caller gave it.

    Fields left at "not given" are left out, so that a later version with more of them knows old requests again.
    """
    given = {name: value for name, value in vars(request).items() if value}
    canonical = json.dumps(given, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _repeated(user: User, key: str | None, digest: str) -> Job | None:
    """The job this owner made with the key; `Conflict` if it was for something else, None without key or job."""
    made = (
        Job.objects.filter(owner=user, idempotency_key=key).values_list("pk", "request_digest").first() if key else None
    )
    if made is None:
        return None
    job_id, request_digest = made
    if request_digest != digest:
        raise Conflict("this idempotency key was used for another request")
    return get_job(user, job_id)


def lock_timeline(job_id: str) -> int:
    """How many events a job has; none is added by anybody else before the caller's transaction ends."""
    rows = Job.objects.select_for_update(no_key=True).filter(pk=job_id)
    return rows.values_list("event_count", flat=True).get()


def hold_admission() -> None:
    """No job is admitted before the caller's transaction ends: a pool that holds nothing stays so until then.

    As of `mark_hold`: a row the caller is to write is locked before.
    """
    queueing.lock_admission()


def announce_change() -> None:
    """Make the workers look again, in the caller's transaction: jobs may wait for what has just been changed."""
    wakeup.send_hint()
