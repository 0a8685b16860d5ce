"""Time in tests of the engine: the rows move, never the clock, and nobody waits."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models import F

from jobs.models import BatchScan, Job, Pool, Provision

_ENGINE_ROWS: tuple[type[models.Model], ...] = (Job, Provision, Pool, BatchScan)


def pass_time(seconds: float) -> None:
    """Let every row of the engine read as if it had been written this much earlier."""
    span = timedelta(seconds=seconds)
    for model in _ENGINE_ROWS:
        times = [
            field.name
            for field in model._meta.get_fields()
            if isinstance(field, models.DateTimeField) and not field.generated
        ]
        model._default_manager.update(**{name: F(name) - span for name in times})
    for pool in Pool.objects.exclude(capacity_retry_at={}):
        for retry in pool.capacity_retry_at.values():
            retry["at"] -= seconds
        pool.save(update_fields=["capacity_retry_at"])
