"""Providers that may be asked only so often: what they tell of it, and how one call keeps to it.

Turns are taken by the reconciler, in the database, for all workers (`jobs.turns`). Here is what happens within a call.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jobs.errors import PUT_OFF, UpstreamError, UpstreamKind


@dataclass(frozen=True)
class Pace:
    """What one account allows. A call begins in its turn; a create leaves at a fixed moment after that, or not at all.

    So creates are as far apart as their turns are, however long the look-up before each of them takes.
    """

    account: str  # at most 128 characters, and no secret: calls that share it share the pace
    request_interval_seconds: float
    create_interval_seconds: float
    create_after_seconds: float  # from the beginning of the call's turn on
    tolerance_seconds: float = 0.25  # what may be lost between the clock and the wire, at a turn's start and a create


@runtime_checkable
class Paced(Protocol):
    """A provider that has a pace; None for one that was told to have none."""

    pace: Pace | None


class Pacer:
    """Keeps the calls of one provider to its pace, each on its own thread."""

    def __init__(self, pace: Pace | None, upstream: str) -> None:
        self._pace = pace
        self._upstream = upstream
        self._local = threading.local()

    @property
    def has_one_create_per_call(self) -> bool:
        """Whether a further create is for a further turn."""
        return self._pace is not None

    def await_request(self, until: float) -> None:
        """Leave the interval since this thread's last request, but do not wait past `until`."""
        if self._pace is not None:
            next_at = getattr(self._local, "at", float("-inf")) + self._pace.request_interval_seconds
            _sleep_until(min(next_at, until))
            self._local.at = time.monotonic()

    def await_create(self, began: float) -> None:
        """Wait for the moment of a call that began then. Raises `UpstreamError` if it has passed."""
        if self._pace is None:
            return
        moment = began + self._pace.create_after_seconds
        _sleep_until(moment)
        if time.monotonic() > moment + self._pace.tolerance_seconds:
            raise turn_missed(self._upstream)
        self._local.at = time.monotonic()

    def next_create(self) -> UpstreamError:
        """What is raised with creates left to be made: certainly not sent, and when to come back."""
        seconds = self._pace.create_interval_seconds if self._pace else 0
        message = f"{self._upstream}: one launch at a time; the next one has its own turn."
        return UpstreamError(UpstreamKind.RATE_LIMITED, message, code=PUT_OFF, retry_after_seconds=seconds)


def turn_missed(upstream: str) -> UpstreamError:
    """What is raised when a call is too late for its turn: certainly not sent, try again."""
    message = f"{upstream}: the call was too late for its turn; it gets another one."
    return UpstreamError(UpstreamKind.RATE_LIMITED, message, code=PUT_OFF)


def _sleep_until(moment: float) -> None:
    seconds = moment - time.monotonic()
    if seconds > 0:
        time.sleep(seconds)
