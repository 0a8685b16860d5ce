"""What is found at the end: in the database, in the provider's and the MDS's ledgers, and with the clients."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from django.conf import settings

from jobs.models import Job, JobEvent, Provision
from jobs.statuses import PROVISION_ENDED, TERMINAL
from jobs.testing.ledger import Ledger
from jobs.testing.mds_batches import OVER, Batches, FakeBatch
from planner_site.soak.load import Load
from planner_site.soak.verdict import BatchFound, Event, Evidence, JobFound


def is_quiet(provider_ledger: Path, mds_ledger: Path) -> bool:
    """Whether every job is over, every resource given back, and no batch of ours goes on."""
    return (
        not Job.objects.exclude(status__in=sorted(TERMINAL)).exists()
        and not Provision.objects.exclude(status__in=sorted(PROVISION_ENDED)).exists()
        and not Ledger(provider_ledger).live()
        and all(batch.ended_at is not None for batch in _batches(mds_ledger))
    )


def gather(load: Load, provider_ledger: Path, mds_ledger: Path) -> Evidence:
    """Everything there is to judge by."""
    return Evidence(
        accepted={key: frozenset(ids) for key, ids in load.accepted.items()},
        cancels=frozenset(load.cancels),
        jobs=jobs_found(),
        events=events_found(),
        batches=_batches(mds_ledger),
        resources=[held.name for held in Ledger(provider_ledger).live()],
        unreleased=list(Provision.objects.exclude(status__in=sorted(PROVISION_ENDED)).values_list("name", flat=True)),
        at=time.time(),
    )


def jobs_found() -> dict[str, JobFound]:
    """All jobs, by id."""
    return {job.id: _job(job) for job in Job.objects.all()}


def events_found() -> list[Event]:
    """All timelines, one after the other."""
    return [
        Event(e.job_id, e.sequence, e.from_status, e.to_status, e.at, e.data.get("batch_id", ""))
        for e in JobEvent.objects.all()
    ]


def _job(job: Job) -> JobFound:
    times = {status.value: getattr(job, f"{status.value}_at") for status in TERMINAL}
    return JobFound(
        id=job.id,
        status=job.status,
        batch_id=job.batch_id,
        is_cancel_requested=job.cancel_requested_at is not None,
        event_count=job.event_count,
        ended={status: at for status, at in times.items() if at is not None},
        error_code=job.error_code,
    )


def _batches(ledger: Path) -> list[BatchFound]:
    mark = f"{settings.PLANNER_INSTALLATION}:"
    # a copy: reading lets time pass for the batches, and that is written to the ledger
    found = Batches(Path(shutil.copy(ledger, ledger.with_suffix(".copy")))).all(time.time())
    return [
        BatchFound(batch.id, batch.job_id, batch.status, batch.visible_at, _ended_at(batch))
        for batch in found
        if batch.job_id.startswith(mark)
    ]


def _ended_at(batch: FakeBatch) -> float | None:
    return float(batch.reached[f"{batch.status}_at"]) if batch.status in OVER else None
