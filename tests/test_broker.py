"""The broker on a real PostgreSQL: what it hands to django-q2's pusher, when, and what it survives.

Each receiver is a thread with a connection of its own, as the pusher is a process with one.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from django.db import connection, transaction
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.signing import SignedPackage
from django_q.tasks import async_task
from pytest_django.fixtures import SettingsWrapper

from jobs import broker as broker_module
from jobs.broker import HintBroker, Messages
from jobs.conf import Times
from jobs.models import QueueMessage
from jobs.wakeup import send_hint
from tests.factories import make_job
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)

PASS = "jobs.tasks.run_pass"
NEVER = 60.0  # longer than any test waits
T = TypeVar("T")


class Receiver:
    """A broker in a thread of its own."""

    def __init__(self) -> None:
        self.broker = HintBroker()
        self._thread = ThreadPoolExecutor(1)
        self.backend: int = self.run(_backend_of_this_thread)

    def run(self, call: Callable[[], T]) -> T:
        """Call something on the thread."""
        return self._thread.submit(call).result(20)

    def start(self) -> Future[Messages | None]:
        """Begin a dequeue."""
        return self._thread.submit(self.broker.dequeue)

    def dequeue(self) -> list[str] | None:
        """One dequeue, as the functions it asks for."""
        return functions(self.start())

    def is_waiting(self) -> bool:
        """Whether it has listened, found nothing, and sleeps."""
        return self._activity() == ("idle", True)

    def _activity(self) -> tuple[str, bool] | None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT state, query LIKE '%%clock_timestamp%%' FROM pg_stat_activity WHERE pid = %s", [self.backend]
            )
            row: tuple[str, bool] | None = cursor.fetchone()
        return row

    def close(self) -> None:
        """End it; a dequeue under way is woken first."""
        send_hint()
        self._thread.submit(connection.close)
        self._thread.shutdown()


def functions(answer: Future[Messages | None]) -> list[str] | None:
    """What the messages of a dequeue ask for; None if it had none."""
    messages = answer.result(20)
    return None if messages is None else [SignedPackage.loads(payload)["func"] for _, payload in messages]


def _backend_of_this_thread() -> int:
    connection.ensure_connection()
    assert connection.connection is not None
    return int(connection.connection.info.backend_pid)


def elsewhere(call: Callable[[], T]) -> T:
    """Call something on another connection, committed on its own."""

    def and_close() -> T:
        try:
            return call()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(and_close).result(20)


def post_task(function: str = "math.sqrt") -> None:
    async_task(function, 4)


@pytest.fixture
def spans(settings: SettingsWrapper) -> Callable[..., None]:
    """Set spans of the engine; the safety net and the pause between two attempts to connect are far off and short."""

    def set_spans(**changed: float) -> None:
        settings.PLANNER_TIMES = vars(Times()) | {"safety_net": NEVER, "retry_min": 0.01, **changed}

    set_spans()
    return set_spans


@pytest.fixture
def receivers(spans: Callable[..., None]) -> Iterator[Callable[[], Receiver]]:
    """Makes receivers; all are gone, with their connections, when the test is over."""
    made: list[Receiver] = []

    def make() -> Receiver:
        made.append(Receiver())
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


@pytest.fixture
def receiver(receivers: Callable[[], Receiver]) -> Receiver:
    return receivers()


def test_it_works(receiver: Receiver) -> None:
    send_hint()
    assert receiver.dequeue() == [PASS]
    assert receiver.broker.queue_size() == 0


def test_the_broker_is_the_one_django_q_uses() -> None:
    assert isinstance(get_broker(), HintBroker)


def test_a_hint_wakes_a_sleeping_broker(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_SLICE_SECONDS", NEVER)
    answer = receiver.start()
    eventually(receiver.is_waiting)
    send_hint()
    assert functions(answer) == [PASS]


def test_a_hint_is_seen_after_its_commit_and_not_before(receiver: Receiver) -> None:
    answer = receiver.start()
    eventually(receiver.is_waiting)
    with transaction.atomic():
        send_hint()
        elsewhere(post_task)  # wakes it: it looks, and must not see the hint
        assert functions(answer) == ["math.sqrt"]
        answer = receiver.start()
    assert functions(answer) == [PASS]


def test_200_hints_fold_into_one_pass(receiver: Receiver) -> None:
    for _ in range(200):
        send_hint()
    assert receiver.dequeue() == [PASS]
    post_task()
    assert receiver.dequeue() == ["math.sqrt"], "no hint is left"


def test_tasks_come_out_unchanged_beside_hints(receiver: Receiver) -> None:
    task_id = async_task("jobs.somewhere.chore", 1, "two", group="g", three=3)
    send_hint()
    async_task("jobs.somewhere.other")
    send_hint()
    messages = receiver.start().result(20)
    assert messages is not None
    tasks = [SignedPackage.loads(payload) for _, payload in messages]
    assert sorted(task["func"] for task in tasks) == ["jobs.somewhere.chore", "jobs.somewhere.other", PASS]
    chore = next(task for task in tasks if task["id"] == task_id)
    assert (chore["args"], chore["kwargs"], chore["group"]) == ((1, "two"), {"three": 3}, "g")


def test_a_pass_can_be_run_as_django_q_runs_it(receiver: Receiver) -> None:
    send_hint()
    messages = receiver.start().result(20)
    assert messages
    task = SignedPackage.loads(messages[0][1])
    # what django-q2's worker and monitor read from a task
    assert task.keys() >= {"id", "name", "func", "args", "kwargs", "started"}
    assert (task["args"], task["kwargs"]) == ((), {})


def test_two_brokers_at_once_take_each_message_once(receivers: Callable[[], Receiver]) -> None:
    posted = [async_task("math.sqrt", 4) for _ in range(300)]
    both = receivers(), receivers()
    gate = threading.Barrier(2)
    taken: list[str] = []

    def take_all(receiver: Receiver) -> None:
        gate.wait(10)
        while QueueMessage.objects.exists():
            messages = receiver.broker.dequeue() or []
            taken.extend(SignedPackage.loads(payload)["id"] for _, payload in messages)

    # little at a time, or the first takes all
    for take in [receiver._thread.submit(lambda r=receiver: take_all(r)) for receiver in both]:
        while not take.done():
            posted.append(async_task("math.sqrt", 4))
        take.result(20)
    while QueueMessage.objects.exists():
        taken.extend(SignedPackage.loads(payload)["id"] for _, payload in both[0].start().result(20) or [])
    assert sorted(taken) == sorted(posted)
