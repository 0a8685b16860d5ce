"""Waiting in tests: for a condition, with a deadline, never for a guess of how long something takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout: float = 10, interval: float = 0.02, *, what: str = "") -> T:
    """Return the first true value of `predicate`; fail the test when there is none in `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        if value := predicate():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"Not within {timeout} s: {what or predicate}; last value {value!r}.")
        pause.wait(interval)
