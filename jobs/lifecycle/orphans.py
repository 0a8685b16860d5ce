"""Orphans: what stands under our mark at a provider or at the MDS and no row needs any more.

There should be none. One can come of a worker that was stopped between its last look at the clock and its send, came
back when its row had long moved on, and was killed before it could take its effect back; or of a database that was
restored from a backup. This module judges; `reconciler.orphans` makes the calls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from jobs.batch_client import Batch
from jobs.lifecycle.claims import database_now
from jobs.lifecycle.scans import is_over, is_unwanted, parse_job_id
from jobs.models import Job, Pool, Provision
from jobs.statuses import PROVISION_ENDED


@dataclass(frozen=True)
class OrphanResource:
    """A resource of ours without a provision that needs it; `since` is when a sweep first saw it so."""

    name: str
    since: datetime
    age_seconds: float
    why: str


def orphan_resources(pool: Pool, names: Collection[str], *, is_kept: bool = True) -> list[OrphanResource] | None:
    """Those of the names, just listed under our mark in this pool, that no provision needs.

    Since when is kept on the pool's row, unless `is_kept` is false; what is listed no longer is forgotten there. None
    if the row is in somebody's hands.
    """
    with transaction.atomic():
        now = database_now()
        # the lock is the pool's last: nothing else is taken while it is held
        free = Pool.objects.select_for_update(skip_locked=True, no_key=True)
        seen = free.filter(pk=pool.pk).values_list("orphans", flat=True).first()
        if seen is None:
            return None
        statuses = dict(Provision.objects.filter(name__in=names).values_list("name", "status"))
        orphans = {name: statuses.get(name) for name in names if statuses.get(name) in {None, *PROVISION_ENDED}}
        since = {name: seen.get(name, now.isoformat()) for name in orphans}
        if is_kept and since != seen:
            Pool.objects.filter(pk=pool.pk).update(orphans=since)
    return [
        OrphanResource(
            name=name,
            since=(first := datetime.fromisoformat(since[name])),
            age_seconds=(now - first).total_seconds(),
            why="no provision has this name" if status is None else f"its provision is {status}",
        )
        for name, status in sorted(orphans.items())
    ]


def orphan_batches(batches: Iterable[Batch]) -> list[tuple[Batch, str]]:
    """Those of these batches that are ours, not over as the list tells it, and that no live job owns; and why."""
    ours = [(batch, ref) for batch in batches if (ref := parse_job_id(batch.job_id)) and not is_over(batch)]
    jobs = Job.objects.in_bulk({job_id for _, (job_id, _) in ours})
    found = []
    for batch, (job_id, attempt) in ours:
        job = jobs.get(job_id)
        if job is None:
            found.append((batch, "no job has this id"))
        elif is_unwanted(batch, attempt, job):
            found.append((batch, f"job {job_id} is {job.status}, attempt {job.attempt}, batch {job.batch_id or '-'}"))
    return found
