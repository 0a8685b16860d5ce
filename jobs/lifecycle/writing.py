"""The one writer of status: rows held under lock, the changes gathered for them, and the statements that write them."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from django.db import connection, models, transaction
from django.db.models.functions import Coalesce, Least, Now

from jobs.conf import times
from jobs.lifecycle.changes import disabled
from jobs.lifecycle.steps import Change, Event
from jobs.lifecycle.telling import Move, job_move, provision_move, tell
from jobs.models import BatchScan, Job, JobEvent, Pool, Provision
from jobs.statuses import JOB_TRANSITIONS, PROVISION_TRANSITIONS, JobStatus, ProvisionStatus

logger = logging.getLogger(__name__)

_EVENT_COLUMNS = [field.attname for field in JobEvent._meta.concrete_fields if not field.primary_key]
_ADD_EVENTS = f"""
    INSERT INTO jobs_jobevent ({", ".join(_EVENT_COLUMNS)})
    SELECT {", ".join(_EVENT_COLUMNS)} FROM jsonb_populate_recordset(NULL::jobs_jobevent, %s)
"""  # noqa: S608 - only constants are put in


class IllegalTransition(Exception):
    """A change that the transition table does not allow: a defect, never written."""


@dataclass
class Row:
    """One job under lock, with the provision at hand, and what is to be written to both.

    The unit of claim is the job, or, for a release, the provision (then the job is only held for its timeline).
    """

    job: Job
    provision: Provision | None
    is_release: bool = False
    is_aside: bool = False  # not to be decided any further now
    job_columns: dict[str, Any] = field(default_factory=dict)
    provision_columns: dict[str, Any] = field(default_factory=dict)
    events: list[JobEvent] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    elsewhere: Change = field(default_factory=Change)  # what goes to the pool and the scan

    def __post_init__(self) -> None:
        self.crashes = self.unit.crashes  # before this transaction; a record that cannot be written forgives nothing

    @property
    def unit(self) -> Job | Provision:
        """The row whose version, lease and due time this claim is about."""
        return self.provision if self.is_release and self.provision is not None else self.job

    def control(self, **columns: Any) -> None:
        """Gather control columns of the unit of claim."""
        for name, value in columns.items():
            setattr(self.unit, name, value)
        gathered = self.provision_columns if self.is_release else self.job_columns
        gathered |= columns

    def forget(self) -> None:
        """Drop everything gathered."""
        self.job_columns, self.provision_columns, self.events, self.moves, self.elsewhere = {}, {}, [], [], Change()

    def apply(self, change: Change, now: datetime) -> None:
        """Gather a change; the rows in memory read as if it were written. Raises `IllegalTransition`."""
        from_status, since = self.job.status, self.job.in_status_since
        reason = change.events[-1].reason if change.events else ""
        _check(JOB_TRANSITIONS, JobStatus, self.job.status, change.job.get("status"))
        for name, value in change.job.items():
            setattr(self.job, name, value)
        self.job_columns |= change.job
        if "status" in change.job:
            self.moves.append(job_move(self.job, self.provision, from_status, since, reason, now))
        if change.provision and self.provision is not None:
            left, left_since = self.provision.status, self.provision.in_status_since
            _check(PROVISION_TRANSITIONS, ProvisionStatus, self.provision.status, change.provision.get("status"))
            for name, value in change.provision.items():
                setattr(self.provision, name, value)
            self.provision_columns |= change.provision
            if "status" in change.provision:
                self.moves.append(provision_move(self.job, self.provision, left, left_since, reason, now))
        for event in change.events:
            # a change moves a job at most once, and its last event tells of the move
            to_status = self.job.status if "status" in change.job and event is change.events[-1] else ""
            self._add_event(event, from_status, to_status, now)
        self.elsewhere = self.elsewhere.and_then(replace(change, job={}, provision={}, events=()))

    def _add_event(self, event: Event, from_status: str, to_status: str, now: datetime) -> None:
        self.job.event_count += 1
        self.job_columns["event_count"] = self.job.event_count
        self.events.append(
            JobEvent(
                job_id=self.job.id,
                sequence=self.job.event_count,
                at=now,
                from_status=from_status,
                to_status=to_status,
                reason=event.reason,
                message=event.message,
                source=event.source,
                actor=event.actor,
                data=event.data,
            )
        )


def _check(
    table: dict[Any, frozenset[Any]], kind: type[JobStatus] | type[ProvisionStatus], old: str, new: str | None
) -> None:
    if new is not None and new not in table[kind(old)]:
        raise IllegalTransition(f"{old} -> {new}")


def write(rows: Sequence[Row], now: datetime) -> None:
    """Write everything gathered. The caller holds the locks of the jobs, and of the provisions that are released.

    A pool's row and the scan's are everybody's: nothing here waits for them, or one who is stopped while he holds one
    would hold up the rows of all other pools.
    """
    update_rows(Job, [(row.job.id, row.job_columns) for row in rows])
    update_rows(
        Provision,
        [(row.provision.id, row.provision_columns) for row in rows if row.provision and row.provision_columns],
    )
    _add_events([event for row in rows for event in row.events])
    if any(row.elsewhere.scan for row in rows):
        _ask_for_scan()
    _add_unwanted({row.elsewhere.unwanted_batch for row in rows} - {""}, now)
    _write_pools(rows, now)
    if moves := [move for row in rows for move in row.moves]:
        transaction.on_commit(lambda: tell(moves), robust=True)  # what is told of is true, and harms nobody


def _ask_for_scan() -> None:
    """Make the scan due now; if it is in somebody's hands, it comes by itself within its interval."""
    free = BatchScan.objects.select_for_update(skip_locked=True, no_key=True)
    BatchScan.objects.filter(pk__in=free.values("pk")).update(due_at=Least(Coalesce("due_at", Now()), Now()))


def _add_unwanted(batch_ids: set[str], now: datetime) -> None:
    """Have the scan stop these batches. This must not be forgotten: a lock timeout, at once, if the row is taken."""
    if not batch_ids:
        return
    BatchScan.objects.bulk_create([BatchScan()], ignore_conflicts=True)
    scan = BatchScan.objects.select_for_update(nowait=True, no_key=True).get()
    scan.unwanted += sorted(batch_ids - set(scan.unwanted))
    scan.due_at = min(scan.due_at or now, now)
    scan.save(update_fields=["unwanted", "due_at"])


def _write_pools(rows: Sequence[Row], now: datetime) -> None:
    """What the rows tell of their pools. A pool in somebody's hands is told next time: it will say the same again."""
    told: dict[int, list[Change]] = defaultdict(list)
    for row in rows:
        if row.provision is not None and (row.elsewhere.pool_disabled or row.elsewhere.pool_full_for is not None):
            told[row.provision.pool_id].append(row.elsewhere)
    if not told:
        return
    for pool in Pool.objects.select_for_update(skip_locked=True, no_key=True).filter(pk__in=told):
        columns = set()
        for change in told[pool.pk]:
            if change.pool_disabled and pool.is_enabled:
                logger.error("pool %s is disabled: %s", pool, change.pool_disabled)
                for name, value in disabled(change.pool_disabled, now).items():
                    setattr(pool, name, value)
                    columns.add(name)
            if change.pool_full_for is not None and _is_full(pool, change.pool_full_for, change.pool_full_code, now):
                columns.add("capacity_retry_at")
        pool.save(update_fields=columns)


def _is_full(pool: Pool, accelerator_type: str, code: str, now: datetime) -> bool:
    """Do not offer the pool for this type for a while, twice as long each time it says so again. True if changed."""
    last = pool.capacity_retry_at.get(accelerator_type)
    if last is not None and float(last["at"]) > now.timestamp():
        return False  # another job has just been told the same
    delay = times().capacity_retry_min
    if last is not None and now.timestamp() < float(last["at"]) + times().capacity_retry_max:
        delay = min(times().capacity_retry_max, 2 * float(last["delay"]))
    pool.capacity_retry_at[accelerator_type] = {"at": now.timestamp() + delay, "delay": delay, "code": code}
    return True


def update_rows(model: type[models.Model], updates: Iterable[tuple[Any, dict[str, Any]]]) -> None:
    """One UPDATE for all rows, whichever columns each changes: they travel as one JSON document."""
    documents = {str(pk): columns for pk, columns in updates if columns}
    if documents:
        names = sorted(set().union(*documents.values()))
        with connection.cursor() as cursor:
            cursor.execute(_update_of(model, tuple(names)), [json.dumps(documents, default=_as_text)])


@cache
def _update_of(model: type[models.Model], names: tuple[str, ...]) -> str:
    """What a row's document does not name stays as it is in that row."""
    meta = model._meta
    columns = ", ".join(f'"{meta.get_field(name).column}"' for name in names)  # type: ignore[union-attr]  # concrete ones
    # every name comes from the model, every value is in the one parameter
    return (
        f'UPDATE "{meta.db_table}" AS t SET ({columns}) = '  # noqa: S608 - see above
        f"(SELECT {columns} FROM jsonb_populate_record(t, v.document)) "
        f"FROM jsonb_each(%s) AS v (pk, document) "
        f'WHERE t."{meta.pk.column}" = v.pk::{meta.pk.db_type(connection)}'
    )


def _add_events(events: Sequence[JobEvent]) -> None:
    if events:
        documents = [{name: getattr(event, name) for name in _EVENT_COLUMNS} for event in events]
        with connection.cursor() as cursor:
            cursor.execute(_ADD_EVENTS, [json.dumps(documents, default=_as_text)])


def _as_text(value: object) -> str:
    """As PostgreSQL reads it back, to the microsecond."""
    if isinstance(value, datetime | UUID):
        return str(value)
    raise TypeError(f"a column cannot hold {value!r}")
