"""The batch client: what each answer, and each lack of one, says about what may be done next."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import responses
import time_machine
from urllib3.exceptions import MaxRetryError, NameResolutionError

from jobs.batch_client import Batch, BatchClient
from jobs.errors import UpstreamError, UpstreamKind
from jobs.transport import Transport
from tests.batch_calls import SUBMISSION, client_of, failure
from tests.peers import Peer, constant, silence

URL = "http://mds.example:8090"
BATCHES = f"{URL}/v1/batches"
ONE = f"{BATCHES}/b1"
BODY = {"id": "b1", "object": "batch", "status": "scheduling", "created_at": 1_800_000_000, "expires_at": 1_800_086_400}
PAGE = {"object": "list", "data": [BODY], "has_more": False}
OWN_404 = {"error": {"message": "Batch not found", "type": "invalid_request_error", "param": None, "code": None}}
ROUTER_404 = {"detail": "Not Found"}


@pytest.fixture
def client() -> BatchClient:
    return client_of(URL)


@pytest.fixture
def upstream() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


# --- create ---


def test_it_works(client: BatchClient, upstream: responses.RequestsMock) -> None:
    upstream.post(BATCHES, json={**BODY, "aibrix": {"job_id": "here:job:1"}})
    batch = client.create(SUBMISSION)
    assert (batch.id, batch.status, batch.job_id) == ("b1", "scheduling", "here:job:1")
    assert batch.expires_at == datetime.fromtimestamp(1_800_086_400, UTC)
    assert json.loads(upstream.calls[0].request.body or "")["aibrix"]["job_id"] == "here:job:1"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_create_is_permanent(client: BatchClient, upstream: responses.RequestsMock, status: int) -> None:
    upstream.post(BATCHES, status=status, json={"error": {"message": "no such target"}})
    error = failure(client.create, SUBMISSION)
    assert (error.kind, error.code) == (UpstreamKind.PERMANENT, "submit_refused")
    assert "no such target" in str(error)


@pytest.mark.parametrize("status", [204, 302, 307, 401, 403, 404, 405, 408, 409, 500, 502, 503, 504])
def test_any_other_failed_create_is_ambiguous(
    client: BatchClient, upstream: responses.RequestsMock, status: int
) -> None:
    upstream.post(BATCHES, status=status, headers={"Location": f"{URL}/elsewhere"})
    assert failure(client.create, SUBMISSION).kind == UpstreamKind.AMBIGUOUS
    assert len(upstream.calls) == 1, "not repeated, not redirected"


@pytest.mark.parametrize("body", ["", "<html>", "[]", "null", '{"id": "b1"}', '{"id": "", "status": "x"}', '{"id": 1'])
def test_a_success_that_cannot_be_read_is_ambiguous(
    client: BatchClient, upstream: responses.RequestsMock, body: str
) -> None:
    upstream.post(BATCHES, body=body)
    error = failure(client.create, SUBMISSION)
    assert (error.kind, error.code) == (UpstreamKind.AMBIGUOUS, "unreadable_answer")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("12", 12),
        ("Tue, 05 Jan 2027 10:00:30 GMT", 30),
        ("Tue, 05 Jan 2027 09:00:00 GMT", 0),
        ("soon", None),
        ("", None),
    ],
)
def test_a_rate_limit_says_how_long_to_wait(
    client: BatchClient, upstream: responses.RequestsMock, header: str, seconds: float | None
) -> None:
    upstream.post(BATCHES, status=429, headers={"Retry-After": header})
    upstream.get(ONE, status=429, headers={"Retry-After": header})
    with time_machine.travel(datetime(2027, 1, 5, 10, tzinfo=UTC), tick=False):
        for error in (failure(client.create, SUBMISSION), failure(client.get, "b1")):
            assert (error.kind, error.retry_after_seconds) == (UpstreamKind.RATE_LIMITED, seconds)


# --- get, cancel, list: all may be repeated ---


@pytest.fixture(params=["get", "cancel"])
def of_one(request: pytest.FixtureRequest, client: BatchClient) -> tuple[Callable[[str], Batch], str, str]:
    """A call on one batch, with its method and its URL."""
    return (client.get, "GET", ONE) if request.param == "get" else (client.cancel, "POST", f"{ONE}/cancel")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, OWN_404, UpstreamKind.NOT_FOUND),
        (404, ROUTER_404, UpstreamKind.TRANSIENT),  # a wrong route says nothing about the batch
        (404, None, UpstreamKind.TRANSIENT),  # nor does an ingress
        (409, {"error": {"message": "Cannot cancel"}}, UpstreamKind.CONFLICT),
        (400, None, UpstreamKind.TRANSIENT),
        (401, None, UpstreamKind.TRANSIENT),
        (408, None, UpstreamKind.TRANSIENT),
        (500, {"error": {"message": "Internal server error"}}, UpstreamKind.TRANSIENT),
        (503, None, UpstreamKind.TRANSIENT),
        (200, [], UpstreamKind.TRANSIENT),
        (200, {"id": "b1"}, UpstreamKind.TRANSIENT),
    ],
)
def test_a_failed_call_on_one_batch_says_what_it_means(
    of_one: tuple[Callable[[str], Batch], str, str],
    upstream: responses.RequestsMock,
    status: int,
    body: Any,
    kind: UpstreamKind,
) -> None:
    call, method, url = of_one
    upstream.add(method, url, status=status, json=body)
    assert failure(call, "b1").kind == kind


def test_a_batch_id_cannot_leave_its_place_in_the_path(client: BatchClient, upstream: responses.RequestsMock) -> None:
    upstream.get(f"{BATCHES}/..%2Ffiles%3Fx", json=BODY)
    assert client.get("../files?x").id == "b1"


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"data": [BODY]},
        {"data": None, "has_more": False},
        {"data": [BODY, {"status": "x"}], "has_more": False},
        {"data": [None], "has_more": False},
    ],
)
def test_a_page_that_cannot_be_read_whole_is_no_page(
    client: BatchClient, upstream: responses.RequestsMock, page: dict[str, Any]
) -> None:
    upstream.get(BATCHES, json=page)
    assert failure(client.list_page).kind == UpstreamKind.TRANSIENT


def test_a_page_tells_the_clock_of_the_other_side(client: BatchClient, upstream: responses.RequestsMock) -> None:
    upstream.get(BATCHES, json=PAGE, headers={"Date": "Tue, 05 Jan 2027 10:00:30 GMT"})
    page = client.list_page(after="b0", limit=7)
    assert page.server_at == datetime(2027, 1, 5, 10, 0, 30, tzinfo=UTC)
    assert ([batch.id for batch in page.batches], page.has_more) == (["b1"], False)
    assert parse_qs(urlsplit(upstream.calls[0].request.url or "").query) == {"after": ["b0"], "limit": ["7"]}


def test_a_page_without_a_readable_clock_has_none(client: BatchClient, upstream: responses.RequestsMock) -> None:
    upstream.get(BATCHES, json=PAGE, headers={"Date": "yesterday"})
    assert client.list_page().server_at is None


# --- what is read from a batch ---


def test_a_full_batch_is_read_field_by_field(client: BatchClient, upstream: responses.RequestsMock) -> None:
    raw = {
        **BODY,
        "status": "paused_by_a_newer_version",
        "aibrix": {"job_id": "here:job:3"},
        "request_counts": {"total": 5, "completed": 3, "failed": 2},
        "output_file_id": "out",
        "error_file_id": "err",
        "usage": {"input_tokens": 7},
        "errors": {"object": "list", "data": [{"code": "validation_error", "message": "line 3", "line": 3}]},
    }
    upstream.get(ONE, json=raw)
    assert client.get("b1") == Batch(
        id="b1",
        status="paused_by_a_newer_version",
        job_id="here:job:3",
        created_at=datetime.fromtimestamp(1_800_000_000, UTC),
        completed_at=None,
        expires_at=datetime.fromtimestamp(1_800_086_400, UTC),
        total=5,
        completed=3,
        failed=2,
        output_file_id="out",
        error_file_id="err",
        usage={"input_tokens": 7},
        errors=[{"code": "validation_error", "message": "line 3", "line": 3}],
        raw=raw,
    )


@pytest.mark.parametrize("noise", [None, 7, "x", [1]])
def test_what_a_batch_does_not_say_has_a_default(
    client: BatchClient, upstream: responses.RequestsMock, noise: Any
) -> None:
    optional = ("aibrix", "request_counts", "usage", "errors", "metadata")
    raw = {"id": "b1", "status": "in_progress", **(dict.fromkeys(optional, noise) if noise is not None else {})}
    upstream.get(ONE, json=raw)
    batch = client.get("b1")
    assert (batch.job_id, batch.created_at, batch.expires_at, batch.output_file_id) == ("", None, None, "")
    assert (batch.total, batch.completed, batch.failed, batch.usage, batch.errors) == (None, 0, 0, None, [])


# --- messages ---


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "no such runtime"}}, "400: no such runtime"),
        ({"detail": "Not here"}, "400: Not here"),
        (
            {"detail": [{"loc": ["body", "aibrix", "x"], "msg": "Extra", "input": "big"}, {"msg": "Odd"}, {}]},
            "400: aibrix.x: Extra; Odd; refused",
        ),
        ({"detail": []}, "answered 400"),
        ({"error": "text"}, "answered 400"),
        ([], "answered 400"),
    ],
)
def test_both_error_shapes_become_a_sentence(
    client: BatchClient, upstream: responses.RequestsMock, body: Any, said: str
) -> None:
    upstream.post(BATCHES, status=400, json=body)
    assert str(failure(client.create, SUBMISSION)).endswith(said)


def test_a_long_message_is_cut(client: BatchClient, upstream: responses.RequestsMock) -> None:
    upstream.post(BATCHES, status=400, json={"error": {"message": "x" * 100_000}})
    assert len(str(failure(client.create, SUBMISSION))) < 1100


# --- no answer: real sockets ---


def http_answer(body: dict[str, Any], *, cut: int = 0) -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content[: len(content) - cut]


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    with ExitStack() as stack:

        def make(answer: Callable[[bytes], bytes | None], *, closes: bool = False) -> Peer:
            return stack.enter_context(Peer(answer, closes=closes))

        yield make


def test_a_refused_connection_was_certainly_not_sent() -> None:
    gone = Peer(silence)
    client = client_of(gone.url)
    gone.close()
    error = failure(client.create, SUBMISSION)
    assert (error.kind, error.code) == (UpstreamKind.TRANSIENT, "unreachable")


@pytest.mark.parametrize(
    "raised",
    [
        requests.ConnectTimeout(),
        requests.ConnectionError(MaxRetryError(None, "", NameResolutionError("mds", None, socket.gaierror()))),  # type: ignore[arg-type]
    ],
    ids=["connect timeout", "unknown host"],
)
def test_an_upstream_that_cannot_be_reached_was_certainly_not_sent_to(
    client: BatchClient, upstream: responses.RequestsMock, raised: Exception
) -> None:
    upstream.post(BATCHES, body=raised)
    error = failure(client.create, SUBMISSION)
    assert (error.kind, error.code) == (UpstreamKind.TRANSIENT, "unreachable")


def test_an_address_that_is_none_was_certainly_not_sent_to() -> None:
    assert failure(client_of("mds.example").create, SUBMISSION).kind == UpstreamKind.TRANSIENT


@pytest.mark.parametrize("call", ["create", "get"])
def test_a_hang_ends_at_the_timeout(peer: Callable[..., Peer], call: str) -> None:
    client = client_of(peer(silence).url, timeout=0.3)
    started = time.monotonic()
    error = failure(client.create, SUBMISSION) if call == "create" else failure(client.get, "b1")
    assert time.monotonic() - started < 1.5
    assert error.code == "timeout"
    assert error.kind == (UpstreamKind.AMBIGUOUS if call == "create" else UpstreamKind.TRANSIENT)


@pytest.mark.parametrize("answer", [silence, constant(http_answer(BODY, cut=10))], ids=["none", "half"])
def test_a_broken_off_create_is_ambiguous_and_was_sent_once(
    peer: Callable[..., Peer], answer: Callable[[bytes], bytes | None]
) -> None:
    dropping = peer(answer, closes=True)
    client = client_of(dropping.url)
    error = failure(client.create, SUBMISSION)
    assert (error.kind, error.code) == (UpstreamKind.AMBIGUOUS, "connection_lost")
    assert dropping.connections == 1
    assert failure(client.get, "b1").kind == UpstreamKind.TRANSIENT


def test_reads_share_a_connection_and_a_create_gets_a_fresh_one(peer: Callable[..., Peer]) -> None:
    answering = peer(constant(http_answer(BODY)))
    client = client_of(answering.url)
    client.get("b1")
    client.get("b1")
    assert answering.connections == 1
    client.create(SUBMISSION)
    assert answering.connections == 2


def test_each_thread_has_a_session_of_its_own(peer: Callable[..., Peer]) -> None:
    answering = peer(constant(http_answer(BODY)))
    client = client_of(answering.url)
    together = threading.Barrier(3, timeout=5)

    def get(_: int) -> str:
        together.wait()
        batch = client.get("b1")
        together.wait()
        return batch.id

    with ThreadPoolExecutor(3) as executor:
        assert list(executor.map(get, range(3))) == ["b1"] * 3
    assert answering.connections == 3


def test_a_proxy_of_the_environment_is_not_asked_for_our_own_host(
    peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert client_of(peer(constant(http_answer(BODY))).url).get("b1").id == "b1"


def test_a_call_with_no_time_left_is_not_sent(upstream: responses.RequestsMock) -> None:
    transport = Transport(URL, upstream="It", connect_timeout=1)
    with pytest.raises(UpstreamError) as raised:
        transport.call("POST", "/v1/batches", until=time.monotonic() - 1, creates=True)
    assert (raised.value.kind, raised.value.code) == (UpstreamKind.TRANSIENT, "too_late")
    assert len(upstream.calls) == 0
