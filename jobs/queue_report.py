"""The queue as everybody may see it: what waits for what, and what each pool has. Counted from live rows on read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from django.db.models import Count, Min
from django.utils import timezone

from jobs import limits
from jobs.models import Job, Pool
from jobs.models.queue import Queue
from jobs.placement import Wanted
from jobs.statuses import JobStatus


@dataclass
class ClassLine:
    """The jobs that wait for one type of accelerator ("": for any place), and the pools that have it."""

    accelerator_type: str
    waiting: int = 0
    held: int = 0  # by themselves; holds of owners, pools and the queue are not counted here
    oldest_at: datetime | None = None
    pools: list[Pool] = field(default_factory=list)  # that have it, whether they take jobs now or not


@dataclass(frozen=True)
class PoolLine:
    """One pool: what is held there of how much, and what keeps it from taking more."""

    pool: Pool
    use: limits.Use
    is_full: bool
    is_out_of: list[tuple[str, datetime]]  # accelerator types it said it has none of, and when it is asked again


@dataclass(frozen=True)
class QueueReport:
    """All of it at one moment."""

    queue: Queue
    classes: list[ClassLine]
    pools: list[PoolLine]


def queue_report() -> QueueReport:
    """Five queries. Costs the pending jobs, which the queue's capacity bounds, and the provisions held."""
    rooms = limits.Rooms()
    return QueueReport(rooms.queue, list(_classes(rooms)), _pools(rooms))


def _classes(rooms: limits.Rooms) -> Iterator[ClassLine]:
    pending = Job.objects.filter(status=JobStatus.PENDING).order_by("accelerator_type")
    counted = pending.values_list("accelerator_type", "hold").annotate(count=Count("id"), oldest_at=Min("accepted_at"))
    lines: dict[str, ClassLine] = {}
    for accelerator_type, is_held, count, oldest_at in counted:
        line = lines.setdefault(accelerator_type, ClassLine(accelerator_type))
        if is_held:
            line.held += count
        else:
            line.waiting += count
        line.oldest_at = min(line.oldest_at or oldest_at, oldest_at)
    for line in lines.values():
        wanted = Wanted(line.accelerator_type)
        line.pools = [each.pool for each in [*rooms.pools, *rooms.held_pools] if wanted.suits(each.pool)]
        yield line


def _pools(rooms: limits.Rooms) -> list[PoolLine]:
    now = timezone.now()
    return [
        PoolLine(each.pool, each.use, is_full=not each.room.fits(0), is_out_of=_is_out_of(each.pool, now))
        for each in [*rooms.pools, *rooms.held_pools]
    ]


def _is_out_of(pool: Pool, now: datetime) -> list[tuple[str, datetime]]:
    retries = {kind: float(retry["at"]) for kind, retry in pool.capacity_retry_at.items()}
    return [(kind, datetime.fromtimestamp(at, UTC)) for kind, at in sorted(retries.items()) if at > now.timestamp()]
