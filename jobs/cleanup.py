"""What has had its time is deleted: jobs that are over with all that is theirs, and rows that nobody looks at again.

Beside a live system: a few jobs a transaction, within every time-out of a connection; rows in other hands are passed
over; after each transaction a pause twice as long as it took. Broken off anywhere it has done whole jobs only, and the
next run goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import OperationalError, connection, models, transaction
from django.utils import timezone
from django_q.models import Task

from jobs.errors import is_timeout
from jobs.models import BatchScan, Job, QueueMessage, Worker
from jobs.statuses import PROVISION_ENDED, TERMINAL, JobStatus

# A worker that was stopped in the middle of a call may come back and ask for its job. Should it be gone by then, what
# the call has made is an orphan, and the sweep's affair.
LEAST_AGE = timedelta(hours=1)
DEAD_AFTER = timedelta(days=1)  # a message that nobody has taken, a process that has not beaten
BATCH_SIZE = 100
_BEGINNING = datetime.min.replace(tzinfo=UTC)
HELD = "its resource is not released"
UNWANTED = "its batch is still to be stopped"
_PAUSE = 2.0  # times what the transaction took: a third of one processor at most is anybody else's loss
_LONGEST_PAUSE = 2.0
_ROWS_AT_ONCE = 1000

# In the order of the index `job_status_list`, from behind the last place on.
_OVER = """
    SELECT j.id, j.accepted_at, j.batch_id <> '' AND j.batch_id = ANY(%(unwanted)s),
           EXISTS (SELECT 1 FROM jobs_provision p WHERE p.job_id = j.id AND p.status <> ALL(%(ended)s))
    FROM jobs_job j
    WHERE j.status = %(status)s AND j.accepted_at < %(before)s AND j.{status}_at < %(before)s
    AND (j.accepted_at, j.id) > (%(accepted_at)s, %(job_id)s) AND j.lease_expires_at IS NULL
    ORDER BY j.accepted_at, j.id LIMIT %(limit)s
"""
# Whoever changes a provision or adds to a timeline holds the job's row first. What refers to rows that are going is
# looked at when the transaction commits.
_THEIRS = (
    ("events", "FROM jobs_jobevent WHERE job_id = ANY(%s)"),
    ("provisions", "FROM jobs_provision WHERE job_id = ANY(%s)"),
    ("jobs", "FROM jobs_job WHERE id = ANY(%s)"),
)


@dataclass(frozen=True)
class Policy:
    """Jobs of these statuses go once they have been over for so long; failed ones are kept at least `keep_failed`."""

    older_than: timedelta
    keep_failed: timedelta = timedelta(0)
    statuses: Collection[str] = TERMINAL

    def age_of(self, status: str) -> timedelta:
        """For how long a job must have been over."""
        kept = max(self.older_than, self.keep_failed) if status == JobStatus.FAILED else self.older_than
        return max(kept, LEAST_AGE)


@dataclass(frozen=True)
class Place:
    """How far a run has come: the last job it has looked at, of the statuses in their alphabetical order."""

    status: str = ""
    accepted_at: datetime = _BEGINNING
    job_id: str = ""


@dataclass
class Removed:
    """What was deleted, or would be; `kept` are jobs whose time has come and which are still needed, by the reason."""

    place: Place
    jobs: Counter[str] = field(default_factory=Counter)  # by status
    rows: Counter[str] = field(default_factory=Counter)  # events, provisions
    kept: dict[str, list[str]] = field(default_factory=dict)


def remove_jobs(
    policy: Policy, *, after: Place | None = None, batch_size: int = BATCH_SIZE, dry_run: bool = False
) -> Iterator[Removed]:
    """Delete page by page, each in a transaction of its own that is committed when it is told of.

    A page for which a time-out was too short is tried again at half the size. A dry run locks and deletes nothing.
    """
    place, now = after or Place(), timezone.now()
    for status in sorted(policy.statuses):
        if status < place.status:
            continue
        place = place if status == place.status else Place(status)
        before = now - policy.age_of(status)
        while True:
            began = time.monotonic()
            try:
                removed, count = _remove_page(place, before, batch_size, dry_run=dry_run)
            except OperationalError as error:
                if batch_size == 1 or not is_timeout(error):
                    raise
                batch_size //= 2
                continue
            place = removed.place
            if count:
                yield removed
            if count < batch_size:
                break
            if not dry_run:
                time.sleep(min(_LONGEST_PAUSE, _PAUSE * (time.monotonic() - began)))


def count_jobs(policy: Policy, at_most: int) -> int:
    """How many jobs have had their time, counted up to a limit."""
    now = timezone.now()
    found = 0
    for status in sorted(policy.statuses):
        before = now - policy.age_of(status)
        over = Job.objects.filter(status=status, accepted_at__lt=before, **{f"{status}_at__lt": before})
        found += int(over[: at_most - found].count())
    return found


def _remove_page(place: Place, before: datetime, limit: int, *, dry_run: bool) -> tuple[Removed, int]:
    unwanted: list[str] = next(iter(BatchScan.objects.values_list("unwanted", flat=True)), [])
    given: dict[str, Any] = vars(place) | {"before": before, "limit": limit, "unwanted": unwanted}
    given["ended"] = [status.value for status in PROVISION_ENDED]
    sql = _OVER.format(status=JobStatus(place.status).value) + ("" if dry_run else "FOR UPDATE OF j SKIP LOCKED")
    removed = Removed(place)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql, given)
        found = cursor.fetchall()
        going: list[str] = []
        for job_id, _, is_unwanted, is_held in found:
            if is_held or is_unwanted:
                removed.kept.setdefault(HELD if is_held else UNWANTED, []).append(job_id)
            else:
                going.append(job_id)
        for what, rows in _THEIRS if going else ():
            cursor.execute(f"{'SELECT 1' if dry_run else 'DELETE'} {rows}", [going])
            if what != "jobs":
                removed.rows[what] += cursor.rowcount
    removed.jobs[place.status] += len(going)
    if found:
        removed.place = Place(place.status, accepted_at=found[-1][1], job_id=found[-1][0])
    return removed, len(found)


def purge(failed_older_than: timedelta, *, dry_run: bool = False) -> dict[str, int]:
    """Delete results of django-q2, messages that nobody has taken, and rows of processes that are gone; how many."""
    now = timezone.now()
    dead: dict[str, models.QuerySet[Any]] = {
        "task_results": Task.objects.filter(stopped__lt=now - failed_older_than),
        "messages": QueueMessage.objects.filter(created_at__lt=now - DEAD_AFTER),
        "workers": Worker.objects.filter(beat_at__lt=now - DEAD_AFTER),
    }
    return {name: rows.count() if dry_run else _purge(rows) for name, rows in dead.items()}


def _purge(rows: models.QuerySet[Any]) -> int:
    """A thousand at a time; what somebody else has in hand is his affair."""
    deleted: int = 0
    while True:
        with transaction.atomic():
            taken = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True)[:_ROWS_AT_ONCE])
            deleted += rows.model._default_manager.filter(pk__in=taken).delete()[0]
        if len(taken) < _ROWS_AT_ONCE:
            return deleted
