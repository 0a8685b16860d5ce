"""What the pages show of rows, worked out in Python so that templates only place it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet
from django.utils import timezone

from jobs import planner
from jobs.conf import times
from jobs.models import BatchScan, Job, Worker
from jobs.statuses import RUNNING

PAGE_SIZE = 25
# Documents a list never shows.
HEAVY = ("metadata", "template_spec", "client", "provider_config", "batch_view", "usage")


@dataclass(frozen=True)
class Progress:
    """How many of a job's requests are accounted for."""

    total: int
    completed: int
    failed: int

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


def waits_of(job: Job) -> str:
    """Why the job is where it is; nothing for a batch that simply runs, whose progress says more."""
    is_upset = job.batch_missing_at or (job.provision and job.provision.release_requested_at)
    return "" if job.shown_status in RUNNING and not is_upset else planner.waiting_for(job).sentence


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
    rows = jobs.defer(*HEAVY)
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


def banners() -> list[str]:
    """What everybody should know because it holds up all jobs."""
    lines = []
    if not Worker.objects.filter(beat_at__gt=timezone.now() - timedelta(seconds=times().unready)).exists():
        lines.append("No workers running: jobs wait. Start “manage.py run_workers”.")
    if BatchScan.objects.exclude(last_error="").exists():
        lines.append("The metadata service does not answer; jobs wait and go on by themselves.")
    return lines
