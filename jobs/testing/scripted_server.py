"""The frame of a double: an HTTP server on loopback that counts its calls and follows a script of misbehaviour.

Every double answers GET /healthz, GET /stats and POST /script besides its own paths.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from jobs.testing.script import Rule, Script

_KEPT_CALLS = 100_000


@dataclass(frozen=True)
class Call:
    """One call as the server saw it. `status` is the answer's, 0 for none."""

    at: float
    verb: str
    name: str
    object_id: str
    status: int
    request_id: str = ""  # its X-Request-ID


class Request(NamedTuple):
    """What came in."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: bytes
    authorization: str = ""
    request_id: str = ""


class Answer(NamedTuple):
    """A status, a body (bytes go out as they are, anything else as JSON), and how it is sent."""

    status: int
    body: Any = None
    retry_after_seconds: int | None = None
    object_id: str = ""
    drip_seconds: float = 0
    go: threading.Event | None = None  # ends the dripping


class ScriptedServer(ABC):
    """The server and everything a test may read or script about its calls."""

    verbs: ClassVar[frozenset[str]]

    def __init__(self, port: int) -> None:
        self.calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self.in_flight: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()  # most in flight at once, by verb
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()  # also the one lock of all that calls and tests share
        self._script = Script()
        self._is_stopping = False
        self._asked = threading.local()  # the request this thread answers
        self._httpd = _HttpServer(("127.0.0.1", port), _Handler)
        self._httpd.scripted = self
        self._thread = threading.Thread(target=self.serve, name=type(self).__name__, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._httpd.server_port}"

    def start(self) -> None:
        """Serve in a thread; it accepts connections already."""
        self._thread.start()

    def stop(self) -> None:
        """Stop as a kill would: calls in flight are dropped and no longer act."""
        with self._changed:
            self._is_stopping = True
            self._script.clear()
            self._changed.notify_all()
        self._httpd.shutdown()
        self._httpd.server_close()
        self._httpd.hang_up()
        self._thread.join()

    def serve(self) -> None:
        """Serve until stopped."""
        self._httpd.serve_forever(poll_interval=0.05)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- what tests do and read ---

    def add_rule(self, rule: Rule) -> Rule:
        """Script a misbehaviour; rules added first are asked first. Raises `ValueError` for a verb there is not."""
        self._check_verb(rule.on)
        with self._changed:
            self._script.add(rule)
        return rule

    def withdraw(self, rule: Rule) -> None:
        """End a rule; calls it holds back go on at once."""
        with self._changed:
            self._script.withdraw(rule)

    def clear(self) -> None:
        """End all rules; calls they hold back go on at once."""
        with self._changed:
            self._script.clear()

    def release_all(self) -> None:
        """Let the calls that are held back now go on; the rules stay in force."""
        with self._changed:
            self._script.release_all()

    def wait_until(self, condition: Callable[[], bool], seconds: float = 5) -> bool:
        """Wait for something that only calls or the script change; False if it did not come true in time."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def count(self, verb: str, name: str | None = None) -> int:
        """How many calls of that verb have ended, of one name or of all."""
        self._check_verb(verb)
        with self._changed:
            if name is None:
                return self._counts[verb]
            return sum(call.verb == verb and call.name == name for call in self.calls)

    def stats(self) -> dict[str, Any]:
        """The calls that have ended by verb, and the peaks."""
        with self._changed:
            return {"calls": dict(self._counts), "peak": dict(self.peak)}

    def script(self, order: dict[str, Any]) -> None:
        """The script as JSON. Keys: `clear` (drops all rules, done first), `rules` (fields of `Rule`), and the
        double's own. Raises `TypeError` or `ValueError` on what it does not know, and then changes nothing.
        """
        own = self.orders()
        if unknown := set(order) - {"clear", "rules", *own}:
            raise TypeError(f"unknown: {', '.join(sorted(unknown))}")
        rules = [Rule(**fields) for fields in order.get("rules", [])]
        for rule in rules:
            self._check_verb(rule.on)
        with self._changed:
            if order.get("clear"):
                self._script.clear()
            for rule in rules:
                self._script.add(rule)
            for key in own.keys() & order.keys():
                own[key](order[key])
            self._changed.notify_all()

    # --- what a double brings along ---

    @abstractmethod
    def respond(self, request: Request) -> Answer | None:
        """The answer to one request; None is no answer at all."""

    @abstractmethod
    def refusal(self, status: int, code: str, message: str, retry_after_seconds: int | None = None) -> Answer:
        """An error in the double's own words."""

    @abstractmethod
    def orders(self) -> Mapping[str, Callable[[Any], None]]:
        """The keys of the script that are the double's own, and what each does."""

    def scripted_refusal(self, rule: Rule) -> Answer:
        """What a rule with a status is answered."""
        return self.refusal(rule.status, rule.code, "as scripted", rule.retry_after_seconds)

    def handle(self, verb: str, name: str, act: Callable[[Rule], Answer], accelerator_type: str = "") -> Answer | None:
        """One call, as scripted."""
        at = time.time()
        answer: Answer | None = None
        with self._changed:
            rule = self._script.take(verb, name, accelerator_type)
            go = rule.go
            self.in_flight[verb] += 1
            self.peak[verb] = max(self.peak[verb], self.in_flight[verb])
            self._changed.notify_all()
        try:
            answer = self._follow(rule, go, act)
        finally:
            with self._changed:
                self.in_flight[verb] -= 1
                object_id, status = (answer.object_id, answer.status) if answer else ("", 0)
                self.calls.append(Call(at, verb, name, object_id, status, getattr(self._asked, "request_id", "")))
                self._counts[verb] += 1
                self._changed.notify_all()
        return answer

    def _follow(self, rule: Rule, go: threading.Event, act: Callable[[Rule], Answer]) -> Answer | None:
        """Act under the lock, wait without it."""
        _hold(go, rule.delay_seconds)
        answer = None
        with self._changed:
            if self._is_stopping:
                return None
            if rule.is_applied or not (rule.status or rule.drop):
                answer = act(rule)
                self._changed.notify_all()
        _hold(go, rule.answer_delay_seconds)
        if self._is_stopping or rule.drop:
            return None
        if rule.status:
            object_id = answer.object_id if answer else ""
            answer = self.scripted_refusal(rule)._replace(object_id=object_id)
        return answer._replace(drip_seconds=rule.drip_seconds, go=go) if answer and rule.drip_seconds else answer

    def _check_verb(self, verb: str) -> None:
        if verb not in self.verbs:
            raise ValueError(f"unknown verb {verb!r}; there are: {', '.join(sorted(self.verbs))}")

    def frame_answer(self, request: Request) -> Answer | None:
        """What every double answers, and otherwise the double's own answer."""
        self._asked.request_id = request.request_id
        try:
            if (request.method, request.path) == ("GET", "/healthz"):
                return Answer(200, {"status": "ok"})
            if (request.method, request.path) == ("GET", "/stats"):
                return Answer(200, self.stats())
            if (request.method, request.path) == ("POST", "/script"):
                self.script(json.loads(request.body))
                return Answer(200, {})
            return self.respond(request)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            return self.refusal(400, "invalid_request", str(error))


def each(action: Callable[[str], None]) -> Callable[[Iterable[str]], None]:
    """The action, on each of a list."""

    def act(names: Iterable[str]) -> None:
        for name in names:
            action(name)

    return act


def run(server: ScriptedServer) -> None:
    """Serve until killed, and say where."""
    sys.stdout.write(f"{type(server).__name__} on {server.url}\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()


def _hold(go: threading.Event, seconds: float) -> None:
    if seconds > 0:
        go.wait(seconds)


class _HttpServer(ThreadingHTTPServer):
    scripted: ScriptedServer
    request_queue_size = 128  # the default of 5 makes a burst of connections time out

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: set[Any] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that clients keep: nobody would answer on them any more."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is the point of many a test; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    protocol_version = "HTTP/1.1"
    timeout = 30  # of a connection on which no request comes
    wbufsize = -1  # headers and body leave as one
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        told = [self.headers.get(name, "") for name in ("Content-Type", "Authorization", "X-Request-ID")]
        content_type, authorization, request_id = told
        request = Request(self.command, parts.path, query, content_type, self._body(), authorization, request_id)
        answer = self.server.scripted.frame_answer(request)
        if answer is None:
            self.close_connection = True
        else:
            self._answer(answer)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - the names http.server asks for

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, answer: Answer) -> None:
        is_raw = isinstance(answer.body, bytes)
        payload = answer.body if is_raw else b"" if answer.body is None else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/jsonl" if is_raw else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if answer.retry_after_seconds is not None:
            self.send_header("Retry-After", str(answer.retry_after_seconds))
        self.end_headers()
        if answer.drip_seconds and answer.go is not None:
            for byte in payload:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                answer.go.wait(answer.drip_seconds)
        else:
            self.wfile.write(payload)

    def log_message(self, *args: Any) -> None:
        """The calls are in `stats`, not in a log."""
