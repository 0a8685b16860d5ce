"""The list of jobs, one job, and its cancel. Reads come from the database alone and write nothing."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from jobs import planner, story
from jobs.errors import Conflict, Forbidden, InvalidRequest, NotFound
from jobs.models import Job
from jobs.pages import live, show
from jobs.pages.access import signed_in
from jobs.pages.filters import Filters
from jobs.pages.stages import stages
from jobs.statuses import PROVISION_ENDED


@require_safe
@signed_in
def job_list(request: HttpRequest, user: User) -> HttpResponse:
    """The jobs this user may see, newest first."""
    filters = Filters.of(request.GET)
    try:
        jobs, problem = planner.find_jobs(user, filters.wanted()), ""
    except InvalidRequest as wrong:
        jobs, problem = Job.objects.none(), f"{wrong.reason[:1].upper()}{wrong.reason[1:]}."
    page = show.page_of(jobs, older_than=_job_id(request, "older_than"), newer_than=_job_id(request, "newer_than"))
    context = {
        "rows": show.job_rows(page.jobs),
        "page": page,
        "filters": filters,
        "problem": problem,
        "shows_owner": user.has_perm("jobs.view_all_jobs"),
        "may_submit": user.has_perm("jobs.submit_job"),
        "banners": show.banners(),
    }
    is_live = any(not job.is_terminal for job in page.jobs)
    part = live.LivePart.render(request, "pages/_list.html", context, is_live=is_live)
    if live.is_asked_for(request):
        return part.response(request)
    return render(request, "pages/list.html", {**context, "part": part, "meanings": show.MEANINGS})


def _job_id(request: HttpRequest, name: str) -> str:
    # PostgreSQL cannot even compare with a NUL.
    return request.GET.get(name, "").replace("\0", "").strip()


def _visible(user: User, job_id: str) -> Job:
    try:
        return planner.get_job(user, job_id)
    except NotFound as missing:
        raise Http404(str(missing)) from missing


@require_safe
@signed_in
def job_detail(request: HttpRequest, user: User, job_id: str) -> HttpResponse:
    """One job: where it is, why, what it holds, and its story."""
    job = _visible(user, job_id)
    lines = story.timeline(job)
    provisions = list(job.provisions.select_related("pool").order_by("-requested_at"))
    context = {
        "job": job,
        "stages": stages(job),
        "progress": show.progress_of(job),
        "waits": show.waits_of(job),
        "timeline": lines,
        "left_out": job.event_count - len(lines),
        "reservations": story.reservations(provisions),
        "may_cancel": not job.is_terminal and job.cancel_requested_at is None and planner.can_cancel(user, job),
        "banners": show.banners(),
    }
    # A finished job may still hold something that is being given back.
    is_live = not job.is_terminal or any(provision.status not in PROVISION_ENDED for provision in provisions)
    part = live.LivePart.render(request, "pages/_detail.html", context, is_live=is_live)
    if live.is_asked_for(request):
        return part.response(request)
    return render(request, "pages/detail.html", {"job": job, "part": part})


@require_http_methods(["GET", "HEAD", "POST"])
@signed_in
def job_cancel(request: HttpRequest, user: User, job_id: str) -> HttpResponse:
    """Ask first, with the facts; then record the wish."""
    job = _visible(user, job_id)
    if not planner.can_cancel(user, job):
        raise PermissionDenied("Only the owner of a job, or an operator, can cancel it.")
    if request.method != "POST":
        return render(request, "pages/cancel.html", {"job": job, "progress": show.progress_of(job)})
    try:
        planner.cancel(user, job_id, reason=request.POST.get("reason", "").strip())
    except Conflict as over:
        messages.warning(request, f"Nothing to cancel: {over}.")
    except InvalidRequest as wrong:
        messages.error(request, f"Not cancelled: {wrong}.")
    except Forbidden as refused:
        raise PermissionDenied(str(refused)) from refused
    else:
        messages.success(request, "Cancel requested. The job reads “cancelling” until its batch has really stopped.")
    return redirect("pages:detail", job_id=job_id)
