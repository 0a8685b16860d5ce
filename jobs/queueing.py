"""The queue: its classes, its order, its capacity, and the room in the pools. Decided in SQL, from live rows only.

A policy is chosen per installation by the setting PLANNER_QUEUE_POLICY. Order holds within a class of jobs that
wait for the same pools; a class without room blocks no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from django.conf import settings
from django.db import connection
from django.db.models import Count, Q, QuerySet
from django.utils.module_loading import import_string

from jobs.models import Job, Pool, Provision
from jobs.statuses import PROVISION_ENDED, JobStatus, ProvisionStatus

# Keys of PostgreSQL's advisory locks; any two numbers nobody else uses in this database.
ADMISSION_LOCK = 7_281_001
CAPACITY_LOCK = 7_281_002

# Below the capacity by more than this, concurrent enqueues cannot fill the queue between a count and a commit.
_CAPACITY_SLACK = 256


class QueuePolicy(Protocol):
    """The order in which pending jobs of one class are admitted. Total: it ends in the id."""

    def candidates(self, queue_class: str, limit: int) -> QuerySet[Job]:
        """The first `limit` admissible jobs of the class, in order."""
        ...

    def key(self, job: Job) -> tuple[Any, ...]:
        """The same order as a sort key, to merge classes that share a pool."""
        ...


class FifoQueue:
    """First accepted, first admitted."""

    def candidates(self, queue_class: str, limit: int) -> QuerySet[Job]:
        """The oldest admissible jobs of the class."""
        return admissible().filter(queue_class=queue_class).order_by("accepted_at", "id")[:limit]

    def key(self, job: Job) -> tuple[datetime, str]:
        """Accept time, then id."""
        return (job.accepted_at, job.id)


def policy() -> QueuePolicy:
    """The policy this installation has chosen."""
    chosen: QueuePolicy = import_string(settings.PLANNER_QUEUE_POLICIES[settings.PLANNER_QUEUE_POLICY])()
    return chosen


def queue_class(accelerator_type: str) -> str:
    """The class of jobs that wait for the same pools: accelerator type, then the accepted pools (all of them)."""
    return f"{accelerator_type}|"


def accelerator_of(queue_class_name: str) -> str:
    """The accelerator type of a class."""
    return queue_class_name.split("|", 1)[0]


def admissible() -> QuerySet[Job]:
    """Pending jobs that may be admitted: not held, not being cancelled, in nobody's hands."""
    return Job.objects.filter(
        status=JobStatus.PENDING, hold=False, cancel_requested_at__isnull=True, lease_expires_at__isnull=True
    )


def lock_admission() -> None:
    """One admission at a time: until the caller's transaction ends nobody else admits anything."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADMISSION_LOCK])


def waiting_classes() -> list[str]:
    """The classes with pending jobs, by one index probe each instead of a scan of the backlog."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH RECURSIVE class(name) AS (
                (SELECT queue_class FROM jobs_job WHERE status = 'pending' ORDER BY queue_class LIMIT 1)
                UNION ALL
                SELECT (SELECT queue_class FROM jobs_job
                        WHERE status = 'pending' AND queue_class > class.name ORDER BY queue_class LIMIT 1)
                FROM class WHERE class.name IS NOT NULL
            )
            SELECT name FROM class WHERE name IS NOT NULL
            """
        )
        return [name for (name,) in cursor.fetchall()]


@dataclass
class Room:
    """How many more jobs one pool takes."""

    pool: Pool
    free: int

    def offers(self, accelerator_type: str, now: datetime) -> bool:
        """Whether the pool has this type and has not just said that it is out of it."""
        types = self.pool.accelerator_types
        if types and accelerator_type and accelerator_type not in types:
            return False
        retry = self.pool.capacity_retry_at.get(accelerator_type)
        return retry is None or float(retry["at"]) <= now.timestamp()


def room() -> list[Room]:
    """The enabled pools with their free places, best first: counted from what they hold now."""
    held: dict[int, int] = {}
    starting: dict[int, int] = {}
    counts = Provision.objects.filter(~Q(status__in=sorted(PROVISION_ENDED))).values_list("pool", "status")
    for pool_id, status, count in counts.annotate(count=Count("id")).order_by():
        held[pool_id] = held.get(pool_id, 0) + count
        if status in {ProvisionStatus.REQUESTED, ProvisionStatus.PROVISIONING}:
            starting[pool_id] = starting.get(pool_id, 0) + count
    return [
        Room(pool, min(pool.max_live - held.get(pool.id, 0), pool.max_provisioning - starting.get(pool.id, 0)))
        for pool in Pool.objects.filter(is_enabled=True).order_by("-priority", "name")
    ]


def queue_is_full() -> bool:
    """Whether one more pending job would exceed the capacity. Call it in the transaction that inserts the job.

    Far from the limit it only counts; near it, enqueues take turns, so that the limit is never exceeded.
    """
    capacity = settings.PLANNER_QUEUE_CAPACITY
    if _pending(capacity) < capacity - _CAPACITY_SLACK:
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [CAPACITY_LOCK])
    return _pending(capacity) >= capacity


def _pending(limit: int) -> int:
    """Pending jobs, counted no further than `limit`."""
    return Job.objects.filter(status=JobStatus.PENDING).order_by()[:limit].count()
