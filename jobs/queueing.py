"""The queue: its classes, its order, its capacity. Decided from live rows only, without a look at the whole backlog.

The pending jobs of one owner in one class are one queue, which an index keeps in order. A policy, chosen per
installation by the setting PLANNER_QUEUE_POLICY, says whose head is next; the queues are merged by that.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heappush
from time import monotonic
from typing import Any, NamedTuple, Protocol

from django.conf import settings
from django.db import connection
from django.utils.module_loading import import_string

from jobs.models import Job
from jobs.placement import Wanted
from jobs.statuses import JobStatus

# Keys of PostgreSQL's advisory locks; any two numbers nobody else uses in this database.
ADMISSION_LOCK = 7_281_001
CAPACITY_LOCK = 7_281_002

# Below the capacity by more than this, concurrent enqueues cannot fill the queue between a count and a commit.
_CAPACITY_SLACK = 256
_FIRST_ROWS = 2  # of each queue; then twice as many each time
_LONG_AGO = datetime(1, 1, 2, tzinfo=UTC)


class QueueName(NamedTuple):
    """One owner's pending jobs of one class."""

    queue_class: str
    owner_id: int


@dataclass(frozen=True)
class Queued:
    """What the order is decided by, of one pending job."""

    id: str
    queue: QueueName
    ranked_at: datetime  # by accept time, or by the priority's key: what the policy's column says
    accelerators: int


Key = Callable[[Queued, int], tuple[Any, ...]]


class QueuePolicy(Protocol):
    """Whose job is next. The order is total: every key ends in the job's id."""

    column: str  # what one owner's queue is in order of; `job_queue` or `job_queue_ranked` is its index

    def key(self, owners: Collection[int]) -> Key:
        """The sort key of a job of one of these owners, given how many of the owner's are taken before it.

        Of two jobs in one queue the later one's is never smaller, nor is it for a greater number.
        """
        ...

    def ahead(self, job: Job, most: int) -> int:
        """How many pending jobs of its class go before this one; counted no further than `most`."""
        ...


class FifoQueue:
    """First accepted, first admitted."""

    column = "accepted_at"

    def key(self, owners: Collection[int]) -> Key:
        """The column, then the id, whoever the owner is."""
        return lambda job, taken: (job.ranked_at, job.id)

    def ahead(self, job: Job, most: int) -> int:
        """Those with a smaller key."""
        return _count_before(self.column, job, waiting_owners(job.queue_class), most)


class PriorityQueue(FifoQueue):
    """Higher priority first, with ageing: a key that never changes, so that everybody's turn comes.

    Each point of priority is worth PLANNER_PRIORITY_AGEING_SECONDS of waiting; the key is the accept time less that.
    """

    column = "ranked_at"


class FairShareQueue:
    """Round robin over the owners: next is who had a turn longest ago; an owner's own jobs go by accept time."""

    column = "accepted_at"

    def key(self, owners: Collection[int]) -> Key:
        """How many turns the owner has had in this step, when the one before was, the owner, accept time, id."""
        last = _last_turns(owners)
        return lambda job, taken: (taken, last[job.queue.owner_id], job.queue.owner_id, job.ranked_at, job.id)

    def ahead(self, job: Job, most: int) -> int:
        """Its owner's own before it, and as many of each other owner: one more of those whose turn comes first."""
        own = _count_before(self.column, job, [job.owner_id], most)
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
    return {job.id: job for job in Job.objects.raw(locked, [list(ids)])} if ids else {}


def lock_admission() -> None:
    """One admission at a time: until the caller's transaction ends nobody else admits anything."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADMISSION_LOCK])


def waiting_queues() -> dict[QueueName, Wanted]:
    """The queues with pending jobs and what they wait for, by one index probe each instead of a scan of the backlog."""
    with connection.cursor() as cursor:
        cursor.execute(_WAITING_QUEUES)
        return {
            QueueName(queue_class_name, owner_id): Wanted.of(accelerator_type, json.loads(accepts))
            for queue_class_name, owner_id, accelerator_type, accepts in cursor.fetchall()
        }


def waiting_owners(queue_class_name: str) -> list[int]:
    """The owners with pending jobs of this class, likewise."""
    with connection.cursor() as cursor:
        cursor.execute(_WAITING_OWNERS, {"class": queue_class_name})
        return [owner for (owner,) in cursor.fetchall()]


@dataclass
class _Line:
    """What has been read of one queue and not yet been told."""

    read: deque[Queued] = field(default_factory=deque)
    after: tuple[datetime, str] = (_LONG_AGO, "")
    rows: int = _FIRST_ROWS  # the next read asks for so many
    is_whole: bool = False  # there is no more behind these


class Merged:
    """The admissible jobs of these queues in the policy's order, read as far as they are asked for.

    For k jobs out of m queues it reads O(k + m) rows, however many are waiting.
    """

    def __init__(self, order: QueuePolicy, queues: Collection[QueueName]) -> None:
        self._column = order.column
        self._key = order.key({queue.owner_id for queue in queues})
        self._lines = {queue: _Line() for queue in queues}
        self._taken: dict[int, int] = defaultdict(int)  # by owner
        self._heads: list[tuple[tuple[Any, ...], QueueName]] = []

    def __iter__(self) -> Iterator[Queued]:
        self._read(self._lines)
        self._heads = [(self._key_of(line.read[0]), queue) for queue, line in self._lines.items() if line.read]
        heapify(self._heads)
        while self._heads:
            known, queue = heappop(self._heads)
            line = self._lines.get(queue)
            if line is None:
                continue
            key = self._key_of(line.read[0])
            if key > known:  # the owner has had a turn since, with another queue
                heappush(self._heads, (key, queue))
                continue
            yield line.read.popleft()
            self._put_back(queue)

    def take(self, job: Queued) -> None:
        """The job just told is admitted: its owner has had a turn."""
        self._taken[job.queue.owner_id] += 1

    def drop(self, queues: Iterable[QueueName]) -> None:
        """The rest of these queues cannot be admitted now."""
        for queue in list(queues):
            self._lines.pop(queue, None)

    def queues(self) -> list[QueueName]:
        """Those not dropped."""
        return list(self._lines)

    def _key_of(self, job: Queued) -> tuple[Any, ...]:
        return self._key(job, self._taken[job.queue.owner_id])

    def _put_back(self, queue: QueueName) -> None:
        line = self._lines.get(queue)
        if line is None:
            return
        if not line.read and not line.is_whole:
            # together with those that are as good as empty, so that many queues are not read one by one
            self._read({name: line for name, line in self._lines.items() if len(line.read) <= 1 and not line.is_whole})
        if line.read:
            heappush(self._heads, (self._key_of(line.read[0]), queue))

    def _read(self, lines: dict[QueueName, _Line]) -> None:
        rows: dict[str, Any] = {
            "classes": [queue.queue_class for queue in lines],
            "owners": [queue.owner_id for queue in lines],
            "times": [line.after[0] for line in lines.values()],
            "ids": [line.after[1] for line in lines.values()],
            "most": [line.rows for line in lines.values()],
        }
        found: dict[QueueName, list[Queued]] = defaultdict(list)
        with connection.cursor() as cursor:
            cursor.execute(_NEXT_OF_QUEUES.format(column=self._column), rows)
            for job_id, queue_class_name, owner_id, ranked_at, accelerators in cursor.fetchall():
                queue = QueueName(queue_class_name, owner_id)
                found[queue].append(Queued(job_id, queue, ranked_at, accelerators))
        for queue, line in lines.items():
            jobs = sorted(found[queue], key=lambda job: (job.ranked_at, job.id))
            line.is_whole = len(jobs) < line.rows
            line.rows *= 2
            line.read.extend(jobs)
            if jobs:
                line.after = (jobs[-1].ranked_at, jobs[-1].id)


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
    return Job.objects.filter(status=JobStatus.PENDING).order_by()[:limit].count()


def _last_turns(owners: Collection[int]) -> dict[int, datetime]:
    """When each was last admitted a job, by one index probe each; long ago if never."""
    with connection.cursor() as cursor:
        cursor.execute(_LAST_TURNS, {"owners": list(owners)})
        return {owner: at or _LONG_AGO for owner, at in cursor.fetchall()}


def _count_before(column: str, job: Job, owners: Collection[int], most: int) -> int:
    """Jobs of its class and of these owners with a smaller key, counted no further than `most`."""
    return _counted(
        _BEFORE.format(column=column),
        {"class": job.queue_class, "owners": list(owners), "at": getattr(job, column), "id": job.pk, "most": most},
    )


def _count_turns(job: Job, owners: Collection[int], turns: int, most: int) -> int:
    """Jobs of its class and of these owners, so many of each at most, counted no further than `most`."""
    return _counted(_TURNS, {"class": job.queue_class, "owners": list(owners), "turns": turns, "most": most})


def _counted(sql: str, values: dict[str, Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return int(cursor.fetchone()[0])


# The condition of the indexes `job_queue` and `job_queue_ranked`.
_QUEUED = "status = 'pending' AND NOT hold"
_ADMISSIBLE = f"{_QUEUED} AND cancel_requested_at IS NULL AND lease_expires_at IS NULL"
# In the order of the index `job_queue`: by statistics from before a hold of thousands the table would be read instead.
_FIRST_ADMISSIBLE = f"""
    SELECT 1 FROM jobs_job WHERE {_ADMISSIBLE} ORDER BY queue_class, owner_id, accepted_at, id LIMIT 1
"""  # noqa: S608 - only constants are put in
# All jobs of a class want the same; any of them tells it.
_QUEUE = "queue_class, owner_id, accelerator_type, accepts"

_WAITING_QUEUES = f"""
    WITH RECURSIVE queue AS (
        (SELECT {_QUEUE} FROM jobs_job WHERE {_QUEUED} ORDER BY queue_class, owner_id LIMIT 1)
        UNION ALL
        SELECT next.* FROM queue CROSS JOIN LATERAL (
            SELECT {_QUEUE} FROM jobs_job
            WHERE {_QUEUED} AND (queue_class, owner_id) > (queue.queue_class, queue.owner_id)
            ORDER BY queue_class, owner_id LIMIT 1
        ) AS next
    )
    SELECT {_QUEUE} FROM queue
"""  # noqa: S608 - only constants are put in

_WAITING_OWNERS = f"""
    WITH RECURSIVE queue AS (
        (SELECT owner_id FROM jobs_job WHERE {_QUEUED} AND queue_class = %(class)s ORDER BY owner_id LIMIT 1)
        UNION ALL
        SELECT next.* FROM queue CROSS JOIN LATERAL (
            SELECT owner_id FROM jobs_job
            WHERE {_QUEUED} AND queue_class = %(class)s AND owner_id > queue.owner_id ORDER BY owner_id LIMIT 1
        ) AS next
    )
    SELECT owner_id FROM queue
"""  # noqa: S608 - only constants are put in

_NEXT_OF_QUEUES = f"""
    SELECT next.* FROM unnest(
        %(classes)s::text[], %(owners)s::int[], %(times)s::timestamptz[], %(ids)s::text[], %(most)s::int[]
    ) AS queue(class, owner, at, id, most)
    CROSS JOIN LATERAL (
        SELECT id, queue_class, owner_id, {{column}}, accelerator_count * replicas FROM jobs_job
        WHERE {_QUEUED} AND queue_class = queue.class AND owner_id = queue.owner
            AND ({{column}}, id) > (queue.at, queue.id)
            AND cancel_requested_at IS NULL AND lease_expires_at IS NULL
        ORDER BY {{column}}, id LIMIT queue.most
    ) AS next
"""  # noqa: S608 - only constants are put in

_LAST_TURNS = """
    SELECT owner, (
        SELECT provisioning_at FROM jobs_job WHERE owner_id = owner AND provisioning_at IS NOT NULL
        ORDER BY provisioning_at DESC LIMIT 1
    ) FROM unnest(%(owners)s::int[]) AS owner
"""

_BEFORE = f"""
    SELECT count(*) FROM (
        SELECT 1 FROM unnest(%(owners)s::int[]) AS owner CROSS JOIN LATERAL (
            SELECT 1 FROM jobs_job WHERE {_QUEUED} AND queue_class = %(class)s AND owner_id = owner
                AND ({{column}}, id) < (%(at)s, %(id)s) LIMIT %(most)s
        ) AS before LIMIT %(most)s
    ) AS counted
"""  # noqa: S608 - only constants are put in

_TURNS = f"""
    SELECT count(*) FROM (
        SELECT 1 FROM unnest(%(owners)s::int[]) AS owner CROSS JOIN LATERAL (
            SELECT 1 FROM jobs_job WHERE {_QUEUED} AND queue_class = %(class)s AND owner_id = owner LIMIT %(turns)s
        ) AS turn LIMIT %(most)s
    ) AS counted
"""  # noqa: S608 - only constants are put in
