"""The simulated provider's own side: a small HTTP server with a ledger, a bill and a script of misbehaviour.

In tests: `with SimulatedServer() as server: ...`. Stand-alone: `python -m jobs.provisioners.simulated_server`.

    POST   /resources          create; names are not unique
    GET    /resources[?name=]  list
    DELETE /resources/{id}     204, or 404
    GET    /healthz, /stats    liveness; the bill, the calls so far and how many were in flight at once
    POST   /script             see `ScriptedServer.script` and `ProviderServer.orders`
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

from jobs.testing.ledger import Held
from jobs.testing.provider_server import ProviderServer, Refusal
from jobs.testing.script import Rule
from jobs.testing.scripted_server import Answer, Request


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


class SimulatedServer(ProviderServer):
    """The simulated provider of accelerators."""

    refusals: ClassVar[Mapping[Refusal, tuple[int, Any]]] = {
        Refusal.INVALID_REQUEST: (400, _error("invalid_request", "as scripted")),
        Refusal.INVALID_CREDENTIAL: (401, _error("invalid_credential", "as scripted")),
        Refusal.CAPACITY: (409, _error("capacity", "as scripted")),
        Refusal.RATE_LIMITED: (429, _error("rate_limited", "as scripted")),
        Refusal.BROKEN: (500, _error("broken", "as scripted")),
    }

    def make_id(self, sequence: int) -> str:
        """`sim-000001` is the first."""
        return f"sim-{sequence:06d}"

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
        return Answer(status, _error(code, message), retry_after_seconds)

    def _create(self, name: str, accelerator: str, body: dict[str, Any], rule: Rule) -> Answer:
        count, replicas = int(body.get("accelerator_count") or 0), int(body.get("replicas") or 1)
        held = self.hold(
            rule,
            name,
            max(1, count) * replicas,
            installation=str(body.get("installation", "")),
            provision_id=str(body.get("provision_id", "")),
            job_id=str(body.get("job_id", "")),
            accelerator_type=accelerator,
            accelerator_count=count,
            replicas=replicas,
            expires_at=body.get("expires_at"),
        )
        if held is None:
            return self.refusal(409, "capacity", f"all {self.capacity} places are taken")
        return Answer(201, self._shown(held, rule), object_id=held.id)

    def _list(self, name: str, rule: Rule) -> Answer:
        return Answer(200, {"resources": [self._shown(held, rule) for held in self.listed(rule, name or None)]})

    def _delete(self, object_id: str, rule: Rule) -> Answer:
        if not self.drop(rule, object_id):
            return self.refusal(404, "not_found", "no such resource")
        return Answer(204, object_id=object_id)

    def _shown(self, held: Held, rule: Rule) -> dict[str, Any]:
        own = dataclasses.asdict(held)
        told = {"status": self.status(rule, held), "region": "simulated", "message": held.failure}
        return {**own.pop("facts"), **own, **told}


if __name__ == "__main__":
    SimulatedServer.main()
