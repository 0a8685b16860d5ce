"""Every refusal under /v1 in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, with its statuses."""

from __future__ import annotations

from typing import Any

from rest_framework.response import Response

from jobs.api.errors import Refusal, refusal_of, report

# The words OpenAI puts beside a status; clients tell 401s, 413s and 429s apart by the code.
_TYPES = {429: "requests", 500: "server_error", 503: "server_error"}
_CODES = {
    401: "invalid_api_key",
    403: "insufficient_permissions",
    404: "not_found",
    405: "method_not_supported",
    409: "conflict",
    413: "content_size_limit_exceeded",
    429: "rate_limit_exceeded",
    503: "service_unavailable",
}
# OpenAI's clients repeat a 409 by themselves; ours never goes away by waiting a second.
_DO_NOT_RETRY = {"x-should-retry": "false"}


def exception_handler(exception: Exception, context: dict[str, Any]) -> Response:
    """DRF's hook: whatever a view raised, in OpenAI's shape."""
    refusal = refusal_of(exception)
    if refusal.http == 500:
        report(exception, context["request"])
    headers = refusal.headers | (_DO_NOT_RETRY if refusal.http == 409 else {})
    return Response(error_json(refusal), status=refusal.http, headers=headers)


def error_json(refusal: Refusal) -> dict[str, Any]:
    """The body; `param` is the field that was refused, if it was one."""
    return {
        "error": {
            "message": refusal.message,
            "type": _TYPES.get(refusal.http, "invalid_request_error"),
            "param": next((detail["field"] for detail in refusal.details), None),
            "code": _CODES.get(refusal.http),
        }
    }
