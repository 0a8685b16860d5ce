"""The admin's first page: how things stand now, from the database alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from jobs import figures, planner
from jobs.admin.charts import Histogram, histogram, shares
from jobs.admin.pool import with_use
from jobs.models import Pool
from jobs.statuses import JobStatus

VIEW_ALL_JOBS = "jobs.view_all_jobs"


@dataclass(frozen=True)
class PoolCard:
    """One pool: what it holds, how its provider is, and how long things take there."""

    pool: Any
    accept_to_submit: Histogram | None
    request_to_ready: Histogram | None


@dataclass(frozen=True)
class Upstream:
    """Something outside, and how it was when it was last asked."""

    name: str
    url: str
    is_well: bool
    trouble: str
    as_of: datetime | None


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's callback: the figures, for those who may see everybody's jobs."""
    if request.user.has_perm(VIEW_ALL_JOBS):
        context.update(_figures())
    return context


def _figures() -> dict[str, Any]:
    pools: list[Any] = list(with_use(Pool.objects.order_by("-priority", "name")))
    live = figures.live_jobs()
    oldest = planner.oldest_in_status()
    workers = figures.workers()
    return {
        "figures_at": timezone.now(),
        "live": shares(live.by_status, figures.MOST_COUNTED),
        "newest": shares(_in_order(figures.newest_jobs()), figures.NEWEST_JOBS),
        "newest_most": figures.NEWEST_JOBS,
        "queued": live.queued,
        "held": live.held,
        "most_counted": figures.MOST_COUNTED,
        "queue": planner.the_queue(),
        "oldest_pending": oldest.pop(JobStatus.PENDING.value, None),
        "oldest": sorted(oldest.items(), key=lambda item: item[1]),
        "provisions": figures.held_provisions(),
        "failing": figures.failing_releases(),
        "price_per_hour": sum((pool.price_per_hour or 0) * pool.held for pool in pools),
        "pools": _cards(pools),
        "upstreams": _upstreams(pools),
        "workers": [(worker, figures.is_beating(worker)) for worker in workers],
        "is_working": any(figures.is_beating(worker) for worker in workers),
    }


def _cards(pools: list[Any]) -> list[PoolCard]:
    took = figures.pool_times(pools)
    cards = []
    for pool in pools:
        to_submit = figures.spread(took[pool.pk].accept_to_submit)
        to_ready = figures.spread(took[pool.pk].request_to_ready)
        cards.append(
            PoolCard(
                pool,
                histogram(to_submit) if to_submit else None,
                histogram(to_ready, pool.ready_timeout_seconds) if to_ready else None,
            )
        )
    return cards


def _upstreams(pools: list[Any]) -> list[Upstream]:
    scan = figures.scan()
    mds = Upstream(
        "Metadata service",
        reverse("admin:jobs_batchscan_changelist"),
        not scan.last_error,
        scan.last_error,
        scan.ended_at,
    )
    providers = (
        Upstream(
            f"{pool.name} ({pool.provider})",
            reverse("admin:jobs_pool_change", args=[pool.pk]),
            not pool.observe_error,
            pool.observe_error,
            pool.observed_at,
        )
        for pool in pools
    )
    return [mds, *providers]


def _in_order(counts: dict[str, int]) -> dict[str, int]:
    return {status.value: counts[status] for status in JobStatus if status in counts}
