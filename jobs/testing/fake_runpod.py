"""A double of RunPod's REST API v1: pods with a ledger and a bill, its exact refusals, and a script of misbehaviour.

In tests: `with FakeRunPod() as server: ...`. Stand-alone: `python -m jobs.testing.fake_runpod`; RUNPOD_BASE_URL is its
address and `/v1`. Any key is taken but the word `wrong`.

    POST   /v1/pods, GET /v1/pods[?name=], GET, DELETE /v1/pods/{id}
    GET    /healthz, /stats; POST /script     see `ScriptedServer.script` and `ProviderServer.orders`

What tests and scripts call a pod is what stands before the number at the end of its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

from jobs.testing.ledger import Held
from jobs.testing.provider_server import ProviderServer, Refusal
from jobs.testing.script import Rule
from jobs.testing.scripted_server import Answer, Request

NO_INSTANCES = "create pod: There are no instances currently available"
WRONG_KEY = "wrong"

_LONGEST_NAME = 191

_STATUSES = {"pending": "RUNNING", "ready": "RUNNING", "failed": "EXITED", "terminating": "TERMINATED"}


def _error(message: str, status: int) -> dict[str, Any]:
    return {"error": message, "status": status}


class FakeRunPod(ProviderServer):
    """A double of RunPod."""

    refusals: ClassVar[Mapping[Refusal, tuple[int, Any]]] = {
        Refusal.INVALID_REQUEST: (400, _error("gpuTypeIds: value is not one of the allowed values", 400)),
        Refusal.INVALID_CREDENTIAL: (401, {"error": {}}),
        Refusal.CAPACITY: (500, _error(NO_INSTANCES, 500)),
        Refusal.RATE_LIMITED: (429, _error("Too many requests", 429)),
        Refusal.BROKEN: (500, _error("create pod: Something went wrong. Please try again later", 500)),
    }

    verbs: ClassVar[frozenset[str]] = frozenset({"create", "list", "get", "delete"})
    ssh_address = ("203.0.113.7", 10341)  # told of every pod that is ready

    def make_id(self, sequence: int) -> str:
        """Fourteen letters and digits, which are in no order: RunPod's tell nothing of a pod's age."""
        return f"{(sequence * 7919) % 999_983:06d}runpod{sequence:02d}"

    def respond(self, request: Request) -> Answer | None:
        """Pods can be created, listed, looked at and deleted, by those who have a key."""
        version, _, path = request.path.strip("/").partition("/")
        collection, _, pod_id = path.partition("/")
        if (version, collection) != ("v1", "pods"):
            return Answer(404, "404 page not found")
        if request.authorization in {"", f"Bearer {WRONG_KEY}"}:
            return Answer(*self.refusals[Refusal.INVALID_CREDENTIAL])
        match request.method, bool(pod_id):
            case "GET", False:
                name = called(request.query.get("name", ""))
                return self.handle("list", name, lambda rule: self._list(request.query, rule))
            case "POST", False:
                return self._create(json.loads(request.body))
            case "GET", True:
                pod_id = unquote(pod_id)
                return self.handle("get", self._name_of(pod_id), lambda rule: self._get(pod_id, request.query, rule))
            case "DELETE", True:
                pod_id = unquote(pod_id)
                return self.handle("delete", self._name_of(pod_id), lambda rule: self._delete(pod_id, rule))
        return self.refusal(405, "", "method not allowed")

    def refusal(self, status: int, code: str, message: str, retry_after_seconds: int | None = None) -> Answer:
        """There are no codes."""
        return Answer(status, _error(message, status), retry_after_seconds)

    def _create(self, body: dict[str, Any]) -> Answer | None:
        name, gpu_types = str(body.get("name") or "my pod"), body.get("gpuTypeIds") or []
        if not isinstance(gpu_types, list) or not gpu_types or not body.get("imageName"):
            return self.refusal(400, "", "gpuTypeIds and imageName are required")
        if len(name) > _LONGEST_NAME:
            return self.refusal(400, "", f"name: must be at most {_LONGEST_NAME} characters")
        return self.handle("create", called(name), lambda rule: self._created(name, body, rule), str(gpu_types[0]))

    def _created(self, name: str, body: dict[str, Any], rule: Rule) -> Answer:
        count = int(body.get("gpuCount") or 1)
        asked = {"pod_name": name, "env": body.get("env") or {}, "image": body["imageName"], "ports": body.get("ports")}
        held = self.hold(rule, called(name), count, **asked)
        if held is None:
            return Answer(*self.refusals[Refusal.CAPACITY])
        return Answer(201, self._shown(held, rule, {"includeMachine": "true"}), object_id=held.id)

    def _list(self, query: Mapping[str, str], rule: Rule) -> Answer:
        pods = [held for held in self.listed(rule) if query.get("name") in (None, held.facts["pod_name"])]
        return Answer(200, [self._shown(held, rule, query) for held in pods])

    def _get(self, pod_id: str, query: Mapping[str, str], rule: Rule) -> Answer:
        found = [held for held in self.listed(rule) if held.id == pod_id]
        return Answer(200, self._shown(found[0], rule, query)) if found else self.refusal(404, "", "pod not found")

    def _delete(self, pod_id: str, rule: Rule) -> Answer:
        if not self.drop(rule, pod_id):
            return self.refusal(404, "", "pod not found")
        return Answer(204, object_id=pod_id)

    def _name_of(self, pod_id: str) -> str:
        held = self.ledger.get(pod_id)
        return held.name if held else ""

    def _shown(self, held: Held, rule: Rule, query: Mapping[str, str]) -> dict[str, Any]:
        status = self.status(rule, held)
        host, port = self.ssh_address if status == "ready" else ("", None)
        pod = {
            "id": held.id,
            "name": held.facts["pod_name"],
            "desiredStatus": _STATUSES.get(status, status),
            "env": held.facts["env"],
            "image": held.facts["image"],
            "ports": held.facts["ports"],
            "publicIp": host,
            "portMappings": {"22": port} if port else None,
            "costPerHr": held.price_per_hour,
            "machineId": "m0000",
            "interruptible": False,
        }
        return pod | ({"machine": {"dataCenterId": "EU-RO-1"}} if query.get("includeMachine") == "true" else {})


def called(pod_name: str) -> str:
    """What tests and scripts call a pod of this name."""
    return re.sub(r"-\d+$", "", pod_name)


if __name__ == "__main__":
    FakeRunPod.main()
