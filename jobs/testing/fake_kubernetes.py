"""A Kubernetes API server with pods that nothing runs in, and nodes that are just a number of places.

In tests: `with FakeKubernetes() as server: ...`. Stand-alone: `python -m jobs.testing.fake_kubernetes`.

    POST, GET   /api/v1/namespaces/{namespace}/pods           create; list (`labelSelector`: `label=value`, `label`)
    GET, DELETE /api/v1/namespaces/{namespace}/pods/{name}    one pod; a delete may have a uid as precondition
    POST        /apis/scheduling.k8s.io/v1/priorityclasses    create one, of which pods then can be
    GET         /healthz, /stats                              liveness; the bill, the calls so far and the peaks
    POST        /script                                       see `ScriptedServer.script` and `ProviderServer.orders`

A pod beyond the places there are is Unschedulable until one is free. The name by which pods are scripted is their label
`batch-planner/name`, or else their own. Engine pods do not exist here: that they preempt a placeholder is `vanish`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, ClassVar

from jobs.testing.ledger import Held
from jobs.testing.provider_server import ProviderServer, Refusal
from jobs.testing.script import Rule
from jobs.testing.scripted_server import Answer, Request

NAME_LABEL = "batch-planner/name"
_PODS = re.compile(r"/api/v1/namespaces/([^/]+)/pods(?:/([^/]+))?")
_CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    told = {"status": "Failure", "message": message, "reason": reason, "code": code}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **told}


_QUOTA = (
    'pods "placeholder" is forbidden: exceeded quota: accelerators, requested: requests.nvidia.com/gpu=1, '
    "used: requests.nvidia.com/gpu=8, limited: requests.nvidia.com/gpu=8"
)


class FakeKubernetes(ProviderServer):
    """A Kubernetes API server without a cluster."""

    verbs: ClassVar[frozenset[str]] = frozenset({"create", "list", "get", "delete", "create_class"})
    is_full_refused: ClassVar[bool] = False
    refusals: ClassVar[Mapping[Refusal, tuple[int, Any]]] = {
        Refusal.INVALID_REQUEST: (422, _status(422, "Invalid", 'Pod "placeholder" is invalid: spec: as scripted')),
        Refusal.INVALID_CREDENTIAL: (401, _status(401, "Unauthorized", "Unauthorized")),
        Refusal.CAPACITY: (403, _status(403, "Forbidden", _QUOTA)),  # for want of room it refuses nothing
        Refusal.QUOTA: (403, _status(403, "Forbidden", _QUOTA)),
        Refusal.RATE_LIMITED: (429, b"Too many requests, please try again later.\n"),
        Refusal.BROKEN: (500, _status(500, "InternalError", "Internal error occurred: etcdserver: request timed out")),
    }

    def __init__(self, **given: Any) -> None:
        """As every `ProviderServer`; it begins without any PriorityClass."""
        self.classes: dict[str, dict[str, Any]] = {}
        self.may_create_classes = True
        super().__init__(**given)

    def make_id(self, sequence: int) -> str:
        """A uid."""
        return f"00000000-0000-4000-8000-{sequence:012d}"

    def respond(self, request: Request) -> Answer | None:
        """Pods, and the PriorityClasses they need."""
        if (request.method, request.path) == ("POST", _CLASSES):
            body = json.loads(request.body)
            return self.handle("create_class", body["metadata"]["name"], lambda _: self._create_class(body))
        found = _PODS.fullmatch(request.path)
        if found is None:
            return self.refusal(404, "NotFound", "the server could not find the requested resource")
        namespace, name = found.group(1), found.group(2) or ""
        match request.method, bool(name):
            case "GET", False:
                selector = [part.partition("=") for part in request.query.get("labelSelector", "").split(",") if part]
                labels = {label: value for label, _, value in selector}
                asked_for = labels.get(NAME_LABEL, "")
                return self.handle("list", asked_for, lambda rule: self._list(namespace, labels, rule))
            case "POST", False:
                body = json.loads(request.body)
                return self.handle("create", _scripted_name(body), lambda rule: self._create(namespace, body, rule))
            case "GET", True:
                return self.handle("get", name, lambda rule: self._get(namespace, name, rule))
            case "DELETE", True:
                body = json.loads(request.body or b"{}")
                held = self._held(namespace, name)
                scripted = held.name if held else ""
                return self.handle("delete", scripted, lambda rule: self._delete(namespace, name, body, rule))
        return self.refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def refusal(self, status: int, code: str, message: str, retry_after_seconds: int | None = None) -> Answer:
        """A Status, as Kubernetes answers every error."""
        return Answer(status, _status(status, code, message), retry_after_seconds)

    def scripted_refusal(self, rule: Rule) -> Answer:
        """With the reason that goes with the status, unless the rule has a `Refusal`."""
        if rule.code in set(self.refusals):
            return super().scripted_refusal(rule)
        reason = HTTPStatus(rule.status).phrase.replace(" ", "")
        return self.refusal(rule.status, reason, "as scripted", rule.retry_after_seconds)

    # --- pods ---

    def _held(self, namespace: str, name: str) -> Held | None:
        key = (namespace, name)
        return next((held for held in self.live() if (held.facts["namespace"], held.facts["pod_name"]) == key), None)

    def _create(self, namespace: str, body: dict[str, Any], rule: Rule) -> Answer:
        name = str(body["metadata"].get("name", ""))
        wrong = "; ".join(_problems(body))
        if wrong:
            return self.refusal(422, "Invalid", f'Pod "{name}" is invalid: {wrong}')
        if self._held(namespace, name):
            return self.refusal(409, "AlreadyExists", f'pods "{name}" already exists')
        forbidden = self._class_problem(body["spec"])
        if forbidden:
            return self.refusal(403, "Forbidden", f'pods "{name}" is forbidden: {forbidden}')
        limits = body["spec"]["containers"][0].get("resources", {}).get("limits", {})
        accelerators = sum(int(count) for resource, count in limits.items() if "/" in resource)
        held = self.hold(rule, _scripted_name(body), accelerators, namespace=namespace, pod_name=name, pod=body)
        assert held is not None  # noqa: S101 - nothing is refused for want of room
        return Answer(201, self._shown(held, rule, self._placed()), object_id=held.id)

    def _list(self, namespace: str, labels: dict[str, str], rule: Rule) -> Answer:
        placed = self._placed()
        items = [
            self._shown(held, rule, placed)
            for held in self.listed(rule)
            if held.facts["namespace"] == namespace and _has(held.facts["pod"]["metadata"].get("labels", {}), labels)
        ]
        return Answer(
            200, {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}
        )

    def _get(self, namespace: str, name: str, rule: Rule) -> Answer:
        held = self._held(namespace, name)
        if held is None:
            return self._not_found(name)
        return Answer(200, self._shown(held, rule, self._placed()))

    def _placed(self) -> set[str]:
        """The ids of the pods that there are places for: the oldest."""
        return {held.id for held in self.live()[: self.capacity]}

    def _delete(self, namespace: str, name: str, body: dict[str, Any], rule: Rule) -> Answer:
        held = self._held(namespace, name)
        if held is None:
            return self._not_found(name)
        wanted = (body.get("preconditions") or {}).get("uid", held.id)
        if wanted != held.id:
            message = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {held.id}"
            return self.refusal(409, "Conflict", f'Operation cannot be fulfilled on pods "{name}": {message}')
        shown = self._shown(held, rule, self._placed())
        self.drop(rule, held.id)
        return Answer(200, shown, object_id=held.id)

    def _not_found(self, name: str) -> Answer:
        return self.refusal(404, "NotFound", f'pods "{name}" not found')

    def _shown(self, held: Held, rule: Rule, placed: set[str]) -> dict[str, Any]:
        pod = held.facts["pod"]
        metadata = {**pod["metadata"], "namespace": held.facts["namespace"], "uid": held.id, "resourceVersion": "1"}
        metadata["creationTimestamp"] = _timestamp(held.created_at)
        if held.gone_at is not None:
            metadata["deletionTimestamp"] = _timestamp(held.gone_at)
        spec = dict(pod["spec"])
        is_placed = held.id in placed
        if is_placed:
            spec["nodeName"] = "node-1"
        return {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": metadata,
            "spec": spec,
            "status": _pod_status(held, self.status(rule, held), is_placed=is_placed),
        }

    # --- PriorityClasses ---

    def _create_class(self, body: dict[str, Any]) -> Answer:
        name = body["metadata"]["name"]
        if not self.may_create_classes:
            message = (
                'priorityclasses.scheduling.k8s.io is forbidden: User "system:serviceaccount:default:batch-planner" '
                'cannot create resource "priorityclasses" in API group "scheduling.k8s.io" at the cluster scope'
            )
            return self.refusal(403, "Forbidden", message)
        if name in self.classes:
            return self.refusal(409, "AlreadyExists", f'priorityclasses.scheduling.k8s.io "{name}" already exists')
        self.classes[name] = body
        return Answer(201, body)

    def _class_problem(self, spec: dict[str, Any]) -> str:
        """What the admission of a pod says of its priority: it may be given, but only as its class has it."""
        name = spec.get("priorityClassName", "")
        if not name:
            return ""
        if name not in self.classes:
            return f"no PriorityClass with name {name} was found"
        found = self.classes[name]
        if spec.get("priority", found["value"]) != found["value"]:
            return (
                f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; priority "
                f"admission controller computed {found['value']} from the given PriorityClass name"
            )
        policy = found.get("preemptionPolicy", "PreemptLowerPriority")
        if spec.get("preemptionPolicy", policy) != policy:
            return (
                f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod spec; "
                f"priority admission controller computed {policy} from the given PriorityClass name"
            )
        return ""


def _has(labels: dict[str, str], selected: dict[str, str]) -> bool:
    return all(label in labels and value in {"", labels[label]} for label, value in selected.items())


def _scripted_name(pod: dict[str, Any]) -> str:
    metadata = pod["metadata"]
    return str(metadata.get("labels", {}).get(NAME_LABEL) or metadata.get("name", ""))


def _problems(pod: dict[str, Any]) -> Iterator[str]:
    """Of what the API server checks, that which a placeholder could get wrong."""
    metadata, spec = pod["metadata"], pod["spec"]
    if not _DNS_NAME.fullmatch(str(metadata.get("name", ""))):
        yield "metadata.name: Invalid value: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric ..."
    for key, value in metadata.get("labels", {}).items():
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            yield f"metadata.labels: Invalid value: {value!r} ({key}): a valid label must be an empty string or ..."
    for key, value in metadata.get("annotations", {}).items():
        if not isinstance(value, str):
            yield f"metadata.annotations: Invalid value: {value!r} ({key})"
    deadline = spec.get("activeDeadlineSeconds", 1)
    if not (isinstance(deadline, int) and 1 <= deadline <= 2**31 - 1):
        yield f"spec.activeDeadlineSeconds: Invalid value: {deadline}: must be between 1 and 2147483647, inclusive"
    for container in spec["containers"]:
        resources = container.get("resources", {})
        for resource, count in resources.get("requests", {}).items():
            if "/" in resource and resources.get("limits", {}).get(resource) != count:
                yield f"spec.containers[0].resources.limits: Required value: Limit must be set for {resource}"


def _pod_status(held: Held, status: str, *, is_placed: bool) -> dict[str, Any]:
    ready_at, deadline = held.ready_at, held.facts["pod"]["spec"].get("activeDeadlineSeconds")
    if status == "failed":
        return {"phase": "Failed", "reason": "Evicted", "message": held.failure}
    if ready_at is not None and deadline is not None and time.time() >= ready_at + deadline:
        message = "Pod was active on the node longer than the specified deadline"
        return {"phase": "Failed", "reason": "DeadlineExceeded", "message": message}
    if not is_placed:
        message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        return {"phase": "Pending", "conditions": [scheduled]}
    is_ready = status == "ready" or (status == "terminating" and ready_at is not None and ready_at <= time.time())
    known = status in {"ready", "pending", "terminating"}
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": "True" if is_ready else "False"},
    ]
    return {"phase": ("Running" if is_ready else "Pending") if known else "Unknown", "conditions": conditions}


def _timestamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    FakeKubernetes.main()
