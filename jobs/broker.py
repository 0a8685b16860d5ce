"""A broker of our own for django-q2: messages are rows, waking is LISTEN, and all hints fold into one pass.

The stock ORM broker polls and selects row by row, without order or index; a hint would wait 0.2 s in it. Here a sender
inserts a row and NOTIFYs in its own transaction, and the receiver sleeps until then, or until the next timer of the
planner's rows. Losing, doubling or delaying a message is harmless: the rows are the truth.
"""

from __future__ import annotations

import logging
import time
import uuid

from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone
from django_q.brokers import Broker
from django_q.signing import SignedPackage

from jobs.conf import times
from jobs.lifecycle.due import seconds_to_next_timer
from jobs.metrics import HINTS_COALESCED
from jobs.models import QueueMessage
from jobs.tasks import is_stopping
from jobs.wakeup import CHANNEL, post_message

logger = logging.getLogger(__name__)

# Deleting is taking: a message taken by a process that then dies is lost, which is harmless.
_TAKE = """
    DELETE FROM jobs_queuemessage WHERE id IN (
        SELECT id FROM jobs_queuemessage ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED
    ) RETURNING payload
"""
_SLICE_SECONDS = 0.5  # how long a stop may go unnoticed while there is nothing to do
_ACK = "taken"  # messages are gone once taken; django-q2 wants some id to acknowledge

Messages = list[tuple[str, str]]


class HintBroker(Broker):  # type: ignore[misc]  # django-q2 ships no types
    """Receives in django-q2's pusher process; sends from anywhere."""

    def __init__(self, list_key: str | None = None) -> None:
        super().__init__(list_key)
        self._listening_on: object = None
        self._last_pass_at = float("-inf")
        self._failures = 0

    def enqueue(self, task: str) -> str:
        """Post one of django-q2's own tasks."""
        post_message(task)
        return _ACK

    def dequeue(self) -> Messages | None:
        """Wait for messages or a due timer. Never raises: django-q2 would let the pusher die for it."""
        try:
            messages = self._next()
            self._failures = 0
            return messages
        except (DatabaseError, InterfaceError) as error:
            self._failures += 1
            logger.warning("broker: %s", str(error).strip().partition("\n")[0])
            connection.close()
            _pause(min(times().safety_net, times().retry_min * 2 ** min(self._failures - 1, 10)))
            return None

    def queue_size(self) -> int:
        """Messages not yet taken."""
        return QueueMessage.objects.count()

    def lock_size(self) -> int:
        """Always 0: a message taken is gone."""
        return 0

    def purge_queue(self) -> None:
        """Drop all messages."""
        QueueMessage.objects.all().delete()

    def delete_queue(self) -> None:
        """Drop all messages."""
        self.purge_queue()

    def ping(self) -> bool:
        """Always true: a database that is away now is waited for."""
        return True

    def info(self) -> str:
        """The broker's name, for django-q2's monitor."""
        return "PostgreSQL LISTEN"

    def _next(self) -> Messages | None:
        self._listen()
        waited_from = time.monotonic()
        while not is_stopping():
            messages = self._take()
            if messages:
                return messages
            wait = self._seconds_to_wait(waited_from)
            if wait <= 0:
                return [self._pass()]
            self._wait(wait)
        time.sleep(_SLICE_SECONDS)  # told to stop: take nothing more, until django-q2 ends the pusher
        return None

    def _listen(self) -> None:
        """LISTEN on this process's own connection, again after each reconnect."""
        connection.ensure_connection()
        if self._listening_on is not connection.connection:
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            self._listening_on = connection.connection

    def _take(self) -> Messages:
        """All messages: the hints as one pass, the tasks as they are."""
        with connection.cursor() as cursor:
            cursor.execute(_TAKE)
            payloads = [row[0] for row in cursor.fetchall()]
        messages = [(_ACK, payload) for payload in payloads if payload is not None]
        if None in payloads:
            HINTS_COALESCED.inc(payloads.count(None) - 1)
            messages.append(self._pass())
        return messages

    def _seconds_to_wait(self, waited_from: float) -> float:
        """Until the next timer, or until the safety net; a timer already past starts one pass a while at most."""
        now = time.monotonic()
        until = times().safety_net - (now - waited_from)
        timer = seconds_to_next_timer()
        if timer is not None:
            until = min(until, max(timer, self._last_pass_at + times().timer_floor - now))
        return until

    def _wait(self, seconds: float) -> None:
        """Sleep until a NOTIFY, in slices, since a signal does not end a wait for a socket."""
        listener = connection.connection
        end = time.monotonic() + seconds
        while not is_stopping() and (left := end - time.monotonic()) > 0:
            with connection.wrap_database_errors:  # the driver's own errors, as elsewhere Django's
                # all that came at once wake us once
                if list(listener.notifies(timeout=min(left, _SLICE_SECONDS), stop_after=1)):
                    return

    def _pass(self) -> tuple[str, str]:
        self._last_pass_at = time.monotonic()
        task = {
            "id": uuid.uuid4().hex,
            "name": "pass",
            "func": "jobs.tasks.run_pass",
            "args": (),
            "kwargs": {},
            "started": timezone.now(),
        }
        return (_ACK, SignedPackage.dumps(task))


def _pause(seconds: float) -> None:
    """Sleep, but no longer than until the word to stop."""
    end = time.monotonic() + seconds
    while not is_stopping() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _SLICE_SECONDS))
