"""The errors of the planner. They know nothing of HTTP: each API maps `code` to a status and a shape."""

from __future__ import annotations

import re
from enum import StrEnum

from django.db import InterfaceError, InternalError, OperationalError

_LOCK_TIMEOUT = "55P03"
_STATEMENT_TIMEOUT = "57014"
_SESSION_ENDED = frozenset({"25P03", "25P04"})  # for idling in a transaction, or being in one, for too long

PUT_OFF = "put_off"  # the code of a call that our own pace kept from being made: it says nothing of the other side
OVER_QUOTA = "quota"  # the code of a lack of capacity that is a lack of quota

MAX_CODE_LENGTH = 64  # of a code that somebody else chose, and a row has to take

_ADDRESS = re.compile(
    r"""\b[a-z][a-z0-9+.-]*://[^\s'"<>()]+  # a URL
    | \bhost='[^']*',\s*port=[0-9]+  # as urllib3 names a server
    | \[[0-9a-f:]*:[0-9a-f:.]*\](?::[0-9]+)?  # IPv6
    | \b(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]+)?\b  # IPv4
    """,
    re.IGNORECASE | re.VERBOSE,
)


class PlannerError(Exception):
    """Something the caller asked for cannot be done; the message is fit for the caller's eyes."""

    code = "planner_error"


class InvalidRequest(PlannerError):
    """The request is wrong in one named field; nothing was stored."""

    code = "invalid_request"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.reason = message


class InvalidFile(InvalidRequest):
    """Lines of an uploaded file are wrong; nothing was stored. The message tells the first, `problems` some more."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("file", problems[0])
        self.problems = problems


class FileTooLarge(InvalidRequest):
    """An uploaded file is over the size limit; nothing was stored."""

    code = "file_too_large"


class NotFound(PlannerError):
    """There is no such thing, or the caller may not know of it."""

    code = "not_found"


class Forbidden(PlannerError):
    """The caller may see it but not do this to it."""

    code = "forbidden"


class Conflict(PlannerError):
    """It is not in a state in which this can be done."""

    code = "conflict"


class AlreadyExists(Conflict):
    """There is one of that name; nothing was stored."""

    code = "already_exists"


class QueueFull(PlannerError):
    """The queue's capacity is reached; nothing was stored."""

    code = "queue_full"

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(PlannerError):
    """An upstream this request needs at once does not answer; nothing was stored."""

    code = "unavailable"


def without_addresses(text: str) -> str:
    """What an upstream said, fit for everybody's eyes: where it is and with which keys it is asked is left out."""
    return _ADDRESS.sub("(address)", text)


class UpstreamKind(StrEnum):
    """What the caller of an adapter may do next: the retry decision, made where the failure is known."""

    PERMANENT = "permanent"  # the request itself is wrong; repeating it changes nothing
    TRANSIENT = "transient"  # certainly not applied; repeat later
    CAPACITY = "capacity"  # no room there now; try another pool, or later
    RATE_LIMITED = "rate_limited"  # certainly not applied; wait as told
    AMBIGUOUS = "ambiguous"  # may have been applied; look it up by our own name before any retry
    NOT_FOUND = "not_found"  # the named thing does not exist there
    CONFLICT = "conflict"  # refused because of the state the thing is in
    INVALID_CREDENTIAL = "invalid_credential"  # nothing will work there until an operator acts


class UpstreamError(Exception):
    """The one error adapters raise: a kind, a short stable code, and a message, of which addresses are left out."""

    def __init__(
        self,
        kind: UpstreamKind,
        message: str,
        *,
        code: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(without_addresses(message))
        self.kind = kind
        self.code = str(code or kind.value)[:MAX_CODE_LENGTH]
        self.retry_after_seconds = retry_after_seconds


def is_database_away(error: BaseException | None) -> bool:
    """Whether the database does not answer, somebody is in the way there, or it ended our session: try again."""
    if isinstance(error, InternalError):  # PostgreSQL files these with the defects
        return _sqlstate(error) in _SESSION_ENDED
    return isinstance(error, OperationalError | InterfaceError)


def is_lock_timeout(error: BaseException) -> bool:
    """Whether somebody else kept a lock for longer than one waits for it."""
    return _sqlstate(error) == _LOCK_TIMEOUT


def is_timeout(error: BaseException) -> bool:
    """Whether a statement took longer, or waited longer for a lock, than a connection allows: try less at once."""
    return _sqlstate(error) in {_LOCK_TIMEOUT, _STATEMENT_TIMEOUT}


def _sqlstate(error: BaseException) -> str | None:
    return getattr(error.__cause__, "sqlstate", None)
