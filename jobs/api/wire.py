"""Rows as the console reads them: camelCase, every key always there, int64 as strings, times in unix seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db.models import F, Prefetch, prefetch_related_objects

from jobs import planner
from jobs.api.vocabulary import PROVISION_WORDS, job_word
from jobs.errors import without_addresses
from jobs.files import ReadableFile
from jobs.models import InputFile, Job, JobEvent, OwnerQuota, Pool, Provision, Queue
from jobs.statuses import FailureStage, JobStatus
from jobs.validation import ACCEPTED

# A job that found no capacity for days has thousands of events; its newest ones are shown.
EVENTS_IN_LIST = 20
EVENTS_IN_DETAIL = 200
# A wish changes no status, but it changes what is shown.
_EVENT_STATUS = {"cancel_requested": JobStatus.CANCELLING.value}


def job_list_json(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Jobs of a list, in a number of queries that does not grow with them: few events, short reasons."""
    _prefetch(jobs, EVENTS_IN_LIST)
    waiting = planner.waiting_for_each(jobs)
    return [_job_json(job, waiting[job.pk]) for job in jobs]


def job_json(job: Job) -> dict[str, Any]:
    """One job in full."""
    _prefetch([job], EVENTS_IN_DETAIL)
    return _job_json(job, planner.waiting_for(job))


def accepted_json(job: Job) -> dict[str, Any]:
    """A job as `enqueue` answers it, in full; why it is not admitted yet is told to who asks for it again."""
    if job.event_count > 1:  # a repeat's; the first event of a new one comes with it
        _prefetch([job], EVENTS_IN_DETAIL)
    return _job_json(job, planner.waiting_at_first(job))


def _prefetch(jobs: Sequence[Job], events: int) -> None:
    newest = JobEvent.objects.filter(sequence__gt=F("job__event_count") - events).order_by("sequence")
    prefetch_related_objects(jobs, "provision__pool", Prefetch("events", queryset=newest))


def _job_json(job: Job, waiting: planner.Waiting) -> dict[str, Any]:
    return {
        "id": job.pk,
        "object": "batch",
        "name": job.name,
        "endpoint": job.endpoint,
        "model": job.model,
        "createdBy": job.created_by,
        "status": job_word(job.shown_status, job.failure_stage),
        "failureStage": job.failure_stage,
        "attempt": job.attempt,
        "waitingReason": waiting.sentence,
        "waitingCode": waiting.code,
        "waitingPools": [_pool_answer(answer) for answer in waiting.pools],
        "queuePosition": waiting.position,
        "hold": job.hold,
        "priority": job.priority,
        "inputDataset": job.input_file_id,
        "outputDataset": job.output_file_id,
        "errorDataset": job.error_file_id,
        "completionWindow": job.completion_window,
        "modelTemplateName": job.template_name,
        "modelTemplateVersion": job.template_version,
        "batchId": job.batch_id,
        "provisionId": str(job.provision_id or ""),
        "errorMessage": job.error_message,
        **_job_times(job),
        **_job_objects(job),
        "events": _events(job),
    }


def provision_json(provision: Provision, *, with_errors: bool) -> dict[str, Any]:
    """One provision with the planner's own status; what the provider said of its errors is for operators."""
    return {
        "id": str(provision.pk),
        "object": "provision",
        "jobId": provision.job_id,
        "attempt": provision.attempt,
        "pool": provision.pool.name,
        "provider": provision.pool.provider,
        "name": provision.name,
        "status": provision.status,
        "region": provision.region,
        "externalIds": provision.external_ids,
        "observedState": provision.shown_state,
        "errorCode": provision.last_error_code,
        "errorMessage": provision.last_error if with_errors else "",
        "releaseRequestedBy": provision.release_requested_by,
        "requestedAt": unix(provision.requested_at),
        "readyAt": unix(provision.ready_at),
        "failedAt": unix(provision.failed_at),
        "lostAt": unix(provision.lost_at),
        "releaseRequestedAt": unix(provision.release_requested_at),
        "releasingAt": unix(provision.releasing_at),
        "releasedAt": unix(provision.released_at),
        "writtenOffAt": unix(provision.written_off_at),
        "observedAt": unix(provision.observed_at),
        "deadlineAt": unix(provision.deadline_at),
        "expiresAt": unix(provision.expires_at),
    }


def errors_of(job: Job) -> list[dict[str, Any]]:
    """Why a job failed: of a batch that the MDS refused, every line it named; else the planner's own reason."""
    if not job.error_code and not job.error_message:
        return []
    said = (job.batch_view or {}).get("errors") if job.failure_stage == FailureStage.BATCH else None
    data = said.get("data") if isinstance(said, dict) else None
    found = [_batch_error(error) for error in data if isinstance(error, dict)] if isinstance(data, list) else []
    return found or [{"code": job.error_code, "message": job.error_message, "param": None, "line": None}]


def _batch_error(said: dict[str, Any]) -> dict[str, Any]:
    line, param = said.get("line"), said.get("param")
    return {
        "code": str(said.get("code") or ""),
        "message": without_addresses(str(said.get("message") or "")),
        "param": param if isinstance(param, str) else None,
        "line": line if isinstance(line, int) else None,
    }


def hold_json(row: Queue | OwnerQuota | Pool) -> dict[str, Any]:
    """A hold on the queue, on an owner or on a pool."""
    return {
        "object": "hold",
        "owner": row.owner.username if isinstance(row, OwnerQuota) else "",
        "pool": row.name if isinstance(row, Pool) else "",
        "hold": row.hold,
        "reason": row.hold_reason,
        "heldBy": row.held_by,
        "heldAt": unix(row.held_at),
    }


def file_json(file: InputFile | ReadableFile) -> dict[str, Any]:
    """One file: snake_case and plain numbers, as the console's file routes have it. An output's size is not known."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size_bytes or 0,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "uploaded",
    }


def unix(moment: datetime | None) -> str:
    """Whole unix seconds as a decimal string; "0" for not yet."""
    return "0" if moment is None else str(int(moment.timestamp()))


def _job_times(job: Job) -> dict[str, str]:
    failed_at = {job.failure_stage: job.failed_at}
    return {
        "createdAt": unix(job.accepted_at),
        "queuedAt": unix(job.accepted_at),
        "resourcePreparingAt": unix(job.provisioning_at),
        "submittingAt": unix(job.submitting_at),
        "inProgressAt": unix(job.in_progress_at),
        "finalizingAt": unix(job.finalizing_at),
        "completedAt": unix(job.completed_at),
        "failedAt": unix(job.failed_at),
        "resourceFailedAt": unix(failed_at.get(FailureStage.PROVISION.value)),
        "submitFailedAt": unix(failed_at.get(FailureStage.SUBMIT.value)),
        "expiredAt": unix(job.expired_at),
        "cancelRequestedAt": unix(job.cancel_requested_at),
        "cancellingAt": unix(job.shown_cancelling_at),
        "cancelledAt": unix(job.cancelled_at),
        "expiresAt": unix(job.expires_at),
    }


def _job_objects(job: Job) -> dict[str, Any]:
    counts = {"total": job.request_total, "completed": job.request_completed, "failed": job.request_failed}
    template = {"name": job.template_name, "version": job.template_version, "rawJson": "{}"}
    return {
        "requestCounts": None if job.request_total is None else counts,
        "usage": _usage(job.usage),
        "metadata": {key: as_text(value) for key, value in job.metadata.items()},
        "extraBody": {},
        "accepts": {kind: job.accepts.get(kind, []) for kind in ACCEPTED},
        "errors": [
            {**error, "param": error["param"] or "", "line": str(error["line"] or 0)} for error in errors_of(job)
        ],
        "runtime": None if job.provision is None else _runtime(job.provision),
        "resourceAllocation": None if job.provision is None else _allocation(job, job.provision),
        "modelTemplateRef": template if job.template_name else None,
        "profile": None,
        "provision": None if job.provision is None else _job_provision(job.provision),
    }


def _pool_answer(answer: planner.PoolAnswer) -> dict[str, str]:
    return {
        "pool": answer.pool,
        "code": answer.code,
        "message": answer.sentence,
        "retryAt": unix(answer.retry_at),
    }


def _usage(usage: dict[str, Any] | None) -> dict[str, str] | None:
    if usage is None:
        return None
    return {
        "inputTokens": str(usage.get("input_tokens") or 0),
        "outputTokens": str(usage.get("output_tokens") or 0),
        "totalTokens": str(usage.get("total_tokens") or 0),
    }


def _runtime(provision: Provision) -> dict[str, Any]:
    return {"target": provision.pool.provider, "options": {"pool": provision.pool.name}, "rawJson": "{}"}


def _allocation(job: Job, provision: Provision) -> dict[str, Any]:
    detail = {
        "endpointCluster": provision.region,
        "gpuType": job.accelerator_type,
        "replica": job.replicas,
        "extra": {},
    }
    return {
        "provisionId": str(provision.pk),
        "provisionResourceDeadline": unix(provision.expires_at),
        "resourceDetails": [detail],
        "rawJson": "{}",
    }


def _job_provision(provision: Provision) -> dict[str, Any]:
    """`errorMessage` is the short stable code: the provider's own words may name addresses and accounts."""
    return {
        "provisionId": str(provision.pk),
        "provider": provision.pool.provider,
        "idempotencyKey": provision.name,
        "status": PROVISION_WORDS[provision.status],
        "region": provision.region,
        "errorMessage": provision.last_error_code,
        "createdAt": unix(provision.requested_at),
        "updatedAt": unix(_latest(provision)),
        "rawJson": "{}",
    }


def _latest(provision: Provision) -> datetime:
    times: Iterable[datetime | None] = (
        provision.requested_at,
        provision.ready_at,
        provision.failed_at,
        provision.lost_at,
        provision.release_requested_at,
        provision.releasing_at,
        provision.released_at,
        provision.written_off_at,
    )
    return max(moment for moment in times if moment is not None)


def _events(job: Job) -> list[dict[str, Any]]:
    """The timeline in its own order. What changes no status stands at the status the job had then."""
    lines, status = [], ""
    for event in job.events.all():
        status = _EVENT_STATUS.get(event.reason) or event.to_status or event.from_status or status
        lines.append(
            {
                "id": f"{event.sequence}-{event.reason}",
                "label": event.reason.replace("_", " ").capitalize(),
                "status": job_word(status, job.failure_stage),
                "source": event.source,
                "at": unix(event.at),
                "message": event.message,
            }
        )
    return lines


def as_text(value: Any) -> str:
    """A value of a map whose values are strings on the wire."""
    return value if isinstance(value, str) else json.dumps(value)
