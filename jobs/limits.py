"""How much more each pool and each owner may have: limits less what is in use now, counted from live rows only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import NamedTuple

from django.db import connection
from django.db.models import OuterRef, Subquery

from jobs.models import Job, OwnerQuota, Pool, Provision, Queue
from jobs.models.queue import Rules
from jobs.placement import Wanted
from jobs.statuses import PROVISION_ENDED, ProvisionStatus

_STARTING = (ProvisionStatus.REQUESTED, ProvisionStatus.PROVISIONING)
_USED = """
    SELECT provision.pool_id, job.owner_id, provision.status = ANY(%s), count(*),
        sum(job.accelerator_count * job.replicas)
    FROM jobs_provision AS provision JOIN jobs_job AS job ON job.id = provision.job_id
    WHERE provision.status <> ALL(%s) GROUP BY 1, 2, 3
"""


def accelerators_of(job: Job) -> int:
    """How many accelerators the job needs, over all of its replicas."""
    return job.accelerator_count * job.replicas


@dataclass
class Use:
    """What is held now: jobs and accelerators, in all and those not yet ready."""

    live: int = 0
    provisioning: int = 0
    live_accelerators: int = 0
    provisioning_accelerators: int = 0

    def add(self, jobs: int, accelerators: int, *, is_starting: bool) -> None:
        """Count some more."""
        self.live += jobs
        self.live_accelerators += accelerators
        if is_starting:
            self.provisioning += jobs
            self.provisioning_accelerators += accelerators


class Limits(NamedTuple):
    """The most of each that there may be; infinite without a limit."""

    live: float
    provisioning: float
    live_accelerators: float
    provisioning_accelerators: float

    def __str__(self) -> str:
        """For people; what has no limit is not told."""
        words = ("held", "starting", "accelerators held", "accelerators starting")
        return ", ".join(f"{most:g} {what}" for most, what in zip(self, words, strict=True) if most != inf)


class Room:
    """How much more there may be of something that has limits."""

    def __init__(self, limits: Limits, use: Use) -> None:
        """The limits less what is in use."""
        self.limits = limits
        self.jobs = min(limits.live - use.live, limits.provisioning - use.provisioning)
        self.accelerators = min(
            limits.live_accelerators - use.live_accelerators,
            limits.provisioning_accelerators - use.provisioning_accelerators,
        )

    @property
    def most_accelerators(self) -> float:
        """How many a job may need when nothing is in use."""
        return min(self.limits.live_accelerators, self.limits.provisioning_accelerators)

    def fits(self, accelerators: int) -> bool:
        """Whether one more job of this size is within the limits now."""
        return self.jobs >= 1 and accelerators <= self.accelerators

    def could_ever_fit(self, accelerators: int) -> bool:
        """Whether it would be if nothing were in use."""
        return accelerators <= self.most_accelerators

    def take(self, accelerators: int) -> None:
        """One more job of this size is starting."""
        self.jobs -= 1
        self.accelerators -= accelerators

    def close(self) -> None:
        """What is left is kept for somebody."""
        self.jobs = 0


@dataclass
class PoolRoom:
    """How much more one pool takes, of what, and what is held there now."""

    pool: Pool
    room: Room
    use: Use = field(default_factory=Use)

    def offers(self, accelerator_type: str, now: datetime) -> bool:
        """Whether the pool has not just said that it has none of this type."""
        retry = self.pool.capacity_retry_at.get(accelerator_type)
        return retry is None or float(retry["at"]) <= now.timestamp()


class Rooms:
    """Everything that limits admission, as it is now: the queue, its owners, the pools, best first."""

    def __init__(self) -> None:
        """Four queries, whatever the number of jobs; what is in use costs a row each of those."""
        self.queue = the_queue()
        self._limits = _limits(self.queue)  # of an owner without a quota
        self._quotas = OwnerQuota.objects.in_bulk()
        self._by_pool: dict[int, Use] = defaultdict(Use)
        self._by_owner: dict[int, Use] = defaultdict(Use)
        for pool_id, owner_id, is_starting, jobs, accelerators in _used():
            for use in (self._by_pool[pool_id], self._by_owner[owner_id]):
                use.add(jobs, accelerators, is_starting=is_starting)
        self._of_owners: dict[int, Room] = {}
        self.pools: list[PoolRoom] = []
        self.held_pools: list[PoolRoom] = []
        for pool in Pool.objects.order_by("-priority", "name"):
            use = self._by_pool[pool.id]
            found = PoolRoom(pool, Room(_limits(pool), use), use)
            (self.pools if pool.is_enabled else self.held_pools).append(found)
        self._in_order: dict[Wanted, list[PoolRoom]] = {}

    def suited(self, wanted: Wanted) -> list[PoolRoom]:
        """The pools, but held ones, that these jobs may ever go to, in the order in which they are tried.

        By priority; then where a resource of this type was ready last. A query where that decides.
        """
        if wanted not in self._in_order:
            found = [pool for pool in self.pools if wanted.suits(pool.pool)]
            if len({pool.pool.priority for pool in found}) < len(found):
                ready = _last_ready([pool.pool for pool in found], wanted.accelerator_type)
                found.sort(key=lambda pool: (-pool.pool.priority, -ready[pool.pool.pk], pool.pool.name))
            self._in_order[wanted] = found
        return self._in_order[wanted]

    def of_owner(self, owner_id: int) -> Room:
        """What this owner may still have."""
        if owner_id not in self._of_owners:
            quota = self._quotas.get(owner_id)
            limits = self._limits if quota is None else _limits(quota, self.queue)
            self._of_owners[owner_id] = Room(limits, self._by_owner[owner_id])
        return self._of_owners[owner_id]

    def hold_on(self, owner_id: int) -> Rules | None:
        """The quota that holds all jobs of this owner, if one does."""
        quota = self._quotas.get(owner_id)
        return quota if quota is not None and quota.hold else None


def _last_ready(pools: Collection[Pool], accelerator_type: str) -> dict[int, float]:
    """When a resource of this type was last ready in each, in unix seconds; one index probe each."""
    here = Provision.objects.filter(pool=OuterRef("pk"), accelerator_type=accelerator_type, ready_at__isnull=False)
    newest = Subquery(here.order_by("-ready_at").values("ready_at")[:1])
    found = Pool.objects.filter(pk__in=[pool.pk for pool in pools]).order_by()
    return {pk: at.timestamp() if at else 0.0 for pk, at in found.values_list("pk", newest)}


def the_queue() -> Queue:
    """The queue's row; while there is none, one without hold and limits."""
    return Queue.objects.first() or Queue()


def _used() -> list[tuple[int, int, bool, int, int]]:
    with connection.cursor() as cursor:
        cursor.execute(_USED, [sorted(_STARTING), sorted(PROVISION_ENDED)])
        used: list[tuple[int, int, bool, int, int]] = cursor.fetchall()
    return used


def _limits(limited: Pool | Rules, default: Rules | None = None) -> Limits:
    """Each limit of its own, or else the default's."""

    def limit(name: str) -> float:
        own = getattr(limited, name)
        found = own if own is not None or default is None else getattr(default, name)
        return inf if found is None else found

    return Limits(
        limit("max_live"),
        limit("max_provisioning"),
        limit("max_live_accelerators"),
        limit("max_provisioning_accelerators"),
    )
