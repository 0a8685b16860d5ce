"""Work on other connections, as other processes do it, but stopped and let go on where the test wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import pytest
from django.db import connection, connections

from tests.waiting import eventually

T = TypeVar("T")
_PATIENCE = 30.0  # for a condition whose time is not the subject


def elsewhere(call: Callable[[], T]) -> Future[T]:
    """Begin a call on a thread and a connection of its own; the connection is closed before the result is there."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            try:
                result = call()
            finally:
                connection.close()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, daemon=True).start()
    return future


def at_once(*calls: Callable[[], T]) -> list[T]:
    """Make these calls on connections of their own, beginning together; their results in the same order."""
    barrier = threading.Barrier(len(calls), timeout=_PATIENCE)

    def together(call: Callable[[], T]) -> Callable[[], T]:
        def run() -> T:
            connection.ensure_connection()
            barrier.wait()
            return call()

        return run

    return [future.result(_PATIENCE) for future in [elsewhere(together(call)) for call in calls]]


class Stopped(Generic[T]):
    """A call on another connection, inside its transaction: stopped before the commit, or after a statement."""

    def __init__(self, call: Callable[[], T], after: str) -> None:
        self._call = call
        self._after = after
        self._is_there = threading.Event()
        self._may_go_on = threading.Event()
        self._session: Any = None
        self.future = elsewhere(self._run)
        while not self._is_there.wait(0.01):
            if self.future.done():
                raise AssertionError(f"ended without coming to its place: {self.future.result()!r}")

    def _run(self) -> T:
        wrapper = connections["default"]  # this thread's own, which the proxy `connection` finds anew at each use
        wrapper.ensure_connection()
        self._session = wrapper.connection
        if self._after:
            with wrapper.execute_wrapper(self._stop_after):
                return self._call()
        commit = wrapper._commit

        def stop_and_commit() -> None:
            self._stop()
            commit()

        wrapper._commit = stop_and_commit  # type: ignore[method-assign]  # of this one connection
        return self._call()

    def _stop_after(self, execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        result = execute(sql, *arguments)
        if self._after in sql:
            self._stop()
        return result

    def _stop(self) -> None:
        """The first time only: what comes after being let go is not stopped again."""
        if not self._is_there.is_set():
            self._is_there.set()
            assert self._may_go_on.wait(_PATIENCE)

    def go_on(self) -> None:
        """Let it go on; `result` waits for it too."""
        self._may_go_on.set()

    def result(self) -> T:
        """Let it go on to its end; what it returned or raised."""
        self.go_on()
        return self.future.result(_PATIENCE)

    def lose_session(self) -> None:
        """Have the server end its session, as it does with one that idles in a transaction for too long."""
        # the driver's connection may be used from here: the thread that owns it stands still
        self._session.execute("SET idle_in_transaction_session_timeout = 20")
        eventually(lambda: not self.has_session(), _PATIENCE, what="the end of the session")

    @property
    def backend(self) -> int:
        """The server's process of its session."""
        return int(self._session.info.backend_pid)

    def has_session(self) -> bool:
        """Whether the server still keeps its session, and with it its locks."""
        return has_session(self.backend)


def has_session(backend: int) -> bool:
    """Whether the server still keeps the session of that process id."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT true FROM pg_stat_activity WHERE pid = %s", [backend])
        return cursor.fetchone() is not None


@contextmanager
def stopped(call: Callable[[], T], *, after: str = "") -> Iterator[Stopped[T]]:
    """Within, a call is stopped before its commit, or after the first statement that contains a text."""
    held = Stopped(call, after)
    try:
        yield held
    finally:
        held.go_on()
        held.future.exception(_PATIENCE)  # waited for, so that nothing of it outlives the test


def waiting_for_locks() -> int:
    """How many connections wait for a lock now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
        return int(cursor.fetchone()[0])


def until_waiting(count: int = 1) -> None:
    """Return once so many connections wait for a lock."""
    eventually(lambda: waiting_for_locks() >= count, _PATIENCE, what=f"{count} waiting for a lock")


def limit_sessions(monkeypatch: pytest.MonkeyPatch, *, lock_seconds: float, idle_seconds: float) -> None:
    """The limits of every connection opened from now on, this thread's included; 0 is none."""
    limits = {"lock_timeout": lock_seconds, "idle_in_transaction_session_timeout": idle_seconds}
    options = " ".join(f"-c {name}={seconds * 1000:.0f}" for name, seconds in limits.items())
    monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "options", options)
    connection.close()
