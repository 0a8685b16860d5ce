"""The simulated provider's own side: a small HTTP server with a ledger, a bill and a script of misbehaviour.

In tests: `with SimulatedServer() as server: ...`. Stand-alone: `python -m jobs.provisioners.simulated_server`.

    POST   /resources          create; names are not unique
    GET    /resources[?name=]  list
    DELETE /resources/{id}     204, or 404
    GET    /healthz, /stats    liveness; the bill, the calls so far and how many were in flight at once
    POST   /script             see `ScriptedServer.script` and `SimulatedServer.orders`
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

from jobs.provisioners.simulated_ledger import Held, Ledger
from jobs.testing.script import Rule
from jobs.testing.scripted_server import Answer, Request, ScriptedServer, each, run


class SimulatedServer(ScriptedServer):
    """The server and everything a test may read or script; attributes may be changed while it runs.

    The name of a call is the object's; of a listing, what it was filtered by.
    """

    verbs: ClassVar[frozenset[str]] = frozenset({"create", "list", "delete"})

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
        super().__init__(port)

    def stop(self) -> None:
        """Stop as a kill would. The ledger stays readable."""
        super().stop()
        self.ledger.close()

    # --- what tests do and read ---

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

    def orders(self) -> Mapping[str, Callable[[Any], None]]:
        """`capacity`, `ready_seconds`, and lists of names to `vanish`, to `fail` and to make `ready`."""
        return {
            "capacity": lambda capacity: setattr(self, "capacity", capacity),
            "ready_seconds": lambda seconds: setattr(self, "ready_seconds", seconds),
            "vanish": each(self.vanish),
            "fail": each(self.fail),
            "ready": each(self.make_ready),
        }

    def stats(self) -> dict[str, Any]:
        """The bill, the calls that have ended by verb, and the peaks."""
        return {"bill": dataclasses.asdict(self.ledger.bill()), **super().stats()}

    # --- what it answers ---

    def respond(self, request: Request) -> Answer | None:
        """Resources can be created, listed and deleted."""
        collection, _, object_id = request.path.strip("/").partition("/")
        match request.method, collection, bool(object_id):
            case "GET", "resources", False:
                name = request.query.get("name", "")
                return self.handle("list", name, lambda rule: self._list(name, rule))
            case "POST", "resources", False:
                return self.create(json.loads(request.body))
            case "DELETE", "resources", True:
                object_id = unquote(object_id)
                held = self.ledger.get(object_id)
                return self.handle("delete", held.name if held else "", lambda rule: self._delete(object_id, rule))
        return self.refusal(404, "not_found", "no such path")

    def create(self, body: dict[str, Any]) -> Answer | None:
        """One create, as scripted."""
        name, accelerator = str(body.get("name", "")), str(body.get("accelerator_type", ""))
        if not name:
            return self.refusal(400, "invalid_request", "name is required")
        return self.handle("create", name, lambda rule: self._create(name, accelerator, body, rule), accelerator)

    def refusal(self, status: int, code: str, message: str, retry_after_seconds: int | None = None) -> Answer:
        """An error has a code and a message."""
        return Answer(status, {"error": {"code": code, "message": message}}, retry_after_seconds)

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
            return self.refusal(409, "capacity", f"all {self.capacity} places are taken")
        return Answer(201, _shown(held, now, rule), object_id=held.id)

    def _list(self, name: str, rule: Rule) -> Answer:
        now = time.time()
        listed = [held for held in self.live(name or None) if held.visible_at <= now]
        if rule.hides:
            listed = [held for held in listed if not held.name.startswith(rule.name_prefix)]
        return Answer(200, {"resources": [_shown(held, now, rule) for held in listed]})

    def _delete(self, object_id: str, rule: Rule) -> Answer:
        now = time.time()
        held = self.ledger.get(object_id)
        if held is None or (held.gone_at is not None and held.gone_at <= now):
            return self.refusal(404, "not_found", "no such resource")
        self.ledger.change(now, object_id, "deleted", gone_at=now + rule.linger_seconds)
        return Answer(204, object_id=object_id)

    def _change_all(self, name: str, event: str, **fields: Any) -> None:
        with self._changed:
            for held in self.live(name):
                self.ledger.change(time.time(), held.id, event, **fields)
            self._changed.notify_all()


def _shown(held: Held, now: float, rule: Rule) -> dict[str, Any]:
    status = held.status(now)
    if rule.shows and held.name.startswith(rule.name_prefix):
        status = rule.shows
    return {**dataclasses.asdict(held), "status": status, "region": "simulated", "message": held.failure}


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
    run(server)


if __name__ == "__main__":
    main()
