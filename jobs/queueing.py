"""The queue: its classes, its order, its capacity. Decided from live rows only, without a look at the whole backlog.

The pending jobs of one owner in one class are one queue, which an index keeps in order. A policy, chosen per
installation by the setting PLANNER_QUEUE_POLICY, says whose head is next; the queues are merged by that.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Protocol

from django.conf import settings
from django.db import connection
from django.utils.module_loading import import_string

from jobs.models import Job
from jobs.queue_merge import LONG_AGO, QUEUED, WAITING_OWNERS, Key, Order, waiting_owners
from jobs.reading import rows
from jobs.statuses import JobStatus

# Keys of PostgreSQL's advisory locks; any two numbers nobody else uses in this database.
ADMISSION_LOCK = 7_281_001
CAPACITY_LOCK = 7_281_002

# Below the capacity by more than this, concurrent enqueues cannot fill the queue between a count and a commit.
_CAPACITY_SLACK = 256


class QueuePolicy(Order, Protocol):
    """An order of jobs, and each one's place in it."""

    def ahead(self, job: Job, most: int) -> int:
        """How many pending jobs of its class go before this one; counted no further than `most`."""
        ...


class FifoQueue:
    """First accepted, first admitted."""

    column = "accepted_at"
    heads_at_first: int | None = 100

    def key(self, owners: Collection[int]) -> Key:
        """The column, then the id, whoever the owner is."""
        return lambda queue, place, taken: place

    def ahead(self, job: Job, most: int) -> int:
        """Those with a smaller key."""
        return _count_before(f"{WAITING_OWNERS} {_AHEAD}", self.column, job, most)


class PriorityQueue(FifoQueue):
    """Higher priority first, with ageing: a key that never changes, so that everybody's turn comes.

    Each point of priority is worth PLANNER_PRIORITY_AGEING_SECONDS of waiting; the key is the accept time less that.
    """

    column = "ranked_at"


class FairShareQueue:
    """Round robin over the owners: next is who had a turn longest ago; an owner's own jobs go by accept time."""

    column = "accepted_at"
    heads_at_first = None

    def key(self, owners: Collection[int]) -> Key:
        """How many turns the owner has had in this step, when the one before was, the owner, accept time, id."""
        last = _last_turns(owners)
        return lambda queue, place, taken: (taken, last[queue.owner_id], queue.owner_id, *place)

    def ahead(self, job: Job, most: int) -> int:
        """Its owner's own before it, and as many of each other owner: one more of those whose turn comes first."""
        own = _count_before(_AHEAD_OF_ITS_OWNERS, self.column, job, most)
        owners = waiting_owners(job.queue_class)
        last = _last_turns({*owners, job.owner_id})
        mine = (last[job.owner_id], job.owner_id)
        first = [owner for owner in owners if (last[owner], owner) < mine]
        rest = [owner for owner in owners if (last[owner], owner) > mine]
        return min(most, own + _count_turns(job, first, own + 1, most) + _count_turns(job, rest, own, most))


def policy() -> QueuePolicy:
    """The policy this installation has chosen."""
    chosen: QueuePolicy = import_string(settings.PLANNER_QUEUE_POLICIES[settings.PLANNER_QUEUE_POLICY])()
    return chosen


def priority_span(priority: int) -> timedelta:
    """What a priority is worth in waiting."""
    return timedelta(seconds=priority * settings.PLANNER_PRIORITY_AGEING_SECONDS)


def has_admissible() -> bool:
    """Whether any pending job may be admitted: not held, not being cancelled, in nobody's hands."""
    with connection.cursor() as cursor:
        cursor.execute(_FIRST_ADMISSIBLE)
        return cursor.fetchone() is not None


def lock_admissible(ids: Collection[str]) -> dict[str, Job]:
    """Lock those of these jobs that may be admitted, but those locked by somebody else."""
    locked = f"SELECT * FROM jobs_job WHERE id = ANY(%s) AND {_ADMISSIBLE} FOR NO KEY UPDATE SKIP LOCKED"  # noqa: S608 - a constant
    return {job.id: job for job in rows(Job, locked, [list(ids)])} if ids else {}


def lock_admission() -> None:
    """One admission at a time: until the caller's transaction ends nobody else admits anything."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADMISSION_LOCK])


_MOST_A_SECOND = 4000  # jobs that an installation could possibly accept
_last_count: tuple[float, int] = (0.0, 0)  # until when a count may be used again (monotonic), and what was counted


def queue_is_full() -> bool:
    """Whether one more pending job would exceed the capacity. Call it in the transaction that inserts the job.

    Far from the limit one count does for a second; near it, enqueues take turns, so that the limit is never exceeded.
    """
    global _last_count
    capacity, now = settings.PLANNER_QUEUE_CAPACITY, monotonic()
    usable_until, pending = _last_count
    if now < usable_until and pending + _MOST_A_SECOND < capacity:
        return False
    pending = _pending(capacity)
    _last_count = now + 1, pending
    if pending < capacity - _CAPACITY_SLACK:
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [CAPACITY_LOCK])
    return _pending(capacity) >= capacity


def fill() -> float:
    """How much of the capacity is taken up, from 0 to 1; counted no further than that."""
    return _pending(settings.PLANNER_QUEUE_CAPACITY) / float(settings.PLANNER_QUEUE_CAPACITY)


def _pending(limit: int) -> int:
    """Pending jobs, counted no further than `limit`."""
    # in the order of the index `job_status_list`: from the oldest row on, all that has ended would be read first
    return Job.objects.filter(status=JobStatus.PENDING).order_by("-accepted_at", "-id")[:limit].count()


def _last_turns(owners: Collection[int]) -> dict[int, datetime]:
    """When each was last admitted a job, by one index probe each; long ago if never."""
    with connection.cursor() as cursor:
        cursor.execute(_LAST_TURNS, {"owners": list(owners)})
        return {owner: at or LONG_AGO for owner, at in cursor.fetchall()}


def _count_before(sql: str, column: str, job: Job, most: int) -> int:
    """Jobs of its class with a smaller key, counted no further than `most`: all of them, or those of its owner."""
    place = {"at": getattr(job, column), "id": job.pk}
    values = {"class": job.queue_class, "owner": job.owner_id, "most": most, **place}
    return _counted(sql.format(column=column), values)


def _count_turns(job: Job, owners: Collection[int], turns: int, most: int) -> int:
    """Jobs of its class and of these owners, so many of each at most, counted no further than `most`."""
    return _counted(_TURNS, {"class": job.queue_class, "owners": list(owners), "turns": turns, "most": most})


def _counted(sql: str, values: dict[str, Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return int(cursor.fetchone()[0])


_ADMISSIBLE = f"{QUEUED} AND cancel_requested_at IS NULL AND lease_expires_at IS NULL"
# In the order of the index `job_queue`: by statistics from before a hold of thousands the table would be read instead.
_FIRST_ADMISSIBLE = f"""
    SELECT 1 FROM jobs_job WHERE {_ADMISSIBLE} ORDER BY queue_class, owner_id, accepted_at, id LIMIT 1
"""  # noqa: S608 - only constants are put in
_LAST_TURNS = """
    SELECT owner, (
        SELECT provisioning_at FROM jobs_job WHERE owner_id = owner AND provisioning_at IS NOT NULL
        ORDER BY provisioning_at DESC LIMIT 1
    ) FROM unnest(%(owners)s::int[]) AS owner
"""

_BEFORE = f"""
    SELECT 1 FROM jobs_job WHERE {QUEUED} AND queue_class = %(class)s AND owner_id = {{owner}}
        AND ({{{{column}}}}, id) < (%(at)s, %(id)s) LIMIT %(most)s
"""  # noqa: S608 - only constants are put in
_AHEAD = f"""
    SELECT count(*) FROM (
        SELECT 1 FROM queue CROSS JOIN LATERAL ({_BEFORE.format(owner="queue.owner_id")}) AS before LIMIT %(most)s
    ) AS counted
"""  # noqa: S608 - only constants are put in
_AHEAD_OF_ITS_OWNERS = f"SELECT count(*) FROM ({_BEFORE.format(owner='%(owner)s')}) AS counted"  # noqa: S608 - likewise

_TURNS = f"""
    SELECT count(*) FROM (
        SELECT 1 FROM unnest(%(owners)s::int[]) AS owner CROSS JOIN LATERAL (
            SELECT 1 FROM jobs_job WHERE {QUEUED} AND queue_class = %(class)s AND owner_id = owner LIMIT %(turns)s
        ) AS turn LIMIT %(most)s
    ) AS counted
"""  # noqa: S608 - only constants are put in
