"""A progress bar: one line of a terminal, written over and over; nothing where nobody looks."""

from __future__ import annotations

import time
from typing import TextIO

_WIDTH = 30
_SAY_SECONDS = 0.1


class Progress:
    """`total` may be unknown (0): then it is only counted."""

    def __init__(self, stream: TextIO, total: int = 0) -> None:
        self._stream = stream
        self._is_shown = stream.isatty()
        self._total = total
        self._began = time.monotonic()
        self._said_at = float("-inf")
        self._length = 0

    def show(self, done: int, what: str) -> None:
        """So many are done; at most ten times a second."""
        now = time.monotonic()
        if not self._is_shown or now - self._said_at < _SAY_SECONDS:
            return
        self._said_at = now
        rate = done / max(now - self._began, 0.001)
        share = min(1.0, done / self._total) if self._total else 0.0
        bar = f"[{'#' * round(_WIDTH * share):<{_WIDTH}}] {share:4.0%} " if self._total else ""
        self._write(f"{bar}{done:,} {what}, {rate:,.0f}/s")

    def close(self) -> None:
        """Leave the line empty for what is said next."""
        if self._length:
            self._write("")
            self._stream.write("\r")
            self._stream.flush()

    def _write(self, line: str) -> None:
        self._stream.write(f"\r{line:<{self._length}}")
        self._stream.flush()
        self._length = len(line)
