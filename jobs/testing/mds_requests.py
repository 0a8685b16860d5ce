"""What the MDS refuses at a POST of a batch, and how it reads a completion window."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

ENDPOINTS = ("/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/rerank")
TARGETS = ("External", "Kubernetes", "KubernetesJob", "LambdaCloud", "RunPod", "noop")
_WINDOW = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)(?:min|m))?")
_MAX_METADATA = 16
_MAX_CONCURRENCY = 1024
_AIBRIX = {"job_id", "model", "resource_allocation", "runtime", "model_template", "profile", "client", "deployment"}
_CLIENT = {
    "max_concurrency",
    "request_timeout_seconds",
    "adaptive_concurrency",
    "adaptive_max_factor",
    "adaptive_healthy_window",
    "adaptive_additive_increase",
    "retry_policy",
}
_STRICT = {
    "model_template": {"name", "version", "spec", "overrides"},
    "profile": {"name", "spec", "overrides"},
    "client": _CLIENT,
}

Problem = dict[str, Any]


def window_minutes(window: str) -> int | None:
    """The minutes of a completion window; None if it cannot be read, 0 is refused too."""
    found = _WINDOW.fullmatch(window)
    if not window or found is None:
        return None
    days, hours, minutes = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes


def normalised_window(minutes: int) -> str:
    """A completion window as the MDS echoes it."""
    days, hours, rest = minutes // 1440, minutes % 1440 // 60, minutes % 60
    return "".join(f"{count}{unit}" for count, unit in ((days, "d"), (hours, "h"), (rest, "min")) if count)


def problems(body: Any) -> list[Problem]:
    """Everything wrong with the shape of the request, each as the MDS's validation words it."""
    if not isinstance(body, dict):
        return [_no_object(body)]
    return [*_own_problems(body), *_metadata_problems(body.get("metadata")), *_aibrix_problems(body.get("aibrix"))]


def problem(kind: str, where: tuple[str | int, ...], message: str, value: Any) -> Problem:
    """One complaint."""
    return {"type": kind, "loc": list(where), "msg": message, "input": value}


def _own_problems(body: dict[str, Any]) -> Iterator[Problem]:
    for key in ("input_file_id", "endpoint"):
        if key not in body:
            yield problem("missing", ("body", key), "Field required", body)
    if "input_file_id" in body:
        yield from _text(body["input_file_id"], "input_file_id")
    if "endpoint" in body and body["endpoint"] not in ENDPOINTS:
        expected = ", ".join(f"'{endpoint}'" for endpoint in ENDPOINTS)
        yield problem("enum", ("body", "endpoint"), f"Input should be one of {expected}", body["endpoint"])
    window = body.get("completion_window", "24h")
    wrong_type = list(_text(window, "completion_window"))
    yield from wrong_type
    if not wrong_type and not window_minutes(window):
        message = "Value error, Completion window must use a positive combination of d, h, and min (or m)"
        yield problem("value_error", ("body", "completion_window"), message, window)


def _metadata_problems(metadata: Any) -> Iterator[Problem]:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        yield problem("dict_type", ("body", "metadata"), "Input should be a valid dictionary", metadata)
        return
    if len(metadata) > _MAX_METADATA:
        message = f"Dictionary should have at most {_MAX_METADATA} items after validation, not more"
        yield problem("too_long", ("body", "metadata"), message, metadata)
    for key, value in metadata.items():
        yield from _text(value, "metadata", key)


def _aibrix_problems(aibrix: Any) -> Iterator[Problem]:
    if aibrix is None:
        return
    if not isinstance(aibrix, dict):
        yield _no_object(aibrix, "aibrix")
        return
    yield from _extra(aibrix, _AIBRIX, "aibrix")
    for key in ("job_id", "model"):
        if aibrix.get(key) is not None:
            yield from _text(aibrix[key], "aibrix", key)
    for member, known in _STRICT.items():
        value = aibrix.get(member)
        if isinstance(value, dict):
            yield from _extra(value, known, "aibrix", member)
            if "name" in known and "name" not in value:
                yield problem("missing", ("body", "aibrix", member, "name"), "Field required", value)
    concurrency = _member(aibrix, "client").get("max_concurrency")
    if isinstance(concurrency, int):
        yield from bounds_problems(concurrency, 1, _MAX_CONCURRENCY, ("body", "aibrix", "client", "max_concurrency"))
    runtime = aibrix.get("runtime")
    if isinstance(runtime, dict) and "target" not in runtime:
        yield problem("missing", ("body", "aibrix", "runtime", "target"), "Field required", runtime)
    deadline = _member(aibrix, "resource_allocation").get("provision_resource_deadline")
    if isinstance(deadline, float) and not deadline.is_integer():
        where = ("body", "aibrix", "resource_allocation", "provision_resource_deadline")
        message = "Input should be a valid integer, got a number with a fractional part"
        yield problem("int_from_float", where, message, deadline)


def bounds_problems(value: int, least: int, most: int, where: tuple[str, ...]) -> Iterator[Problem]:
    """What is wrong with a number that has bounds."""
    if value < least:
        yield problem("greater_than_equal", where, f"Input should be greater than or equal to {least}", value)
    if value > most:
        yield problem("less_than_equal", where, f"Input should be less than or equal to {most}", value)


def target_problem(body: dict[str, Any]) -> str:
    """What is wrong with the runtime's target; empty if nothing."""
    target = _member(_member(body, "aibrix"), "runtime").get("target")
    if target is None or target in TARGETS:
        return ""
    return f"aibrix.runtime.target {target!r} is not a known runtime target. Valid: {list(TARGETS)}"


def _member(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _no_object(value: Any, *where: str) -> Problem:
    message = "Input should be a valid dictionary or object to extract fields from"
    return problem("model_attributes_type", ("body", *where), message, value)


def _text(value: Any, *where: str) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield problem("string_type", ("body", *where), "Input should be a valid string", value)


def _extra(value: dict[str, Any], known: set[str], *where: str) -> Iterator[Problem]:
    for key in value.keys() - known:
        yield problem("extra_forbidden", ("body", *where, key), "Extra inputs are not permitted", value[key])
