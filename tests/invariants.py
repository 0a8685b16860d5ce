"""What holds after every step of the state machine, whatever happened, told from the rows as they are committed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

import psycopg
from django.contrib.auth.models import User
from psycopg.rows import dict_row

from jobs import planner
from jobs.models import BatchScan, Job, JobEvent, Pool, Provision, QueueMessage
from jobs.statuses import (
    JOB_TRANSITIONS,
    PROVISION_ENDED,
    PROVISION_LIVE,
    PROVISION_TRANSITIONS,
    SHOWN_STATUS,
    TERMINAL,
    JobStatus,
    ProvisionStatus,
)

_TABLES = (Job, JobEvent, Provision, Pool, BatchScan, QueueMessage)
Rows = list[dict[str, Any]]


@dataclass
class Witness:
    """Remembers what it saw, and objects. `passed` is how far the rows were moved into the past meanwhile."""

    database: psycopg.Connection[Any]
    viewer: User
    passed: timedelta = timedelta(0)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: dict[Any, str] = field(default_factory=dict)
    seen: Any = None

    def check(self, accepted: set[str]) -> None:
        """Everything that must hold now; nothing to be done if no row has changed since."""
        versions = row_versions(self.database)
        if versions == self.seen:
            return
        self.seen = versions
        jobs, provisions = rows(self.database, Job), rows(self.database, Provision)
        assert {job["id"] for job in jobs} == accepted, "an accepted job is lost, or one came from nowhere"
        self._ends_are_final(jobs)
        self._moves_are_legal(jobs, rows(self.database, JobEvent), provisions)
        _no_job_holds_two(provisions)
        _no_pool_holds_too_many(provisions, rows(self.database, Pool))
        _every_state_has_a_next_action(jobs, provisions, rows(self.database, BatchScan))
        self._every_wait_has_a_reason()

    def _ends_are_final(self, jobs: Rows) -> None:
        for job in jobs:
            ends = [(status, job[f"{status}_at"]) for status in sorted(TERMINAL) if job[f"{status}_at"] is not None]
            if job["status"] not in TERMINAL:
                assert not ends, f"{job['id']} has ended before, and is {job['status']}"
                assert job["id"] not in self.ends, f"{job['id']} has ended, and is {job['status']}"
                continue
            assert [status for status, _ in ends] == [job["status"]]
            # its timeline goes on until its resource is released; all else stands, its times moved as the rows were
            end = {name: value for name, value in job.items() if name != "event_count" and not name.endswith("_at")}
            end["ended_at"] = ends[0][1] + self.passed
            before = self.ends.setdefault(job["id"], end)
            changed = {name: (before[name], end[name]) for name in end if before[name] != end[name]}
            assert not changed, f"{job['id']} changed after its end: {changed}"

    def _moves_are_legal(self, jobs: Rows, events: Rows, provisions: Rows) -> None:
        told: dict[str, Rows] = defaultdict(list)
        for event in sorted(events, key=lambda event: event["sequence"]):
            told[event["job_id"]].append(event)
        for job in jobs:
            its = told[job["id"]]
            assert [event["sequence"] for event in its] == list(range(1, job["event_count"] + 1))
            moves = [event for event in its if event["to_status"]]
            assert moves[0]["to_status"] == JobStatus.PENDING
            assert moves[-1]["to_status"] == job["status"], f"{job['id']} moved without an event"
            for before, after in pairwise(moves):
                assert after["from_status"] == before["to_status"], f"{job['id']} moved without an event"
                assert after["to_status"] in JOB_TRANSITIONS[JobStatus(after["from_status"])]
        for provision in provisions:
            before = self.statuses.get(provision["id"], ProvisionStatus.REQUESTED.value)
            assert provision["status"] in _reachable(before), f"a provision went from {before} to {provision['status']}"
            self.statuses[provision["id"]] = provision["status"]

    def _every_wait_has_a_reason(self) -> None:
        listed = list(planner.visible_jobs(self.viewer).annotate(shown=SHOWN_STATUS))
        reasons = planner.waiting_for_each(listed)
        for job in listed:
            for waiting in (planner.waiting_for(job), reasons[job.id]):
                assert bool(waiting.sentence) != job.is_terminal, f"{job.id} is {job.status}: {waiting!r}"
                assert bool(waiting.code) != job.is_terminal
            is_asked = job.cancel_requested_at is not None or job.status == JobStatus.CANCELLING
            assert (job.shown_status == JobStatus.CANCELLING) == (is_asked and not job.is_terminal)
            assert job.shown_status == job.shown  # type: ignore[attr-defined] # annotated above


def _no_job_holds_two(provisions: Rows) -> None:
    live = [provision["job_id"] for provision in provisions if provision["status"] in PROVISION_LIVE]
    assert len(live) == len(set(live)), "a job has two live provisions"


def _no_pool_holds_too_many(provisions: Rows, pools: Rows) -> None:
    for pool in pools:
        held = [each["status"] for each in provisions if each["pool_id"] == pool["id"]]
        starting = held.count(ProvisionStatus.REQUESTED) + held.count(ProvisionStatus.PROVISIONING)
        assert sum(status not in PROVISION_ENDED for status in held) <= pool["max_live"], f"{pool['name']} is too full"
        assert starting <= pool["max_provisioning"], f"{pool['name']} starts too many"


def _every_state_has_a_next_action(jobs: Rows, provisions: Rows, scans: Rows) -> None:
    """Somebody will look at everything that is not over, without anybody's asking; at a pool that holds something,
    and at a job that waits for admission, any pass does.
    """
    is_scan_due = not scans or scans[0]["due_at"] or scans[0]["lease_expires_at"]
    assert is_scan_due, "nobody will scan"
    over = {job["id"] for job in jobs if job["status"] in TERMINAL}
    for job in jobs:
        waits_for_admission = job["status"] == JobStatus.PENDING and job["cancel_requested_at"] is None
        is_looked_at = job["claimable_at"] is not None or waits_for_admission
        assert job["id"] in over or is_looked_at, f"nobody will look at {job['id']}, which is {job['status']}"
    for provision in provisions:
        name, status = provision["name"], provision["status"]
        if status == ProvisionStatus.RELEASING:
            assert provision["claimable_at"] is not None, f"nobody will release {name}"
        elif status not in PROVISION_ENDED:
            assert provision["job_id"] not in over, f"{name} is {status}, and its job is over"


def _reachable(status: str) -> set[str]:
    """Where a provision can get to in any number of moves."""
    found, new = {status}, {status}
    while new:
        new = {after.value for before in new for after in PROVISION_TRANSITIONS[ProvisionStatus(before)]} - found
        found |= new
    return found


def rows(database: psycopg.Connection[Any], model: Any) -> Rows:
    """All rows of a model, as they are committed."""
    with database.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(f'SELECT * FROM "{model._meta.db_table}"').fetchall()  # noqa: S608 - our own names


_VERSIONS = " UNION ALL ".join(f"SELECT '{m.__name__}', id::text, xmin::text FROM {m._meta.db_table}" for m in _TABLES)  # noqa: S608 - our own names


def row_versions(database: psycopg.Connection[Any]) -> list[Any]:
    """Which version of each row stands."""
    return sorted(database.execute(_VERSIONS).fetchall())


def empty_tables(database: psycopg.Connection[Any]) -> None:
    """Everything an example makes is gone. Foreign keys are checked at the commit."""
    with database.transaction():
        for model in _TABLES:
            database.execute(f'DELETE FROM "{model._meta.db_table}"')  # noqa: S608 - our own names
