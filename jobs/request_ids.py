"""The id of what is being done: a request's own, a job's, a pass's. In log lines and on outside calls."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HEADER = "X-Request-ID"
MAX_LENGTH = 64
_FIT = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_LENGTH}}}")

_current: ContextVar[str] = ContextVar("request_id", default="")


def current() -> str:
    """The id in force here; empty if there is none."""
    return _current.get()


def headers() -> dict[str, str]:
    """What an outside call bears of it."""
    return {HEADER: current()} if current() else {}


def new(given: str = "") -> str:
    """The id that a caller has given, if it is fit for logs and headers; else a random one."""
    return given if _FIT.fullmatch(given) else uuid.uuid4().hex


@contextmanager
def bound(request_id: str) -> Iterator[None]:
    """This id is in force meanwhile."""
    token = _current.set(request_id)
    try:
        yield
    finally:
        _current.reset(token)
