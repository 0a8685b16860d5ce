"""`migrate`, one at a time and patient: rows may be many, and the tables are in use while it runs."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import OperationalError, connections
from psycopg import errors

RETRY_SECONDS = 300
_PAUSE_SECONDS = 0.5
_LOCK = 7_205_910  # any number that nobody else takes an advisory lock on


class Command(migrate.Command):
    """Django's command without the limits on statements, retried while a lock is not to be had.

    Each migration is a transaction of its own, so that a retry goes on where the last try stopped.
    """

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate, or raise `CommandError` if a lock is not to be had in time."""
        connection = connections[options["database"]]
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SET statement_timeout = 0")
                    cursor.execute("SET idle_in_transaction_session_timeout = 0")
                    cursor.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
                super().handle(*args, **options)
                return
            except OperationalError as error:
                if not isinstance(error.__cause__, errors.LockNotAvailable):
                    raise
                if time.monotonic() > deadline:
                    raise CommandError(f"A lock was not to be had in {RETRY_SECONDS} s; try again.") from error
                self.stderr.write("Waiting for a lock ...")
                time.sleep(_PAUSE_SECONDS)
            finally:
                connection.close()  # ends the session's lock and settings
