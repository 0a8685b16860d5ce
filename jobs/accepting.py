"""A new job is stored by one statement, with the first line of its timeline.

Django would put both rows' statements together anew for each job, at the price of everything else that accepting costs.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, models

from jobs import queueing, request_ids, wakeup
from jobs.access_rules import actor_name
from jobs.holds import log_change
from jobs.models import Job, JobEvent
from jobs.statuses import JobStatus


def accept(job: Job, user: User, *, priority: int, data: dict[str, Any] | None = None) -> bool:
    """Store the job at its place in the queue, with its first event and a hint, in the caller's transaction.

    False if its owner has a job with this idempotency key already: nothing is stored then. Afterwards the object reads
    as it is stored, and brings its one event along.
    """
    job.priority, job.event_count, job.request_id = priority, 1, request_ids.current()
    timeout = job.queue_timeout_seconds
    event = JobEvent(
        job=job, sequence=1, reason="accepted", to_status=JobStatus.PENDING, actor=actor_name(user), data=data or {}
    )
    values: dict[str, Any] = {
        "job": _document(job, _JOB_COLUMNS),
        "event": _document(event, _EVENT_COLUMNS),
        "head_start": queueing.priority_span(priority),
        "timeout": None if timeout is None else timedelta(seconds=timeout),
    }
    with connection.cursor() as cursor:
        cursor.execute(_STORE, values)
        row = cursor.fetchone()
    if row is None:
        return False
    for name, value in zip(_RECKONED, row, strict=True):
        setattr(job, name, value)
    event.at = job.accepted_at
    job._state.adding, job._state.db = False, connection.alias
    events = job.events.all()
    events._result_cache = [event]
    job._prefetched_objects_cache = {"events": events}  # type: ignore[attr-defined]  # where Django keeps what is fetched
    wakeup.send_hint()
    log_change(event)
    return True


def _document(row: models.Model, columns: list[str]) -> str:
    return json.dumps({name: getattr(row, name) for name in columns})


def _columns(model: type[models.Model], *others: str) -> list[str]:
    return [
        field.attname for field in model._meta.concrete_fields if not field.generated and field.attname not in others
    ]


_RECKONED = ("accepted_at", "ranked_at", "due_at", "bulkhead", "claimable_at")  # by the database, by its clock
_JOB_COLUMNS = _columns(Job, *_RECKONED)
_EVENT_COLUMNS = _columns(JobEvent, "id", "at")

_STORE = f"""
    WITH job AS (
        INSERT INTO jobs_job ({", ".join(_JOB_COLUMNS)}, accepted_at, ranked_at, due_at)
        SELECT {", ".join(_JOB_COLUMNS)}, clock.now, clock.now - %(head_start)s, clock.now + %(timeout)s::interval
        FROM jsonb_populate_record(NULL::jobs_job, %(job)s), statement_timestamp() AS clock(now)
        ON CONFLICT (owner_id, idempotency_key) DO NOTHING
        RETURNING {", ".join(_RECKONED)}
    ), event AS (
        INSERT INTO jobs_jobevent ({", ".join(_EVENT_COLUMNS)}, at)
        SELECT {", ".join(f"told.{name}" for name in _EVENT_COLUMNS)}, job.accepted_at
        FROM job, jsonb_populate_record(NULL::jobs_jobevent, %(event)s) AS told
    )
    SELECT * FROM job
"""  # noqa: S608 - only constants are put in
