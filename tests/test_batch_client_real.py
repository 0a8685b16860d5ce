"""The batch client against the real metadata service."""

from __future__ import annotations

import dataclasses
import socket
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from jobs.batch_client import BatchClient, Submission
from jobs.errors import UpstreamKind
from tests.batch_calls import DECISION, SUBMISSION, client_of, failure
from tests.flow import upload
from tests.peers import Peer
from tests.waiting import eventually

pytestmark = pytest.mark.mds


@pytest.fixture
def real(mds: str) -> BatchClient:
    return client_of(mds, timeout=30)


def submission(job_id: str, file_id: str = "no-such-file", **decided: Any) -> Submission:
    decision = dataclasses.replace(DECISION, job_id=job_id, **decided)
    return dataclasses.replace(SUBMISSION, input_file_id=file_id, decision=decision)


def test_a_real_batch_runs_to_its_end(mds: str, real: BatchClient) -> None:
    created = real.create(submission("here:whole:1", upload(mds, 2)))
    assert created.status == "scheduling"
    assert created.created_at is not None
    assert abs(created.created_at - datetime.now(UTC)) < timedelta(minutes=1)

    eventually(lambda: real.get(created.id).status == "completed", timeout=60)
    done = real.get(created.id)
    assert (done.total, done.completed, done.failed, done.job_id) == (2, 2, 0, "here:whole:1")
    assert done.output_file_id
    assert not done.error_file_id
    assert failure(real.cancel, created.id).kind == UpstreamKind.CONFLICT


def test_a_real_batch_is_listed_at_once_and_pages_have_no_gap(real: BatchClient) -> None:
    ids = [real.create(submission(f"here:listed:{number}")).id for number in range(3)]
    first = real.list_page(limit=2)
    assert [batch.id for batch in first.batches] == [ids[2], ids[1]]
    assert [batch.job_id for batch in first.batches] == ["here:listed:2", "here:listed:1"]
    assert first.has_more
    assert real.list_page(after=ids[1], limit=1).batches[0].id == ids[0]
    assert first.server_at is not None
    assert abs(first.server_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_real_batch_can_be_cancelled_while_it_runs(mds: str, real: BatchClient) -> None:
    batch_id = real.create(submission("here:cancelled:1", upload(mds, 5000))).id
    eventually(lambda: real.get(batch_id).status == "in_progress", timeout=60)
    assert real.cancel(batch_id).status in {"cancelling", "cancelled"}
    eventually(lambda: real.get(batch_id).status == "cancelled", timeout=60)


def test_a_real_batch_past_its_deadline_is_expired_at_once(real: BatchClient) -> None:
    created = real.create(submission("here:late:1", provision_resource_deadline=1_700_000_000))
    assert created.status == "expired"
    assert created.expires_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert real.get(created.id).status == "expired"


def test_a_real_failure_tells_why(real: BatchClient) -> None:
    batch_id = real.create(submission("here:no-file:1")).id
    eventually(lambda: real.get(batch_id).status == "failed", timeout=60)
    failed = real.get(batch_id)
    assert failed.errors[0]["code"] == "invalid_input_file"
    assert failed.total is None


def test_a_real_refusal_names_the_field(real: BatchClient) -> None:
    refused = submission("here:refused:1", client={"max_concurrency": 5000})
    error = failure(real.create, refused)
    assert error.kind == UpstreamKind.PERMANENT
    assert "aibrix.client.max_concurrency" in str(error)
    error = failure(real.create, submission("here:refused:2", runtime_target="Nowhere"))
    assert error.kind == UpstreamKind.PERMANENT
    assert "Nowhere" in str(error)


def test_a_real_service_does_not_know_every_batch(real: BatchClient) -> None:
    assert failure(real.get, "no-such-batch").kind == UpstreamKind.NOT_FOUND
    assert failure(real.cancel, "no-such-batch").kind == UpstreamKind.NOT_FOUND


def test_a_batch_whose_answer_was_lost_is_found_in_the_list(mds: str, real: BatchClient) -> None:
    """Why a lost answer is ambiguous: the batch exists all the same."""

    def forward_and_lose(request: bytes) -> None:
        with socket.create_connection(("127.0.0.1", urlsplit(mds).port or 80)) as onward:
            onward.sendall(request)
            onward.recv(1)

    with Peer(forward_and_lose, closes=True) as losing:
        error = failure(client_of(losing.url).create, submission("here:lost:1"))
    assert error.kind == UpstreamKind.AMBIGUOUS
    assert "here:lost:1" in {batch.job_id for batch in real.list_page().batches}
