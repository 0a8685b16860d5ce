"""How long a pool really takes to get resources ready, and the timeout that suggests (R7). From rows, in one query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from django.db import connection

from jobs.models import Pool

WINDOW = timedelta(days=30)
NEWEST = 1000  # provisions of a pool, of all types together
FEWEST = 5  # of a type, for a suggestion

_MEASURED = """
    SELECT accelerator_type, count(seconds), count(*) FILTER (WHERE is_late),
        percentile_cont(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (ORDER BY seconds)
    FROM (
        SELECT COALESCE(accelerator_type, '') AS accelerator_type,
            EXTRACT(EPOCH FROM ready_at - requested_at)::float AS seconds,
            ready_at IS NULL AND create_started_at IS NOT NULL AND releasing_at >= deadline_at AS is_late
        FROM jobs_provision WHERE pool_id = %s AND requested_at >= now() - %s * interval '1 second'
        ORDER BY requested_at DESC, id DESC LIMIT %s
    ) AS newest
    GROUP BY accelerator_type HAVING count(seconds) > 0 OR bool_or(is_late) ORDER BY accelerator_type
"""


@dataclass(frozen=True)
class Measured:
    """Of one type in one pool: the spans from request to ready, and how many were given up as not ready in time."""

    accelerator_type: str
    ready: int
    late: int
    p50: float = 0
    p95: float = 0
    longest: float = 0

    def suggested_timeout(self, timeout_seconds: int) -> int | None:
        """Whole minutes: twice what nineteen of twenty take, and more than the longest took. None of too few.

        Where the present timeout has cut off more than one of twenty, what they would have taken is not known: twice
        that timeout is.
        """
        if self.ready + self.late < FEWEST:
            return None
        if self.late * 20 > self.ready + self.late:
            return 2 * timeout_seconds
        return 60 * max(1, math.ceil(max(2 * self.p95, 1.1 * self.longest) / 60))


def measured(pool: Pool) -> list[Measured]:
    """Of each type, by the newest provisions of the last 30 days."""
    with connection.cursor() as cursor:
        cursor.execute(_MEASURED, [pool.pk, WINDOW.total_seconds(), NEWEST])
        return [Measured(kind, ready, late, *(spans or ())) for kind, ready, late, spans in cursor.fetchall()]


def suggested_timeout(pool: Pool, found: list[Measured]) -> int | None:
    """What fits every type: the pool has one timeout for all."""
    return max((s for each in found if (s := each.suggested_timeout(pool.ready_timeout_seconds))), default=None)
