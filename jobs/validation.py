"""What a job request may say: pure checks from `JobRequest` to `CheckedRequest`. No database, no clock.

Fields are named as on the wire, in snake_case. What depends on rows (files, models, templates) is checked later.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from jobs import conf
from jobs.errors import InvalidRequest

DEFAULT_WINDOW = "24h"
MAX_NAME_LENGTH = 255
MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY_LENGTH = 64
MAX_METADATA_VALUE_LENGTH = 512
MAX_PROVIDER_CONFIG_BYTES = 16 * 1024
MAX_NAMES = 16  # of each kind that a job accepts
MAX_PLACE_LENGTH = 128
ACCEPTED = ("providers", "pools", "regions")
MAX_INT32 = 2**31 - 1

_WINDOW = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)(?:min|m))?")
_WINDOW_LENGTH = 32
_DIGITS = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True)
class JobRequest:
    """What a caller asks for, parsed but not yet checked: `enqueue` does that."""

    input_file_id: str
    endpoint: str
    completion_window: str = ""  # empty: 24h
    name: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    model_id: str = ""
    template_name: str = ""
    template_version: str = ""  # empty: the highest active one
    replicas: int = 0  # 0: 1
    provider_config: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    queue_timeout_seconds: int | None = None
    priority: int = 0  # more than 0 is for operators
    providers: Any = ()  # names; empty: any
    pools: Any = ()
    regions: Any = ()


@dataclass(frozen=True)
class CheckedRequest:
    """The same request with every value checked, defaulted, and fit to be stored."""

    input_file_id: str
    endpoint: str
    completion_window: str
    completion_window_seconds: int
    name: str
    metadata: dict[str, str]
    model_id: str
    template_name: str
    template_version: str
    replicas: int
    provider_config: dict[str, Any]
    client: dict[str, Any]
    queue_timeout_seconds: int | None
    priority: int
    accepts: dict[str, list[str]]  # by `providers`, `pools`, `regions`, as far as named


def check(request: JobRequest) -> CheckedRequest:
    """The checked request; raises `InvalidRequest` naming the first wrong field."""
    input_file_id = check_text("input_dataset", request.input_file_id, 128)
    if not input_file_id:
        raise InvalidRequest("input_dataset", "is required")
    endpoint = check_text("endpoint", request.endpoint, 64)
    if not endpoint:
        raise InvalidRequest("endpoint", "is required")
    if endpoint not in conf.ENDPOINTS:
        raise InvalidRequest("endpoint", f"{_shown(endpoint)} is not one of {', '.join(conf.ENDPOINTS)}")
    replicas = _replicas(request.replicas)
    window, window_seconds = check_window(request.completion_window)
    template_name = check_text("model_template_name", request.template_name, 255)
    template_version = check_text("model_template_version", request.template_version, 64)
    if template_version and not template_name:
        raise InvalidRequest("model_template_name", "is required with model_template_version")
    timeout = request.queue_timeout_seconds
    return CheckedRequest(
        input_file_id=input_file_id,
        endpoint=endpoint,
        completion_window=window,
        completion_window_seconds=window_seconds,
        name=check_text("name", request.name, MAX_NAME_LENGTH),
        metadata=_metadata(request.metadata),
        model_id=check_text("model_id", request.model_id, 255),
        template_name=template_name,
        template_version=template_version,
        replicas=replicas,
        provider_config=_provider_config(request.provider_config),
        client=_client(request.client),
        queue_timeout_seconds=None
        if timeout is None
        else _integer("queue_timeout_seconds", timeout, 1, conf.MAX_WINDOW_SECONDS),
        priority=_integer("priority", request.priority, 0, conf.MAX_PRIORITY),
        accepts={kind: found for kind in ACCEPTED if (found := _names(kind, getattr(request, kind)))},
    )


def check_window(value: str | None) -> tuple[str, int]:
    """A completion window as given (trimmed; 24h if absent), and its length in seconds."""
    window = check_text("completion_window", value or DEFAULT_WINDOW, 1000).strip()
    match = _WINDOW.fullmatch(window)
    if match is None or not 0 < len(window) <= _WINDOW_LENGTH:
        raise InvalidRequest(
            "completion_window", f"{_shown(window)} is not a window such as 30min, 12h, 1d or 1d2h30min"
        )
    days, hours, minutes = (int(part or 0) for part in match.groups())
    seconds = ((days * 24 + hours) * 60 + minutes) * 60
    if not 0 < seconds <= conf.MAX_WINDOW_SECONDS:
        limit = conf.MAX_WINDOW_SECONDS // 86_400
        raise InvalidRequest("completion_window", f"{_shown(window)} is not between 1min and {limit}d")
    return window, seconds


def check_text(field_name: str, value: object, limit: int) -> str:
    """A string that PostgreSQL can hold, of at most `limit` characters; None reads as empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(field_name, "must be a string")
    if not is_storable(value):
        raise InvalidRequest(field_name, "must not contain NUL characters or broken Unicode")
    if len(value) > limit:
        raise InvalidRequest(field_name, f"must not be longer than {limit} characters")
    return value


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can hold the text: no NUL, no lone surrogates (JSON can carry both)."""
    return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text)


def _replicas(value: object) -> int:
    is_given = isinstance(value, bool) or value not in (None, 0, "0")  # False equals 0
    return _integer("resource_request.replicas", value, 1, conf.MAX_REPLICAS) if is_given else 1


def _metadata(value: object) -> dict[str, str]:
    pairs = _object("metadata", value)
    if len(pairs) > MAX_METADATA_PAIRS:
        raise InvalidRequest("metadata", f"must not have more than {MAX_METADATA_PAIRS} pairs")
    for key, text in pairs.items():
        shown = _shown(key)
        if not isinstance(key, str) or not isinstance(text, str):
            raise InvalidRequest("metadata", f"{shown} must be a string with a string value")
        if not is_storable(key) or not is_storable(text):
            raise InvalidRequest("metadata", f"{shown} must not contain NUL characters or broken Unicode")
        if len(key) > MAX_METADATA_KEY_LENGTH:
            raise InvalidRequest("metadata", f"the key {shown} is longer than {MAX_METADATA_KEY_LENGTH} characters")
        if len(text) > MAX_METADATA_VALUE_LENGTH:
            raise InvalidRequest(
                "metadata", f"the value of {shown} is longer than {MAX_METADATA_VALUE_LENGTH} characters"
            )
    return pairs


def _provider_config(value: object) -> dict[str, Any]:
    return check_document("resource_request.provider_config", value, MAX_PROVIDER_CONFIG_BYTES)


def check_document(field_name: str, value: object, limit: int) -> dict[str, Any]:
    """A JSON object that PostgreSQL can hold, of at most `limit` bytes as text; None reads as empty."""
    document = _object(field_name, value)
    check_json(field_name, document, limit)
    return document


def check_json(field_name: str, value: object, limit: int) -> None:
    """The same of JSON of any type; raises `InvalidRequest`."""
    try:
        size = len(json.dumps(value, allow_nan=False, sort_keys=True))
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequest(field_name, "must be plain JSON") from None
    if size > limit:
        raise InvalidRequest(field_name, f"must not be larger than {limit} bytes")
    if not all(is_storable(text) for text in _strings(value)):
        raise InvalidRequest(field_name, "must not contain NUL characters or broken Unicode")


def _strings(value: object) -> Iterator[str]:
    """Every string in a JSON value, keys included."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            pending.extend([*item.keys(), *item.values()])
        elif isinstance(item, list | tuple):
            pending.extend(item)


def _names(kind: str, value: object) -> list[str]:
    """A list of names, or a string with commas between them; sorted, so that the same choice is the same class."""
    field_name = f"resource_request.{kind}"
    given = [name.strip() for name in value.split(",")] if isinstance(value, str) else value or []
    if not isinstance(given, list | tuple):
        raise InvalidRequest(field_name, "must be a list of names")
    if len(given) > MAX_NAMES:
        raise InvalidRequest(field_name, f"must not have more than {MAX_NAMES} names")
    names = {check_text(field_name, name, MAX_PLACE_LENGTH) for name in given}
    if "" in names:
        raise InvalidRequest(field_name, "must not have empty names")
    return sorted(names)


def _client(value: object) -> dict[str, Any]:
    """Dispatch settings: absent means the MDS's default, so only what was given is kept."""
    settings = _members("client", value, _CLIENT_RULES)
    retry = settings.get("retry_policy", {})
    if retry.get("base_delay_seconds", 0) > retry.get("max_delay_seconds", math.inf):
        raise InvalidRequest("client.retry_policy.base_delay_seconds", "must not exceed max_delay_seconds")
    return settings


def _members(path: str, value: object, rules: dict[str, Rule]) -> dict[str, Any]:
    members = _object(path, value)
    for key in members:
        if key not in rules:
            raise InvalidRequest(path, f"{_shown(key)} is not a known setting")
    return {key: rules[key](f"{path}.{key}", item) for key, item in members.items() if item is not None}


def _object(field_name: str, value: object) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(field_name, "must be an object")
    return value


def _integer(field_name: str, value: object, low: int, high: int) -> int:
    """A JSON integer; an integral float or a decimal string is one too, as in protobuf's JSON."""
    if (isinstance(value, str) and _DIGITS.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(field_name, "must be an integer")
    if not low <= value <= high:
        bounds = f"at least {low}" if high == MAX_INT32 and value < low else f"between {low} and {high}"
        raise InvalidRequest(field_name, f"must be {bounds}")
    return value


def _number(field_name: str, value: object, low: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(field_name, "must be a number")
    if not low <= value <= MAX_INT32:  # false for NaN too
        raise InvalidRequest(field_name, f"must be between {low} and {MAX_INT32}")
    return value


def check_boolean(field_name: str, value: object) -> bool:
    """A JSON boolean."""
    if not isinstance(value, bool):
        raise InvalidRequest(field_name, "must be true or false")
    return value


def _shown(value: object) -> str:
    """A caller's value inside a message: quoted, escaped and short."""
    return json.dumps(value if len(str(value)) <= 80 else f"{str(value)[:80]}...", default=str)


Rule = Callable[[str, object], Any]  # from a field's name and value to what is stored; raises `InvalidRequest`


def integer_from(low: int, high: int = MAX_INT32) -> Rule:
    """A rule for integers, as protobuf's JSON has them."""
    return lambda field_name, value: _integer(field_name, value, low, high)


def _number_from(low: int) -> Rule:
    return lambda field_name, value: _number(field_name, value, low)


_RETRY_RULES: dict[str, Rule] = {
    "max_retries": integer_from(0),
    "no_endpoint_max_retries": integer_from(0),
    "base_delay_seconds": _number_from(0),
    "max_delay_seconds": _number_from(0),
}
# The MDS's own limits: what it would refuse, or fail later, is refused here (contract: `aibrix.client`).
_CLIENT_RULES: dict[str, Rule] = {
    "max_concurrency": integer_from(1, 1024),
    "request_timeout_seconds": _number_from(1),
    "adaptive_concurrency": check_boolean,
    "adaptive_max_factor": _number_from(1),
    "adaptive_healthy_window": integer_from(1),
    "adaptive_additive_increase": integer_from(1),
    "retry_policy": lambda field_name, value: _members(field_name, value, _RETRY_RULES),
}
