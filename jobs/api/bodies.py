"""How bodies are read and answers written. The framework imports this before it has views, so it imports none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from django.conf import settings
from django.http import QueryDict
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser

from jobs.api.errors import BodyTooLarge


class JsonOnly(DefaultContentNegotiation):
    """Answers are JSON: a browser's `Accept` is no reason for a 406."""

    def select_renderer(self, request: Any, renderers: Any, format_suffix: str | None = None) -> Any:
        """The one there is."""
        return renderers[0], renderers[0].media_type


class JsonBody(BaseParser):
    """A JSON body of bounded size; an empty one reads as `{}`."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        """The decoded value, of whatever type."""
        body = _read(stream)
        if not body.strip():
            return {}
        try:
            return json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ParseError(f"the body is not valid JSON: {_reason(error)}") from None


class FormBody(BaseParser):
    """An HTML form's body of bounded size."""

    media_type = "application/x-www-form-urlencoded"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        """The fields."""
        return QueryDict(_read(stream))


def _read(stream: Any) -> bytes:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    body: bytes = stream.read(limit + 1)
    if len(body) > limit:
        raise BodyTooLarge
    return body


def _reason(error: ValueError | RecursionError) -> str:
    match error:
        case RecursionError():
            return "nested too deeply"
        case json.JSONDecodeError() | UnicodeDecodeError() | _NotANumber():
            return str(error)
    return "a number has too many digits"  # the interpreter's own limit, in its own words


class _NotANumber(ValueError):
    """NaN and the like, which Python would read."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotANumber(f"{name} is not a JSON number")
