"""What the engine keeps for itself, and the files people uploaded: to look at."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Q

from jobs.admin.rows import RowsAdmin, moment, owners_named
from jobs.models import BatchScan, InputFile, Worker


@admin.register(Worker)
class WorkerAdmin(RowsAdmin):
    """Heartbeats, newest first."""

    list_display = ("__str__", "beat", "pass_started_at", "pass_ended_at", "passes", "steps")
    ordering = ("-beat_at",)

    @admin.display(description="last beat", ordering="beat_at")
    def beat(self, worker: Worker) -> str:
        """When it was last known to live."""
        return moment(worker.beat_at)


@admin.register(BatchScan)
class BatchScanAdmin(RowsAdmin):
    """The scan of the MDS's list: one row."""

    list_display = ("__str__", "due_at", "began_at", "ended_at", "covered_to", "retry_count", "last_error")


@admin.register(InputFile)
class InputFileAdmin(RowsAdmin):
    """Whose files are whose; their bytes are at the MDS."""

    list_display = ("filename", "id", "owner", "size_bytes", "request_count", "created_at", "deletion_requested_at")
    list_select_related = ("owner",)
    search_fields = ("id",)
    search_help_text = "A whole file id, or the owner's user name or e-mail."
    ordering = ("-created_at", "-id")

    def found(self, term: str) -> Q:
        """By its id or its owner."""
        return Q(pk=term) | Q(owner__in=owners_named(term))
