"""Everything about one job at one moment: its rows, what the engine does next and why, what upstreams say now."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Any

from django.db import models

from jobs.errors import UpstreamError, UpstreamKind
from jobs.lifecycle.claims import database_now
from jobs.lifecycle.decisions import decide, decide_release
from jobs.lifecycle.scans import external_job_id
from jobs.lifecycle.steps import Call, Change, Step, Wait
from jobs.models import Job, JobEvent, Provision
from jobs.reconciler.calls import batch_client, provisioner_of
from jobs.redaction import without_secrets
from jobs.statuses import PROVISION_ENDED, ProvisionStatus
from jobs.waiting import waiting_for

Document = dict[str, Any]


def inspect(job_id: str, *, asks: bool = True) -> Document | None:
    """The whole, without secrets; None if there is no such job. Writes nothing.

    `mds` and `provisions[].provider` are what those answered just now, unless `asks` is false.
    """
    job = Job.objects.select_related("pool", "provision__pool").filter(pk=job_id).first()
    if job is None:
        return None
    now = database_now()
    provisions = list(job.provisions.select_related("pool").order_by("requested_at"))
    events = JobEvent.objects.filter(job=job).order_by("sequence")
    found = {
        "at": now,
        "job": _columns(job) | {"pool": job.pool and job.pool.name, "shown_status": job.shown_status},
        "next": _next(job, now),
        "provisions": [
            _columns(provision)
            | {"pool": provision.pool.name, "next": _next_of_release(provision, now)}
            | ({"provider": _asked_provider(provision)} if asks else {})
            for provision in provisions
        ],
        "events": [_columns(event) for event in events],
        **({"mds": _asked_mds(job)} if asks else {}),
    }
    return dict(without_secrets(found))


def _columns(row: models.Model) -> Document:
    return {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}


def _next(job: Job, now: datetime) -> Document:
    if job.is_terminal:
        return {"action": "none", "why": "The job is over."}
    step = decide(job, job.provision, now)
    return {**_told(step), **_in_hand(job, now), "why": waiting_for(job).sentence}


def _next_of_release(provision: Provision, now: datetime) -> Document | None:
    if provision.status != ProvisionStatus.RELEASING:
        return None
    return {**_told(decide_release(provision, now)), **_in_hand(provision, now), "why": provision.last_error}


def _in_hand(unit: Job | Provision, now: datetime) -> Document:
    """A lease means that a worker is at it, or was when it died: it is claimed again at its end."""
    is_held = unit.lease_expires_at is not None and unit.lease_expires_at > now
    return {"in_hand_until": unit.lease_expires_at} if is_held else {"due_at": unit.due_at}


def _told(step: Step) -> Document:
    if isinstance(step, Call):
        return {"action": f"call {step.kind.value}"}
    if isinstance(step, Wait):
        return {"action": "wait", "until": step.until}
    return {"action": f"change to {_target(step)}", "reasons": [event.reason for event in step.events]}


def _target(change: Change) -> str:
    moves = [str(columns["status"]) for columns in (change.job, change.provision) if "status" in columns]
    return " with its resource ".join(moves) or "the same status"


def _asked_mds(job: Job) -> Document:
    if not job.batch_id:
        is_sent = job.submit_started_at is not None
        return {"batch": None} | ({"may_be_there_as": external_job_id(job)} if is_sent else {})
    try:
        return {"batch": batch_client().get(job.batch_id).raw}
    except UpstreamError as error:
        return {"batch": None} if error.kind == UpstreamKind.NOT_FOUND else _failed(error)


def _asked_provider(provision: Provision) -> Document:
    if provision.status in PROVISION_ENDED and provision.written_off_at is None:
        return {"resource": None}  # two listings have missed it
    try:
        provisioner = provisioner_of(provision.pool)
        if not provisioner.holds_resources:
            return {"resource": None}
        resource = provisioner.observe([provision.name]).get(provision.name)
    except UpstreamError as error:
        return _failed(error)
    return {"resource": None if resource is None else dataclasses.asdict(resource)}


def _failed(error: UpstreamError) -> Document:
    return {"error": str(error), "kind": error.kind.value, "code": error.code}
