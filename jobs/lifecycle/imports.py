"""Importing: jobs for batches that are at the MDS and not here, made by another client or before this planner was.

What the batch tells of itself is written as if the planner had followed it: status, times and timeline. One that still
runs is followed from then on, without a provision; it is stopped only if somebody asks for that, and never run again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from jobs.batch_client import Batch
from jobs.errors import InvalidRequest
from jobs.lifecycle.changes import move_job
from jobs.lifecycle.claims import REFUSED, database_now
from jobs.lifecycle.outcomes import apply_batch
from jobs.lifecycle.scans import parse_job_id
from jobs.lifecycle.steps import Event
from jobs.lifecycle.writing import Row
from jobs.models import Job, JobEvent
from jobs.placement import queue_class
from jobs.statuses import RUNNING_ORDER, JobStatus
from jobs.validation import check_window

logger = logging.getLogger(__name__)

MDS = JobEvent.Source.MDS
_NAME_KEYS = ("aibrix.console.display_name", "display_name", "name")  # of a batch's metadata
_A_PLANNERS = re.compile(r"[A-Za-z0-9._-]{1,64}:job_[0-9a-f-]{36}:\d{1,9}")
_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Found:
    """A batch to be imported, and whose job it becomes."""

    batch: Batch
    owner_id: int
    created_by: str


@dataclass
class Imported:
    """What became of one page: the batches whose jobs were written, and those that cannot be, with the reason."""

    batch_ids: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


def is_ours(batch: Batch) -> bool:
    """Whether it bears this installation's mark: its job is here, or is an affair of the orphan sweep."""
    return parse_job_id(batch.job_id) is not None


def is_another_planners(batch: Batch) -> bool:
    """Whether another installation follows it."""
    return not is_ours(batch) and _A_PLANNERS.fullmatch(batch.job_id) is not None


def already_here(batch_ids: Iterable[str]) -> set[str]:
    """Those of these batches that were imported before."""
    found = Job.objects.filter(batch_id__in=list(batch_ids), imported_at__isnull=False)
    return set(found.values_list("batch_id", flat=True))


def import_batches(found: Sequence[Found]) -> Imported:
    """Write a job with its timeline for each that is not here by now, in one transaction.

    What the database refuses is left out, alone, and told of.
    """
    try:
        with transaction.atomic():
            return _written(found)
    except REFUSED as error:
        if len(found) == 1:
            return Imported(refused={found[0].batch.id: str(error).strip().partition("\n")[0]})
        logger.warning("a page of batches was refused; they are now imported one by one")
    result = Imported()
    for one in found:
        alone = import_batches([one])
        result.batch_ids |= alone.batch_ids
        result.refused |= alone.refused
    return result


def _written(found: Sequence[Found]) -> Imported:
    now = database_now()
    rows = [_row(one, now) for one in found]
    # the unique batch id settles who is first; the others' jobs, which have ids of their own, are then not there
    Job.objects.bulk_create([row.job for row in rows], ignore_conflicts=True)
    here = set(Job.objects.filter(id__in=[row.job.id for row in rows]).values_list("id", flat=True))
    JobEvent.objects.bulk_create([event for row in rows if row.job.id in here for event in row.events])
    return Imported({row.job.batch_id for row in rows if row.job.id in here})


def _row(one: Found, now: datetime) -> Row:
    """The job as the batch's own times tell of it, in order, whatever the MDS's clock did."""
    batch = one.batch
    at = batch.created_at or now
    job = _job(one, at, now)
    row = Row(job, None)
    row.events.append(
        JobEvent(
            job_id=job.id,
            sequence=1,
            at=at,
            to_status=job.status,
            reason="imported",
            message=f"Batch {batch.id} was found at the metadata service.",
            source=MDS,
            data={"batch_id": batch.id},
        )
    )
    for status, reached_at in _reached(batch):
        at = max(at, reached_at)
        row.apply(move_job(status, at, Event(status.value, source=MDS)), at)
    ended_at = _time(batch, f"{batch.status}_at")
    at = max(at, ended_at or now)
    row.apply(apply_batch(job, None, batch, at), at)
    job.batch_seen_at = now
    return row


def _reached(batch: Batch) -> Iterator[tuple[JobStatus, datetime]]:
    for status in RUNNING_ORDER[1:]:
        reached_at = _time(batch, f"{status.value}_at")
        if reached_at is not None:
            yield status, reached_at


def _job(one: Found, created_at: datetime, now: datetime) -> Job:
    batch, raw = one.batch, one.batch.raw
    metadata = _object(raw.get("metadata"))
    aibrix = _object(raw.get("aibrix"))
    template = _object(aibrix.get("model_template"))
    details = _object(aibrix.get("resource_allocation")).get("resource_details")
    detail = _object(details[0]) if isinstance(details, list) and details else {}
    window, window_seconds = _window(batch, created_at)
    accelerator_type = _text(detail.get("gpu_type"))
    return Job(
        owner_id=one.owner_id,
        created_by=one.created_by,
        name=next((name for key in _NAME_KEYS if (name := _text(metadata.get(key)))), ""),
        endpoint=_text(raw.get("endpoint")),
        input_file_id=_text(raw.get("input_file_id")),
        completion_window=window,
        completion_window_seconds=window_seconds,
        metadata=metadata,
        model=_text(raw.get("model")),
        template_name=_text(template.get("name")),
        template_version=_text(template.get("version")),
        template_spec=_object(template.get("spec")),
        client=_object(aibrix.get("client")),
        replicas=detail["replica"] if isinstance(detail.get("replica"), int) else 1,
        accelerator_type=accelerator_type,
        queue_class=queue_class(accelerator_type),
        status=JobStatus.SCHEDULING,
        batch_id=batch.id,
        accepted_at=created_at,
        ranked_at=created_at,
        submitting_at=created_at,
        scheduling_at=created_at,
        imported_at=now,
        due_at=now,
        event_count=1,
    )


def _window(batch: Batch, created_at: datetime) -> tuple[str, int]:
    """As the MDS tells it; if that cannot be read, the time up to the deadline."""
    try:
        return check_window(_text(batch.raw.get("completion_window")))
    except InvalidRequest:
        left = (batch.expires_at - created_at).total_seconds() if batch.expires_at else _DAY_SECONDS
        return "", max(0, round(left))


def _time(batch: Batch, member: str) -> datetime | None:
    seconds = batch.raw.get(member)
    try:
        return datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, int) and seconds > 0 else None
    except (ValueError, OverflowError, OSError):
        return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
