"""What operators may ask for on jobs, with its words."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from jobs import planner
from jobs.admin.steering import Questions, Steering
from jobs.conf import MAX_PRIORITY
from jobs.models import Job
from jobs.statuses import JobStatus

_OVER = "Nothing: it is over."


class PriorityQuestions(Questions):
    """Which priority, and why."""

    priority = forms.IntegerField(label=f"Priority, 0 to {MAX_PRIORITY}", min_value=0, max_value=MAX_PRIORITY)
    field_order = ("priority", "reason")


def _cancel_outcome(job: Job) -> str:
    if job.is_terminal:
        return _OVER
    if job.cancel_requested_at is not None:
        return f"Nothing new: {job.cancel_requested_by} has asked for it."
    if job.status == JobStatus.PENDING:
        return "It ends before anything is reserved."
    if job.status == JobStatus.PROVISIONING:
        return "Nothing is submitted; its resource is released."
    return "Its batch is stopped, then its resource is released; output written so far is kept."


def _hold_outcome(job: Job) -> str:
    if job.is_terminal:
        return _OVER
    if job.status == JobStatus.PENDING:
        return "It keeps its place in the queue and is not admitted until it is resumed."
    return "It goes on; should it come back to the queue, it is not admitted until it is resumed."


def _resume_outcome(job: Job) -> str:
    return "It is admitted again when its turn comes." if job.hold else "Nothing: it is not held."


def _retry_outcome(job: Job) -> str:
    if not job.is_terminal:
        return f"Nothing: it is {job.shown_status}."
    return f"A new job of {job.created_by} with the same request goes to the end of the queue, linked to this one."


def _priority_outcome(job: Job) -> str:
    if job.status != JobStatus.PENDING:
        return f"Nothing: it is {job.shown_status}, not pending."
    return f"Its priority, now {job.priority}, becomes the one below; it counts under the queue policy “priority”."


def _refresh_outcome(job: Job) -> str:
    return _OVER if job.is_terminal else "The workers look at it next, without waiting for its next try."


def _new_job(answer: Any) -> SafeString:
    return format_html(' as <a href="{}">{}</a>', reverse("admin:jobs_job_change", args=[quote(answer.pk)]), answer.pk)


JOB_STEERINGS = (
    Steering(
        "cancel",
        "Cancel",
        "jobs.cancel_any_job",
        ask=lambda user, job, answers: planner.cancel(user, job.pk, reason=answers["reason"]),
        outcome=_cancel_outcome,
        is_offered=lambda job: not job.is_terminal and job.cancel_requested_at is None,
        done="cancel requested",
    ),
    Steering(
        "hold",
        "Hold",
        "jobs.hold_job",
        ask=lambda user, job, answers: planner.hold_job(user, job.pk, reason=answers["reason"]),
        outcome=_hold_outcome,
        is_offered=lambda job: not job.is_terminal and not job.hold,
        done="held",
    ),
    Steering(
        "resume",
        "Resume",
        "jobs.hold_job",
        ask=lambda user, job, answers: planner.resume_job(user, job.pk, reason=answers["reason"]),
        outcome=_resume_outcome,
        is_offered=lambda job: not job.is_terminal and job.hold,
        done="resumed",
    ),
    Steering(
        "retry",
        "Retry",
        "jobs.retry_any_job",
        ask=lambda user, job, answers: planner.retry(user, job.pk, reason=answers["reason"]),
        outcome=_retry_outcome,
        is_offered=lambda job: job.is_terminal,
        done="queued again",
        told=_new_job,
    ),
    Steering(
        "prioritise",
        "Change priority",
        "jobs.prioritise_job",
        ask=lambda user, job, answers: planner.prioritise(user, job.pk, answers["priority"], reason=answers["reason"]),
        outcome=_priority_outcome,
        is_offered=lambda job: job.status == JobStatus.PENDING,
        done="priority changed",
        questions=PriorityQuestions,
    ),
    Steering(
        "refresh",
        "Refresh now",
        "jobs.refresh_job",
        ask=lambda user, job, answers: planner.refresh_job(user, job.pk, reason=answers["reason"]),
        outcome=_refresh_outcome,
        is_offered=lambda job: not job.is_terminal,
        done="to be looked at next",
    ),
)
