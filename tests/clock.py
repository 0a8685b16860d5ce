"""Time in tests of the engine: the rows move, never the clock, and nobody waits."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache

from django.db import OperationalError, connection, models, transaction
from psycopg.errors import LockNotAvailable

from jobs.models import BatchScan, Job, JobEvent, Pool, Provision
from tests.waiting import eventually

_ENGINE_ROWS: tuple[type[models.Model], ...] = (Job, JobEvent, Provision, Pool, BatchScan)


def pass_time(seconds: float) -> None:
    """Let every row of the engine read as if it had been written this much earlier."""
    # PostgreSQL's own vacuum counts as somebody: after a test of thousands of rows it takes its time
    eventually(lambda: _moved(timedelta(seconds=seconds)), 60, 0.002, what="a moment in which nobody writes")


def _moved(span: timedelta) -> bool:
    """False, and nothing is moved, while a transaction is in the midst of it: a job keeps in step with its timeline."""
    tables = ", ".join(model._meta.db_table for model in _ENGINE_ROWS)
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                # not to wait while holding any of them is what makes a deadlock impossible
                cursor.execute(f"LOCK TABLE {tables} IN EXCLUSIVE MODE NOWAIT")
                for model in _ENGINE_ROWS:
                    cursor.execute(_move_rows(model), {"span": span})
            _move_notes(span)
    except OperationalError as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        return False
    return True


@cache
def _move_rows(model: type[models.Model]) -> str:
    fields = [f for f in model._meta.get_fields() if isinstance(f, models.DateTimeField) and not f.generated]
    columns = ", ".join(f'"{f.column}" = "{f.column}" - %(span)s' for f in fields)
    return f'UPDATE "{model._meta.db_table}" SET {columns}'  # noqa: S608 - our own names


def _move_notes(span: timedelta) -> None:
    """The times that stand inside of JSON."""
    for pool in Pool.objects.exclude(capacity_retry_at={}, orphans={}):
        for retry in pool.capacity_retry_at.values():
            retry["at"] -= span.total_seconds()
        pool.orphans = {name: _earlier(since, span) for name, since in pool.orphans.items()}
        pool.save(update_fields=["capacity_retry_at", "orphans"])


def _earlier(at: str, span: timedelta) -> str:
    return (datetime.fromisoformat(at) - span).isoformat()
