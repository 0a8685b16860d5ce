"""The figures that rows tell, read on each scrape: a few bounded queries, whatever the number of jobs that are over."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from django.db import Error, connection, transaction
from django.utils import timezone
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from jobs import figures, queueing, vital_signs
from jobs.models import Pool
from jobs.statuses import LIVE, PROVISION_HELD, ProvisionStatus
from jobs.waiting import oldest_in_status

logger = logging.getLogger(__name__)

_JOBS = "Jobs that are not over, by status as shown; counted up to 10,000, those being cancelled up to 1,000."
_LIMIT = "SET LOCAL statement_timeout = '2s'"

_PROVISIONS = """
    SELECT pool_id, status, count(*),
        count(*) FILTER (WHERE status = 'releasing' AND retry_count > 0 AND last_error_at >= releasing_at),
        COALESCE(EXTRACT(EPOCH FROM now() - min(releasing_at) FILTER (WHERE status = 'releasing')), 0)
    FROM jobs_provision WHERE NOT status IN ('released', 'written_off') GROUP BY pool_id, status
"""


class DatabaseCollector(Collector):
    """Asks the database anew each time. One that does not answer in time is told of, and costs its own figures only."""

    def collect(self) -> Iterable[Metric]:
        """All figures of the rows, or the one that says that there are none."""
        families: list[Metric] = []
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(_LIMIT)
                families += [*_of_jobs(), *_of_pools(), *_of_workers()]
        except Error as error:
            logger.warning("metrics: database: %s", str(error).strip().partition("\n")[0])
            connection.close()
            families = []
        up = _gauge("planner_database_up", "Whether the database answered this scrape in time.")
        up.add_metric([], bool(families))
        return [up, *families]


def _gauge(name: str, words: str, labels: Iterable[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, words, labels=list(labels))


def _single(name: str, words: str, value: float) -> GaugeMetricFamily:
    gauge = _gauge(name, words)
    gauge.add_metric([], value)
    return gauge


def _rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _of_jobs() -> Iterator[Metric]:
    # those that are over are counted as they end (`planner_job_transitions_total`): their number has no bound
    live = figures.live_jobs()
    jobs = _gauge("planner_jobs", _JOBS, ["status"])
    for status, count in live.by_status.items():
        jobs.add_metric([status], count)
    yield jobs
    yield _single("planner_queue_depth", "Jobs that wait to be admitted and are not held.", live.queued)
    yield _single("planner_queue_fill", "Pending jobs, as a share of the capacity of the queue.", queueing.fill())
    oldest = _gauge("planner_oldest_in_status_seconds", "How long one job has been in this status.", ["status"])
    now, since = timezone.now(), oldest_in_status()
    for status in sorted(LIVE):
        oldest.add_metric([status], (now - since[status]).total_seconds() if status in since else 0)
    yield oldest


def _of_pools() -> Iterator[Metric]:
    provisions = _gauge("planner_provisions", "Provisions not yet released.", ["pool", "status"])
    failing = _gauge("planner_releases_failing", "Releases whose last delete was not taken.", ["pool"])
    oldest = _gauge("planner_oldest_release_seconds", "How long one release has been under way.", ["pool"])
    enabled = _gauge("planner_pool_enabled", "Whether jobs are admitted to the pool.", ["pool"])
    unseen = _gauge("planner_pool_observe_failures", "Listings of the pool that failed in a row.", ["pool"])
    orphans = _gauge("planner_pool_orphans", "What bears our mark in the pool and no provision needs.", ["pool"])
    found = {(pool, status): rest for pool, status, *rest in _rows(_PROVISIONS)}
    for pool in Pool.objects.only("name", "is_enabled", "observe_failures", "orphans"):
        for status in sorted(PROVISION_HELD):
            provisions.add_metric([pool.name, status], found.get((pool.pk, status), [0])[0])
        _, failed, seconds = found.get((pool.pk, ProvisionStatus.RELEASING), (0, 0, 0))
        failing.add_metric([pool.name], failed)
        oldest.add_metric([pool.name], float(seconds))
        enabled.add_metric([pool.name], pool.is_enabled)
        unseen.add_metric([pool.name], pool.observe_failures)
        orphans.add_metric([pool.name], len(pool.orphans))
    yield from (provisions, failing, oldest, enabled, unseen, orphans)


def _of_workers() -> Iterator[Metric]:
    beat_at = vital_signs.last_beat_at()
    age = float("inf") if beat_at is None else (timezone.now() - beat_at).total_seconds()
    stalled = _gauge("planner_worker_stalled_seconds", "Workers stopped in the middle of a pass.", ["host", "pid"])
    for worker in vital_signs.stalled_workers():
        stalled.add_metric([worker.host, str(worker.pid)], worker.seconds)
    yield _single("planner_seconds_since_beat", "Since any pass made progress.", age)
    yield _single("planner_workers_beating", "Worker processes with a beat of late.", vital_signs.beating_workers())
    yield stalled
    yield _single("planner_lag_seconds", "How overdue the most overdue row is.", vital_signs.lag_seconds())
    yield _single("planner_oldest_hint_seconds", "How long a hint has waited.", vital_signs.oldest_hint_seconds())
    yield _single("planner_mds_unreadable", "Whether the MDS's list could not be read.", bool(vital_signs.mds_error()))
