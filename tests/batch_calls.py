"""What the tests of the batch client share: a submission, a client, and the error of a call that must fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jobs.batch_client import BatchClient, PlannerDecision, Submission
from jobs.errors import UpstreamError

DECISION = PlannerDecision(
    job_id="here:job:1",
    model="m",
    provision_id="p",
    provision_resource_deadline=0,
    accelerator_type="H100",
    replicas=1,
    endpoint_cluster="",
)
SUBMISSION = Submission("file-1", "/v1/chat/completions", "24h", {}, DECISION)


def client_of(url: str, timeout: float = 5) -> BatchClient:
    return BatchClient(url, connect_timeout=2, call_timeout=timeout, create_timeout=timeout)


def failure(call: Callable[..., Any], *args: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as raised:
        call(*args)
    assert "mds.example" not in str(raised.value), "messages show no address"
    assert "127.0.0.1" not in str(raised.value)
    return raised.value
