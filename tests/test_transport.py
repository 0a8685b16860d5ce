"""What every adapter relies on: calls that end in time whatever the other side does, and answers that fit into rows."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from jobs.errors import UpstreamError
from jobs.transport import Answer, Transport
from tests.peers import Peer, constant
from tests.waiting import eventually

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def called(url: str, *, seconds: float = 5, creates: bool = False) -> Answer:
    transport = Transport(url, upstream="The peer", connect_timeout=1)
    return transport.call("GET", "/", until=time.monotonic() + seconds, creates=creates)


def called_after_all(url: str, sent: list[bytes]) -> list[bytes]:
    """The verbs the peer has heard of once it has heard a GET."""
    with pytest.raises(UpstreamError):
        called(url, seconds=0.2)
    eventually(lambda: sent)
    return [request.split()[0] for request in sent]


@pytest.mark.parametrize(("creates", "kind"), [(False, "transient"), (True, "ambiguous")])
def test_a_body_that_drips_is_given_up_in_time(creates: bool, kind: str) -> None:
    is_given_up = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
            while not is_given_up.wait(0.01):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: drip(listener.accept()[0]), daemon=True)
        thread.start()
        with pytest.raises(UpstreamError) as caught:
            called(f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=0.3, creates=creates)
        is_given_up.set()
        thread.join()
    assert (caught.value.kind, caught.value.code) == (kind, "timeout")


def test_nothing_is_sent_once_the_time_is_up_however_long_the_name_took(monkeypatch: pytest.MonkeyPatch) -> None:
    until = time.monotonic() + 0.1
    resolve = socket.getaddrinfo

    def slowly(*args: Any, **kwargs: Any) -> Any:
        eventually(lambda: time.monotonic() > until)
        return resolve(*args, **kwargs)

    sent: list[bytes] = []
    with Peer(lambda request: sent.append(request)) as peer:
        monkeypatch.setattr(socket, "getaddrinfo", slowly)
        with pytest.raises(UpstreamError) as caught:
            Transport(peer.url, upstream="The peer", connect_timeout=1).call("POST", "/", until=until, creates=True)
        monkeypatch.undo()
        assert (caught.value.kind, caught.value.code) == ("transient", "unreachable")
        assert called_after_all(peer.url, sent) == [b"GET"], "the next one is heard, and was the first"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b'Content-Length: 9\r\n\r\n{"a": 1}\n',
        HEAD + b'Transfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n',
    ],
)
def test_it_works(answer: bytes) -> None:
    with Peer(constant(answer)) as peer:
        got = called(peer.url)
    assert (got.status_code, got.headers["content-type"], got.json()) == (200, "application/json", {"a": 1})


def test_a_body_that_is_cut_short_is_no_answer() -> None:
    cut = Peer(constant(HEAD + b'Content-Length: 100\r\n\r\n{"a": 1}'), closes=True)
    with cut as peer, pytest.raises(UpstreamError) as caught:
        called(peer.url, creates=True)
    assert caught.value.kind == "ambiguous"


def text(value: Any) -> Any:
    return Answer(200, {}, json.dumps(value).encode()).json()


@pytest.mark.parametrize("spoiled", ["a\0b", "a\ud800b"])
@pytest.mark.parametrize("around", [lambda x: x, lambda x: [x], lambda x: {"k": {x: x}}])
def test_what_no_row_can_hold_is_replaced(spoiled: str, around: Callable[[Any], Any]) -> None:
    assert text(around(spoiled)) == around("a\ufffdb")


@pytest.mark.parametrize("whole", ["a\u00e4\U0001f600b", 1, None, True, "\\u0000", "\\ud800"])
def test_what_rows_can_hold_is_left_alone(whole: Any) -> None:
    assert text(whole) == whole


@pytest.mark.parametrize("spoiled", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_no_row_can_hold_is_none(spoiled: str) -> None:
    assert Answer(200, {}, f'{{"price": [{spoiled}, 1.5]}}'.encode()).json() == {"price": [None, 1.5]}


def test_what_is_nested_deeper_than_can_be_read_is_nothing() -> None:
    assert Answer(200, {}, b"[" * 5000 + b"]" * 5000).json() is None


def test_what_is_no_json_is_nothing() -> None:
    assert Answer(200, {}, b"<html>").json() is None
    assert Answer(200, {}, b"\xff\xfe").json() is None
