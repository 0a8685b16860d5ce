"""The queue: why jobs wait, whose turn is when, and what the pools have. For everybody who is signed in."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from jobs import planner
from jobs.models import Job
from jobs.models.job import DOCUMENTS
from jobs.pages import live, show
from jobs.pages.access import signed_in
from jobs.queue_report import queue_report
from jobs.statuses import JobStatus

SHOWN_JOBS = 10


@dataclass(frozen=True)
class WaitingJob:
    """One of one's own that waits."""

    job: Job
    reason: str
    position: str


@require_safe
@signed_in
def queue(request: HttpRequest, user: User) -> HttpResponse:
    """What waits, for what, and where there is room."""
    report = queue_report()
    context = {
        "report": report,
        "mine": _waiting_jobs(user),
        "shown_jobs": SHOWN_JOBS,
        "banners": show.banners(),
    }
    part = live.LivePart.render(request, "pages/_queue.html", context, is_live=True)
    return part.response(request) if live.is_asked_for(request) else render(request, "pages/queue.html", {"part": part})


def _waiting_jobs(user: User) -> list[WaitingJob]:
    """The first of one's own, with their places: what there is to be told of them is worth a few queries each."""
    mine = planner.visible_jobs(user).filter(owner=user, status=JobStatus.PENDING)
    jobs = list(mine.defer(*DOCUMENTS).order_by("accepted_at", "pk")[:SHOWN_JOBS])
    waiting = planner.waiting_for_each(jobs)
    return [WaitingJob(job, waiting[job.pk].sentence, planner.place_in_queue(job)) for job in jobs]
