"""The queue as it is read: its classes, the heads of its queues, its jobs in a policy's order.

The pending jobs of one owner in one class are one queue, which an index keeps in order; the queues are merged.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush, heapreplace
from typing import Any, NamedTuple, Protocol

from django.db import connection

from jobs.placement import Wanted

_FIRST_ROWS = 2  # of each queue; then twice as many each time
_QUEUES_AT_ONCE = 32  # are read together, those whose turn is next
LONG_AGO = datetime(1, 1, 2, tzinfo=UTC)


class QueueName(NamedTuple):
    """One owner's pending jobs of one class."""

    queue_class: str
    owner_id: int


class Place(NamedTuple):
    """Where in its queue a job stands."""

    ranked_at: datetime  # by accept time, or by the priority's key: what the policy's column says
    id: str


_THE_START = Place(LONG_AGO, "")  # nothing is before it


class Queued(NamedTuple):
    """What the order is decided by, of one pending job."""

    queue: QueueName
    place: Place
    accelerators: int
    lost_in: list[int]  # ids of the pools that have lost its resource, as often as they have


Key = Callable[[QueueName, Place, int], tuple[Any, ...]]


class Order(Protocol):
    """Whose job is next. The order is total: every key ends in the job's id."""

    column: str  # what one owner's queue is in order of; `job_queue` or `job_queue_ranked` is its index
    heads_at_first: int | None  # so many queues, by the place of their first job, hold who is next; None: all of them

    def key(self, owners: Collection[int]) -> Key:
        """The sort key of a place in a queue of one of these owners, given how many of the owner's are taken before it.

        Of two places in one queue the later one's is never smaller, nor is it for a greater number.
        """
        ...


def waiting_classes() -> dict[str, Wanted]:
    """The classes with pending jobs and what they wait for, by one index probe each: the backlog is not read."""
    with connection.cursor() as cursor:
        cursor.execute(_WAITING_CLASSES)
        return {
            queue_class_name: Wanted.of(accelerator_type, json.loads(accepts))
            for queue_class_name, accelerator_type, accepts in cursor.fetchall()
        }


def waiting_owners(queue_class_name: str) -> list[int]:
    """The owners with pending jobs of this class, likewise."""
    with connection.cursor() as cursor:
        cursor.execute(f"{WAITING_OWNERS} SELECT owner_id FROM queue", {"class": queue_class_name})  # noqa: S608 - a constant
        return [owner for (owner,) in cursor.fetchall()]


@dataclass
class _Line:
    """What has been read of one queue and not yet been told."""

    read: deque[Queued] = field(default_factory=deque)
    after: Place = _THE_START
    rows: int = _FIRST_ROWS  # the next read asks for so many
    is_whole: bool = False  # there is no more behind these


class Merged:
    """The admissible jobs of these classes in the policy's order, read as far as they are asked for.

    For k jobs out of m queues it reads O(k) rows, however many are waiting, and the first entry of each queue in an
    index.
    """

    def __init__(self, order: Order, classes: Collection[str], is_free: Callable[[int], bool]) -> None:
        """The jobs of owners who are not free are left out."""
        self._column = order.column
        self._classes = set(classes)
        self._is_free = is_free
        first = _heads(self._column, classes, most=order.heads_at_first)
        self._key = order.key({queue.owner_id for queue in first})
        self._lines: dict[QueueName, _Line] = {}
        self._taken: dict[int, int] = defaultdict(int)  # by owner
        # each queue once, by the key of its first job, or by one that is not greater while that is not read
        self._heap: list[tuple[tuple[Any, ...], QueueName]] = []
        self._add(first)
        # the last head that is known, if there may be more of them behind it
        self._last_head = [*first.items()][-1] if first and len(first) == order.heads_at_first else None

    def __iter__(self) -> Iterator[Queued]:
        while self._heap or self._last_head:
            if self._last_head and not (self._heap and self._heap[0][0] <= self._key_of(*self._last_head)):
                self._add(_heads(self._column, self._classes, after=self._last_head[1]))
                self._last_head = None
                continue
            known, queue = self._heap[0]
            line = self._lines.get(queue)
            if line is None:
                heappop(self._heap)
            elif not line.read:
                self._read_those_in_front()
            elif (key := self._key_of(queue, line.read[0].place)) > known:
                # the owner has had a turn since, with another queue
                heapreplace(self._heap, (key, queue))
            else:
                heappop(self._heap)
                yield line.read.popleft()
                self._put_back(queue)

    def take(self, job: Queued) -> None:
        """The job just told is admitted: its owner has had a turn."""
        self._taken[job.queue.owner_id] += 1

    def drop(self, queue: QueueName) -> None:
        """The rest of this queue cannot be admitted now."""
        self._lines.pop(queue, None)

    def drop_class(self, queue_class_name: str) -> None:
        """The rest of this class cannot be admitted now."""
        self._classes.discard(queue_class_name)
        self._lines = {queue: line for queue, line in self._lines.items() if queue.queue_class != queue_class_name}

    def _add(self, heads: Mapping[QueueName, Place]) -> None:
        for queue, place in heads.items():
            if self._is_free(queue.owner_id):
                self._lines[queue] = _Line()
                heappush(self._heap, (self._key_of(queue, place), queue))

    def _key_of(self, queue: QueueName, place: Place) -> tuple[Any, ...]:
        return self._key(queue, place, self._taken[queue.owner_id])

    def _put_back(self, queue: QueueName) -> None:
        line = self._lines.get(queue)
        if line is not None and (line.read or not line.is_whole):
            place = line.read[0].place if line.read else line.after
            heappush(self._heap, (self._key_of(queue, place), queue))

    def _read_those_in_front(self) -> None:
        """Together, so that many queues are not read one by one."""
        front = [heappop(self._heap)[1] for _ in range(min(_QUEUES_AT_ONCE, len(self._heap)))]
        lines = {queue: self._lines[queue] for queue in front if queue in self._lines}
        self._read({queue: line for queue, line in lines.items() if not line.read})
        for queue in lines:
            self._put_back(queue)

    def _read(self, lines: dict[QueueName, _Line]) -> None:
        rows: dict[str, Any] = {
            "classes": [queue.queue_class for queue in lines],
            "owners": [queue.owner_id for queue in lines],
            "times": [line.after.ranked_at for line in lines.values()],
            "ids": [line.after.id for line in lines.values()],
            "most": [line.rows for line in lines.values()],
        }
        found: dict[QueueName, list[Queued]] = defaultdict(list)
        with connection.cursor() as cursor:
            cursor.execute(_NEXT_OF_QUEUES.format(column=self._column), rows)
            for job_id, queue_class_name, owner_id, ranked_at, accelerators, lost_in in cursor.fetchall():
                queue = QueueName(queue_class_name, owner_id)
                found[queue].append(Queued(queue, Place(ranked_at, job_id), accelerators, lost_in or []))
        for queue, line in lines.items():
            jobs = sorted(found[queue], key=lambda job: job.place)
            line.is_whole = len(jobs) < line.rows
            line.rows *= 2
            line.read.extend(jobs)
            if jobs:
                line.after = jobs[-1].place


def _heads(
    column: str, classes: Collection[str], *, after: Place = _THE_START, most: int | None = None
) -> dict[QueueName, Place]:
    """The queues of these classes by the place of the first job of each, which is told: out of the index alone."""
    values: dict[str, Any] = {"classes": list(classes), "at": after.ranked_at, "id": after.id, "most": most}
    with connection.cursor() as cursor:
        cursor.execute(_HEADS.format(column=column), values)
        return {QueueName(name, owner): Place(at, job_id) for name, owner, at, job_id in cursor.fetchall()}


# The condition of the indexes `job_queue` and `job_queue_ranked`.
QUEUED = "status = 'pending' AND NOT hold"
# All jobs of a class want the same; any of them tells it.
_CLASS = "queue_class, accelerator_type, accepts"
_WAITING_CLASSES = f"""
    WITH RECURSIVE class AS (
        (SELECT {_CLASS} FROM jobs_job WHERE {QUEUED} ORDER BY queue_class LIMIT 1)
        UNION ALL
        SELECT next.* FROM class CROSS JOIN LATERAL (
            SELECT {_CLASS} FROM jobs_job WHERE {QUEUED} AND queue_class > class.queue_class
            ORDER BY queue_class LIMIT 1
        ) AS next
    )
    SELECT {_CLASS} FROM class
"""  # noqa: S608 - only constants are put in

# The beginning of a statement; it is read as far as that asks for more.
WAITING_OWNERS = f"""
    WITH RECURSIVE queue AS (
        (SELECT owner_id FROM jobs_job WHERE {QUEUED} AND queue_class = %(class)s ORDER BY owner_id LIMIT 1)
        UNION ALL
        SELECT next.* FROM queue CROSS JOIN LATERAL (
            SELECT owner_id FROM jobs_job
            WHERE {QUEUED} AND queue_class = %(class)s AND owner_id > queue.owner_id ORDER BY owner_id LIMIT 1
        ) AS next
    )
"""  # noqa: S608 - only constants are put in

_HEADS = f"""
    WITH RECURSIVE head AS (
        SELECT class, first.* FROM unnest(%(classes)s::text[]) AS class CROSS JOIN LATERAL (
            SELECT owner_id, {{column}}, id FROM jobs_job WHERE {QUEUED} AND queue_class = class
            ORDER BY owner_id, {{column}}, id LIMIT 1
        ) AS first
        UNION ALL
        SELECT class, next.* FROM head CROSS JOIN LATERAL (
            SELECT owner_id, {{column}}, id FROM jobs_job
            WHERE {QUEUED} AND queue_class = head.class AND owner_id > head.owner_id
            ORDER BY owner_id, {{column}}, id LIMIT 1
        ) AS next
    )
    SELECT class, owner_id, {{column}}, id FROM head WHERE ({{column}}, id) > (%(at)s, %(id)s)
    ORDER BY {{column}}, id LIMIT %(most)s
"""  # noqa: S608 - only constants are put in

_NEXT_OF_QUEUES = f"""
    SELECT next.* FROM unnest(
        %(classes)s::text[], %(owners)s::int[], %(times)s::timestamptz[], %(ids)s::text[], %(most)s::int[]
    ) AS queue(class, owner, at, id, most)
    CROSS JOIN LATERAL (
        SELECT id, queue_class, owner_id, {{column}}, accelerator_count * replicas, CASE WHEN pool_id IS NOT NULL THEN
            ARRAY(SELECT p.pool_id FROM jobs_provision p WHERE p.job_id = jobs_job.id AND p.lost_at IS NOT NULL) END
        FROM jobs_job
        WHERE {QUEUED} AND queue_class = queue.class AND owner_id = queue.owner
            AND ({{column}}, id) > (queue.at, queue.id)
            AND cancel_requested_at IS NULL AND lease_expires_at IS NULL
        ORDER BY {{column}}, id LIMIT queue.most
    ) AS next
"""  # noqa: S608 - only constants are put in
