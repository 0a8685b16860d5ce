"""How a shape of the wire is written down: by one example, and what the example alone does not tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Schema = dict[str, Any]

DIGITS: Schema = {"type": "string", "pattern": "^(0|[1-9][0-9]*)$", "description": "An int64, as a decimal string."}
SECONDS: Schema = DIGITS | {"description": 'Unix seconds, as a decimal string; "0" for not yet.'}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
ANY_OBJECT: Schema = {"type": "object"}


def shape(description: str, example: dict[str, Any], **known: Schema) -> Schema:
    """An answer: an object with exactly the keys of the example, all of them always there.

    Each is of the example's type, or what `known` says of its name. Names that end in `At` are times.
    """
    return {**exactly(example, **known), "description": description, "examples": [example]}


def exactly(example: dict[str, Any], **known: Schema) -> Schema:
    """The same for what is part of a shape."""
    properties = {key: known.get(key) or _told_by(key, value) for key, value in example.items()}
    return {"type": "object", "properties": properties, "required": list(example), "additionalProperties": False}


def request(description: str, example: dict[str, Any], /, *, required: Iterable[str] = (), **fields: Schema) -> Schema:
    """A body that is sent: an object of optional fields; names that are not listed mean nothing."""
    found: Schema = {"type": "object", "properties": fields, "description": description, "examples": [example]}
    return found | ({"required": list(required)} if required else {})


def ref(name: str) -> Schema:
    """A component by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": items}


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(words: Iterable[str], description: str = "") -> Schema:
    """One of some words."""
    found: Schema = {"type": "string", "enum": list(dict.fromkeys(words))}
    return found | ({"description": description} if description else {})


def text(description: str = "", **rules: Any) -> Schema:
    """A string."""
    return {"type": "string", **({"description": description} if description else {}), **rules}


def integer(low: int, high: int | None = None, description: str = "") -> Schema:
    """A whole number within bounds."""
    bounds = {"minimum": low} | ({} if high is None else {"maximum": high})
    return {"type": "integer", **bounds, **({"description": description} if description else {})}


def _told_by(key: str, value: Any) -> Schema:
    match value:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case str():
            return SECONDS if key.endswith("At") else {"type": "string"}
        case [first, *_]:
            return array(_told_by("", first))
        case dict():
            return exactly(value)
    raise TypeError(f"{key}: the example {value!r} tells no type")
