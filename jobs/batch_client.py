"""The MDS's batches, over `requests`: create, get, cancel, list. Sees no models.

One session per thread, connect and read timeouts on every call, no transport retries: a repeated POST is a second
batch, since the MDS has no idempotency.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


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
        raise NotImplementedError

    def create(self, submission: Submission) -> Batch:
        """POST once. Permanent: refused. Transient: certainly not sent. Ambiguous: anything else."""
        raise NotImplementedError

    def get(self, batch_id: str) -> Batch:
        """The truth about one batch; `NOT_FOUND` when the MDS does not know it."""
        raise NotImplementedError

    def cancel(self, batch_id: str) -> Batch:
        """Ask for a cancel; `CONFLICT` when it is over already or finalizing, `NOT_FOUND` when unknown."""
        raise NotImplementedError

    def list_page(self, after: str = "", limit: int = 100) -> BatchPage:
        """One page, newest first. For discovery only: a status in the list can be stale for ever."""
        raise NotImplementedError
