"""Taking rows in hand. One transaction records the results that have come, claims what is due, decides each row
until it needs a call or a wait, and commits the intents and leases of those calls.

`version` is the fencing token: each claim bumps it, and a result whose version is not the row's own writes nothing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import DataError, IntegrityError, connection, transaction

from jobs.conf import MAX_CRASHES, times
from jobs.errors import UpstreamError
from jobs.lifecycle import due
from jobs.lifecycle.changes import backoff
from jobs.lifecycle.decisions import decide, decide_release
from jobs.lifecycle.outcomes import Answer, apply_answer
from jobs.lifecycle.steps import Call, CallKind, Change, Step, Wait
from jobs.lifecycle.writing import Row, write
from jobs.models import Job, Provision
from jobs.statuses import MDS_CANCEL, MDS_FOLLOW, MDS_SUBMIT, JobStatus, ProvisionStatus

logger = logging.getLogger(__name__)

# More changes than this without a call or a wait is a decision that goes in circles.
_MOST_CHANGES = 12

# What one row's values can make of a statement; the last three come before the database has seen it.
REFUSED = (IntegrityError, DataError, ValueError, TypeError, RecursionError)

Bulkhead = tuple[str, int]  # ("job", a value of Job.bulkhead) or ("release", a pool's id)


@dataclass(frozen=True)
class Claim:
    """A call to be made now. `send_by` is on this process's monotonic clock: do not send after it."""

    kind: CallKind
    job: Job
    provision: Provision | None
    version: int
    send_by: float
    bulkhead: Bulkhead


@dataclass(frozen=True)
class Finished:
    """A call that has ended. An exception that is no `UpstreamError` means that our own code failed."""

    claim: Claim
    answer: Answer | Exception

    @property
    def is_release(self) -> bool:
        """Whether its unit of claim is the provision."""
        return self.claim.kind == CallKind.RELEASE


@dataclass
class Taken:
    """What one transaction did."""

    claims: list[Claim] = field(default_factory=list)
    claimed: int = 0  # rows taken in hand
    stale: list[Finished] = field(default_factory=list)  # their row has moved on: nothing was written
    left: list[Finished] = field(default_factory=list)  # their row was locked by somebody: try again
    is_moved: bool = False  # some status changed: a place in a pool may be free
    has_more: bool = False  # as many were due as could be taken

    def add(self, other: Taken) -> None:
        """Count in what a part of the transaction did."""
        self.claims += other.claims
        self.is_moved |= other.is_moved


def database_now() -> datetime:
    """The transaction's time: the one clock of all leases and due times."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        now: datetime = cursor.fetchone()[0]
    return now


def step(finished: Sequence[Finished], free: Mapping[Bulkhead, int], *, lone: bool = False) -> Taken:
    """One transaction of the engine. `free` are the calls that may be started, per bulkhead.

    `lone` claims at most one job that may have killed its worker before, and nothing else.
    """
    try:
        return _step(finished, free, lone=lone, one_by_one=False)
    except REFUSED:
        # some row's change cannot be written: once more, so that only that row steps aside
        logger.exception("a transaction was refused; its rows are now written one by one")
        return _step(finished, free, lone=lone, one_by_one=True)


def _step(finished: Sequence[Finished], free: Mapping[Bulkhead, int], *, lone: bool, one_by_one: bool) -> Taken:
    began = time.monotonic()
    taken = Taken()
    with transaction.atomic():
        now = database_now()
        slots = dict(free)
        called = due.lock_jobs(f.claim.job.id for f in finished)
        in_hand = {f.claim.job.id for f in finished}
        jobs = [job for job in _due_jobs(free, taken, lone=lone) if job.id not in in_hand]
        live = due.newest_provisions([*called.values(), *jobs])
        rows = _recorded(finished, called, live, taken, now)
        releases = [] if lone else _due_releases(free, in_hand | {job.id for job in jobs})
        rows += _claimed([Row(job, live.get(job.id)) for job in jobs] + releases, taken)
        for batch in [[row] for row in rows] if one_by_one else [rows]:
            try:
                with transaction.atomic(savepoint=one_by_one):
                    taken.add(advance(batch, slots, began, now))
            except REFUSED:
                if not one_by_one:
                    raise
                set_aside(batch[0], "writing", now)
                write(batch, now)
    return taken


def advance(rows: Sequence[Row], slots: dict[Bulkhead, int], began: float, now: datetime) -> Taken:
    """Decide rows under lock as far as they go, write them, and note the calls to be made."""
    taken = Taken()
    for row in rows:
        before = (row.job.status, row.provision and row.provision.status)
        call = _settle(row, slots, now)
        taken.is_moved |= before != (row.job.status, row.provision and row.provision.status)
        if call is not None:
            send_by = began + times().lease - call_timeout(call.kind) - times().send_margin
            key = bulkhead_of(call.kind, row.job, row.provision)
            taken.claims.append(Claim(call.kind, row.job, row.provision, row.unit.version, send_by, key))
    write(rows, now)
    return taken


def call_timeout(kind: CallKind) -> float:
    """The longest a call of this kind takes, in seconds."""
    if kind == CallKind.SUBMIT:
        return times().create_batch_timeout
    return times().call_timeout * (2 if kind == CallKind.CANCEL else 1)  # a cancel is looked at afterwards


def _lease() -> timedelta:
    return timedelta(seconds=times().lease)


def bulkhead_of(kind: CallKind, job: Job, provision: Provision | None) -> Bulkhead:
    """Whose share of the outside calls a call takes; `Job.bulkhead` says the same in SQL."""
    if kind in {CallKind.CREATE, CallKind.RELEASE} and provision is not None:
        return ("release" if kind == CallKind.RELEASE else "job", provision.pool_id)
    if kind == CallKind.SUBMIT:
        return ("job", MDS_SUBMIT)
    cancels = job.cancel_requested_at is not None or job.status == JobStatus.CANCELLING
    return ("job", MDS_CANCEL if cancels else MDS_FOLLOW)


def _settle(row: Row, slots: dict[Bulkhead, int], now: datetime) -> Call | None:
    """Decide the row until it needs a call that has a free place, or a wait."""
    if row.is_aside:
        return None
    try:
        return _decided(row, slots, now)
    except Exception:
        set_aside(row, "deciding", now)
        return None


def set_aside(row: Row, doing: str, now: datetime) -> None:
    """One broken row must not stop the others: it counts as a crash and steps aside."""
    logger.exception("job %s (%s): %s failed in our own code", row.job.id, row.job.status, doing)
    row.forget()
    crashes = min(row.crashes + 1, MAX_CRASHES)
    due_at = now + backoff(crashes, times().retry_max)
    row.control(due_at=due_at, lease_expires_at=None, crashes=crashes, version=row.unit.version + 1)
    row.is_aside = True


def _decided(row: Row, slots: dict[Bulkhead, int], now: datetime) -> Call | None:
    for _ in range(_MOST_CHANGES):
        next_step = _decide(row, now)
        if isinstance(next_step, Change):
            row.apply(next_step, now)
        elif isinstance(next_step, Wait):
            row.control(due_at=next_step.until, lease_expires_at=None)
            return None
        else:
            key = bulkhead_of(next_step.kind, row.job, row.provision)
            if slots.get(key, 0) <= 0:
                row.control(due_at=now, lease_expires_at=None)
                return None
            slots[key] -= 1
            row.apply(next_step.intent, now)
            row.control(due_at=None, lease_expires_at=now + _lease(), version=row.unit.version + 1)
            return next_step
    raise RuntimeError(f"{_MOST_CHANGES} changes without a call or a wait")


def _decide(row: Row, now: datetime) -> Step:
    if not row.is_release:
        return Wait(None) if row.job.is_terminal else decide(row.job, row.provision, now)
    if row.provision is None or row.provision.status != ProvisionStatus.RELEASING:
        return Wait(None)
    return decide_release(row.provision, now)


def _due_jobs(free: Mapping[Bulkhead, int], taken: Taken, *, lone: bool) -> list[Job]:
    """Lock what is due."""
    shares = {key: places for (kind, key), places in free.items() if kind == "job" and places > 0}
    jobs = due.due_suspect() if lone else due.due_jobs(shares) if shares else []
    counts = Counter(job.bulkhead for job in jobs)
    # of suspects one is taken at a time: where there was one, there may be another
    taken.has_more = bool(jobs) if lone else any(count >= shares[key] for key, count in counts.items())
    return jobs


def _due_releases(free: Mapping[Bulkhead, int], but_not: set[str]) -> list[Row]:
    pools = {key: places for (kind, key), places in free.items() if kind == "release" and places > 0}
    return [Row(job, provision, is_release=True) for job, provision in due.due_releases(pools, but_not)]


def _claimed(rows: list[Row], taken: Taken) -> list[Row]:
    """Take these in hand: bump their version; a lease that ran out counts as a crash."""
    taken.claimed = len(rows)
    leases = [row.unit.lease_expires_at for row in rows if row.unit.lease_expires_at is not None]
    outage_at = due.database_started_at() if leases else None
    for row in rows:
        lease_end = row.unit.lease_expires_at
        # what the database's own end kept from being recorded was nobody's crash
        died = lease_end is not None and outage_at is not None and outage_at < lease_end - _lease()
        row.crashes = min(row.crashes + died, MAX_CRASHES)
        row.control(version=row.unit.version + 1, crashes=row.crashes)
    return rows


def _recorded(
    finished: Sequence[Finished],
    jobs: Mapping[str, Job],
    live: Mapping[str, Provision],
    taken: Taken,
    now: datetime,
) -> list[Row]:
    """The rows of finished calls, with the answers applied. One row per job at a time; the rest waits in `left`."""
    releases = due.lock_provisions(f.claim.provision.id for f in finished if f.is_release and f.claim.provision)
    rows: dict[str, Row] = {}
    for f in finished:
        job = jobs.get(f.claim.job.id)
        provision = live.get(f.claim.job.id)
        if f.is_release and f.claim.provision is not None:
            provision = releases.get(f.claim.provision.id)
        if job is None or job.id in rows or (f.is_release and provision is None):
            taken.left.append(f)
            continue
        row = Row(job, provision, is_release=f.is_release)
        if row.unit.version != f.claim.version:
            taken.stale.append(f)
            continue
        rows[job.id] = row
        _record(row, f, now)
        # whoever was refused may go elsewhere, at once
        taken.is_moved |= row.job.status == JobStatus.PENDING
    return list(rows.values())


def _record(row: Row, f: Finished, now: datetime) -> None:
    try:
        if isinstance(f.answer, Exception) and not isinstance(f.answer, UpstreamError):
            raise f.answer
        # the claim ends here: should the commit's own answer be lost, the same result must not count twice
        row.control(crashes=0, version=row.unit.version + 1)
        row.apply(apply_answer(f.claim.kind, row.job, row.provision, f.answer, now), now)
    except Exception:
        set_aside(row, f.claim.kind.value, now)
