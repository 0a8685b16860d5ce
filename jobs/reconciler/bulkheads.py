"""Bounded shares of the outside calls: a hung upstream fills its own share and nobody else's.

The threads touch no database. They live as long as the worker process, so that connections to upstreams are re-used.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from django.conf import settings

from jobs.lifecycle.claims import Bulkhead
from jobs.statuses import MDS_CANCEL, MDS_FOLLOW, MDS_SUBMIT

_MDS_SHARES = {MDS_SUBMIT: "mds_submit", MDS_FOLLOW: "mds_follow", MDS_CANCEL: "mds_cancel"}
_KIND_SHARES = {"release": "release", "observe": "observe", "scan": "scan", "undo": "undo"}

_GATHER_SECONDS = 0.025  # after a result, for others that are under way

_executors: dict[Bulkhead, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def size(key: Bulkhead) -> int:
    """How many calls this share may have in flight at a time, in one pass."""
    kind, value = key
    share = _KIND_SHARES.get(kind) or _MDS_SHARES.get(value, "pool")
    return int(settings.PLANNER_THREADS[share])


class Bulkheads:
    """The calls one pass has in flight, and what came of those that ended."""

    def __init__(self) -> None:
        self._in_flight: Counter[Bulkhead] = Counter()
        self._began_at: dict[object, tuple[Bulkhead, float]] = {}
        self._give_up: dict[object, tuple[float, Callable[[], None]]] = {}  # when, and how
        self._took: dict[Bulkhead, float] = {}  # how long the last call that ended did
        self._results: SimpleQueue[tuple[object, Callable[[], None]]] = SimpleQueue()

    def free(self, keys: Iterable[Bulkhead]) -> dict[Bulkhead, int]:
        """The free places of these shares."""
        return {key: size(key) - self._in_flight[key] for key in keys}

    def in_flight(self, key: Bulkhead | None = None) -> int:
        """Calls under way: of one share all that take its places, else all that are waited for."""
        return self._in_flight[key] if key is not None else len(self._give_up)

    def start(
        self, key: Bulkhead, call: Callable[[], Any], then: Callable[[Any], None], *, seconds: float, late: Any
    ) -> None:
        """Make `call` on a thread of its share; `then` gets what it answered or raised, on the pass's own thread.

        A call that takes longer than `seconds`, against all its own time-outs, is waited for no more: `then` gets
        `late`. Its place stays taken until it ends; if the pass still runs then, `then` gets its answer as well.
        """
        token = object()
        now = time.monotonic()
        self._in_flight[key] += 1
        self._began_at[token] = (key, now)
        self._give_up[token] = (now + seconds, lambda: then(late))

        def run() -> None:
            try:
                answer = call()
            except Exception as error:
                answer = error
            self._results.put((token, lambda: then(answer)))

        _executor(key).submit(partial(copy_context().run, run))  # the pass's id goes along

    def slower_than(self, seconds: float) -> set[Bulkhead]:
        """The shares with a call under way for longer than that, or whose last one took longer."""
        since = time.monotonic() - seconds
        hanging = {key for key, began_at in self._began_at.values() if began_at < since}
        return hanging | {key for key, took in self._took.items() if took > seconds}

    def wait(self, seconds: float) -> None:
        """Hand on the results that have come, waiting at most this long for the first and a moment for more.

        What is recorded together costs a fraction of what it costs one by one.
        """
        until = time.monotonic() + seconds
        try:
            while True:
                token, hand_on = self._results.get(timeout=max(0.0, until - time.monotonic()))
                self._give_up.pop(token, None)
                key, began_at = self._began_at.pop(token)
                self._took[key] = time.monotonic() - began_at
                self._in_flight[key] -= 1
                hand_on()
                until = min(until, time.monotonic() + (_GATHER_SECONDS if self._give_up else 0.0))
        except Empty:
            pass
        self._give_up_the_late()

    def _give_up_the_late(self) -> None:
        now = time.monotonic()
        for token in [token for token, (at, _) in self._give_up.items() if at <= now]:
            _, hand_on = self._give_up.pop(token)
            hand_on()


def _executor(key: Bulkhead) -> ThreadPoolExecutor:
    with _lock:
        if key not in _executors:
            _executors[key] = ThreadPoolExecutor(size(key), thread_name_prefix=f"{key[0]}-{key[1]}")
        return _executors[key]
