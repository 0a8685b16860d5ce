"""Provisions: what is held where, what it costs, and what will not go away."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from jobs import figures, planner
from jobs.admin.base import AutocompleteFilter
from jobs.admin.rows import NONE, RowsAdmin, ago, label, moment, pretty
from jobs.admin.steering import ForcedQuestions, SteeredAdmin, Steering
from jobs.models import Provision
from jobs.models.job import DOCUMENTS
from jobs.models.provision import RELEASE_FAILING
from jobs.statuses import LIVE, PROVISION_ENDED, PROVISION_HELD, PROVISION_LIVE, ProvisionStatus


def is_failing_release(provision: Provision) -> bool:
    """Whether it should be gone and the provider did not take the last delete; `RELEASE_FAILING`, of one row."""
    return provision.is_release_failing and provision.retry_count > 0


class ProvisionState(admin.SimpleListFilter):
    """By status, and by what operators look for first."""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """What may cost money, what is stuck, then each status."""
        return [
            ("held", "held (may cost money)"),
            ("failing", "release failing"),
            *((status, status) for status in ProvisionStatus.values),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Provision]) -> QuerySet[Provision]:
        """An unknown one filters nothing."""
        match self.value():
            case "held":
                return queryset.filter(figures.HELD)
            case "failing":
                return queryset.filter(figures.HELD, RELEASE_FAILING)
            case status if status in PROVISION_HELD:
                return queryset.filter(figures.HELD, status=status)
            case status if status in ProvisionStatus.values:
                return queryset.filter(status=status)
        return queryset


def _label(provision: Provision) -> SafeString:
    return label(provision.status, "alarm" if is_failing_release(provision) else "")


def _facts(provision: Provision) -> str:
    price = provision.pool.price_per_hour
    cost = f", {price} per hour" if price is not None and provision.status in PROVISION_HELD else ""
    return f"{provision.pool}{cost}; job {provision.job} is {provision.job.shown_status}"


def _release_outcome(provision: Provision) -> str:
    if provision.status in PROVISION_ENDED:
        return f"Nothing: it is {provision.status}."
    if provision.status == ProvisionStatus.RELEASING:
        return "Its release is tried again at once."
    if provision.release_requested_at is not None:
        return "Nothing new: it has been asked for."
    if provision.status in PROVISION_LIVE and provision.job.status in LIVE:
        return "The job loses it: its batch is stopped, the resource is released, and the job is queued again."
    return "It is released."


def _write_off_outcome(provision: Provision) -> str:
    if provision.status != ProvisionStatus.RELEASING:
        return f"Nothing: it is {provision.status}, not being released."
    return (
        "It counts as given back although the provider has not confirmed it. Nobody tries to delete it any more; if it "
        "is still there it costs money until somebody ends it at the provider."
    )


@admin.register(Provision)
class ProvisionAdmin(SteeredAdmin, RowsAdmin):
    """Provisions: to look at, to release, and at worst to write off."""

    steerings = (
        Steering(
            "release",
            "Release",
            "jobs.release_provision",
            ask=lambda user, row, answers: planner.release(user, str(row.pk), reason=answers["reason"]),
            outcome=_release_outcome,
            is_offered=lambda row: row.status not in PROVISION_ENDED,
            done="release requested",
        ),
        Steering(
            "write_off",
            "Write off",
            "jobs.write_off_provision",
            ask=lambda user, row, answers: planner.write_off(user, str(row.pk), reason=answers["reason"]),
            outcome=_write_off_outcome,
            is_offered=lambda row: row.status == ProvisionStatus.RELEASING,
            done="written off",
            questions=ForcedQuestions,
            is_forced=True,
        ),
    )
    row_related = ("pool", "job")
    list_display = ("name", "state", "pool", "job", "region", "requested", "observed", "trouble")
    list_filter = (ProvisionState, ("pool", AutocompleteFilter))
    list_select_related = ("pool", "job")
    list_defer = ("spec", "detail", *(f"job__{name}" for name in DOCUMENTS))
    search_fields = ("name",)
    search_help_text = "Beginning of its name, or a whole job id."
    ordering = ("-requested_at", "-id")
    readonly_fields = (
        "state",
        "shown_state",
        "observed",
        "deadline",
        "expires",
        "next_look",
        "spec_json",
        "detail_json",
    )
    fieldsets = (
        (None, {"fields": ("name", "state", "job", "pool", "attempt", "region", "next_look")}),
        ("Trouble", {"fields": (("last_error_code", "last_error_at", "retry_count"), "last_error")}),
        ("As observed", {"fields": ("shown_state", "observed", "external_ids", "detail_json")}),
        ("Asked for", {"fields": ("deadline", "expires", "spec_json")}),
        (
            "Times",
            {
                "fields": (
                    ("requested_at", "create_started_at", "create_ended_at"),
                    ("ready_at", "failed_at", "lost_at"),
                    ("release_requested_at", "release_requested_by"),
                    ("releasing_at", "release_sent_at", "absent_since_at", "absence_confirmed_at"),
                    ("released_at", "written_off_at"),
                )
            },
        ),
        ("Control", {"classes": ("collapse",), "fields": ("version", "due_at", "lease_expires_at", "crashes")}),
    )

    def found(self, term: str) -> Q:
        """By its own name, or its job's id."""
        return Q(name__startswith=term) | Q(job_id=term)

    def row_label(self, row: Provision) -> SafeString:
        """A release that fails is red, not grey."""
        return _label(row)

    def row_facts(self, row: Provision) -> str:
        """Where it is, what it costs, and whose it is."""
        return _facts(row)

    def row_trace(self, row: Provision) -> object:
        """Whatever changes a provision leaves an event with its job."""
        return planner.lock_timeline(row.job_id)

    @admin.display(description="status")
    def state(self, provision: Provision) -> SafeString:
        """A release that fails is red, not grey."""
        return _label(provision)

    @admin.display(description="requested", ordering="requested_at")
    def requested(self, provision: Provision) -> SafeString | str:
        """When its row was written, before anything was created."""
        return ago(provision.requested_at)

    @admin.display(description="observed state")
    def shown_state(self, provision: Provision) -> str:
        """What that look told."""
        return provision.shown_state or NONE

    @admin.display(description="last observed")
    def observed(self, provision: Provision) -> SafeString | str:
        """The age of the facts shown."""
        return ago(provision.observed_at)

    @admin.display(description="ready deadline")
    def deadline(self, provision: Provision) -> str:
        """Not ready by then is a failure."""
        return moment(provision.deadline_at)

    @admin.display(description="ends by itself")
    def expires(self, provision: Provision) -> str:
        """What the provider was told."""
        return NONE if provision.status in PROVISION_ENDED else moment(provision.expires_at)

    @admin.display(description="next action")
    def next_look(self, provision: Provision) -> str:
        """Until it is being released, its job's next action is its own."""
        if provision.status in PROVISION_ENDED:
            return NONE
        if provision.lease_expires_at is not None:
            return f"in a worker's hands, at most until {moment(provision.lease_expires_at)}"
        return moment(provision.due_at) if provision.due_at else "with its job"

    @admin.display(description="trouble")
    def trouble(self, provision: Provision) -> str:
        """What an operator should know at first sight."""
        if is_failing_release(provision):
            return f"release failed {provision.retry_count} times: {provision.last_error}"[:300]
        return provision.last_error[:300] if provision.status not in PROVISION_ENDED else ""

    @admin.display(description="asked of the provider")
    def spec_json(self, provision: Provision) -> SafeString | str:
        """Frozen at admission."""
        return pretty(provision.spec)

    @admin.display(description="provider detail")
    def detail_json(self, provision: Provision) -> SafeString | str:
        """As the provider said."""
        return pretty(provision.detail)
