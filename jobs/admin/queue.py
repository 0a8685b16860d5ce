"""The queue and the quotas of owners: holds and limits, edited by people with that right."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import models
from django.forms import Textarea
from django.http import HttpRequest
from django.utils.safestring import SafeString

from jobs import planner
from jobs.admin.rows import label, logged_in, moment
from jobs.admin.steering import SteeredAdmin, Steering
from jobs.models import OwnerQuota, Queue

LIMITS = ("max_live", "max_provisioning", "max_live_accelerators", "max_provisioning_accelerators")


def held(row: Any) -> str:
    """Since when and by whom the queue, an owner or a pool is held."""
    return f"{moment(row.held_at)} by {row.held_by or 'the planner'}" if row.hold else "no"


class RulesAdmin(SteeredAdmin):
    """A hold and limits; who holds, and since when, is written by itself."""

    formfield_overrides = {  # noqa: RUF012 - Django's own shape
        models.TextField: {"widget": Textarea(attrs={"rows": 2, "cols": 60})},
    }
    readonly_fields = ("held",)
    show_facets = admin.ShowFacets.NEVER

    def row_label(self, row: Any) -> SafeString:
        """Whether jobs are admitted."""
        return label("held", "alarm") if row.hold else label("open", "ready")

    def row_facts(self, row: Any) -> str:
        """Since when, by whom and why."""
        return f"{held(row)}: {row.hold_reason}" if row.hold else "Jobs are admitted."

    def row_trace(self, row: Any) -> object:
        """What these wishes write."""
        return self.model._default_manager.select_for_update().filter(pk=row.pk).values_list("hold", "held_at").get()

    @admin.display(description="held")
    def held(self, rules: Any) -> str:
        """Since when and by whom."""
        return held(rules)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """What was edited and nothing else, with the author of a new hold or reason; the workers look again at once."""
        obj.save(update_fields=form.changed_data if change else None)  # locks the row, which comes before the admission
        if {"hold", "hold_reason"} & {*form.changed_data}:
            obj.save(update_fields=planner.mark_hold(obj, logged_in(request), obj.hold, obj.hold_reason))
        planner.announce_change()


@admin.register(Queue)
class QueueAdmin(RulesAdmin):
    """One row: drain all, and what an owner may have who has no quota of their own."""

    steerings = (
        Steering(
            "drain",
            "Drain",
            "jobs.hold_queue",
            ask=lambda user, queue, answers: planner.hold_queue(user, reason=answers["reason"]),
            outcome=lambda queue: "Jobs are accepted and none is admitted; what runs goes on to its end.",
            is_offered=lambda queue: not queue.hold,
            done="held",
        ),
        Steering(
            "resume",
            "Resume",
            "jobs.hold_queue",
            ask=lambda user, queue, answers: planner.resume_queue(user, reason=answers["reason"]),
            outcome=lambda queue: "Jobs are admitted again, in their order." if queue.hold else "Nothing: it is open.",
            is_offered=lambda queue: queue.hold,
            done="resumed",
        ),
    )
    list_display = ("__str__", "held", *LIMITS)
    fieldsets = (
        ("Drain", {"fields": ("hold", "hold_reason", "held")}),
        ("Each owner without a quota of their own", {"fields": LIMITS}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        """There is one."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """And it stays."""
        return False


@admin.register(OwnerQuota)
class OwnerQuotaAdmin(RulesAdmin):
    """Owners whose limits differ, or whose jobs are held."""

    steerings = (
        Steering(
            "hold",
            "Hold",
            "jobs.hold_owner",
            ask=lambda user, quota, answers: planner.hold_owner(user, quota.owner.username, reason=answers["reason"]),
            outcome=lambda quota: f"No further job of {quota.owner} is admitted; what runs goes on to its end.",
            is_offered=lambda quota: not quota.hold,
            done="held",
        ),
        Steering(
            "resume",
            "Resume",
            "jobs.hold_owner",
            ask=lambda user, quota, answers: planner.resume_owner(user, quota.owner.username, reason=answers["reason"]),
            outcome=lambda quota: "Their jobs are admitted again." if quota.hold else "Nothing: they are not held.",
            is_offered=lambda quota: quota.hold,
            done="resumed",
        ),
    )
    row_related = ("owner",)
    list_display = ("owner", "held", *LIMITS)
    list_filter = ("hold",)
    list_select_related = ("owner",)
    search_fields = ("owner__username", "owner__email")
    autocomplete_fields = ("owner",)
    fieldsets = (
        (None, {"fields": ("owner",)}),
        ("Hold", {"fields": ("hold", "hold_reason", "held")}),
        ("Limits; empty: the queue's", {"fields": LIMITS}),
    )
