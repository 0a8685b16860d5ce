"""The only way to change intent: enqueue, cancel, release. Whoever asks, the same rules and the same event.

Each call is one transaction and makes no outside call. Reads of what a user may see are here too, so that every
front door hides the same things.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.models import User
from django.db.models import QuerySet

from jobs.models import Job, Provision


@dataclass(frozen=True)
class JobRequest:
    """What a caller asks for, parsed but not yet checked: `enqueue` does that."""

    input_file_id: str
    endpoint: str
    completion_window: str = ""  # empty: 24h
    name: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    model_id: str = ""
    template_name: str = ""
    template_version: str = ""  # empty: the highest active one
    replicas: int = 0  # 0: 1
    provider_config: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    queue_timeout_seconds: int | None = None


def enqueue(user: User, request: JobRequest, *, idempotency_key: str = "") -> Job:
    """Check, freeze and commit one job. After it returns the job cannot be lost (G1).

    The same key with the same content answers the same job. Raises `InvalidRequest`, `Forbidden` (no permission to
    submit), `Conflict` (key re-used with other content), `QueueFull`; each stores nothing.
    """
    raise NotImplementedError


def cancel(user: User, job_id: str, *, reason: str = "") -> Job:
    """Record the wish to cancel; repeated calls change nothing. Raises `NotFound`, `Forbidden`, `Conflict` (over)."""
    raise NotImplementedError


def release(user: User, provision_id: str, *, reason: str = "") -> Provision:
    """Ask for a provision's release; a live job loses its resource and is provisioned again.

    Repeated calls change nothing. Raises `NotFound`, `Forbidden`, `Conflict` (released or written off already).
    """
    raise NotImplementedError


def visible_jobs(user: User) -> QuerySet[Job]:
    """The jobs this user may see: submitters their own, viewers and operators all."""
    raise NotImplementedError


def get_job(user: User, job_id: str) -> Job:
    """One job this user may see; `NotFound` otherwise."""
    raise NotImplementedError


def can_cancel(user: User, job: Job) -> bool:
    """Whether this user may cancel this job (its state aside)."""
    raise NotImplementedError


def visible_provisions(user: User) -> QuerySet[Provision]:
    """The provisions of the jobs this user may see."""
    raise NotImplementedError


def get_provision(user: User, provision_id: str) -> Provision:
    """One provision of a job this user may see; `NotFound` otherwise."""
    raise NotImplementedError


def waiting_reason(job: Job) -> str:
    """Why the job is where it is and what it waits for, in a sentence; computed on read, "" when terminal."""
    raise NotImplementedError
