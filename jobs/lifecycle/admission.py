"""Admitting: the one place where a provision row is born, in the transaction that moves its job."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db import transaction

from jobs.conf import times
from jobs.lifecycle.changes import move_job
from jobs.lifecycle.claims import REFUSED, Bulkhead, Taken, advance, set_aside
from jobs.lifecycle.steps import Event
from jobs.lifecycle.writing import Row, write
from jobs.models import Job, Pool, Provision
from jobs.statuses import JobStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pick:
    """One job, locked and admissible, and the pool it goes to."""

    job: Job
    pool: Pool
    holds_resources: bool
    hands_over: bool
    longest_ready_seconds: int  # over all pools it could have gone to: part of its deadline


def admit(picks: Sequence[Pick], slots: dict[Bulkhead, int], began: float, now: datetime) -> Taken:
    """Insert the provisions, move the jobs to `provisioning`, and go on to the create calls where there is room."""
    try:
        with transaction.atomic():
            return _admit(picks, dict(slots), began, now)
    except REFUSED:
        logger.exception("an admission was refused; its jobs are now admitted one by one")
    taken = Taken()
    for pick in picks:
        job = Job.objects.get(pk=pick.job.pk)
        try:
            with transaction.atomic():
                taken.add(_admit([replace(pick, job=job)], slots, began, now))
        except REFUSED:
            row = Row(Job.objects.get(pk=job.pk), None)
            set_aside(row, "admitting", now)
            write([row], now)
    return taken


def _admit(picks: Sequence[Pick], slots: dict[Bulkhead, int], began: float, now: datetime) -> Taken:
    rows = [_row(pick, now) for pick in picks]
    Provision.objects.bulk_create([row.provision for row in rows if row.provision is not None])
    taken = advance(rows, slots, began, now)
    # nothing was created yet for a job that had to step aside, so that nothing is left to release
    Provision.objects.filter(id__in=[row.provision.id for row in rows if row.provision and row.is_aside]).delete()
    return taken


def _row(pick: Pick, now: datetime) -> Row:
    job, pool = pick.job, pick.pool
    span = timedelta(seconds=pick.longest_ready_seconds + job.completion_window_seconds)
    deadline_at = job.deadline_at or now + span
    provision = _provision(pick, deadline_at, now)
    row = Row(job, provision)
    event = Event("admitted", f"To pool {pool.name}.", data={"pool": pool.name, "provision_id": str(provision.id)})
    columns = {"pool_id": pool.id, "provision_id": provision.id, "deadline_at": deadline_at}
    row.apply(move_job(JobStatus.PROVISIONING, now, event, **columns), now)
    row.control(version=job.version + 1)
    return row


def _provision(pick: Pick, deadline_at: datetime, now: datetime) -> Provision:
    job, pool = pick.job, pick.pool
    identity = uuid.uuid4()
    has_limit = pick.holds_resources and pool.max_lifetime_seconds is not None
    lifetime_ends_at = now + timedelta(seconds=pool.max_lifetime_seconds or 0) if has_limit else None
    return Provision(
        id=identity,
        job=job,
        pool=pool,
        attempt=job.attempt,
        name=f"abp-{identity.hex[:20]}",
        holds_resources=pick.holds_resources,
        hands_over=pick.hands_over,
        spec={
            "accelerator_type": job.accelerator_type,
            "accelerator_count": job.accelerator_count,
            "replicas": job.replicas,
            "options": job.provider_config,
        },
        requested_at=now,
        deadline_at=now + timedelta(seconds=pool.ready_timeout_seconds),
        lifetime_ends_at=lifetime_ends_at,
        # we take it back before the provider does
        expires_at=min(deadline_at, lifetime_ends_at or deadline_at) + timedelta(seconds=times().lease_margin),
    )
