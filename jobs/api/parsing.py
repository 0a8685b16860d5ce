"""Request bodies: names in snake_case, for the console in camelCase too; null is absent.

The console's unknown names are ignored. Only the shape is read here: what a value may be is the planner's business,
which names the same fields.
"""

from __future__ import annotations

from typing import Any

from jobs.errors import InvalidRequest
from jobs.planner import JobRequest
from jobs.validation import ACCEPTED

_CLIENT_FIELDS = (
    "max_concurrency",
    "request_timeout_seconds",
    "adaptive_concurrency",
    "adaptive_max_factor",
    "adaptive_healthy_window",
    "adaptive_additive_increase",
    "retry_policy",
)
_RETRY_FIELDS = ("max_retries", "no_endpoint_max_retries", "base_delay_seconds", "max_delay_seconds")


# The names that `job_extras` reads.
EXTRAS = (
    "name",
    "model_id",
    "model_template_name",
    "model_template_version",
    "resource_request",
    "client",
    "queue_timeout_seconds",
    "priority",
)


class Body:
    """One JSON object of a request; `path` is how a refusal names it."""

    def __init__(self, value: Any, path: str = "") -> None:
        if not isinstance(value, dict | None):
            raise InvalidRequest(path or "body", "must be a JSON object")
        self._value = value or {}
        self._path = path

    def get(self, name: str) -> Any:
        """A member by its snake_case name, however it is spelt; None if absent or null."""
        value = self._value.get(name)
        return self._value.get(_camel(name)) if value is None else value

    def given(self, name: str, default: Any) -> Any:
        """The same, or the default if absent; other empty values are given ones."""
        value = self.get(name)
        return default if value is None else value

    def only(self, *names: str) -> Body:
        """The same body; other names than these mean nothing, and a strict body refuses them."""
        return self

    def text(self, name: str) -> str:
        """A string, "" if absent."""
        value = self.get(name)
        if not isinstance(value, str | None):
            raise InvalidRequest(self._name(name), "must be a string")
        return value or ""

    def member(self, name: str) -> Body:
        """An object, empty if absent."""
        return Body(self.get(name), self._name(name))

    def known(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Those of `names` that are present, in snake_case."""
        members = {name: self.get(name) for name in names}
        return {name: value for name, value in members.items() if value is not None}

    def _name(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def job_request(data: Any) -> JobRequest:
    """The body of a create; raises `InvalidRequest`."""
    body = Body(data)
    return JobRequest(
        input_file_id=body.text("input_dataset"),
        endpoint=body.text("endpoint"),
        completion_window=body.text("completion_window"),
        metadata=body.given("metadata", {}),
        **job_extras(body),
    )


def job_extras(body: Body) -> dict[str, Any]:
    """What a job request says beyond a plain batch, as fields of `JobRequest`; raises `InvalidRequest`."""
    resources = body.member("resource_request").only("replicas", "provider_config", *ACCEPTED)
    return {
        "name": body.text("name"),
        "model_id": body.text("model_id"),
        "template_name": body.text("model_template_name"),
        "template_version": body.text("model_template_version"),
        "replicas": resources.given("replicas", 0),
        "provider_config": resources.given("provider_config", {}),
        **{kind: resources.given(kind, ()) for kind in ACCEPTED},
        "client": _client(body),
        "queue_timeout_seconds": body.get("queue_timeout_seconds"),
        "priority": body.given("priority", 0),
    }


def _client(body: Body) -> dict[str, Any]:
    client = body.member("client").only(*_CLIENT_FIELDS)
    settings = client.known(_CLIENT_FIELDS)
    if "retry_policy" in settings:
        settings["retry_policy"] = client.member("retry_policy").only(*_RETRY_FIELDS).known(_RETRY_FIELDS)
    return settings


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
