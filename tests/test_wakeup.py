"""Hints: one row and one NOTIFY, both in the transaction of what they tell of."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from django.db import connection, transaction

from jobs.models import QueueMessage
from jobs.wakeup import CHANNEL, post_message, send_hint

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def listener() -> Iterator[psycopg.Connection]:
    """A connection of its own that listens."""
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        yield listener


def heard(listener: psycopg.Connection, timeout: float = 5) -> int:
    """How many notifications have come; waits for the first."""
    return sum(1 for _ in listener.notifies(timeout=timeout, stop_after=1))


def test_it_works(listener: psycopg.Connection) -> None:
    send_hint()
    assert QueueMessage.objects.get().payload is None
    assert heard(listener) == 1


def test_a_message_keeps_its_payload(listener: psycopg.Connection) -> None:
    post_message("signed")
    assert QueueMessage.objects.get().payload == "signed"
    assert heard(listener) == 1


def test_a_transaction_with_many_hints_wakes_once(listener: psycopg.Connection) -> None:
    with transaction.atomic():
        for _ in range(20):
            send_hint()
    assert heard(listener) == 1
    assert QueueMessage.objects.count() == 20


def test_a_hint_rolled_back_never_was(listener: psycopg.Connection) -> None:
    with transaction.atomic():
        send_hint()
        transaction.set_rollback(True)
    assert not QueueMessage.objects.exists()
    send_hint()  # a marker: what comes first is heard first
    assert heard(listener) == 1
    assert heard(listener, timeout=0) == 0
