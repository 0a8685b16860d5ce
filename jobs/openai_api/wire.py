"""Rows as OpenAI's clients read them: snake_case, whole unix seconds or null, and OpenAI's eight statuses."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from jobs.api.pagination import Page
from jobs.api.wire import errors_of
from jobs.models import Job
from jobs.statuses import JobStatus

# OpenAI has one word for everything before the first request is answered.
STATUSES = {
    JobStatus.PENDING.value: "validating",
    JobStatus.PROVISIONING.value: "validating",
    JobStatus.SUBMITTING.value: "validating",
    JobStatus.SCHEDULING.value: "validating",
    JobStatus.VALIDATING.value: "validating",
    JobStatus.IN_PROGRESS.value: "in_progress",
    JobStatus.FINALIZING.value: "finalizing",
    JobStatus.CANCELLING.value: "cancelling",
    JobStatus.COMPLETED.value: "completed",
    JobStatus.FAILED.value: "failed",
    JobStatus.EXPIRED.value: "expired",
    JobStatus.CANCELLED.value: "cancelled",
}


def batch_json(job: Job) -> dict[str, Any]:
    """A job as a batch; its id is the job's."""
    return {
        "id": job.pk,
        "object": "batch",
        "endpoint": job.endpoint,
        "model": job.model or None,
        "errors": _errors(job),
        "input_file_id": job.input_file_id,
        "completion_window": job.completion_window,
        "status": STATUSES[job.shown_status],
        "output_file_id": job.output_file_id or None,
        "error_file_id": job.error_file_id or None,
        "created_at": _unix(job.accepted_at),
        **_times(job),
        "request_counts": {
            "total": job.request_total or 0,
            "completed": job.request_completed,
            "failed": job.request_failed,
        },
        "usage": _usage(job.usage),
        "metadata": job.metadata or None,
    }


def list_json(found: Page[Any], data: list[dict[str, Any]]) -> dict[str, Any]:
    """One page of a list."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": found.has_more,
    }


def _times(job: Job) -> dict[str, int | None]:
    # A job that went back to the queue has begun before, but what is shown has not.
    has_begun = STATUSES[job.shown_status] != "validating"
    return {
        "in_progress_at": _unix(job.in_progress_at) if has_begun else None,
        "finalizing_at": _unix(job.finalizing_at) if has_begun else None,
        "completed_at": _unix(job.completed_at),
        "failed_at": _unix(job.failed_at),
        "expired_at": _unix(job.expired_at),
        "cancelling_at": _unix(job.shown_cancelling_at),
        "cancelled_at": _unix(job.cancelled_at),
        "expires_at": _unix(job.expires_at),
    }


def _errors(job: Job) -> dict[str, Any] | None:
    errors = errors_of(job)
    return {"object": "list", "data": errors} if errors else None


def _usage(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    inputs, outputs = usage.get("input_tokens_details") or {}, usage.get("output_tokens_details") or {}
    return {
        "input_tokens": usage.get("input_tokens") or 0,
        "input_tokens_details": {"cached_tokens": inputs.get("cached_tokens") or 0},
        "output_tokens": usage.get("output_tokens") or 0,
        "output_tokens_details": {"reasoning_tokens": outputs.get("reasoning_tokens") or 0},
        "total_tokens": usage.get("total_tokens") or 0,
    }


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
