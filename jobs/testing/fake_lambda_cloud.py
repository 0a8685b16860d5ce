"""A double of Lambda Cloud's API v1: instances with a ledger and a bill, its exact refusals, its limits on demand.

In tests: `with FakeLambdaCloud() as server: ...`. Stand-alone: `python -m jobs.testing.fake_lambda_cloud`;
LAMBDA_CLOUD_BASE_URL is its address and `/api/v1`. Any key is taken but the word `wrong`.

    POST   /api/v1/instance-operations/launch, /terminate
    GET    /api/v1/instances, /instances/{id}, /instance-types
    GET    /healthz, /stats; POST /script     see `ScriptedServer.script` and `ProviderServer.orders`

What tests and scripts call an instance is what stands before its replica's number in its name.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import unquote

from jobs.testing.ledger import Held
from jobs.testing.provider_server import ProviderServer, Refusal
from jobs.testing.script import Rule
from jobs.testing.scripted_server import Answer, Request

WRONG_KEY = "wrong"
REGION = "us-west-1"

_STATUSES = {"pending": "booting", "ready": "active", "failed": "unhealthy"}
_REQUIRED = ("region_name", "instance_type_name", "ssh_key_names")
_TAG_KEY = re.compile(r"[a-z][a-z0-9:-]+")


def _error(code: str, message: str, suggestion: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **({"suggestion": suggestion} if suggestion else {})}}


class FakeLambdaCloud(ProviderServer):
    """A double of Lambda Cloud."""

    verbs: ClassVar[frozenset[str]] = frozenset({"create", "list", "get", "delete", "types"})
    refusals: ClassVar[Mapping[Refusal, tuple[int, Any]]] = {
        Refusal.INVALID_REQUEST: (400, _error("global/invalid-parameters", "Invalid request data.")),
        Refusal.INVALID_CREDENTIAL: (
            401,
            _error("global/invalid-api-key", "API key was invalid, expired, or deleted.", "Check your API key."),
        ),
        Refusal.CAPACITY: (
            400,
            _error(
                "instance-operations/launch/insufficient-capacity",
                "Not enough capacity to fulfill launch request.",
                "Choose an instance type with more availability, or try again later.",
            ),
        ),
        Refusal.QUOTA: (400, _error("global/quota-exceeded", "Quota exceeded.", "Contact Support.")),
        Refusal.RATE_LIMITED: (429, _error("global/rate-limited", "Too many requests.")),
        Refusal.BROKEN: (500, _error("provider/internal-unavailable", "The service is unavailable.")),
    }

    ip = "203.0.113.9"  # of every instance that is active
    has_tags = True  # told in listings

    def __init__(self, **given: Any) -> None:
        self.request_interval_seconds = 0.0  # what comes sooner after another one is refused
        self.launch_interval_seconds = 0.0
        self._taken_at: dict[str, float] = {}
        super().__init__(**given)

    def make_id(self, sequence: int) -> str:
        """Hexadecimal digits, in no order."""
        return f"{(sequence * 7919) % 999_983:06d}{sequence:026x}"

    def orders(self) -> Mapping[str, Callable[[Any], None]]:
        """The two limits besides."""
        return {
            **super().orders(),
            "request_interval_seconds": lambda seconds: setattr(self, "request_interval_seconds", seconds),
            "launch_interval_seconds": lambda seconds: setattr(self, "launch_interval_seconds", seconds),
        }

    def respond(self, request: Request) -> Answer | None:
        """Instances can be launched, listed, looked at and terminated, by those who have a key."""
        path = request.path.strip("/").removeprefix("api/v1/")
        if request.authorization in {"", f"Bearer {WRONG_KEY}"}:
            return Answer(*self.refusals[Refusal.INVALID_CREDENTIAL])
        match request.method, *path.split("/"):
            case "GET", "instances":
                return self.handle("list", "", self._unless_too_soon("request", self._list))
            case "GET", "instances", instance_id:
                found = unquote(instance_id)
                return self.handle("get", self._name_of(found), lambda rule: self._get(found, rule))
            case "GET", "instance-types":
                return self.handle("types", "", self._unless_too_soon("request", lambda _: self._types()))
            case "POST", "instance-operations", "launch":
                return self._launch(json.loads(request.body))
            case "POST", "instance-operations", "terminate":
                return self._terminate(json.loads(request.body))
        return self.refusal(404, "global/object-does-not-exist", "Specified object does not exist.")

    def refusal(self, status: int, code: str, message: str, retry_after_seconds: int | None = None) -> Answer:
        """An error has a code to go by and a message."""
        code = "global/object-does-not-exist" if status == 404 else code
        return Answer(status, _error(code, message), retry_after_seconds)

    def _unless_too_soon(self, limit: str, act: Callable[[Rule], Answer]) -> Callable[[Rule], Answer]:
        def acted(rule: Rule) -> Answer:
            now = time.monotonic()
            intervals = {"request": self.request_interval_seconds}
            if limit == "launch":
                intervals["launch"] = self.launch_interval_seconds
            if any(now - self._taken_at.get(name, float("-inf")) < seconds for name, seconds in intervals.items()):
                return Answer(*self.refusals[Refusal.RATE_LIMITED], retry_after_seconds=1)
            self._taken_at |= dict.fromkeys(intervals, now)
            return act(rule)

        return acted

    def _launch(self, body: dict[str, Any]) -> Answer | None:
        is_whole = all(body.get(field) for field in _REQUIRED) and len(body["ssh_key_names"]) == 1
        if not is_whole or not all(_TAG_KEY.fullmatch(tag["key"]) for tag in body.get("tags") or []):
            return Answer(*self.refusals[Refusal.INVALID_REQUEST])
        name = called(str(body.get("name") or ""))
        act = self._unless_too_soon("launch", lambda rule: self._launched(name, body, rule))
        return self.handle("create", name, act, str(body["instance_type_name"]))

    def _launched(self, name: str, body: dict[str, Any], rule: Rule) -> Answer:
        count = re.search(r"gpu_(\d+)x", body["instance_type_name"])
        kept = {key: body.get(key) for key in ("name", "tags", "region_name", "instance_type_name", "ssh_key_names")}
        held = self.hold(rule, name, int(count[1]) if count else 1, launched=kept)
        if held is None:
            return Answer(*self.refusals[Refusal.CAPACITY])
        return Answer(200, {"data": {"instance_ids": [held.id]}}, object_id=held.id)

    def _list(self, rule: Rule) -> Answer:
        return Answer(200, {"data": [self._shown(held, rule) for held in self.listed(rule)]})

    def _get(self, instance_id: str, rule: Rule) -> Answer:
        found = [held for held in self.listed(rule) if held.id == instance_id]
        if not found:
            return self.refusal(404, "", "Specified object does not exist.")
        return Answer(200, {"data": self._shown(found[0], rule)})

    def _types(self) -> Answer:
        has_room = self.capacity is None or len(self.live()) < self.capacity
        kind = {"name": "gpu_1x_h100", "price_cents_per_hour": 100 * self.price, "specs": {"gpus": 1}}
        regions = [{"name": REGION, "description": "California, USA"}] if has_room else []
        return Answer(
            200, {"data": {kind["name"]: {"instance_type": kind, "regions_with_capacity_available": regions}}}
        )

    def _terminate(self, body: dict[str, Any]) -> Answer | None:
        ids = body.get("instance_ids") or []
        if len(ids) != 1:  # it takes several; what then becomes of each is not told, so nobody should ask that
            return Answer(*self.refusals[Refusal.INVALID_REQUEST])
        act = self._unless_too_soon("request", lambda rule: self._terminated(ids[0], rule))
        return self.handle("delete", self._name_of(ids[0]), act)

    def _terminated(self, instance_id: str, rule: Rule) -> Answer:
        if not self.drop(rule, instance_id):
            return self.refusal(404, "", "Specified object does not exist.")
        return Answer(200, {"data": {"terminated_instances": [{"id": instance_id}]}}, object_id=instance_id)

    def _name_of(self, instance_id: str) -> str:
        held = self.ledger.get(instance_id)
        return held.name if held else ""

    def _shown(self, held: Held, rule: Rule) -> dict[str, Any]:
        status, launched = self.status(rule, held), held.facts["launched"]
        cents = round(100 * held.price_per_hour)
        return {
            "id": held.id,
            "name": launched["name"],
            "status": _STATUSES.get(status, status),
            "ip": self.ip if status == "ready" else None,
            "region": {"name": launched["region_name"], "description": "California, USA"},
            "instance_type": {"name": launched["instance_type_name"], "price_cents_per_hour": cents},
            "ssh_key_names": launched["ssh_key_names"],
            **({"tags": launched["tags"]} if self.has_tags else {}),
        }


def called(instance_name: str) -> str:
    """What tests and scripts call an instance of this name."""
    return re.sub(r"-\d+-x\d+-[0-9a-f]{8}$", "", instance_name)


if __name__ == "__main__":
    FakeLambdaCloud.main()
