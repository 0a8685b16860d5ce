"""Time in tests of the engine: the rows move, never the clock, and nobody waits."""

from __future__ import annotations

from datetime import timedelta

from django.db import OperationalError, connection, models, transaction
from django.db.models import F
from psycopg.errors import LockNotAvailable

from jobs.models import BatchScan, Job, JobEvent, Pool, Provision
from tests.waiting import eventually

_ENGINE_ROWS: tuple[type[models.Model], ...] = (Job, JobEvent, Provision, Pool, BatchScan)


def pass_time(seconds: float) -> None:
    """Let every row of the engine read as if it had been written this much earlier."""
    eventually(lambda: _moved(timedelta(seconds=seconds)), 5, 0.002, what="a moment in which nobody writes")


def _moved(span: timedelta) -> bool:
    """False, and nothing is moved, while a transaction is in the midst of it: a job keeps in step with its timeline."""
    tables = ", ".join(model._meta.db_table for model in _ENGINE_ROWS)
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                # not to wait while holding any of them is what makes a deadlock impossible
                cursor.execute(f"LOCK TABLE {tables} IN EXCLUSIVE MODE NOWAIT")
            _move(span)
    except OperationalError as error:
        if not isinstance(error.__cause__, LockNotAvailable):
            raise
        return False
    return True


def _move(span: timedelta) -> None:
    for model in _ENGINE_ROWS:
        times = [
            field.name
            for field in model._meta.get_fields()
            if isinstance(field, models.DateTimeField) and not field.generated
        ]
        model._default_manager.update(**{name: F(name) - span for name in times})
    for pool in Pool.objects.exclude(capacity_retry_at={}):
        for retry in pool.capacity_retry_at.values():
            retry["at"] -= span.total_seconds()
        pool.save(update_fields=["capacity_retry_at"])
