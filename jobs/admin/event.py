"""The timelines of all jobs in one list."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Q
from django.utils.safestring import SafeString

from jobs.admin.rows import RowsAdmin, label, pretty
from jobs.models import JobEvent


@admin.register(JobEvent)
class JobEventAdmin(RowsAdmin):
    """All timelines in one, newest first."""

    list_display = ("at", "job_link", "sequence", "from_status", "to", "reason", "message", "source", "actor")
    list_display_links = ("at",)
    list_defer = ("data",)
    search_fields = ("job_id",)
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

    def found(self, term: str) -> Q:
        """By its job."""
        return Q(job_id=term)
