"""A whole installation within one process: time passes at a word, and faults happen at named points."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import close_old_connections, connection
from psycopg.pq import TransactionStatus

from jobs.broker import HintBroker
from jobs.conf import times
from jobs.lifecycle import due
from jobs.models import Job, JobEvent, Provision, QueueMessage
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import bulkheads, orphans
from jobs.tasks import release_orphans, run_pass
from jobs.testing.fake_mds import FakeMds
from tests.api_client import API, ApiClient
from tests.batch_file import line
from tests.clock import pass_time
from tests.edge import AtOnce
from tests.engine import is_quiet
from tests.faults import SECOND, Killed, Point, installed, meet
from tests.threads import elsewhere, has_session
from tests.waiting import eventually

_MOST_TURNS = 200
AT_ONCE = 0.001  # seconds a batch takes
UNTIL_STOPPED = 10_000.0  # and one that is not to end by itself


@dataclass
class _Planned:
    """A fault that has still to happen."""

    point: str
    fault: str
    is_met: bool = False


class World:
    """Workers and clients that take turns, each of them a process as far as it can tell.

    `points` are all that anybody has come by. A planned fault meets the first who comes by its point.
    """

    pace = 15.0  # seconds between listings

    def __init__(self, provider: SimulatedServer, mds: FakeMds) -> None:
        self.provider = provider
        self.mds = mds
        self.points: list[str] = []
        self.passed = 0.0  # how far the clock of this process is ahead
        self.sweeps = False  # whether the orphan sweep runs, too
        self._planned: list[_Planned] = []
        self._late: list[Callable[[], Any]] = []
        self._standing: list[_Process] = []
        self._clients: dict[int, ApiClient] = {}

    # --- what befalls it ---

    def plan(self, point: str, fault: str) -> None:
        """Have a fault happen."""
        self._planned.append(_Planned(point, fault))

    @property
    def planned(self) -> list[str]:
        """The points whose faults have not happened yet."""
        return [planned.point for planned in self._planned if not planned.is_met]

    def handle(self, point: Point) -> Any:
        """Every commit and outside call comes by here."""
        self.points += [name for name in sorted(point.names) if name not in self.points]
        for planned in self._planned:
            if planned.is_met or planned.point.removeprefix(SECOND) not in point.names:
                continue
            if planned.point.startswith(SECOND):
                planned.point = planned.point.removeprefix(SECOND)
            else:
                planned.is_met = True
                return meet(point, planned.fault, self)
        return point.act()

    def die(self) -> NoReturn:
        """A process ends, and its connection with it."""
        connection.close()
        raise Killed

    def halt(self) -> None:
        """A process stands still."""
        process = _current.process
        assert process is not None, "only what runs on a thread of its own can stand still"
        process.halt()

    def idle(self, seconds: float | None) -> None:
        """Time goes by, told on another connection: whoever idles is in the middle of something on this one."""
        elsewhere(lambda: self.pass_time(times().lease + 1 if seconds is None else seconds + 0.001)).result()

    def later(self, act: Callable[[], Any]) -> None:
        """It takes effect after the turn."""
        self._late.append(act)

    def pass_time(self, seconds: float) -> None:
        """For the rows, and for whoever is in the middle of something."""
        self.passed += seconds
        pass_time(seconds)

    # --- what it does ---

    def turn(self) -> None:
        """A worker wakes and does what is due; then so much time goes by that every lease is over."""
        self._as_process(_wake)
        if self.sweeps:
            self._as_process(release_orphans)
        while self._late:
            self._late.pop()()
        self.pass_time(max(times().lease + 1, due.seconds_to_next_timer() or 0))

    def until(self, condition: Callable[[], Any]) -> None:
        """Turns until it holds."""
        for _ in range(_MOST_TURNS):
            if condition():
                return
            self.turn()
        found = Job.objects.values_list("status", "provision__status", "last_error", "crashes")
        raise AssertionError(f"not within {_MOST_TURNS} turns: {Counter(found)}")

    def settle(self) -> None:
        """Turns until nothing is left to do; then whoever stands still goes on, too late to change anything."""
        self.until(is_quiet if self._standing else self._is_quiet)
        self.mds.run_seconds = UNTIL_STOPPED  # whatever is made now is made too late
        while self._standing:
            process = self._standing.pop(0)
            before, passed = rows(), self.passed
            if not process.go_on():
                self._standing.append(process)
            pass_time(passed - self.passed)  # what went by meanwhile is no change of his
            assert rows() == before, "it came back and changed a row"
            pass_time(self.passed - passed)
            self.until(self._is_quiet)

    def _is_quiet(self) -> bool:
        return is_quiet() and not self.mds.running() and not self.provider.live()

    def is_somebody_standing(self) -> bool:
        """Whether a process stands still in the middle of something."""
        return bool(self._standing)

    def let_all_go(self) -> None:
        """Whatever happened, nobody is left behind."""
        for process in self._standing:
            process.go_on()

    # --- its clients ---

    def post(self, user: User, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        """What a client gets in the end, who asks again until somebody answers."""
        client = self._client(user)
        return self._answer(lambda: client.post(path, body, **headers))

    def upload(self, user: User) -> str:
        """The id of an input file of one request."""
        client = self._client(user).client
        file_id: str = self._answer(
            lambda: client.post(
                f"{API}/files/upload", {"file": SimpleUploadedFile("in.jsonl", line()), "purpose": "batch"}
            )
        )["id"]
        return file_id

    def _client(self, user: User) -> ApiClient:
        if user.pk not in self._clients:
            self._clients[user.pk] = ApiClient(user)
            self._clients[user.pk].client.handler.enforce_csrf_checks = False
        return self._clients[user.pk]

    def _answer(self, send: Callable[[], Any]) -> dict[str, Any]:
        for _ in range(3):
            answer = self._as_process(send)
            if answer is not None and answer.status_code < 500:
                found: dict[str, Any] = answer.json()
                return found
        raise AssertionError(f"nobody answers: {answer and answer.content}")

    def _as_process(self, work: Callable[[], Any]) -> Any:
        """What it gives; None if it dies or stands still."""
        if not any(planned.fault.startswith("stop") and not planned.is_met for planned in self._planned):
            try:
                return work()
            except Killed:
                return None
            finally:
                close_old_connections()  # as django-q2 does after a task, and Django after a request
        process = _Process(work)
        if process.is_over:
            return process.result()
        self._standing.append(process)
        return None


class _Process:
    """Work on a thread and a connection of its own, that may stand still in the middle of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._at_rest = threading.Event()
        self._may_go_on = threading.Event()
        self._backend = 0
        self._future = elsewhere(lambda: self._run(work))
        self._future.add_done_callback(lambda _: self._at_rest.set())
        self._await()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        return self._future.done()

    def result(self) -> Any:
        """What came of it."""
        return self._future.result(30)

    def halt(self) -> None:
        """Stand still."""
        session = connection.connection
        is_inside = session is not None and session.info.transaction_status == TransactionStatus.INTRANS
        self._backend = session.info.backend_pid if is_inside else 0
        self._may_go_on.clear()
        self._at_rest.set()
        assert self._may_go_on.wait(60), "a process that stands still was forgotten"

    def go_on(self) -> bool:
        """Do the rest; False if it stands still again."""
        self._at_rest.clear()
        self._may_go_on.set()
        self._await()
        if self.is_over and (failure := self._future.exception()) is not None and not isinstance(failure, Killed):
            raise failure
        return self.is_over

    def _run(self, work: Callable[[], Any]) -> Any:
        _current.process = self
        return work()

    def _await(self) -> None:
        assert self._at_rest.wait(60), "a process neither ended nor stood still"
        if self._backend and not self.is_over:
            eventually(lambda: not has_session(self._backend), interval=0.001, what="the end of its transaction")


class _Current(threading.local):
    process: _Process | None = None


_current = _Current()


@contextmanager
def world_of(provider: SimulatedServer, mds: FakeMds) -> Iterator[World]:
    """One world, in which everybody comes by its points."""
    made = World(provider, mds)
    clock = time.monotonic
    with pytest.MonkeyPatch.context() as patches, installed(made.handle):
        patches.setattr(time, "monotonic", lambda: clock() + made.passed)
        # a process dies and stands still as one
        patches.setattr(bulkheads, "_executors", {})
        patches.setattr(bulkheads, "ThreadPoolExecutor", AtOnce)
        patches.setattr(orphans, "sweep", partial(orphans.sweep, grace_seconds=0))
        try:
            yield made
        finally:
            made.let_all_go()


def _wake() -> None:
    """What a worker does when something may be due."""
    if QueueMessage.objects.exists():
        HintBroker().dequeue()
    run_pass()


def rows() -> list[Any]:
    """All that the engine keeps of jobs."""
    return [list(model.objects.order_by("pk").values()) for model in (Job, Provision, JobEvent)]


def leave_nothing(provider: SimulatedServer, mds: FakeMds) -> None:
    """Both as they were at their start, whatever a case has left there."""
    provider.clear()
    mds.clear()
    for held in provider.live():
        provider.vanish(held.name)
    for batch in mds.batches():
        mds.forget(batch.id)
