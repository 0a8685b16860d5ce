"""Hints: "something may be due". Sent in the transaction of what they tell of, so a hint seen implies a row seen."""

from __future__ import annotations

from django.db import connection

from jobs.metrics import HINTS_SENT

CHANNEL = "planner_wakeup"


def send_hint() -> None:
    """Insert one hint row and NOTIFY, in the caller's transaction. Losing it costs time, never a job."""
    post_message(None)
    HINTS_SENT.inc()


def announce_timers() -> None:
    """Have the brokers look at the timers again: a pass has ended, and what it left may be due before they planned."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, '')", [CHANNEL])


def post_message(payload: str | None) -> None:
    """Insert one message of the broker, a hint if it has no payload, and NOTIFY at commit."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH message AS (INSERT INTO jobs_queuemessage (payload) VALUES (%s)) SELECT pg_notify(%s, '')",
            [payload, CHANNEL],
        )
