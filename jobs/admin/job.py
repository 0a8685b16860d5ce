"""Jobs and their timelines."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from jobs import figures, planner, story
from jobs.admin.base import AutocompleteFilter
from jobs.admin.job_actions import JOB_STEERINGS
from jobs.admin.rows import NONE, RowsAdmin, ago, label, moment, owners_named, pretty
from jobs.admin.steering import SteeredAdmin
from jobs.models import Job
from jobs.models.job import DOCUMENTS
from jobs.statuses import JobStatus, shown_as

MOST_PROVISIONS = 50


class ShownStatus(admin.SimpleListFilter):
    """By the status people are shown."""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The one list of statuses; and what is kept from being admitted."""
        return [*((status, status) for status in JobStatus.values), ("held", "held")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        """An unknown one filters nothing."""
        status = self.value()
        if status == "held":
            return queryset.filter(figures.HELD_JOBS)
        return queryset.filter(shown_as(status)) if status in JobStatus.values else queryset


@admin.register(Job)
class JobAdmin(SteeredAdmin, RowsAdmin):
    """Jobs: to look at, and to steer."""

    steerings = JOB_STEERINGS
    row_related = ("pool",)
    list_display = (
        "__str__",
        "shown",
        "created_by",
        "model",
        "accelerators",
        "pool",
        "progress",
        "accepted",
        "since",
        "error",
    )
    list_filter = (ShownStatus, ("pool", AutocompleteFilter))
    list_select_related = ("pool",)
    list_defer = DOCUMENTS
    search_fields = ("id",)
    search_help_text = "Beginning of id, name or model; or a whole batch id, user name or e-mail."
    ordering = ("-accepted_at", "-id")
    change_form_template = "admin/jobs/job_change_form.html"
    list_before_template = "admin/jobs/job_list_before.html"
    readonly_fields = ("documents", "times")
    fieldsets = (
        (
            "The request, as it was accepted",
            {
                "fields": (
                    ("id", "name"),
                    ("owner", "created_by"),
                    ("endpoint", "completion_window"),
                    ("model_id", "model"),
                    ("template_name", "template_version"),
                    ("accelerator_type", "accelerator_count"),
                    ("replicas", "priority"),
                    ("queue_timeout_seconds", "idempotency_key"),
                    "documents",
                )
            },
        ),
        ("When it last entered each status", {"classes": ("collapse",), "fields": ("times",)}),
        (
            "Control",
            {
                "classes": ("collapse",),
                "fields": (
                    ("queue_class", "version"),
                    ("due_at", "lease_expires_at"),
                    ("crashes", "retry_count", "lost_attempts"),
                ),
            },
        ),
    )

    def found(self, term: str) -> Q:
        """As everybody's lists do; and by batch and by owner."""
        found = planner.begins_with(term) | Q(batch_id=term)
        owners = owners_named(term)
        return found | Q(owner__in=owners) if owners else found

    def row_label(self, row: Job) -> SafeString:
        """As everybody sees it."""
        return label(row.shown_status)

    def row_facts(self, row: Job) -> str:
        """Whose it is, how far it is, and what it holds."""
        held = f"; resource at {row.pool}" if row.pool and not row.is_terminal else ""
        hold = "; held" if row.hold else ""
        return f"{row.created_by}; {self.progress(row)} requests done{held}{hold}"

    def row_trace(self, row: Job) -> object:
        """Whatever changes a job leaves an event."""
        return planner.lock_timeline(row.pk)

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """With the job's whole story."""
        job = kwargs.get("obj")
        if job is not None:
            lines = story.timeline(job)
            provisions = job.provisions.select_related("pool").defer("spec").order_by("-requested_at")[:MOST_PROVISIONS]
            context.update(
                job=job,
                waiting=planner.waiting_for(job),
                next_look=self.next_look(job),
                progress=self.progress(job),
                timeline=lines,
                left_out=job.event_count - len(lines),
                reservations=[(each, pretty(each.provision.detail)) for each in story.reservations(provisions)],
                retries=Job.objects.filter(retry_of=job.pk).order_by("-accepted_at").only("name", "status")[:10]
                if job.is_terminal
                else (),
            )
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.display(description="status")
    def shown(self, job: Job) -> SafeString:
        """As everybody sees it."""
        return label(job.shown_status)

    def next_look(self, job: Job) -> str:
        """When the engine looks at it again by itself."""
        if job.is_terminal:
            return NONE
        if job.lease_expires_at is not None:
            return f"in a worker's hands, at most until {moment(job.lease_expires_at)}"
        return moment(job.due_at) if job.due_at else "when there is news, or room in a pool"

    @admin.display(description="accepted", ordering="accepted_at")
    def accepted(self, job: Job) -> SafeString | str:
        """When it was promised."""
        return ago(job.accepted_at)

    @admin.display(description="in status since")
    def since(self, job: Job) -> SafeString | str:
        """How long it is where it is."""
        return ago(job.in_status_since)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """With what has been where it is for longest: a thing that is stuck shows there first."""
        oldest = sorted(planner.oldest_in_status().items(), key=lambda item: item[1])
        return super().changelist_view(request, {"oldest": oldest} | (extra_context or {}))

    @admin.display(description="requests")
    def progress(self, job: Job) -> str:
        """Done of all, and how many of them failed."""
        total = "?" if job.request_total is None else job.request_total
        failed = f", {job.request_failed} failed" if job.request_failed else ""
        return f"{job.request_completed + job.request_failed} / {total}{failed}"

    @admin.display(description="accelerators")
    def accelerators(self, job: Job) -> str:
        """Count and kind."""
        count = job.accelerator_count * job.replicas
        return f"{count} \N{MULTIPLICATION SIGN} {job.accelerator_type}" if job.accelerator_type else "any"

    @admin.display(description="trouble")
    def error(self, job: Job) -> str:
        """What ended it, or what holds it up."""
        return job.error_code or ("" if job.is_terminal else job.last_error_code)

    @admin.display(description="documents")
    def documents(self, job: Job) -> SafeString | str:
        """The request's and the batch's own documents."""
        return pretty({name: getattr(job, name) for name in DOCUMENTS})

    @admin.display(description="times")
    def times(self, job: Job) -> SafeString | str:
        """The columns themselves; the timeline tells the same with its reasons."""
        at = {status: getattr(job, f"{status}_at") for status in JobStatus.values}
        entered = [(status, moment(when)) for status, when in at.items() if when is not None]
        return format_html_join("", "<p>{}: {}</p>", entered) or NONE
