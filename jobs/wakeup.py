"""Hints: "something may be due". Sent in the transaction of what they tell of, so a hint seen implies a row seen."""

from __future__ import annotations

from django.db import connection

CHANNEL = "planner_wakeup"


def send_hint() -> None:
    """Insert one hint row and NOTIFY, in the caller's transaction. Losing it costs time, never a job."""
    post_message(None)


def post_message(payload: str | None) -> None:
    """Insert one message of the broker, a hint if it has no payload, and NOTIFY at commit."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH message AS (INSERT INTO jobs_queuemessage (payload) VALUES (%s)) SELECT pg_notify(%s, '')",
            [payload, CHANNEL],
        )
