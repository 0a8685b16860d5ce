"""What the pages show of rows, worked out in Python so that templates only place it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Max, Q, QuerySet
from django.utils import timezone

from jobs import planner
from jobs.conf import times
from jobs.models import BatchScan, Job, Worker
from jobs.models.job import DOCUMENTS
from jobs.statuses import RUNNING, JobStatus

PAGE_SIZE = 25
# The legend.
MEANINGS = {
    JobStatus.PENDING: "Accepted; waits for room in a pool.",
    JobStatus.PROVISIONING: "Accelerators are being rented for it.",
    JobStatus.SUBMITTING: "They are ready; its batch is handed over.",
    JobStatus.SCHEDULING: "The batch waits to be started.",
    JobStatus.VALIDATING: "The batch's input is being checked.",
    JobStatus.IN_PROGRESS: "Requests are being answered.",
    JobStatus.FINALIZING: "All is answered; the output is being written.",
    JobStatus.CANCELLING: "A cancel was asked for and is under way.",
    JobStatus.COMPLETED: "Every request is accounted for.",
    JobStatus.FAILED: "It could not be done; its page says why.",
    JobStatus.EXPIRED: "Its time ran out; output so far is kept.",
    JobStatus.CANCELLED: "Stopped because somebody asked; output so far is kept.",
}


@dataclass(frozen=True)
class Progress:
    """How many of a job's requests are accounted for."""

    total: int
    completed: int
    failed: int

    def __str__(self) -> str:
        return f"{self.done:,} / {self.total:,}"

    @property
    def done(self) -> int:
        """Requests that came to an end, well or not."""
        return self.completed + self.failed

    @property
    def percent(self) -> int:
        """Whole percent, rounded down: 100 means all."""
        return min(100, self.done * 100 // self.total) if self.total else 0


@dataclass(frozen=True)
class JobRow:
    """One line of the list."""

    job: Job
    progress: Progress | None
    waits: str


def waits_of(job: Job) -> planner.Waiting | None:
    """Why the job is where it is; nothing for a batch that simply runs, whose progress says more."""
    is_upset = job.batch_missing_at or (job.provision and job.provision.release_requested_at)
    return None if job.is_terminal or (job.shown_status in RUNNING and not is_upset) else planner.waiting_for(job)


def progress_of(job: Job) -> Progress | None:
    """None while the number of requests is unknown."""
    if job.request_total is None:
        return None
    return Progress(job.request_total, job.request_completed, job.request_failed)


def job_rows(jobs: Sequence[Job]) -> list[JobRow]:
    """The list's lines; a reason is given for what does not run yet."""
    waiting = planner.waiting_for_each([job for job in jobs if not job.is_terminal and job.status not in RUNNING])
    return [JobRow(job, progress_of(job), str(waiting.get(job.pk, ""))) for job in jobs]


@dataclass(frozen=True)
class Page:
    """Jobs, newest first, and the cursors to their neighbours ("" for none)."""

    jobs: list[Job]
    newer_than: str = ""
    older_than: str = ""


def page_of(jobs: QuerySet[Job], *, older_than: str = "", newer_than: str = "") -> Page:
    """The newest page, or the one next to the job named; one that is gone or hidden means the newest."""
    rows = jobs.defer(*DOCUMENTS)
    cursor = jobs.filter(pk=newer_than or older_than).values_list("accepted_at", "pk").first()
    if newer_than and cursor:
        nearest = list(rows.filter(_beyond(*cursor, newer=True)).order_by("accepted_at", "pk")[: PAGE_SIZE + 1])
        if len(nearest) > PAGE_SIZE:
            shown = nearest[PAGE_SIZE - 1 :: -1]
            return Page(shown, newer_than=shown[0].pk, older_than=shown[-1].pk)
        # Nothing newer beyond it: the newest page is this one, filled up.
        cursor = None
    newest = rows.filter(_beyond(*cursor, newer=False)) if cursor else rows
    found = list(newest.order_by("-accepted_at", "-pk")[: PAGE_SIZE + 1])
    shown = found[:PAGE_SIZE]
    return Page(
        shown,
        newer_than=shown[0].pk if cursor and shown else "",
        older_than=shown[-1].pk if len(found) > PAGE_SIZE else "",
    )


def _beyond(at: datetime, pk: str, *, newer: bool) -> Q:
    side = "gt" if newer else "lt"
    # The first half alone bounds the index scan.
    return Q(**{f"accepted_at__{side}e": at}) & (Q(**{f"accepted_at__{side}": at}) | Q(**{f"pk__{side}": pk}))


@dataclass(frozen=True)
class Banner:
    """What everybody should know because it holds up all jobs."""

    text: str
    since: datetime | None
    advice: str


def banners() -> list[Banner]:
    """None while everything that jobs need is there."""
    found = []
    last_beat_at = Worker.objects.aggregate(at=Max("beat_at"))["at"]
    if last_beat_at is None or last_beat_at < timezone.now() - timedelta(seconds=times().unready):
        found.append(Banner("No workers are running", last_beat_at, "Jobs are accepted and wait until workers start."))
    scan = BatchScan.objects.exclude(last_error="").only("ended_at").first()
    if scan is not None:
        text = "The metadata service does not answer"
        found.append(Banner(text, scan.ended_at, "Jobs wait and go on by themselves; files cannot be sent or fetched."))
    return found
