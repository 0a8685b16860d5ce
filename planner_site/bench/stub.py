"""A provider and a metadata service that cost next to nothing: one process, answers made beforehand, connections kept.

For throughput: the doubles of the tests follow scripts and keep journals, and would be what is measured. It speaks just
the calls the planner makes, and knows no mistakes:

    POST, GET  /resources           the simulated provider: create; list (`name`)
    DELETE     /resources/{id}
    POST, GET  /v1/batches          the metadata service: create; list, newest first (`limit`, `after`)
    GET        /v1/batches/{id}     one batch
    POST       /v1/batches/{id}/cancel
    GET        /bench/stats         how many batches there are, and when the first and the last came
    GET        /bench/receipts      when each batch came, by `aibrix.job_id`
    POST       /bench/reset         forget everything; `delay_seconds` of each call, `ready_seconds` of resources,
                                    `are_batches_quick`: over at the first look, or running for ever
    POST       /bench/ready_seconds of the resources that are created from now on; null is never
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from email.utils import formatdate
from http.client import HTTPConnection
from typing import Any, Self, cast
from urllib.parse import parse_qs

from planner_site.local import CHECKOUT, LocalError, data_folder
from planner_site.processes import Service, free_port

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REASONS = {200: b"OK", 201: b"Created", 204: b"No Content", 404: b"Not Found"}
_NEVER = float("inf")
_WINDOW_SECONDS = 86_400
_KEPT = ("endpoint", "input_file_id", "completion_window", "metadata", "aibrix")  # of the request, in the batch


class Stub:
    """The stub as a child process, and what a bench asks of it."""

    def __init__(self, purpose: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        log = data_folder(purpose) / "stub.log"
        command = (sys.executable, "-m", "planner_site.bench.stub", "--port", str(port))
        self.service = Service("stub", command, log=log, folder=CHECKOUT)
        self._connection = HTTPConnection("127.0.0.1", port, timeout=30)

    def __enter__(self) -> Self:
        self.service.wait_until_answers(f"{self.url}/healthz", timeout_seconds=30)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self.service.stop()

    def reset(
        self, *, delay_seconds: float = 0, ready_seconds: float | None = 0, are_batches_quick: bool = False
    ) -> None:
        """Forget everything. Each call takes `delay_seconds`, a resource `ready_seconds` to be ready; None: never.

        A quick batch is over at the first look, the others run for ever.
        """
        given = {
            "delay_seconds": delay_seconds,
            "ready_seconds": ready_seconds,
            "are_batches_quick": are_batches_quick,
        }
        self._ask("POST", "/bench/reset", given)

    def set_ready_seconds(self, ready_seconds: float | None) -> None:
        """Of the resources that are created from now on."""
        self._ask("POST", "/bench/ready_seconds", ready_seconds)

    def stats(self) -> dict[str, Any]:
        """`batches` so far, when the first and the last came (`first_at`, `last_at`), the `peak` of calls in flight."""
        return cast(dict[str, Any], self._ask("GET", "/bench/stats"))

    def receipts(self) -> dict[str, float]:
        """When each batch's create came, by `aibrix.job_id` (unix seconds)."""
        return cast(dict[str, float], self._ask("GET", "/bench/receipts"))

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        try:
            self._connection.request(method, path, json.dumps(body))
            return json.loads(self._connection.getresponse().read())
        except (OSError, ValueError) as error:
            raise LocalError(f"The stub did not answer: {error}") from error


# --- the process itself ---


class _Resource:
    """One object; its JSON but for the status, which comes last."""

    def __init__(self, number: int, body: dict[str, Any], ready_at: float) -> None:
        self.id = f"stub-{number}"
        self.name = str(body["name"])
        self.ready_at = ready_at
        shown = {
            **body,
            "id": self.id,
            "sequence": number,
            "region": "stub",
            "price_per_hour": 1.0,
            "message": "",
            "created_at": time.time(),
        }
        self._head = json.dumps(shown).encode()[:-1]

    def shown(self, now: float) -> bytes:
        """As it is by now."""
        return self._head + (b', "status": "ready"}' if now >= self.ready_at else b', "status": "pending"}')


class _Upstreams:
    """What both hold."""

    def __init__(self) -> None:
        self.reset(0, 0, are_batches_quick=False)

    def reset(self, delay_seconds: float, ready_seconds: float | None, *, are_batches_quick: bool) -> None:
        """Forget everything."""
        self._state = _COMPLETED if are_batches_quick else _RUNNING
        self.delay_seconds = delay_seconds
        self.ready_seconds = ready_seconds
        self.peak = self.in_flight = 0
        self._resources: dict[str, _Resource] = {}
        self._by_name: dict[str, list[_Resource]] = {}
        self._made = 0
        self._batches: list[tuple[str, bytes]] = []  # ids, and their JSON but for the end
        self._place: dict[str, int] = {}
        self._receipts: dict[str, float] = {}
        self._at: list[float] = []

    def answer(self, method: bytes, target: bytes, body: bytes) -> tuple[int, bytes]:
        """A status and a body."""
        path, _, query = target.partition(b"?")
        if path.startswith(b"/resources"):
            return self._provider(method, path[11:].decode(), query, body)
        if path.startswith(b"/v1/batches"):
            return self._mds(method, path[12:].decode(), query, body)
        return self._bench(path, body)

    def _provider(self, method: bytes, object_id: str, query: bytes, body: bytes) -> tuple[int, bytes]:
        now = time.time()
        if method == b"POST":
            self._made += 1
            ready_at = _NEVER if self.ready_seconds is None else now + self.ready_seconds
            made = _Resource(self._made, json.loads(body), ready_at)
            self._resources[made.id] = made
            self._by_name.setdefault(made.name, []).append(made)
            return 201, made.shown(now)
        if method == b"DELETE":
            gone = self._resources.pop(object_id, None)
            if gone is None:
                return 404, b'{"error": {"code": "not_found", "message": "no such resource"}}'
            self._by_name[gone.name].remove(gone)
            return 204, b""
        names = parse_qs(query.decode()).get("name")
        found = self._by_name.get(names[0], []) if names else self._resources.values()
        return 200, b'{"resources": [' + b", ".join([resource.shown(now) for resource in found]) + b"]}"

    def _mds(self, method: bytes, path: str, query: bytes, body: bytes) -> tuple[int, bytes]:
        if method == b"POST" and not path:
            return 200, self._created(json.loads(body)) + _SCHEDULING
        batch_id, _, action = path.partition("/")
        if not batch_id:
            return 200, self._page(query)
        place = self._place.get(batch_id)
        if place is None:
            return 404, b'{"error": {"message": "Batch not found", "type": "invalid_request_error"}}'
        return 200, self._batches[place][1] + (_CANCELLING if action else self._state)

    def _created(self, request: dict[str, Any]) -> bytes:
        now = time.time()
        self._at.append(now)
        self._receipts[str(request["aibrix"]["job_id"])] = now
        batch_id = f"batch_{len(self._batches) + 1:032x}"
        shown = {
            "id": batch_id,
            "object": "batch",
            "created_at": int(now),
            "expires_at": int(now) + _WINDOW_SECONDS,
            **{name: request[name] for name in _KEPT},
        }
        head = json.dumps(shown).encode()[:-1]
        self._place[batch_id] = len(self._batches)
        self._batches.append((batch_id, head))
        return head

    def _page(self, query: bytes) -> bytes:
        given = parse_qs(query.decode())
        end = self._place.get(given["after"][0], 0) if "after" in given else len(self._batches)
        start = max(0, end - int(given.get("limit", ["20"])[0]))
        shown = [head + self._state for _, head in reversed(self._batches[start:end])]
        has_more = b"true" if start else b"false"
        return b'{"object": "list", "data": [' + b", ".join(shown) + b'], "has_more": ' + has_more + b"}"

    def _bench(self, path: bytes, body: bytes) -> tuple[int, bytes]:
        told: object = {}
        if path == b"/bench/stats":
            told = {
                "batches": len(self._at),
                "first_at": self._at[0] if self._at else 0,
                "last_at": self._at[-1] if self._at else 0,
                "peak": self.peak,
            }
        elif path == b"/bench/receipts":
            told = self._receipts
        elif path == b"/bench/reset":
            self.reset(**json.loads(body))
        elif path == b"/bench/ready_seconds":
            self.ready_seconds = json.loads(body)
        return 200, json.dumps(told).encode()


_SCHEDULING = b', "status": "scheduling"}'
_RUNNING = b', "status": "in_progress", "request_counts": {"total": 1, "completed": 0, "failed": 0}}'
_COMPLETED = b', "status": "completed", "request_counts": {"total": 1, "completed": 1, "failed": 0}}'
_CANCELLING = b', "status": "cancelling"}'


class _Connection(asyncio.Protocol):
    """One kept connection; one request at a time, as our clients send them."""

    def __init__(self, upstreams: _Upstreams) -> None:
        self._upstreams = upstreams
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._received[:end]
        length = _LENGTH.search(head)
        body = self._received[end + 4 :]
        if length and len(body) < int(length[1]):
            return
        self._received = b""
        method, target, _ = head.split(b" ", 2)
        self._answer(method, target, body)

    def _answer(self, method: bytes, target: bytes, body: bytes) -> None:
        upstreams = self._upstreams
        is_outside = not target.startswith((b"/bench/", b"/healthz"))
        status, content = upstreams.answer(method, target, body)
        head = b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nDate: %b\r\nContent-Length: %d\r\n\r\n"
        answer = head % (status, _REASONS[status], formatdate(usegmt=True).encode(), len(content)) + content
        if not (is_outside and upstreams.delay_seconds):
            self._transport.write(answer)
            return
        upstreams.in_flight += 1
        upstreams.peak = max(upstreams.peak, upstreams.in_flight)
        asyncio.get_running_loop().call_later(upstreams.delay_seconds, self._write_late, answer)

    def _write_late(self, answer: bytes) -> None:
        self._upstreams.in_flight -= 1
        self._transport.write(answer)


async def _serve(port: int) -> None:
    upstreams = _Upstreams()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(upstreams), "127.0.0.1", port, backlog=512
    )
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A provider and a metadata service for measuring.")
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
