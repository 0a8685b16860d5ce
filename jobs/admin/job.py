"""Jobs and their timelines."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from jobs import planner
from jobs.admin.rows import NONE, RowsAdmin, RowsInline, ago, label, moment, pretty
from jobs.admin.steering import SteeredAdmin, Steering
from jobs.models import Job, JobEvent, Provision
from jobs.statuses import JobStatus, shown_as

DOCUMENTS = ("metadata", "template_spec", "client", "provider_config", "batch_view", "usage")


class ShownStatus(admin.SimpleListFilter):
    """By the status people are shown."""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The one list of statuses."""
        return [(status, status) for status in JobStatus.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        """An unknown one filters nothing."""
        status = self.value()
        return queryset.filter(shown_as(status)) if status in JobStatus.values else queryset


class EventInline(RowsInline):
    """The job's story, in order."""

    model = JobEvent
    verbose_name_plural = "Timeline"
    fields = ("sequence", "at", "from_status", "to", "reason", "message", "source", "actor")
    readonly_fields = ("to",)
    ordering = ("sequence",)

    @admin.display(description="to")
    def to(self, event: JobEvent) -> SafeString | str:
        """The status it went to, if any."""
        return label(event.to_status) if event.to_status else ""


class ProvisionInline(RowsInline):
    """What was reserved for the job."""

    model = Provision
    fk_name = "job"
    show_change_link = True
    fields = ("state", "pool", "attempt", "region", "requested_at", "ready_at", "released_at", "last_error")
    readonly_fields = ("state",)
    ordering = ("-requested_at",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provision]:
        """With their pools."""
        return super().get_queryset(request).select_related("pool").defer("spec", "detail")

    @admin.display(description="status")
    def state(self, provision: Provision) -> SafeString:
        """In its colour."""
        return label(provision.status)


def _cancel_facts(job: Job) -> str:
    held = f", resource at {job.pool}" if job.pool else ""
    total = NONE if job.request_total is None else job.request_total
    return f"{job.request_completed + job.request_failed} of {total} requests done{held}"


def _cancel_outcome(job: Job) -> str:
    if job.is_terminal:
        return "Nothing: it is over."
    if job.cancel_requested_at is not None:
        return f"Nothing new: {job.cancel_requested_by} has asked for it."
    if job.status == JobStatus.PENDING:
        return "It ends before anything is reserved."
    if job.status == JobStatus.PROVISIONING:
        return "Nothing is submitted; its resource is released."
    return "Its batch is stopped, then its resource is released; output written so far is kept."


@admin.register(Job)
class JobAdmin(SteeredAdmin):
    """Jobs: to look at, and to cancel."""

    steering = Steering(
        verb="cancel",
        permission="jobs.cancel_any_job",
        ask=lambda user, key, reason: planner.cancel(user, key, reason=reason),
        job_id=lambda job: job.pk,
        label=lambda job: label(job.shown_status),
        facts=_cancel_facts,
        outcome=_cancel_outcome,
        is_over=lambda job: job.is_terminal or job.cancel_requested_at is not None,
    )
    row_related = ("pool",)
    actions = ("cancel",)
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
    list_filter = (ShownStatus,)
    list_select_related = ("pool",)
    list_defer = DOCUMENTS
    search_fields = ("id__startswith", "name__istartswith", "created_by__istartswith", "batch_id__exact")
    search_help_text = "Beginning of id, name or owner, or a whole batch id."
    ordering = ("-accepted_at", "-id")
    inlines = (EventInline, ProvisionInline)
    readonly_fields = ("shown", "since", "waits", "next_look", "progress", "deadline", "seen", "documents")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "id",
                    "name",
                    ("shown", "since"),
                    "waits",
                    "next_look",
                    "deadline",
                    "progress",
                    "owner",
                    ("cancel_requested_at", "cancel_requested_by"),
                )
            },
        ),
        (
            "Trouble",
            {
                "fields": (
                    ("failure_stage", "error_code"),
                    "error_message",
                    ("last_error_code", "last_error_at"),
                    "last_error",
                )
            },
        ),
        (
            "Request",
            {
                "fields": (
                    ("endpoint", "completion_window", "input_file_id"),
                    ("model_id", "model", "template_name", "template_version"),
                    ("accelerator_type", "accelerator_count", "replicas"),
                    ("priority", "hold", "hold_reason", "queue_timeout_seconds", "idempotency_key"),
                )
            },
        ),
        ("Batch", {"fields": (("batch_id", "seen", "attempt", "lost_attempts"), ("output_file_id", "error_file_id"))}),
        ("Times", {"classes": ("collapse",), "fields": tuple(f"{s}_at" for s in JobStatus.values if s != "pending")}),
        ("Documents", {"classes": ("collapse",), "fields": ("documents",)}),
        (
            "Control",
            {
                "classes": ("collapse",),
                "fields": ("queue_class", "version", "due_at", "lease_expires_at", "crashes", "retry_count"),
            },
        ),
    )

    @admin.action(description="Cancel selected jobs", permissions=["steer"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> HttpResponse:
        """Ask first."""
        return self.confirmation(request, queryset, request.get_full_path())

    @admin.display(description="status")
    def shown(self, job: Job) -> SafeString:
        """As everybody sees it."""
        return label(job.shown_status)

    @admin.display(description="why it is there")
    def waits(self, job: Job) -> str:
        """Worked out on read."""
        return planner.waiting_for(job).sentence or NONE

    @admin.display(description="next action")
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
        oldest = [f"{status} {moment(since)}" for status, since in sorted(planner.oldest_in_status().items())]
        subtitle = f"Longest in status: {', '.join(oldest)}" if oldest else "Every job has ended."
        return super().changelist_view(request, {"subtitle": subtitle} | (extra_context or {}))

    @admin.display(description="deadline")
    def deadline(self, job: Job) -> str:
        """When it expires, or did."""
        return moment(job.deadline_at) if job.has_deadline else NONE

    @admin.display(description="batch last seen")
    def seen(self, job: Job) -> str:
        """The age of what is shown of the batch."""
        return moment(job.batch_seen_at)

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

    @admin.display(description="as stored")
    def documents(self, job: Job) -> SafeString | str:
        """The request's and the batch's own documents."""
        return pretty({name: getattr(job, name) for name in DOCUMENTS})


@admin.register(JobEvent)
class JobEventAdmin(RowsAdmin):
    """All timelines in one, newest first."""

    list_display = ("at", "job_link", "sequence", "from_status", "to", "reason", "message", "source", "actor")
    list_display_links = ("at",)
    list_defer = ("data",)
    search_fields = ("job_id__exact",)
    search_help_text = "A whole job id."
    ordering = ("-id",)
    fields = ("job", "sequence", "at", "from_status", "to_status", "reason", "message", "source", "actor", "data_json")
    readonly_fields = ("data_json",)
    list_select_related = False

    @admin.display(description="job")
    def job_link(self, event: JobEvent) -> str:
        """Its id: the name would cost a join."""
        return event.job_id

    @admin.display(description="to")
    def to(self, event: JobEvent) -> SafeString | str:
        """In its colour."""
        return label(event.to_status) if event.to_status else ""

    @admin.display(description="data")
    def data_json(self, event: JobEvent) -> SafeString | str:
        """The event's own document."""
        return pretty(event.data)
