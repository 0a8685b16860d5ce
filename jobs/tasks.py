"""What django-q2 runs: passes now, daily chores by schedule. Messages carry nothing; the rows say what is due."""

from __future__ import annotations

import logging
import signal
import time
from contextlib import suppress
from datetime import timedelta
from types import FrameType

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.db import DatabaseError, InterfaceError, connection
from django_q.tasks import async_task

from jobs import reconciler, request_ids
from jobs.cleanup import Place, Policy, purge, remove_jobs
from jobs.errors import is_database_away
from jobs.metrics import ORPHANS_FOUND
from jobs.rate_limits import forget_full_buckets
from jobs.reconciler import orphans
from jobs.wakeup import announce_timers, send_hint

logger = logging.getLogger(__name__)

_CHORE_SECONDS = 60.0
_stop_requested = False


def run_pass() -> int:
    """One pass of the reconciler; returns the number of calls recorded."""
    recorded = reconciler.run_pass(send_hint, is_stopping)
    with suppress(DatabaseError, InterfaceError):  # the brokers' safety net stands in
        announce_timers()
    return recorded


def release_orphans(after: str = "") -> None:
    """One turn of the orphan sweep; what is left of the MDS's list is another turn's, so that no worker is held up.

    A database that is away ends the turn; the schedule brings the next one, and nothing noted is lost.
    """
    try:
        with request_ids.bound(f"sweep-{request_ids.new()}"):
            turn = orphans.sweep(after=after, seconds=_CHORE_SECONDS)
        for finding in turn.findings:
            if finding.name:
                ORPHANS_FOUND.labels(finding.where).inc()
            logger.warning("orphan: %s %s (%s): %s", finding.where, finding.name, finding.why, finding.outcome)
        if turn.after:
            async_task("jobs.tasks.release_orphans", turn.after)
    except Exception as error:
        if not is_database_away(error):
            raise
        logger.warning("orphan sweep: database: %s; the next is by schedule", str(error).strip().partition("\n")[0])
        connection.close()


def forget() -> None:
    """Delete what has had its time and nobody will ask for: sessions, and rates that are not used up."""
    SessionStore.clear_expired()
    forget_full_buckets()


def cleanup(after: Place | None = None) -> None:
    """One turn of the cleanup that the settings ask for; what is left is another turn's.

    Dead rows always go, jobs only if it is set how long they are kept.
    """
    until = time.monotonic() + _CHORE_SECONDS
    keep_failed = timedelta(days=settings.PLANNER_KEEP_FAILED_DAYS)
    try:
        if after is None:
            purge(keep_failed)
        if not settings.PLANNER_KEEP_JOBS_DAYS:
            return
        policy = Policy(timedelta(days=settings.PLANNER_KEEP_JOBS_DAYS), keep_failed)
        for removed in remove_jobs(policy, after=after):
            if is_stopping() or time.monotonic() > until:
                async_task("jobs.tasks.cleanup", removed.place)
                return
    except Exception as error:
        if not is_database_away(error):
            raise
        logger.warning("cleanup: database: %s; the next is by schedule", str(error).strip().partition("\n")[0])
        connection.close()


def is_stopping() -> bool:
    """Whether this process was told to start no further calls."""
    return _stop_requested


def stop_on(signum: signal.Signals) -> None:
    """Take this signal as the word to stop. Set before the cluster forks, so that every process of it listens."""

    def handle(_signum: int, _frame: FrameType | None) -> None:
        global _stop_requested
        _stop_requested = True

    signal.signal(signum, handle)
