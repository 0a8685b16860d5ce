"""The edge of a worker in tests of the engine: each statement, commit and outside call of its pass comes by here.

There it may meet with a mishap: the end of its process, a stop from which it comes back late, a database that hangs up.
Calls are made on the pass's own thread, one after another, so that a script alone decides what happens; a worker that
is stopped is stopped whole, as a process would be.
"""

from __future__ import annotations

import io
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any, NoReturn

import psycopg
import pytest
import requests
from django.db import OperationalError, connection
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq import TransactionStatus
from urllib3 import HTTPResponse

from jobs.lifecycle import claims
from jobs.reconciler import admission, bulkheads, calls, heartbeat, orphans, passes, run_pass
from jobs.testing.scripted_server import Answer
from jobs.wakeup import send_hint
from tests.faults import Killed

_LONGEST_PASS = 400  # calls; a pass that makes more goes round in circles


@dataclass(frozen=True)
class Mishap:
    """What befalls a worker, before or after its so-manieth point of a kind."""

    what: str  # kill, stop or disconnect
    point: str  # call, commit or statement
    number: int
    is_after: bool


@dataclass(frozen=True)
class Sent:
    """A request that has left, as an upstream gets it."""

    method: str
    url: str
    params: dict[str, Any]
    body: Any


def one_pass() -> None:
    """What a worker mostly does."""
    run_pass(send_hint)


class Worker:
    """One worker process: a single task, a pass unless told otherwise, and the mishap that meets it."""

    def __init__(self, mishap: Mishap | None = None, task: Callable[[], Any] = one_pass) -> None:
        self.mishap = mishap
        self.task = task
        self.has_met = False
        self.failure: BaseException | None = None
        self.calls = 0
        self.made_late: set[str] = set()  # names of what it made after its stop, in the call it was stopped in
        self._left = mishap.number if mishap else 0
        self._is_halted = threading.Event()
        self._may_go_on = threading.Event()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def work(self) -> None:
        """Its task, here and now; returns at its end or its death."""
        _current.worker = self
        try:
            with connection.execute_wrapper(_statement):
                self.task()
        except Killed:
            pass
        finally:
            _current.worker = None
            if self.has_met:
                connection.close()  # its process's own, and perhaps broken: nobody else goes on with it

    def start(self) -> None:
        """Its task on a thread of its own; returns at its end, its death or its stop."""
        self._thread = threading.Thread(target=self._work_elsewhere, name="stopped-worker")
        self._thread.start()
        self._await()

    def go_on(self) -> None:
        """Let a stopped worker do the rest of its task."""
        self._is_halted.clear()
        self._may_go_on.set()
        self._await()

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still in the middle of its task."""
        return self._is_halted.is_set()

    @property
    def was_stopped(self) -> bool:
        """Whether what it knows may be old by now."""
        return self.has_met and self.mishap is not None and self.mishap.what == "stop"

    def passes_by(self, point: str, *, is_after: bool) -> None:
        """It is at a point: the mishap may come."""
        mishap = self.mishap
        if mishap is None or self.has_met or mishap.point != point:
            return
        self._left -= not is_after
        if self._left == 0 and mishap.is_after == is_after:
            self.has_met = True
            getattr(self, f"_{mishap.what}")(is_commit_answer=point == "commit" and is_after)

    def _work_elsewhere(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.failure = error
        finally:
            connection.close()
            self._is_over.set()
            self._is_halted.set()

    def _await(self) -> None:
        assert self._is_halted.wait(60), "a worker neither ended nor stopped"
        if self._is_over.is_set():
            self._is_halted.clear()
            if self._thread is not None:
                self._thread.join()
            if self.failure is not None:
                raise self.failure

    def _kill(self, *, is_commit_answer: bool) -> NoReturn:
        connection.close()
        raise Killed

    def _stop(self, *, is_commit_answer: bool) -> None:
        session = connection.connection
        if session is not None and session.info.transaction_status != TransactionStatus.IDLE:
            _terminate(session)  # what idle_in_transaction_session_timeout does a few seconds later
        self._is_halted.set()
        assert self._may_go_on.wait(600), "a stopped worker was forgotten"

    def _disconnect(self, *, is_commit_answer: bool) -> None:
        if connection.connection is not None:
            _terminate(connection.connection)
        if is_commit_answer:
            raise OperationalError("the connection was lost before the commit was answered")


class _Current(threading.local):
    worker: Worker | None = None


_current = _Current()


def _terminate(session: psycopg.Connection[Any]) -> None:
    """End a session from the server's side, and wait until it is gone."""
    with psycopg.connect(session.info.dsn, password=session.info.password, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [session.info.backend_pid])


def _statement(execute: Callable[..., Any], *arguments: Any) -> Any:
    worker = _current.worker
    if worker is None:
        return execute(*arguments)
    worker.passes_by("statement", is_after=False)
    result = execute(*arguments)
    worker.passes_by("statement", is_after=True)
    return result


class AtOnce:
    """In the place of a thread pool: a call is over when it is submitted."""

    def __init__(self, size: int, **_: Any) -> None:
        self.size = size

    def submit(self, call: Callable[[], Any]) -> None:
        call()

    def shutdown(self, **_: Any) -> None:
        pass


class Edge:
    """Where calls leave: `handle` stands for all upstreams. `passed` is how far the workers' own clock is ahead."""

    def __init__(self, handle: Callable[[Sent, Worker], Answer]) -> None:
        self.passed = 0.0
        self._handle = handle

    def request(self, session: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
        """In the place of `requests.Session.request`."""
        worker = _current.worker
        assert worker is not None, f"{method} {url} was called outside a pass"
        worker.calls += 1
        assert worker.calls <= _LONGEST_PASS, "a pass does not end"
        worker.passes_by("call", is_after=False)
        try:
            return _response(self._handle(Sent(method, url, options.get("params") or {}, options.get("json")), worker))
        finally:
            worker.passes_by("call", is_after=True)

    def monotonic(self) -> float:
        """The clock of leases and deadlines within a process."""
        return time.monotonic() + self.passed


@contextmanager
def installed(edge: Edge) -> Iterator[None]:
    """All workers of this process work at this edge meanwhile; names that are made up are the same in every run."""
    commit = BaseDatabaseWrapper._commit

    def commit_at_the_edge(wrapper: BaseDatabaseWrapper) -> None:
        worker = _current.worker
        if worker is not None:
            worker.passes_by("commit", is_after=False)
        commit(wrapper)
        if worker is not None:
            worker.passes_by("commit", is_after=True)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(BaseDatabaseWrapper, "_commit", commit_at_the_edge)
        patches.setattr(requests.Session, "request", lambda *args, **kwargs: edge.request(*args, **kwargs))
        patches.setattr(bulkheads, "_executors", {})
        patches.setattr(bulkheads, "ThreadPoolExecutor", AtOnce)
        patches.setattr(uuid, "uuid4", lambda: uuid.UUID(int=random.getrandbits(128), version=4))
        for module in (admission, bulkheads, calls, claims, heartbeat, orphans, passes):
            patches.setattr(module, "time", SimpleNamespace(monotonic=edge.monotonic))
        yield


def _response(answer: Answer) -> requests.Response:
    response = requests.Response()
    response.status_code = answer.status
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    response.raw = HTTPResponse(io.BytesIO(body), preload_content=False)
    response.headers["Date"] = formatdate(usegmt=True)
    if answer.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(answer.retry_after_seconds)
    return response
