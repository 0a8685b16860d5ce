"""The sign of life of a worker process: progress of its passes, not the mere existence of the process."""

from __future__ import annotations

import os
import socket
import time

from django.db import DatabaseError, connection

from jobs.conf import times

_UPSERT = """
    INSERT INTO jobs_worker (host, pid, pass_started_at, beat_at, pass_ended_at, passes, steps)
    VALUES (%(host)s, %(pid)s, now() - %(age)s * interval '1 second', now(),
            CASE WHEN %(ended)s THEN now() END, %(ended)s::int, %(steps)s)
    ON CONFLICT (host, pid) DO UPDATE SET
        pass_started_at = EXCLUDED.pass_started_at, beat_at = EXCLUDED.beat_at,
        pass_ended_at = EXCLUDED.pass_ended_at,
        passes = jobs_worker.passes + EXCLUDED.passes, steps = jobs_worker.steps + EXCLUDED.steps
"""


class Heartbeat:
    """One pass's beats, on the row of its process. A short pass beats once, at its end."""

    def __init__(self) -> None:
        self._began = self._beat_at = time.monotonic()
        self._told = 0

    def beat(self, steps: int) -> None:
        """Beat if it is time to."""
        if time.monotonic() - self._beat_at >= times().beat:
            self._write(steps, ended=False)

    def end(self, steps: int) -> None:
        """The pass is over. A database that is away now costs one beat."""
        try:
            self._write(steps, ended=True)
        except DatabaseError:
            connection.close()

    def _write(self, steps: int, *, ended: bool) -> None:
        self._beat_at = time.monotonic()
        with connection.cursor() as cursor:
            cursor.execute(
                _UPSERT,
                {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "age": self._beat_at - self._began,
                    "ended": ended,
                    "steps": steps - self._told,
                },
            )
        self._told = steps
