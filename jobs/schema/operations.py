"""How one operation is written down, and the answers that go without saying."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jobs.api.errors import Refusal
from jobs.schema.shapes import Schema, ref, text

JSON = "application/json"
HTML = "text/html"
JSON_LINES = "application/jsonl"
FORM = "multipart/form-data"

# Why, and an example of what is said then.
REFUSALS: dict[int, tuple[str, Refusal]] = {
    400: (
        "What was sent is wrong; `details` names the field.",
        Refusal(400, "limit: must be an integer, not negative"),
    ),
    401: (
        "Nobody is logged in, or the token opens nothing.",
        Refusal(401, "unauthorized: unknown, expired or revoked token"),
    ),
    403: (
        "Not allowed to this user, or a browser sent it from another site.",
        Refusal(403, "only operators can do this"),
    ),
    404: ("There is no such thing, or one may not know of it.", Refusal(404, 'job "job_1" not found')),
    405: ("The path knows no such method.", Refusal(405, 'Method "GET" not allowed.')),
    409: ("Not possible in the state it is in.", Refusal(409, "job is already completed")),
    411: ("The body's length is not told.", Refusal(411, "a Content-Length is required; chunked bodies are not read")),
    413: ("The body is too large.", Refusal(413, "the request is too large")),
    415: ("The body is of another content type.", Refusal(415, 'Unsupported media type "text/plain" in request.')),
    429: ("Too many; `Retry-After` says when to come again.", Refusal(429, "the queue is full")),
    502: (
        "The identity provider's answer is not as agreed.",
        Refusal(502, "the identity provider: the exchange of the code failed"),
    ),
    503: (
        "The database, the metadata service or the identity provider does not answer.",
        Refusal(503, "please try again"),
    ),
}
_HEADERS = {
    401: ("WWW-Authenticate", {"type": "string"}),
    **dict.fromkeys((429, 503), ("Retry-After", {"type": "string"})),
}


@dataclass(frozen=True)
class Parameter:
    """Something in the path, the query or the headers."""

    name: str
    description: str
    example: Any
    schema: Schema
    where: str = "query"

    def document(self) -> Schema:
        """As OpenAPI has it."""
        found: Schema = {"name": self.name, "in": self.where, "description": self.description}
        return found | {"schema": self.schema, "example": self.example, "required": self.where == "path"}


SEGMENT: Schema = text(minLength=1, pattern=r"^[^/]+$")  # of a path
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    "Sent again with the same key and body, the same job is answered; with another body it is a 409.",
    "nightly-2026-05-04",
    text(maxLength=255),
    "header",
)


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    summary: str  # its id in camelCase, too
    description: str
    tag: str
    answer: str  # the component that is answered; "" for a redirect
    parameters: tuple[Parameter, ...] = ()
    body: str = ""  # the component that is sent
    body_type: str = JSON
    answer_type: str = JSON
    errors: tuple[int, ...] = ()  # besides those that go without saying
    is_public: bool = False
    redirect: int = 0  # the status of an answer that leads elsewhere
    has_page: bool = False  # people may get a page instead of JSON


@dataclass(frozen=True)
class Face:
    """What the operations of one API share."""

    shapes: dict[str, Schema]
    error: str  # the component of its refusals
    refused: Callable[[Refusal], dict[str, Any]]
    in_path: dict[str, Parameter]

    def document(self, operation: Operation, path: str, method: str) -> Schema:
        """The operation as OpenAPI has it."""
        in_path = [self.in_path[name] for name in re.findall(r"{(\w+)}", path)]
        first, *rest = re.findall(r"\w+", operation.summary)
        found: Schema = {
            "operationId": first.lower() + "".join(word.capitalize() for word in rest),
            "summary": operation.summary,
            "description": operation.description,
            "tags": [operation.tag],
            "parameters": [parameter.document() for parameter in (*in_path, *operation.parameters)],
            "security": [] if operation.is_public else [{"token": []}, {"session": []}],
            "responses": self._responses(operation, path, method),
        }
        if operation.body:
            content = {operation.body_type: self._media(operation.body)}
            if operation.has_page:
                content["application/x-www-form-urlencoded"] = self._media(operation.body)
            found["requestBody"] = {"content": content, "required": "required" in self.shapes[operation.body]}
        return found

    def _responses(self, operation: Operation, path: str, method: str) -> Schema:
        page = {HTML: {"schema": {"type": "string"}}} if operation.has_page else {}
        found: Schema = {}
        if operation.answer_type == JSON_LINES:
            lines = {"schema": {"type": "string"}, "example": operation.answer}
            found["200"] = {"description": "The bytes as they come.", "content": {JSON_LINES: lines}}
        elif operation.answer:
            content = {JSON: self._media(operation.answer), **page}
            found["200"] = {"description": self.shapes[operation.answer]["description"], "content": content}
        if operation.redirect:
            headers = {"Location": {"schema": {"type": "string"}, "required": True}}
            found[str(operation.redirect)] = {"description": "On to another page.", "headers": headers}
        for status in sorted({*_without_saying(operation, path, method), *operation.errors}):
            known = {"$ref": f"#/components/responses/{self.error}{status}"}
            found[str(status)] = self._refusal(status, page) if page else known
        return found

    def responses(self) -> dict[str, Schema]:
        """The refusals by their names."""
        return {f"{self.error}{status}": self._refusal(status, {}) for status in REFUSALS}

    def _refusal(self, status: int, page: Schema) -> Schema:
        description, refusal = REFUSALS[status]
        found: Schema = {
            "description": description,
            "content": {JSON: {"schema": ref(self.error), "example": self.refused(refusal)}, **page},
        }
        if status in _HEADERS:
            name, schema = _HEADERS[status]
            found["headers"] = {name: {"schema": schema}}
        return found

    def _media(self, name: str) -> Schema:
        return {"schema": ref(name), "example": self.shapes[name]["examples"][0]}


def _without_saying(operation: Operation, path: str, method: str) -> Iterable[int]:
    yield from (400, 411)  # a NUL in the query, a body in chunks
    if not operation.is_public:
        yield from (401, 503)
    if "{" in path:
        yield 404
    if method != "GET":
        yield from (403, 429)
    if method in {"POST", "PUT", "PATCH"}:
        yield from (413, 415)
