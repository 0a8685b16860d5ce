"""How things stand, in numbers, from the database alone: a fixed number of queries, each of which reads a bounded part.

Live rows are few, and an index leads to them; of what has ended only the newest is looked at, of what waits only so
many are counted. So these cost the same beside any number of jobs.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, F, Min, Q, QuerySet
from django.utils import timezone

from jobs.conf import times
from jobs.models import BatchScan, Job, Pool, Provision, Worker
from jobs.models.job import QUEUED
from jobs.models.provision import RELEASE_FAILING
from jobs.statuses import IS_CANCELLING, LIVE, PROVISION_ENDED, JobStatus, ProvisionStatus

MOST_COUNTED = 10_000  # of what waits
MOST_CANCELLING = 1_000
NEWEST_JOBS = 1_000  # whose fate is told
NEWEST_PROVISIONS = 200  # of each pool, whose times are told
LATELY = timedelta(days=1)
MOST_LISTED = 20

_AT_WORK = LIVE - {JobStatus.PENDING, JobStatus.CANCELLING}

# as the partial indexes have them: what is kept from being admitted, and what a pool holds
HELD_JOBS = Q(status=JobStatus.PENDING, hold=True)
HELD = ~Q(status__in=sorted(PROVISION_ENDED))


@dataclass(frozen=True)
class Spread:
    """Spans in seconds, smallest first, and what is said of them."""

    seconds: Sequence[float]

    @property
    def p50(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """Nineteen of twenty are no longer."""
        return statistics.quantiles(self.seconds, n=20, method="inclusive")[18] if len(self.seconds) > 1 else self.p50

    @property
    def longest(self) -> float:
        """The longest of all."""
        return self.seconds[-1]


@dataclass(frozen=True)
class LiveJobs:
    """Jobs that are not over; of those that wait, `MOST_COUNTED` are counted, and one more if there are more.

    Of those that are being cancelled, `MOST_CANCELLING` are counted.
    """

    by_status: dict[str, int]  # as shown
    queued: int  # for their turn
    held: int


@dataclass(frozen=True)
class InState:
    """How many provisions have a status, and since when the oldest of them was asked for."""

    status: str
    count: int
    oldest_at: datetime
    failing: int  # whose last try to be released did not work


@dataclass
class PoolTimes:
    """Of one pool's newest provisions: from accept to submission, and from the request to readiness."""

    accept_to_submit: list[float] = field(default_factory=list)
    request_to_ready: list[float] = field(default_factory=list)


def live_jobs() -> LiveJobs:
    """How many jobs are shown with each status that is not final, and how many of them wait."""
    # Each in the order of its index: PostgreSQL would look for what waits from the oldest row on, through all that has
    # ended, and for the few that are cancelling, which it takes for many, through all that waits.
    queued = _capped(Job.objects.filter(QUEUED).order_by("queue_class", "owner_id", "accepted_at", "id"))
    held = _capped(Job.objects.filter(HELD_JOBS).order_by("-accepted_at", "-id"))
    newest = Job.objects.filter(IS_CANCELLING).order_by("-accepted_at", "-id")
    cancelling = Counter(newest.values_list("status", flat=True)[:MOST_CANCELLING])
    at_work = Job.objects.filter(status__in=sorted(_AT_WORK), cancel_requested_at__isnull=True).order_by()
    found = {status.value: 0 for status in JobStatus if status in LIVE}
    found |= dict(at_work.values_list("status").annotate(jobs=Count("pk")))
    found[JobStatus.PENDING.value] = queued + held - cancelling[JobStatus.PENDING]
    found[JobStatus.CANCELLING.value] = cancelling.total()
    return LiveJobs(found, queued, held)


def _capped(rows: QuerySet[Any]) -> int:
    return rows[: MOST_COUNTED + 1].count()


def newest_jobs() -> dict[str, int]:
    """What has become of the newest jobs: of those accepted lately, and of at most `NEWEST_JOBS`, by status."""
    newest = Job.objects.filter(accepted_at__gt=timezone.now() - LATELY).order_by("-accepted_at", "-id")
    statuses = newest.values_list("status", flat=True)[:NEWEST_JOBS]
    found: dict[str, int] = defaultdict(int)
    for status in statuses:
        found[status] += 1
    return dict(found)


def held_provisions() -> list[InState]:
    """Everything that may cost money, by status."""
    counted = Provision.objects.filter(HELD).order_by().values("status")
    failing = Count("pk", filter=RELEASE_FAILING)
    found = counted.annotate(count=Count("pk"), oldest_at=Min("requested_at"), failing=failing)
    order = list(ProvisionStatus.values)
    return sorted((InState(**row) for row in found), key=lambda state: order.index(state.status))


def failing_releases() -> list[Provision]:
    """What should be gone and does not go, the longest first; the first few."""
    failing = Provision.objects.filter(HELD, RELEASE_FAILING)
    told = ("name", "retry_count", "due_at", "releasing_at", "last_error", "last_error_at", "pool__name", "job__name")
    return list(failing.select_related("pool", "job").only(*told).order_by("releasing_at")[:MOST_LISTED])


def pool_times(pools: Iterable[Pool]) -> dict[int, PoolTimes]:
    """What the newest provisions of each of these took, in one query."""
    found: dict[int, PoolTimes] = {pool.pk: PoolTimes() for pool in pools}
    newest = [_newest_of(pool_id) for pool_id in found]
    if not newest:
        return found
    for pool_id, accepted_at, submitted_at, requested_at, ready_at in newest[0].union(*newest[1:], all=True):
        if ready_at is not None:
            found[pool_id].request_to_ready.append((ready_at - requested_at).total_seconds())
        if submitted_at is not None and submitted_at > requested_at:
            found[pool_id].accept_to_submit.append((submitted_at - accepted_at).total_seconds())
    return found


def _newest_of(pool_id: int) -> QuerySet[Provision, tuple[Any, ...]]:
    newest = Provision.objects.filter(pool=pool_id).order_by("-requested_at", "-id")
    columns = ("pool_id", F("job__accepted_at"), F("job__submitting_at"), "requested_at", "ready_at")
    return newest.values_list(*columns)[:NEWEST_PROVISIONS]


def spread(seconds: Collection[float]) -> Spread | None:
    """What there is to say of these; None of none."""
    return Spread(sorted(seconds)) if seconds else None


def workers() -> list[Worker]:
    """The last that have beaten, newest first."""
    return list(Worker.objects.order_by("-beat_at")[:MOST_LISTED])


def is_beating(worker: Worker) -> bool:
    """Whether it is known to live."""
    return worker.beat_at > timezone.now() - timedelta(seconds=times().unready)


def scan() -> BatchScan:
    """The scan of the MDS's list, which tells how the MDS is."""
    return BatchScan.objects.first() or BatchScan()
