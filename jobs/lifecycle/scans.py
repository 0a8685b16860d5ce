"""The scan of the MDS's list, one page a call: settles submits whose answer was lost, finds batches nobody wants.

A batch of ours carries `<installation>:<job id>:<attempt>`. The scan goes from the newest batch down to what it must
cover: the oldest submit in doubt, and the newest batch the previous whole scan saw. Its place is kept on one row.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Min

from jobs import reading
from jobs.batch_client import Batch, BatchPage
from jobs.conf import times
from jobs.errors import UpstreamError
from jobs.lifecycle import due
from jobs.lifecycle.changes import NO_ERROR, backoff, end_job, new_attempt
from jobs.lifecycle.claims import REFUSED, database_now, set_aside
from jobs.lifecycle.steps import Change, Event
from jobs.lifecycle.writing import Row, write
from jobs.models import BatchScan, Job, JobEvent
from jobs.statuses import RUNNING_ORDER, TERMINAL, JobStatus

logger = logging.getLogger(__name__)

_FIRST_REACH = timedelta(hours=24)
_OVER = {"completed", "failed", "expired", "cancelled"}
_STOPS_PER_CALL = 4  # each is a GET and a cancel; together they stay within one call's time


@dataclass(frozen=True)
class ScanCall:
    """The scan's next call: stop these batches, or else read the page after `after`."""

    version: int
    after: str
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScanAnswer:
    """What came of it: a page, or the batches that are stopped or over."""

    page: BatchPage | None = None
    stopped: tuple[str, ...] = field(default=())


def external_job_id(job: Job) -> str:
    """Our name of one attempt at the MDS."""
    return f"{settings.PLANNER_INSTALLATION}:{job.id}:{job.attempt}"


def parse_job_id(external: str) -> tuple[str, int] | None:
    """Job id and attempt, if this is a name of our installation's."""
    prefix = f"{settings.PLANNER_INSTALLATION}:"
    job_id, _, attempt = external.removeprefix(prefix).rpartition(":")
    # the installation `a` is not to take `a:b` for its own
    is_ours = external.startswith(prefix) and job_id.startswith("job_") and attempt.isdecimal() and len(attempt) < 10
    return (job_id, int(attempt)) if is_ours else None


def in_doubt() -> Any:
    """Jobs whose attempt may have been sent and is not known, in nobody's hands."""
    return Job.objects.filter(
        submit_started_at__isnull=False,
        batch_id="",
        status__in=[JobStatus.SUBMITTING, JobStatus.CANCELLING],
        lease_expires_at__isnull=True,
    )


# Not by the ORM: it would put the same text together anew at each tick.
_DUE_SCAN = "SELECT * FROM jobs_batchscan WHERE COALESCE(lease_expires_at, due_at) <= now()"


def claim_scan() -> ScanCall | None:
    """Lease the scan if it is due; begin a new one unless one is under way."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT EXISTS ({_DUE_SCAN}) OR NOT EXISTS (SELECT FROM jobs_batchscan)")  # noqa: S608 - a constant
        if not cursor.fetchone()[0]:
            return None  # the usual answer, at every tick of every pass: without a transaction
    with transaction.atomic():
        now = database_now()
        if not BatchScan.objects.exists():
            BatchScan.objects.bulk_create([BatchScan(due_at=now)], ignore_conflicts=True)
        scan = next(iter(reading.rows(BatchScan, f"{_DUE_SCAN} FOR NO KEY UPDATE SKIP LOCKED")), None)
        if scan is None:
            return None
        scan.version += 1
        # stopping and reading take turns: neither waits for the other to succeed
        stop = tuple(scan.unwanted[:_STOPS_PER_CALL]) if scan.version % 2 else ()
        if scan.began_at is None and not stop:
            _begin(scan, now)
        scan.due_at = None
        scan.lease_expires_at = now + timedelta(seconds=times().look_lease)
        scan.save()
    return ScanCall(scan.version, scan.after, stop)


def _begin(scan: BatchScan, now: datetime) -> None:
    margin = timedelta(seconds=times().scan_margin)
    oldest = in_doubt().aggregate(oldest=Min("submit_started_at"))["oldest"]
    floors = [scan.covered_to or now - _FIRST_REACH, oldest or now]
    scan.began_at, scan.after, scan.candidates, scan.newest_at = now, "", {}, None
    scan.floor_at = min(floors) - margin


def record_scan(call: ScanCall, answer: ScanAnswer | UpstreamError) -> None:
    """Write what the call told; at the scan's end settle the jobs in doubt. A stale answer writes nothing.

    A lock timeout, at once, if the scan's row is in somebody's hands.
    """
    with transaction.atomic():
        now = database_now()
        scan = BatchScan.objects.select_for_update(nowait=True, no_key=True).filter(version=call.version).first()
        if scan is None:
            return
        scan.lease_expires_at = None
        pause = timedelta(0)
        stopped = () if isinstance(answer, UpstreamError) else answer.stopped
        # what could not be stopped now is last to be tried again
        unstopped = [batch for batch in call.stop if batch not in stopped]
        scan.unwanted = [batch for batch in scan.unwanted if batch not in call.stop] + unstopped
        if isinstance(answer, UpstreamError):
            scan.retry_count += 1
            scan.last_error = str(answer)
            pause = backoff(scan.retry_count, times().retry_max)
        else:
            scan.retry_count, scan.last_error = 0, ""
            if answer.page is not None and call.after and not answer.page.batches:
                # the MDS does not know the last batch any more: an empty page proves nothing, so from the top
                scan.began_at, pause = None, backoff(1, times().retry_max)
            else:
                if answer.page is not None and _read(scan, answer.page, now):
                    _settle(scan, now)
                if answer.page is not None and scan.unwanted:
                    # what was found runs and costs: the next call stops it, at once
                    scan.version += scan.version % 2
                elif scan.began_at is None:
                    pause = timedelta(seconds=_until_next(scan))
        wanted = scan.due_at
        scan.due_at = now + pause if wanted is None else min(wanted, now + pause)
        scan.save()


def _until_next(scan: BatchScan) -> float:
    """Soon while there are batches to be stopped, or somebody waits for the end of a doubt."""
    return times().poll_max if scan.unwanted or in_doubt().exists() else times().scan_interval


def _read(scan: BatchScan, page: BatchPage, now: datetime) -> bool:
    """Sort one page's batches; True when the scan has reached its floor."""
    ours = {batch.id: name for batch in page.batches if (name := parse_job_id(batch.job_id)) is not None}
    jobs = {job.id: job for job in Job.objects.filter(id__in={job_id for job_id, _ in ours.values()})}
    # what is kept on the row is on our own clock, which the MDS's may be ahead of or behind
    skew = (page.server_at - now) if page.server_at is not None else timedelta(0)
    for batch in page.batches:
        created_at = batch.created_at
        if created_at is not None and (scan.newest_at is None or created_at - skew > scan.newest_at):
            scan.newest_at = created_at - skew
        if batch.id not in ours:
            continue
        job_id, attempt = ours[batch.id]
        job = jobs.get(job_id)
        if job is None:
            continue  # without its job there is nothing to judge it by: that is the orphan sweep's affair
        if is_unwanted(batch, attempt, job):
            # the list may be late, but no end is undone
            if batch.id not in scan.unwanted and not is_over(batch):
                scan.unwanted.append(batch.id)
        elif job.batch_id != batch.id:
            scan.candidates.setdefault(job_id, []).append([batch.id, batch.status, attempt])
    if page.batches:
        scan.after = page.batches[-1].id
    floor = (scan.floor_at or datetime.min.replace(tzinfo=UTC)) + skew
    oldest = min((b.created_at for b in page.batches if b.created_at is not None), default=None)
    return not page.has_more or not page.batches or (oldest is not None and oldest < floor)


def is_unwanted(batch: Batch, attempt: int, job: Job) -> bool:
    """Whether its job neither follows this batch of ours nor may still adopt it."""
    if job.batch_id == batch.id:
        # a job that ended because its batch was missing has not seen that batch's end
        return job.status in TERMINAL and (job.batch_view or {}).get("status") not in _OVER
    return job.status in TERMINAL or attempt != job.attempt or bool(job.batch_id)


def _settle(scan: BatchScan, now: datetime) -> None:
    """The whole range is read: adopt what was found, try again what certainly did not happen."""
    locked = due.lock_jobs(in_doubt().values_list("id", flat=True))
    # once more, since somebody may have had one of them just before it was locked
    jobs = list(in_doubt().filter(id__in=locked))
    live = due.newest_provisions(jobs)
    rows = []
    for job in jobs:
        found = [c for c in scan.candidates.get(job.id, []) if c[2] == job.attempt]
        row = Row(job, live.get(job.id))
        change = _adopted(job, found, scan, now) if found else _not_created(row, scan, now)
        if change is not None:
            row.apply(change, now)
            row.control(version=job.version + 1)
            rows.append(row)
    _write_settled(rows, now)
    scan.began_at, scan.after, scan.candidates = None, "", {}
    scan.covered_to, scan.ended_at = scan.newest_at or scan.covered_to, now


def _write_settled(rows: Sequence[Row], now: datetime) -> None:
    try:
        with transaction.atomic():
            write(rows, now)
        return
    except REFUSED:
        logger.exception("a scan's findings were refused; its jobs are now settled one by one")
    for row in rows:
        try:
            with transaction.atomic():
                write([row], now)
        except REFUSED:
            set_aside(row, "settling", now)
            write([row], now)


def _adopted(job: Job, found: Sequence[Sequence[Any]], scan: BatchScan, now: datetime) -> Change:
    """The batch furthest along, ties to the oldest (the list is newest first); the others are unwanted."""
    best = max(reversed(found), key=lambda candidate: _progress(candidate[1]))
    scan.unwanted += [c[0] for c in found if c[0] != best[0] and c[0] not in scan.unwanted]
    event = Event("batch_adopted", f"Batch {best[0]} was found.", JobEvent.Source.MDS, data={"batch_id": best[0]})
    return Change(job={"batch_id": best[0], "due_at": now, **NO_ERROR}, events=(event,))


def _progress(status: str) -> int:
    order = [s.value for s in RUNNING_ORDER]
    return order.index(status) if status in order else len(order)


def _not_created(row: Row, scan: BatchScan, now: datetime) -> Change | None:
    """Nothing found. Believed only of a scan that began when no create could still be under way."""
    job = row.job
    if job.submit_ended_at is None or scan.began_at is None:
        return None
    if scan.began_at < job.submit_ended_at + timedelta(seconds=times().submit_settle):
        return None
    if job.cancel_requested_at is not None:
        return end_job(JobStatus.CANCELLED, row.provision, now, reason="cancelled", message="No batch was created.")
    event = Event("submit_not_created", f"Attempt {job.attempt} created no batch; trying again.")
    return Change(job={**new_attempt(job), "due_at": now, **NO_ERROR}, events=(event,))


def is_over(batch: Batch) -> bool:
    """Whether a batch needs no cancel any more."""
    return batch.status in _OVER
