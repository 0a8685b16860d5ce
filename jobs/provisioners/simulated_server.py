"""The simulated provider's own side: a small HTTP server with a ledger, a bill and a script of misbehaviour.

In tests: `with SimulatedServer() as server: ...`. Stand-alone: `python -m jobs.provisioners.simulated_server`.

    POST   /resources          create; names are not unique
    GET    /resources[?name=]  list
    DELETE /resources/{id}     204, or 404
    GET    /healthz, /stats    liveness; the bill, the calls so far and how many were in flight at once
    POST   /script             see `SimulatedServer.script`
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

from jobs.provisioners.simulated_ledger import Held, Ledger
from jobs.provisioners.simulated_script import Rule, Script

_KEPT_CALLS = 100_000


@dataclass(frozen=True)
class Call:
    """One call as the server saw it. `status` is the answer's, 0 for none."""

    at: float
    verb: str
    name: str
    object_id: str
    status: int


class Answer(NamedTuple):
    """A status, a body and, for a refusal, how long to wait."""

    status: int
    body: Any = None
    retry_after_seconds: int | None = None
    object_id: str = ""


class SimulatedServer:
    """The server and everything a test may read or script; attributes may be changed while it runs."""

    def __init__(
        self,
        *,
        port: int = 0,
        ledger_path: Path | None = None,
        ready_seconds: float = 0,
        capacity: int | None = None,
        price: float = 1,
    ) -> None:
        """`capacity` counts objects; `price` is for one accelerator and hour."""
        self.ledger = Ledger(ledger_path)
        self.ready_seconds = ready_seconds
        self.capacity = capacity
        self.price = price
        self.calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self.in_flight: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()  # most in flight at once, by verb
        self._changed = threading.Condition()
        self._script = Script(self._changed)
        self._is_stopping = False
        self._httpd = _HttpServer(("127.0.0.1", port), _Handler)
        self._httpd.simulated = self
        self._thread = threading.Thread(target=self.serve, name="simulated-provider", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._httpd.server_port}"

    def start(self) -> None:
        """Serve in a thread; it accepts connections already."""
        self._thread.start()

    def stop(self) -> None:
        """Stop as a kill would: calls in flight are dropped and no longer act. The ledger stays readable."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()
        self.ledger.close()

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
        """Script a misbehaviour; rules added first are asked first."""
        with self._changed:
            self._script.add(rule)
        return rule

    def withdraw(self, rule: Rule) -> None:
        """End a rule; calls it holds back go on at once."""
        with self._changed:
            self._script.withdraw(rule)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 5) -> bool:
        """Wait for something that only calls or the script change; False if it did not come true in time."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def count(self, verb: str, name: str | None = None) -> int:
        """How many calls of that verb have ended, of one name or of all."""
        with self._changed:
            return sum(call.verb == verb and name in (None, call.name) for call in self.calls)

    def live(self, name: str | None = None) -> list[Held]:
        """What is held under a name, or at all, oldest first."""
        return [held for held in self.ledger.live() if name in (None, held.name)]

    def vanish(self, name: str) -> None:
        """Lose everything of that name, unasked."""
        self._change_all(name, "vanished", gone_at=time.time())

    def fail(self, name: str) -> None:
        """Break everything of that name; it stays listed and billed."""
        self._change_all(name, "changed", failure="simulated failure")

    def make_ready(self, name: str) -> None:
        """Make everything of that name ready now."""
        self._change_all(name, "changed", ready_at=time.time())

    def script(self, order: dict[str, Any]) -> None:
        """The script as JSON. Keys: `clear` (drops all rules, done first), `rules` (fields of `Rule`), `capacity`,
        `ready_seconds`, and `vanish`, `fail`, `ready` (lists of names). Raises TypeError on what it does not know.
        """
        rules = [Rule(**fields) for fields in order.get("rules", [])]
        actions = {"vanish": self.vanish, "fail": self.fail, "ready": self.make_ready}
        if unknown := set(order) - {"clear", "rules", "capacity", "ready_seconds", *actions}:
            raise TypeError(f"unknown: {', '.join(sorted(unknown))}")
        with self._changed:
            if order.get("clear"):
                self._script.clear()
            for rule in rules:
                self._script.add(rule)
        self.capacity = order.get("capacity", self.capacity)
        self.ready_seconds = order.get("ready_seconds", self.ready_seconds)
        for key, action in actions.items():
            for name in order.get(key, []):
                action(name)

    def stats(self) -> dict[str, Any]:
        """The bill, the calls that have ended by verb, and the peaks."""
        with self._changed:
            calls = Counter(call.verb for call in self.calls)
            return {"bill": dataclasses.asdict(self.ledger.bill()), "calls": calls, "peak": dict(self.peak)}

    # --- what the handler does ---

    def create(self, body: dict[str, Any]) -> Answer | None:
        """One create, as scripted; None is no answer at all."""
        name, accelerator = str(body.get("name", "")), str(body.get("accelerator_type", ""))
        if not name:
            return _refusal(400, "invalid_request", "name is required")
        return self._handle("create", name, accelerator, lambda rule: self._create(name, accelerator, body, rule))

    def list_all(self, name: str) -> Answer | None:
        """One listing, as scripted."""
        return self._handle("list", name, "", lambda rule: self._list(name))

    def delete(self, object_id: str) -> Answer | None:
        """One delete, as scripted."""
        held = self.ledger.get(object_id)
        name = held.name if held else ""
        return self._handle("delete", name, "", lambda rule: self._delete(object_id, rule))

    def _handle(self, verb: str, name: str, accelerator: str, act: Callable[[Rule], Answer]) -> Answer | None:
        at = time.time()
        answer: Answer | None = None
        with self._changed:
            rule = self._script.take(verb, name, accelerator)
            self.in_flight[verb] += 1
            self.peak[verb] = max(self.peak[verb], self.in_flight[verb])
            self._changed.notify_all()
            try:
                answer = self._follow(rule, act)
            finally:
                self.in_flight[verb] -= 1
                object_id, status = (answer.object_id, answer.status) if answer else ("", 0)
                self.calls.append(Call(at, verb, name, object_id, status))
                self._changed.notify_all()
        return answer

    def _follow(self, rule: Rule, act: Callable[[Rule], Answer]) -> Answer | None:
        """Act under the lock, wait without it."""
        self._script.hold(rule, rule.delay_seconds, self._is_over)
        if self._is_over():
            return None
        is_failing = bool(rule.status or rule.drop)
        answer = act(rule) if rule.is_applied or not is_failing else None
        self._script.hold(rule, rule.answer_delay_seconds, self._is_over)
        if self._is_over() or rule.drop:
            return None
        if rule.status:
            refusal = _refusal(rule.status, rule.code, "as scripted", rule.retry_after_seconds)
            return refusal._replace(object_id=answer.object_id if answer else "")
        return answer

    def _is_over(self) -> bool:
        return self._is_stopping

    def _create(self, name: str, accelerator: str, body: dict[str, Any], rule: Rule) -> Answer:
        now = time.time()
        count, replicas = int(body.get("accelerator_count") or 0), int(body.get("replicas") or 1)
        ready_seconds = self.ready_seconds if rule.ready_seconds is None else rule.ready_seconds
        held = self.ledger.create(
            now,
            capacity=self.capacity,
            name=name,
            installation=str(body.get("installation", "")),
            provision_id=str(body.get("provision_id", "")),
            job_id=str(body.get("job_id", "")),
            accelerator_type=accelerator,
            accelerator_count=count,
            replicas=replicas,
            expires_at=body.get("expires_at"),
            price_per_hour=self.price * max(1, count) * replicas,
            visible_at=now + rule.visible_after_seconds,
            ready_at=None if rule.is_never_ready else now + ready_seconds,
        )
        if held is None:
            return _refusal(409, "capacity", f"all {self.capacity} places are taken")
        return Answer(201, _shown(held, now), object_id=held.id)

    def _list(self, name: str) -> Answer:
        now = time.time()
        listed = [held for held in self.live(name or None) if held.visible_at <= now]
        return Answer(200, {"resources": [_shown(held, now) for held in listed]})

    def _delete(self, object_id: str, rule: Rule) -> Answer:
        now = time.time()
        held = self.ledger.get(object_id)
        if held is None or (held.gone_at is not None and held.gone_at <= now):
            return _refusal(404, "not_found", "no such resource")
        self.ledger.change(now, object_id, "deleted", gone_at=now + rule.linger_seconds)
        return Answer(204, object_id=object_id)

    def _change_all(self, name: str, event: str, **fields: Any) -> None:
        with self._changed:
            for held in self.live(name):
                self.ledger.change(time.time(), held.id, event, **fields)
            self._changed.notify_all()


def _refusal(status: int, code: str, message: str, retry_after_seconds: int | None = None) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}}, retry_after_seconds)


def _shown(held: Held, now: float) -> dict[str, Any]:
    return {
        **dataclasses.asdict(held),
        "status": held.status(now),
        "region": "simulated",
        "message": held.failure,
    }


class _HttpServer(ThreadingHTTPServer):
    simulated: SimulatedServer
    request_queue_size = 128  # the default of 5 makes a burst of connections time out

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is the point of many a test; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    timeout = 30  # of a connection on which no request comes
    wbufsize = -1  # headers and body leave as one

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        simulated = self.server.simulated
        if parts.path == "/resources":
            self._answer(simulated.list_all(parse_qs(parts.query).get("name", [""])[0]))
        elif parts.path == "/healthz":
            self._answer(Answer(200, {"status": "ok"}))
        elif parts.path == "/stats":
            self._answer(Answer(200, simulated.stats()))
        else:
            self._answer(_refusal(404, "not_found", "no such path"))

    def do_POST(self) -> None:
        simulated = self.server.simulated
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if self.path == "/resources":
                self._answer(simulated.create(body))
            elif self.path == "/script":
                simulated.script(body)
                self._answer(Answer(200, {}))
            else:
                self._answer(_refusal(404, "not_found", "no such path"))
        except (TypeError, ValueError, AttributeError) as error:
            self._answer(_refusal(400, "invalid_request", str(error)))

    def do_DELETE(self) -> None:
        self._answer(self.server.simulated.delete(unquote(self.path.removeprefix("/resources/"))))

    def _answer(self, answer: Answer | None) -> None:
        if answer is None:
            return
        payload = b"" if answer.body is None else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if answer.retry_after_seconds is not None:
            self.send_header("Retry-After", str(answer.retry_after_seconds))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: Any) -> None:
        """The calls are in `stats`, not in a log."""


def main() -> None:
    """Serve until killed; the ledger is whole whenever that happens."""
    parser = argparse.ArgumentParser(description="The simulated provider of accelerators.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--ready-seconds", type=float, default=0)
    parser.add_argument("--capacity", type=int)
    parser.add_argument("--price", type=float, default=1, help="of one accelerator for one hour")
    given = parser.parse_args()
    server = SimulatedServer(
        port=given.port,
        ledger_path=given.ledger,
        ready_seconds=given.ready_seconds,
        capacity=given.capacity,
        price=given.price,
    )
    sys.stdout.write(f"simulated provider on {server.url}\n")
    sys.stdout.flush()
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()


if __name__ == "__main__":
    main()
