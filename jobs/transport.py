"""HTTP to one upstream, for every adapter: a session per thread, calls that end in time, and no retries.

It also owns the one reading of a call that got no answer: certainly not sent, or perhaps applied. What an answer
means is each adapter's own knowledge.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, NewConnectionError, ReadTimeoutError

from jobs import request_ids
from jobs.errors import UpstreamError, UpstreamKind

_PIECE_BYTES = 65536
# How JSON spells what no row can hold, and that itself.
_UNSTORABLE_ESCAPE = re.compile(rb"\\u(0000|[dD][89abcdefABCDEF])")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_NEVER_SENT = (requests.ConnectTimeout, InvalidURL, InvalidSchema, MissingSchema)


@dataclass(frozen=True)
class Answer:
    """What an upstream answered, whatever its status, read to its end."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's value, fit for a row; None if it is no JSON."""
        try:
            value = json.loads(self.body, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError):
            return None
        return _storable(value) if _UNSTORABLE_ESCAPE.search(self.body) else value


class _Deadline(threading.local):
    until = float("inf")  # of the call this thread is making


_deadline = _Deadline()


class _InTime:
    """A connection that is of no use once the time is up: name resolution has no time-out of its own."""

    def connect(self) -> None:
        """Connect; after the deadline nothing is written."""
        super().connect()  # type: ignore[misc] # the connection's own
        if time.monotonic() > _deadline.until:
            self.close()  # type: ignore[attr-defined] # the connection's own
            raise NewConnectionError(self, "connected too late")  # type: ignore[arg-type] # a mix-in is no connection


class _Http(_InTime, HTTPConnection):
    pass


class _Https(_InTime, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


class _Bearer(AuthBase):
    """Named as the authentication, and no plain header: one that a .netrc holds for the host would replace that."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """Calls to one base URL. Shared by threads; raises `UpstreamError` and nothing else."""

    def __init__(
        self, base_url: str, *, upstream: str, connect_timeout: float, token: Callable[[], str] | None = None
    ) -> None:
        """`upstream` is what messages call the other side: they never show its address.

        `token` is asked at every call for the bearer token to send with it.
        """
        self._base_url = base_url.rstrip("/")
        self._upstream = upstream
        self._connect_timeout = connect_timeout
        self._token = token
        self._local = threading.local()

    def call(
        self,
        method: str,
        path: str,
        *,
        until: float,
        creates: bool = False,
        params: dict[str, str | int] | None = None,
        body: dict[str, Any] | None = None,
    ) -> Answer:
        """Send once, to be over at `until` (monotonic clock); any answer is returned, whatever its status.

        Without an answer: `TRANSIENT` if it certainly was not sent or may be repeated, `AMBIGUOUS` if it `creates`.
        """
        remaining = until - time.monotonic()
        if remaining <= 0:
            raise too_late(self._upstream)
        auth = _Bearer(self._token()) if self._token else None
        session = self._session()
        if creates:
            # A kept connection that the server closes under a POST reads as ambiguous; a fresh one cannot.
            session.close()
        _deadline.until = until
        try:
            with session.request(
                method,
                self._base_url + path,
                params=params,
                json=body,
                auth=auth,
                headers=request_ids.headers(),
                timeout=Timeout(connect=self._connect_timeout, total=remaining),  # type: ignore[arg-type] # the stubs lack it
                allow_redirects=False,  # following one would repeat the call
                stream=True,
            ) as response:
                return Answer(response.status_code, response.headers, read_in_time(response.raw, until))
        except (requests.RequestException, HTTPError) as error:
            raise unanswered(error, upstream=self._upstream, creates=creates) from error

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter())
            # A proxy named in the environment cannot reach our own loopback.
            session.trust_env = not is_loopback(self._base_url)
        return session


def is_loopback(url: str) -> bool:
    """Whether it leads to this machine itself."""
    return urlsplit(url).hostname in _LOOPBACK


def unanswered(error: requests.RequestException | HTTPError, *, upstream: str, creates: bool) -> UpstreamError:
    """What a call that got no answer means: certainly not sent, or perhaps applied."""
    cause = type(_inner(error)).__name__
    if _is_unsent(error):
        return UpstreamError(UpstreamKind.TRANSIENT, f"{upstream} cannot be reached ({cause})", code="unreachable")
    kind = UpstreamKind.AMBIGUOUS if creates else UpstreamKind.TRANSIENT
    if isinstance(error, requests.Timeout | ReadTimeoutError):
        return UpstreamError(kind, f"{upstream} did not answer in time", code="timeout")
    return UpstreamError(kind, f"{upstream} broke off the call ({cause})", code="connection_lost")


def too_late(upstream: str) -> UpstreamError:
    """That a call was not even sent, for want of time."""
    return UpstreamError(UpstreamKind.TRANSIENT, f"{upstream}: no time was left for the call", code="too_late")


def unreadable(upstream: str, *, creates: bool) -> UpstreamError:
    """That nothing certain can be read from an answer that says that it is one of success."""
    kind = UpstreamKind.AMBIGUOUS if creates else UpstreamKind.TRANSIENT
    return UpstreamError(kind, f"{upstream} gave an answer that cannot be read", code="unreadable_answer")


def read_in_time(raw: BaseHTTPResponse, until: float) -> bytes:
    """The body, piece by piece: a time-out is of one read, and a body that drips never reaches it."""
    pieces = []
    while piece := raw.read1(_PIECE_BYTES, decode_content=True):
        pieces.append(piece)
        if time.monotonic() > until:
            raise requests.ReadTimeout("the answer did not end in time")
    return b"".join(pieces)


def _finite(text: str) -> float | None:
    """The number, unless it is none or too large: PostgreSQL's JSON has no such."""
    value = float(text)
    return value if math.isfinite(value) else None


def _storable(value: Any) -> Any:
    """The value without what PostgreSQL's text and JSON cannot hold: NULs and lone surrogates."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return value


def header_time(response: Answer, name: str) -> datetime | None:
    """A header that holds an HTTP date, as aware UTC; None if there is none to be read."""
    try:
        return parsedate_to_datetime(response.headers[name]).astimezone(UTC)
    except (KeyError, ValueError):
        return None


def retry_after_seconds(response: Answer) -> float | None:
    """`Retry-After`, in either of its forms, as a span."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    at = header_time(response, "Retry-After")
    return None if at is None else max(0.0, (at - datetime.now(UTC)).total_seconds())


def _is_unsent(error: requests.RequestException | HTTPError) -> bool:
    """Whether not one byte of the request can have left."""
    return isinstance(error, _NEVER_SENT) or isinstance(_inner(error), NewConnectionError | ConnectTimeoutError)


def _inner(error: requests.RequestException | HTTPError) -> BaseException:
    """What requests wrapped; only its type is ever shown, for its text holds the address."""
    wrapped = error.args[0] if error.args else None
    if isinstance(wrapped, MaxRetryError) and wrapped.reason is not None:
        return wrapped.reason
    return wrapped if isinstance(wrapped, BaseException) else error
