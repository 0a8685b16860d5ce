"""What an upstream may answer, as the adapters hand it on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jobs.batch_client import Batch, BatchPage
from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners.base import Resource, ResourceState


def batch(status: str = "in_progress", batch_id: str = "b1", **fields: Any) -> Batch:
    """The MDS's view of a batch; `raw` says at least its id and its status."""
    raw = {"id": batch_id, "status": status, **fields.pop("raw", {})}
    nothing: dict[str, Any] = {
        "job_id": "",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "completed_at": None,
        "expires_at": None,
        "total": None,
        "completed": 0,
        "failed": 0,
        "output_file_id": "",
        "error_file_id": "",
        "usage": None,
        "errors": [],
    }
    return Batch(id=batch_id, status=status, raw=raw, **nothing | fields)


def page(*batches: Batch, has_more: bool = False, server_at: datetime | None = None) -> BatchPage:
    """One page of the list."""
    return BatchPage(list(batches), has_more, server_at)


def resource(name: str, state: str = "ready", **fields: Any) -> Resource:
    """What a provider says of one name."""
    return Resource(name=name, state=ResourceState(state), **{"external_ids": ("x1",), **fields})


def error(kind: str, message: str = "as scripted", **fields: Any) -> UpstreamError:
    """An upstream's refusal or silence."""
    return UpstreamError(UpstreamKind(kind), message, **fields)
