"""The OpenAPI document: drf-spectacular walks the routes, and what each is stands in our tables."""

from __future__ import annotations

import functools
from typing import Any

from django.conf import settings
from drf_spectacular.drainage import warn
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ComponentRegistry

from jobs.schema import console_operations, openai
from jobs.schema.shapes import Schema

OPERATIONS = console_operations.OPERATIONS | openai.OPERATIONS
TAGS = {
    "jobs": "Create, list, look at, steer and cancel jobs.",
    "queue": "Holds: on the whole queue, on owners, on pools.",
    "provisions": "What is reserved at providers, and its release.",
    "files": "What jobs read and write.",
    "catalogue": "Models and how they are deployed.",
    "openai": "Batches and files for OpenAI's clients.",
    "access": "Who one is, logging in and out.",
}


class TableSchema(AutoSchema):
    """Each route as its table has it; a route that is in none is a warning, which `make check` refuses."""

    def get_operation(
        self, path: str, path_regex: str, path_prefix: str, method: str, registry: ComponentRegistry
    ) -> Schema | None:
        """The operation, None if nobody has written it down."""
        operation = OPERATIONS.get((path, method))
        if operation is None:
            warn(f"{method} {path} is in no table of jobs/schema")
            return None
        face = openai.face() if (path, method) in openai.OPERATIONS else console_operations.face()
        return face.document(operation, path, method)


def with_components(result: Schema, **_: Any) -> Schema:
    """A hook of drf-spectacular: add what the operations refer to."""
    console, compatible = console_operations.face(), openai.face()
    result["components"] = {
        "schemas": dict(sorted((console.shapes | compatible.shapes).items())),
        "responses": console.responses() | compatible.responses(),
        "securitySchemes": {
            "token": {"type": "http", "scheme": "bearer", "description": "For scripts."},
            "session": {
                "type": "apiKey",
                "in": "cookie",
                "name": settings.SESSION_COOKIE_NAME,
                "description": "Of a log-in.",
            },
        },
    }
    result["tags"] = [{"name": name, "description": description} for name, description in TAGS.items()]
    return result


def document() -> Schema:
    """The whole of it, in the status words that are in force; the same object each time, for reading only."""
    return _document(settings.PLANNER_STATUS_VOCABULARY)


@functools.cache
def _document(vocabulary: str) -> Schema:
    generator = SchemaGenerator()  # type: ignore[no-untyped-call] # it has no types
    found: Schema = generator.get_schema(request=None, public=True)  # type: ignore[no-untyped-call] # neither has it
    return found
