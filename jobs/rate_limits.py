"""How often something may be done: token buckets in the database, which all web processes share.

A bucket holds `count` tokens and fills within `seconds`; each use takes one. One that is empty is refilled by time
alone, so that nobody is shut out for ever, and refusals cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from jobs.models import RateLimit

# One statement, so that two processes never count one use for two. A bucket without room for one more is left alone.
_TAKE = """
INSERT INTO jobs_ratelimit AS held (key, full_at) VALUES (%(key)s, statement_timestamp() + %(one)s)
ON CONFLICT (key) DO UPDATE SET full_at = GREATEST(held.full_at, statement_timestamp()) + %(one)s
WHERE held.full_at <= statement_timestamp() + %(all)s - %(one)s
"""
_WAIT = "SELECT full_at - (statement_timestamp() + %(all)s - %(one)s) FROM jobs_ratelimit WHERE key = %(key)s"


@dataclass(frozen=True)
class Rate:
    """So many in so many seconds, at once or one by one."""

    count: int
    seconds: float

    def take(self, key: str) -> float:
        """Use one; 0, or how many seconds to wait until there is one again: nothing was used then."""
        values: dict[str, Any] = {"key": key, "one": self._one, "all": timedelta(seconds=self.seconds)}
        with connection.cursor() as cursor:
            cursor.execute(_TAKE, values)
            if cursor.rowcount:
                return 0
            cursor.execute(_WAIT, values)
            row = cursor.fetchone()
        return max(row[0].total_seconds(), 0.001) if row else 0.001  # cleaned away in between

    def give_back(self, key: str) -> None:
        """Undo one `take`."""
        RateLimit.objects.filter(pk=key).update(full_at=F("full_at") - self._one)

    @property
    def _one(self) -> timedelta:
        return timedelta(seconds=self.seconds / self.count)


def forget_full_buckets() -> int:
    """Delete the rows that say nothing any more; returns how many."""
    return RateLimit.objects.filter(full_at__lt=Now()).delete()[0]
