"""The way of a job in five stages, as the bar on its page shows it: what is behind it, where it is, what is ahead."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import datetime

from jobs.models import Job
from jobs.statuses import RUNNING_ORDER, JobStatus
from jobs.story import span

_STAGES: tuple[tuple[str, tuple[JobStatus, ...]], ...] = (
    ("Queue", (JobStatus.PENDING,)),
    ("Resource", (JobStatus.PROVISIONING,)),
    ("Submission", (JobStatus.SUBMITTING,)),
    ("Batch", RUNNING_ORDER),
)


@dataclass(frozen=True)
class Stage:
    """One of them. `lasted` is told of those that are over, `since` of the one the job is in."""

    name: str
    state: str  # done, now, ahead, skipped, or left: the one it was in when it ended before its time
    status: str = ""  # of the last: the status it is, or leads to
    lasted: str = ""
    since: datetime | None = None


def stages(job: Job) -> list[Stage]:
    """The stages of the present attempt; the last one is the end, whichever it is."""
    begun = _begun(job)
    is_leaving = job.is_terminal or job.shown_status == JobStatus.CANCELLING
    last_at = getattr(job, f"{job.status}_at") if job.is_terminal else job.shown_cancelling_at
    times = [*(at for at in begun if at is not None), *([last_at] if is_leaving and last_at is not None else [])]
    lengths = dict(zip(times, (span(end - start) for start, end in itertools.pairwise(times)), strict=False))
    found = []
    for (name, _), at in zip(_STAGES, begun, strict=True):
        if at is None:
            found.append(Stage(name, "skipped" if is_leaving else "ahead"))
        elif at in lengths:
            is_left = is_leaving and at == times[-2] and job.status != JobStatus.COMPLETED
            found.append(Stage(name, "left" if is_left else "done", lasted=lengths[at]))
        else:
            found.append(Stage(name, "now", since=at))
    return [*found, _end(job, last_at if is_leaving else None)]


def _end(job: Job, at: datetime | None) -> Stage:
    if at is None:
        return Stage("End", "ahead", status=JobStatus.COMPLETED)
    return Stage("End", "done" if job.is_terminal else "now", status=job.shown_status, since=at)


def _begun(job: Job) -> list[datetime | None]:
    """When each stage began, as far as the present attempt has come: what an earlier one left is not told."""
    found: list[datetime | None] = []
    before: datetime | None = job.pending_at or job.accepted_at
    for number, (_, statuses) in enumerate(_STAGES):
        if number:
            at = [getattr(job, f"{status.value}_at") for status in statuses]
            later = [each for each in at if each is not None and before is not None and each >= before]
            before = min(later, default=None)
        found.append(before)
    return found
