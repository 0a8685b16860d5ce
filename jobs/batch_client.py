"""The MDS's batches, over `requests`: create, get, cancel, list. Sees no models.

Every call is sent once and ends in time (`transport`): a repeated POST is a second batch, since the MDS has no
idempotency.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from jobs.errors import UpstreamError, UpstreamKind
from jobs.transport import Answer, Transport, header_time, retry_after_seconds

_UPSTREAM = "The metadata service"
_REFUSED = {400, 413, 422}  # the request itself is wrong; nothing was created
_MAX_MESSAGE = 1000


@dataclass(frozen=True)
class PlannerDecision:
    """What the planner decided for one submission; becomes the request's `aibrix` object (R20)."""

    job_id: str  # `<installation>:<job uuid>:<attempt>`: one attempt, findable in the MDS's list
    model: str  # the name the engine serves
    provision_id: str  # our provision row
    provision_resource_deadline: int  # unix seconds; the batch ends by then, 0 for none
    accelerator_type: str  # `gpu_type` on the wire
    replicas: int  # engine replicas, >= 1
    endpoint_cluster: str  # region or cluster, as the provider names it; only carried by the MDS
    runtime_target: str = ""  # how the MDS reaches the engine; empty leaves the choice to the MDS
    runtime_options: dict[str, Any] = field(default_factory=dict)
    template_name: str = ""
    template_version: str = ""
    template_spec: dict[str, Any] = field(default_factory=dict)  # inline, as frozen at accept
    client: dict[str, Any] = field(default_factory=dict)  # dispatch settings; absent keys mean the MDS's defaults


@dataclass(frozen=True)
class Submission:
    """One POST of a batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str]
    decision: PlannerDecision


@dataclass(frozen=True)
class Batch:
    """The MDS's view of one batch. Every optional field is read with a default: the MDS omits nulls."""

    id: str
    status: str
    job_id: str  # `aibrix.job_id`, "" when it has none
    created_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None
    total: int | None
    completed: int
    failed: int
    output_file_id: str
    error_file_id: str
    usage: dict[str, Any] | None
    errors: list[dict[str, Any]]
    raw: dict[str, Any]


@dataclass(frozen=True)
class BatchPage:
    """One page of the list, newest first. `server_at` is the MDS's clock, from its Date header."""

    batches: list[Batch]
    has_more: bool
    server_at: datetime | None


class BatchClient:
    """Calls to one MDS. Shared by threads; every method raises `errors.UpstreamError` and nothing else."""

    def __init__(self, base_url: str, *, connect_timeout: float, call_timeout: float, create_timeout: float) -> None:
        self._transport = Transport(base_url, upstream=_UPSTREAM, connect_timeout=connect_timeout)
        self._call_timeout = call_timeout
        self._create_timeout = create_timeout

    def create(self, submission: Submission) -> Batch:
        """POST once. Permanent: refused. Transient: certainly not sent. Ambiguous: anything else."""
        until = time.monotonic() + self._create_timeout
        response = self._transport.call("POST", "/v1/batches", until=until, creates=True, body=payload(submission))
        if response.status_code in _REFUSED:
            raise UpstreamError(UpstreamKind.PERMANENT, _error_message(response), code="submit_refused")
        return _batch(_body(response, other=UpstreamKind.AMBIGUOUS), broken=UpstreamKind.AMBIGUOUS)

    def get(self, batch_id: str) -> Batch:
        """The truth about one batch; `NOT_FOUND` when the MDS does not know it."""
        return _batch(self._repeatable("GET", f"/v1/batches/{quote(batch_id, safe='')}"))

    def cancel(self, batch_id: str) -> Batch:
        """Ask for a cancel; `CONFLICT` when it is over already or finalizing, `NOT_FOUND` when unknown."""
        return _batch(self._repeatable("POST", f"/v1/batches/{quote(batch_id, safe='')}/cancel"))

    def list_page(self, after: str = "", limit: int = 100) -> BatchPage:
        """One page, newest first. For discovery only: a status in the list can be stale for ever.

        A page that cannot be read whole is an error, never a shorter page: a batch that is missing from a scan
        counts as not created.
        """
        params: dict[str, str | int] = {"limit": limit, **({"after": after} if after else {})}
        until = time.monotonic() + self._call_timeout
        response = self._transport.call("GET", "/v1/batches", until=until, params=params)
        body = _body(response)
        data, has_more = body.get("data"), body.get("has_more")
        if not isinstance(data, list) or not isinstance(has_more, bool):
            raise _unreadable()
        return BatchPage([_batch(item) for item in data], has_more, header_time(response, "Date"))

    def _repeatable(self, method: str, path: str) -> dict[str, Any]:
        response = self._transport.call(method, path, until=time.monotonic() + self._call_timeout)
        # Only the MDS's own 404 speaks of a batch; a router's or an ingress's says nothing about it.
        if response.status_code == 404 and _own_error(response):
            raise UpstreamError(UpstreamKind.NOT_FOUND, _error_message(response))
        if response.status_code == 409:
            raise UpstreamError(UpstreamKind.CONFLICT, _error_message(response))
        return _body(response)


def payload(submission: Submission) -> dict[str, Any]:
    """The request body. The MDS refuses unknown keys directly in `aibrix`, in its template and in `client`."""
    decision = submission.decision
    aibrix: dict[str, Any] = {
        "job_id": decision.job_id,
        "resource_allocation": {
            "provision_id": decision.provision_id,
            "provision_resource_deadline": decision.provision_resource_deadline,
            "resource_details": [
                {
                    "endpoint_cluster": decision.endpoint_cluster,
                    "gpu_type": decision.accelerator_type,
                    "replica": decision.replicas,
                }
            ],
        },
    }
    if decision.model:
        aibrix["model"] = decision.model
    if decision.template_name:
        template = {
            "name": decision.template_name,
            "version": decision.template_version,
            "spec": decision.template_spec,
        }
        aibrix["model_template"] = {key: value for key, value in template.items() if value}
    if decision.runtime_target:
        aibrix["runtime"] = {"target": decision.runtime_target, "options": decision.runtime_options}
    if decision.client:
        aibrix["client"] = decision.client
    return {
        "input_file_id": submission.input_file_id,
        "endpoint": submission.endpoint,
        "completion_window": submission.completion_window,
        "metadata": submission.metadata,
        "aibrix": aibrix,
    }


def _body(response: Answer, *, other: UpstreamKind = UpstreamKind.TRANSIENT) -> dict[str, Any]:
    """The answer's object; `RATE_LIMITED` for a 429, else `other` for whatever is not a readable success."""
    status = response.status_code
    if status == 429:
        wait = retry_after_seconds(response)
        raise UpstreamError(UpstreamKind.RATE_LIMITED, _error_message(response), retry_after_seconds=wait)
    if not 200 <= status < 300:
        raise UpstreamError(other, _error_message(response), code=f"http_{status}")
    body = response.json()
    if not isinstance(body, dict):
        raise _unreadable(other)
    return body


def _batch(raw: Any, *, broken: UpstreamKind = UpstreamKind.TRANSIENT) -> Batch:
    """Unknown statuses pass as they are; without an id and a status it is no batch at all."""
    item = _object(raw)
    batch_id, status = item.get("id"), item.get("status")
    if not (isinstance(batch_id, str) and batch_id and isinstance(status, str) and status):
        raise _unreadable(broken)
    counts = _object(item.get("request_counts"))
    errors = _object(item.get("errors")).get("data")
    usage = item.get("usage")
    return Batch(
        id=batch_id,
        status=status,
        job_id=_text(_object(item.get("aibrix")).get("job_id")),
        created_at=_utc(item.get("created_at")),
        completed_at=_utc(item.get("completed_at")),
        expires_at=_utc(item.get("expires_at")),
        total=_count(counts.get("total")),
        completed=_count(counts.get("completed")) or 0,
        failed=_count(counts.get("failed")) or 0,
        output_file_id=_text(item.get("output_file_id")),
        error_file_id=_text(item.get("error_file_id")),
        usage=usage if isinstance(usage, dict) else None,
        errors=[error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else [],
        raw=item,
    )


def _unreadable(kind: UpstreamKind = UpstreamKind.TRANSIENT) -> UpstreamError:
    return UpstreamError(kind, f"{_UPSTREAM} gave an answer that cannot be read", code="unreadable_answer")


def _own_error(response: Answer) -> dict[str, Any]:
    """The MDS's own error object, empty when the answer holds none."""
    return _object(_object(response.json()).get("error"))


def _error_message(response: Answer) -> str:
    """What the MDS said, from either of its error shapes; the bare status when it said nothing readable."""
    message = _own_error(response).get("message") or _object(response.json()).get("detail")
    if isinstance(message, list):
        message = "; ".join(_complaint(_object(item)) for item in message)
    if not message or not isinstance(message, str):
        return f"{_UPSTREAM} answered {response.status_code}"
    return f"{_UPSTREAM} answered {response.status_code}: {message[:_MAX_MESSAGE]}"


def _complaint(item: dict[str, Any]) -> str:
    """`field.path: what is wrong`; the value itself can be huge and is left out."""
    where = item.get("loc")
    path = ".".join(str(part) for part in where if part != "body") if isinstance(where, list) else ""
    what = _text(item.get("msg")) or "refused"
    return f"{path}: {what}" if path else what


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _utc(value: Any) -> datetime | None:
    """Unix seconds as aware UTC; None for what is no time."""
    if isinstance(value, bool):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
