"""Fault points: every commit and every outside call of the planner, each by a name, and what can go wrong there.

A commit that writes nothing is no point. One that writes is named by the function whose transaction it is and by what
it commits: the events and intents of a row, or else the tables; a commit of several rows bears several names. An
outside call is named by what it is made for, the upstream and the verb. Production settings know nothing of this
module: it acts only where a test, or `tests/settings_faults.py`, installs it.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

import psycopg
import requests
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from psycopg.pq import TransactionStatus
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError, ProtocolError

from jobs import transport

FAULTS = (
    "error before",
    "error after",
    "slow",
    "death before",
    "death after",
    "stop before",
    "stop after",
)


SECOND = "2nd "  # before a point's name: the second who comes by it, not the first


class Killed(BaseException):
    """The end of a process, as sudden as a kill: nothing catches it."""


class Fate(Protocol):
    """How a process meets what cannot be told by an error."""

    def die(self) -> NoReturn:
        """End at once."""

    def halt(self) -> None:
        """Stand still until told to go on."""

    def idle(self, seconds: float | None) -> None:
        """Let so much time go by; None: longer than any lease."""

    def later(self, act: Callable[[], Any]) -> None:
        """Do it when the caller no longer waits for it."""


class Point(Protocol):
    """A place where something takes effect; `names` are what it is known by."""

    names: frozenset[str]

    def act(self) -> Any:
        """Let it take effect."""

    def refuse(self) -> NoReturn:
        """It does not take effect, and says so by an error."""

    def lose(self) -> NoReturn:
        """It takes effect, and its answer is lost."""

    def dawdle(self, fate: Fate) -> Any:
        """It takes longer than anybody may wait."""

    def let_go(self) -> None:
        """What a server does by itself with a peer that has fallen silent, only sooner; before a stop or a death."""


Handler = Callable[[Point], Any]  # does `point.act()`, or something worse, and answers what the caller gets


def meet(point: Point, fault: str, fate: Fate) -> Any:
    """Let a fault happen at a point; what its caller gets."""
    what, _, side = fault.partition(" ")
    if what == "error":
        return point.refuse() if side == "before" else point.lose()
    if what == "slow":
        return point.dawdle(fate)
    answer = None
    if side == "after":
        answer = point.act()
    point.let_go()
    if what == "death":
        fate.die()
    fate.halt()
    return answer if side == "after" else point.act()


@dataclass(frozen=True)
class Write:
    """A commit, or a statement that commits by itself."""

    names: frozenset[str]
    database: BaseDatabaseWrapper
    commit: Callable[[], Any]

    def act(self) -> Any:
        return self.commit()

    def refuse(self) -> NoReturn:
        _session(self.database).close()
        raise OperationalError("the connection was lost before the commit")

    def lose(self) -> NoReturn:
        self.commit()
        _session(self.database).close()
        raise OperationalError("the connection was lost before the commit was answered")

    def dawdle(self, fate: Fate) -> Any:
        answer = self.commit()
        fate.idle(None)
        return answer

    def let_go(self) -> None:
        session = _session(self.database)
        if session.info.transaction_status == TransactionStatus.INTRANS:
            session.execute("SET LOCAL idle_in_transaction_session_timeout = 1")


def _session(database: BaseDatabaseWrapper) -> psycopg.Connection[Any]:
    session: psycopg.Connection[Any] = database.connection
    return session


@dataclass(frozen=True)
class Call:
    """A request to an upstream, just before it leaves: every check that it is not too late lies behind it."""

    names: frozenset[str]
    request: requests.PreparedRequest
    timeout: Any
    send: Callable[[], requests.Response]

    def act(self) -> requests.Response:
        return self.send()

    def refuse(self) -> NoReturn:
        cause = NewConnectionError(None, "refused")  # type: ignore[arg-type]  # there is no connection to name
        raise requests.ConnectionError(cause, request=self.request)

    def lose(self) -> NoReturn:
        self.send().close()
        raise requests.ConnectionError(ProtocolError("the connection was aborted"), request=self.request)

    def dawdle(self, fate: Fate) -> NoReturn:
        total = getattr(self.timeout, "total", None) or self.timeout[1]
        if isinstance(self.request.body, bytes | None):
            fate.later(lambda: self.send().close())
        else:
            self.send().close()  # a stream is gone by then
        fate.idle(float(total))
        raise requests.ReadTimeout("no answer in time", request=self.request)

    def let_go(self) -> None:
        """A request without a reader ends by itself."""


@contextmanager
def installed(handle: Handler) -> Iterator[None]:
    """Every commit and outside call of this process comes by `handle` meanwhile."""
    from jobs.lifecycle.writing import Row  # only here: a settings module imports this one before there are models

    notes = _Notes()
    commit, execute, send = BaseDatabaseWrapper._commit, CursorWrapper.execute, HTTPAdapter.send
    apply, control, forget = Row.apply, Row.control, Row.forget

    def watched_commit(database: BaseDatabaseWrapper) -> Any:
        names = notes.names() if notes.tables else frozenset()
        notes.clear()
        return handle(Write(names, database, lambda: commit(database))) if names else commit(database)

    def watched_execute(cursor: CursorWrapper, sql: Any, params: Any = None) -> Any:
        database, tables = cursor.db, _written_tables(str(sql))
        session = database.connection
        if session is not None and session.info.transaction_status == TransactionStatus.IDLE and notes.tables:
            notes.clear()  # of a transaction that was rolled back
        if not tables:
            return execute(cursor, sql, params)
        if database.in_atomic_block:
            notes.tables |= tables
            return execute(cursor, sql, params)
        names = _names_of_write(tables)
        if not names:
            return execute(cursor, sql, params)
        return handle(Write(names, database, lambda: execute(cursor, sql, params)))

    def watched_send(adapter: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> Any:
        def leave() -> requests.Response:
            transport._deadline.until = float("inf")  # that check, too, lies behind it
            return send(adapter, request, **options)

        names = _names_of_call(request)
        call = Call(names, request, options.get("timeout"), leave)
        return handle(call) if names else call.act()

    def noted_apply(row: Any, change: Any, now: Any) -> None:
        apply(row, change, now)
        notes.of(row).extend(_news_of(change))

    def noted_control(row: Any, **columns: Any) -> None:
        control(row, **columns)
        news = notes.of(row)
        if columns.get("lease_expires_at") is not None and not any(word.startswith("intent") for word in news):
            news.append("intent release" if row.is_release else "intent poll")

    def noted_forget(row: Any) -> None:
        forget(row)
        notes.of(row).clear()

    hooks: list[tuple[Any, str, Any]] = [
        (BaseDatabaseWrapper, "_commit", watched_commit),
        (CursorWrapper, "execute", watched_execute),
        (HTTPAdapter, "send", watched_send),
        (Row, "apply", noted_apply),
        (Row, "control", noted_control),
        (Row, "forget", noted_forget),
    ]
    kept = [getattr(owner, name) for owner, name, _ in hooks]
    try:
        for owner, name, hook in hooks:
            setattr(owner, name, hook)
        yield
    finally:
        for (owner, name, _), original in zip(hooks, kept, strict=True):
            setattr(owner, name, original)


class _Notes(threading.local):
    """What this thread's transaction has written so far."""

    def __init__(self) -> None:
        self.tables: set[str] = set()
        self._rows: dict[int, tuple[Any, list[str]]] = {}

    def of(self, row: Any) -> list[str]:
        """What has been gathered for one row; the row is kept, so that its id is not given to another."""
        return self._rows.setdefault(id(row), (row, []))[1]

    def names(self) -> frozenset[str]:
        """Of the transaction, at its commit."""
        function = _function(sys._getframe(2))
        if not function:
            return frozenset()
        if not self._rows:
            return _names_of_write(self.tables, function)
        return frozenset(f"{function}: {', '.join(news) or 'wait'}" for _, news in self._rows.values())

    def clear(self) -> None:
        """A new transaction."""
        self.tables, self._rows = set(), {}


# Columns whose first value is news by itself; whatever else a step changes is told by its events.
_NEWS = {
    "create_started_at": "intent create",
    "create_ended_at": "create ended",
    "submit_started_at": "intent submit",
    "submit_ended_at": "submit ended",
    "stop_sent_at": "intent cancel",
    "batch_seen_at": "batch seen",
    "releasing_at": "releasing",
    "release_sent_at": "release sent",
}


def _news_of(change: Any) -> list[str]:
    columns = {**change.job, **change.provision}
    return [word for name, word in _NEWS.items() if columns.get(name) is not None] + [e.reason for e in change.events]


# Statements that write by themselves; those that only lock, or ask, do not.
_WRITES = re.compile(r'\s*(?:WITH \w+ AS \(\s*)?(?:INSERT INTO|UPDATE|DELETE FROM) "?(\w+)"?')
_INSERTS = re.compile(r"INSERT INTO (jobs_\w+)")
_NOTIFIES = re.compile(r"\s*SELECT pg_notify")


def _written_tables(sql: str) -> set[str]:
    if found := _WRITES.match(sql):
        return {table.removeprefix("jobs_") for table in (found[1], *_INSERTS.findall(sql))}
    return {"notify"} if _NOTIFIES.match(sql) else set()


def _names_of_write(tables: set[str], function: str = "") -> frozenset[str]:
    function = function or _function(sys._getframe(2))
    return frozenset({f"{function}: {', '.join(sorted(tables))}"}) if function else frozenset()


def _function(frame: FrameType | None) -> str:
    """The innermost function of the planner's own in the stack: whoever opened the transaction."""
    for module, name, _ in _planner_frames(frame):
        return f"{module.rpartition('.')[2]}.{name.split('.')[0 if '<' in name else -1].lstrip('_')}"
    return ""


def _planner_frames(frame: FrameType | None) -> Iterator[tuple[str, str, FrameType]]:
    """From the inside out."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("jobs.") and not module.startswith(("jobs.testing.", "jobs.provisioners.simulated_")):
            yield module, frame.f_code.co_qualname, frame
        frame = frame.f_back


def _names_of_call(request: requests.PreparedRequest) -> frozenset[str]:
    purpose, upstream = "", ""
    for module, name, frame in _planner_frames(sys._getframe(2)):
        if not upstream and module.startswith("jobs.provisioners."):
            upstream = "provider"
        elif not upstream and module in {"jobs.batch_client", "jobs.files"}:
            upstream = "mds"
        if module == "jobs.reconciler.calls" and name == "perform":
            purpose = frame.f_locals["claim"].kind.value
        elif module in {"jobs.reconciler.calls", "jobs.reconciler.orphans", "jobs.files"}:
            purpose = name  # the outermost: that is what it is for
    return frozenset({f"{purpose}: {upstream}.{_verb(request)}"}) if upstream else frozenset()


def _verb(request: requests.PreparedRequest) -> str:
    path = urlsplit(str(request.url)).path.strip("/").split("/")
    if path[-1] in {"cancel", "content"}:
        return path[-1]
    if path[-1] == "files":
        return "upload"
    is_one = path[-1] not in {"batches", "resources"}
    return {"GET": "get" if is_one else "list", "POST": "create", "DELETE": "delete"}[str(request.method)]
