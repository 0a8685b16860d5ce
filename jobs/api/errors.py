"""Every refusal of the console API in one shape: `{"code", "message", "details"}`, and the one table of statuses."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.core import signals
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.http import Http404
from django.http.request import UnreadablePostError
from rest_framework.exceptions import APIException, Throttled
from rest_framework.response import Response

from jobs.errors import (
    AlreadyExists,
    Conflict,
    FileTooLarge,
    Forbidden,
    InvalidRequest,
    NotFound,
    PlannerError,
    QueueFull,
    Unavailable,
    UpstreamError,
    is_database_away,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5  # after a 503; nothing tells us more


class Answer(NamedTuple):
    """An HTTP status and the gRPC code that the console's own gateway would put beside it."""

    http: int
    grpc: int


ANSWERS: dict[str, Answer] = {
    InvalidRequest.code: Answer(400, 3),
    Forbidden.code: Answer(403, 7),
    NotFound.code: Answer(404, 5),
    Conflict.code: Answer(409, 10),
    AlreadyExists.code: Answer(409, 6),
    FileTooLarge.code: Answer(413, 3),
    QueueFull.code: Answer(429, 8),
    Unavailable.code: Answer(503, 14),
}
# The base class is never raised by itself; adapters' errors stay with those who call adapters.
NEVER_REACHES_HTTP: frozenset[type[Exception]] = frozenset({PlannerError, UpstreamError})

_GRPC_OF_HTTP = {401: 16, 403: 7, 404: 5, 405: 12, 409: 10, 429: 8, 500: 13, 501: 12, 502: 14, 503: 14}
_INVALID_ARGUMENT = 3


@dataclass
class Refusal:
    """One refusal, before it becomes a response."""

    http: int
    message: str
    grpc: int | None = None  # None: what belongs to the HTTP status
    details: list[Any] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """The contract's three keys."""
        grpc = _GRPC_OF_HTTP.get(self.http, _INVALID_ARGUMENT) if self.grpc is None else self.grpc
        return {"code": grpc, "message": self.message, "details": self.details}


class FailedPrecondition(APIException):
    """The catalogue is not in a state to answer: the console's gateway says 400 with a code of its own."""

    status_code = 400
    grpc_code = 9


class BodyTooLarge(APIException):
    """The request's body is over the limit."""

    status_code = 413
    default_detail = "the request is too large"


class BadGateway(APIException):
    """Somebody whom this request needs answered, and not as agreed."""

    status_code = 502


class LengthRequired(APIException):
    """Django reads no body whose length it is not told, and would take it for an empty one."""

    status_code = 411
    default_detail = "a Content-Length is required; chunked bodies are not read"


def exception_handler(exception: Exception, context: dict[str, Any]) -> Response:
    """DRF's hook: whatever a view raised, in the contract's shape."""
    refusal = refusal_of(exception)
    if refusal.http == 500:
        report(exception, context["request"])
    return Response(refusal.body, status=refusal.http, headers=refusal.headers)


def conflict_with(conflict: Conflict, **row: Any) -> Response:
    """A refusal that shows the row as it is, so that nobody has to ask again what is in the way."""
    refusal = refusal_of(conflict)
    return Response({**refusal.body, "details": [row]}, status=refusal.http)


def refusal_of(exception: BaseException | None) -> Refusal:
    """What to answer for an exception; what nobody foresaw is a 500 that tells nothing."""
    match exception:
        case PlannerError() if exception.code in ANSWERS:
            return _planner_refusal(exception)
        case APIException():
            return _framework_refusal(exception)
        case Http404():
            return Refusal(404, "Not Found")
        case PermissionDenied():
            return Refusal(403, str(exception) or "permission denied")
        case _ if is_database_away(exception):
            return _unavailable("the database does not answer; please try again")
        case RequestDataTooBig():
            return Refusal(413, BodyTooLarge.default_detail)
        case SuspiciousOperation() | UnreadablePostError():
            return Refusal(400, "the request is malformed")
    return Refusal(500, "internal error")


def report(exception: BaseException, request: Any) -> None:
    """Do for a swallowed exception what Django does for one that escapes: log it, and tell whoever listens."""
    logger.error("%s %s failed", request.method, request.path, exc_info=exception)
    signals.got_request_exception.send(sender=None, request=request)


def _planner_refusal(error: PlannerError) -> Refusal:
    answer = ANSWERS[error.code]
    refusal = Refusal(answer.http, str(error), answer.grpc)
    match error:
        case InvalidRequest():
            refusal.details = [{"field": error.field, "message": error.reason}]
        case QueueFull():
            refusal.headers = {"Retry-After": str(error.retry_after_seconds)}
        case Unavailable():
            refusal.headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return refusal


def _framework_refusal(error: APIException) -> Refusal:
    challenge = getattr(error, "auth_header", None)  # set by the framework on the way here
    headers = {"WWW-Authenticate": challenge} if challenge else {}
    if isinstance(error, Throttled) and (wait := getattr(error, "wait", None)):  # the stubs know of no `wait`
        headers["Retry-After"] = str(wait)
    return Refusal(error.status_code, str(error.detail), getattr(error, "grpc_code", None), headers=headers)


def _unavailable(message: str) -> Refusal:
    return Refusal(503, message, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
