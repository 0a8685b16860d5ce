"""The broker on a real PostgreSQL: what it hands to django-q2's pusher, when, and what it survives.

Each receiver is a thread with a connection of its own, as the pusher is a process with one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.signing import SignedPackage
from django_q.tasks import async_task

from jobs import broker as broker_module
from jobs.broker import HintBroker, Messages
from jobs.conf import Times
from jobs.models import QueueMessage
from jobs.wakeup import send_hint
from tests.factories import make_job
from tests.threads import elsewhere
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
        self.run(lambda: connection.close())  # the proxy finds the thread's own
        self._thread.shutdown()


def functions(answer: Future[Messages | None]) -> list[str] | None:
    """What the messages of a dequeue ask for; None if it had none."""
    messages = answer.result(20)
    return None if messages is None else [SignedPackage.loads(payload)["func"] for _, payload in messages]


def _backend_of_this_thread() -> int:
    connection.ensure_connection()
    assert connection.connection is not None
    return int(connection.connection.info.backend_pid)


def post_task(function: str = "math.sqrt") -> None:
    async_task(function, 4)


@pytest.fixture
def spans(settings: Any) -> Callable[..., None]:
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
        elsewhere(post_task).result(20)  # wakes it: it looks, and must not see the hint
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


def test_two_brokers_at_once_take_each_message_once(
    receivers: Callable[[], Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_TAKE", broker_module._TAKE.replace("LIMIT 1000", "LIMIT 3"))
    posted = [async_task("math.sqrt", 4) for _ in range(300)]
    gate = threading.Barrier(2)

    def take_all(broker: HintBroker) -> list[str]:
        taken = []
        gate.wait(10)
        while True:
            tasks = [SignedPackage.loads(payload) for _, payload in broker.dequeue() or []]
            taken += [task["id"] for task in tasks if task["func"] != PASS]
            if len(tasks) > sum(task["func"] != PASS for task in tasks):
                return taken  # the hint that comes after everything

    both = [receivers(), receivers()]
    takes = [r._thread.submit(take_all, r.broker) for r in both]
    eventually(lambda: not QueueMessage.objects.exists(), 20)
    for _ in both:
        send_hint()
        eventually(lambda: not QueueMessage.objects.exists())
    first, second = (take.result(20) for take in takes)
    assert first
    assert second
    assert sorted(first + second) == sorted(posted)


def test_a_message_locked_by_somebody_is_left_for_later(receiver: Receiver) -> None:
    for _ in range(2):
        post_task()
    with transaction.atomic():
        QueueMessage.objects.select_for_update().earliest("id")
        assert receiver.dequeue() == ["math.sqrt"]
    assert receiver.dequeue() == ["math.sqrt"]


def test_a_message_that_comes_while_the_delete_runs_is_not_lost(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_SLICE_SECONDS", NEVER)
    with slow_delete() as go_on:
        answer = receiver.start()
        eventually(lambda: wait_event(receiver.backend) == "advisory")  # the DELETE has its snapshot: an empty table
        send_hint()
        go_on()
        assert functions(answer) == [PASS]


@contextmanager
def slow_delete() -> Iterator[Callable[[], None]]:
    """Every DELETE of messages stops just after its snapshot was taken, until told to go on."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';
            CREATE TRIGGER hold BEFORE DELETE ON jobs_queuemessage FOR EACH STATEMENT EXECUTE FUNCTION hold();
            SELECT pg_advisory_lock(1)
            """
        )
        try:
            yield lambda: cursor.execute("SELECT pg_advisory_unlock_all()")
        finally:
            cursor.execute("SELECT pg_advisory_unlock_all(); DROP FUNCTION hold CASCADE")


def wait_event(backend: int) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", [backend])
        return str(cursor.fetchone()[0])


def timed(receiver: Receiver) -> float:
    """The seconds one dequeue took that must be a pass."""
    began = time.monotonic()
    assert receiver.dequeue() == [PASS]
    return time.monotonic() - began


def test_a_due_row_is_a_pass_at_once(receiver: Receiver) -> None:
    make_job(due_at=timezone.now())
    assert timed(receiver) < NEVER / 10


def test_a_timer_is_slept_on_and_no_longer(receiver: Receiver) -> None:
    due_at = timezone.now() + timedelta(seconds=0.7)
    make_job(due_at=due_at)
    assert timed(receiver) < NEVER / 10
    assert timezone.now() >= due_at


def test_a_lease_hides_a_due_time_until_it_ends(receiver: Receiver) -> None:
    lease_end = timezone.now() + timedelta(seconds=0.7)
    make_job(due_at=timezone.now(), lease_expires_at=lease_end)
    assert timed(receiver) < NEVER / 10
    assert timezone.now() >= lease_end


def test_a_timer_that_stays_past_is_one_pass_a_while(receiver: Receiver, spans: Callable[..., None]) -> None:
    spans(timer_floor=0.2)
    make_job(due_at=timezone.now() - timedelta(hours=1))
    assert receiver.dequeue() == [PASS]
    assert sum(timed(receiver) for _ in range(4)) >= 4 * 0.19


def test_a_hint_does_not_wait_for_the_timers_pause(receiver: Receiver, spans: Callable[..., None]) -> None:
    spans(timer_floor=NEVER)
    make_job(due_at=timezone.now() - timedelta(hours=1))
    assert receiver.dequeue() == [PASS]
    answer = receiver.start()
    eventually(receiver.is_waiting)
    send_hint()
    assert functions(answer) == [PASS]


def test_without_a_timer_the_safety_net_is_a_pass(receiver: Receiver, spans: Callable[..., None]) -> None:
    spans(safety_net=0.7)
    assert 0.69 <= timed(receiver) < NEVER / 10


def terminate(receiver: Receiver) -> None:
    """End its connection, as a restart of the database would."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [receiver.backend])
        assert cursor.fetchone() == (True,)


def test_a_connection_lost_while_asleep_costs_nothing(receiver: Receiver) -> None:
    answer = receiver.start()
    eventually(receiver.is_waiting)
    terminate(receiver)
    assert functions(answer) is None
    send_hint()  # nobody listens now
    assert receiver.dequeue() == [PASS]


def test_a_connection_lost_between_two_looks_costs_nothing(receiver: Receiver) -> None:
    send_hint()
    assert receiver.dequeue() == [PASS]
    terminate(receiver)
    send_hint()
    assert receiver.dequeue() is None
    assert receiver.dequeue() == [PASS]


def test_it_listens_again_after_a_lost_connection(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_SLICE_SECONDS", NEVER)
    send_hint()
    assert receiver.dequeue() == [PASS]
    terminate(receiver)
    assert receiver.dequeue() is None
    answer = receiver.start()
    receiver.backend = eventually(listening_backend)
    eventually(receiver.is_waiting)
    send_hint()
    assert functions(answer) == [PASS]


def listening_backend() -> int | None:
    """The one backend, besides ours, that has looked for timers last."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND query LIKE '%%clock_timestamp%%' AND state = 'idle'"
        )
        rows = cursor.fetchall()
    return int(rows[0][0]) if len(rows) == 1 else None


def test_a_database_that_refuses_connections_is_waited_for(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    known = connection.settings_dict

    def move_to(where: dict[str, Any]) -> None:
        connection.close()
        connection.settings_dict = where

    receiver.run(lambda: move_to({**known, "HOST": "127.0.0.1", "PORT": "1"}))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert receiver.dequeue() is None
    assert [record.name for record in caplog.records] == ["jobs.broker"] * 3
    send_hint()
    receiver.run(lambda: move_to(known))
    assert receiver.dequeue() == [PASS]


def test_attempts_to_connect_are_further_and_further_apart(
    receiver: Receiver, spans: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(broker_module, "_pause", pauses.append)
    monkeypatch.setattr(broker_module.HintBroker, "_listen", refuse)
    spans(retry_min=1, safety_net=10)
    for _ in range(6):
        assert receiver.dequeue() is None
    assert pauses == [1, 2, 4, 8, 10, 10]


def refuse(broker: HintBroker) -> None:
    raise OperationalError("the database is starting up\nsecond line")


def test_a_broker_told_to_stop_takes_nothing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "is_stopping", lambda: True)
    send_hint()
    assert receiver.dequeue() is None
    assert receiver.broker.queue_size() == 1


def test_a_sleeping_broker_notices_the_word_to_stop(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = receiver.start()
    eventually(receiver.is_waiting)
    monkeypatch.setattr(broker_module, "is_stopping", lambda: True)
    assert functions(answer) is None


def test_purging_drops_hints_and_tasks() -> None:
    send_hint()
    post_task()
    broker = HintBroker()
    assert (broker.queue_size(), broker.lock_size(), broker.ping()) == (2, 0, True)
    broker.purge_queue()
    assert broker.queue_size() == 0
