"""Pools: their limits and timeouts may be edited; what the engine keeps in the same row may not."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from jobs import calibration, figures, planner
from jobs.admin.documents import DocumentField
from jobs.admin.queue import LIMITS, held
from jobs.admin.rows import NONE, label, logged_in, moment
from jobs.admin.steering import SteeredAdmin, Steering
from jobs.models import Pool, Provision
from jobs.redaction import secrets_in
from jobs.statuses import ProvisionStatus as P

CONTROL = (
    "capacity_retry_at",
    "observe_at",
    "observe_lease_expires_at",
    "observe_version",
    "observed_at",
    "observe_error",
    "observe_failures",
    "orphans",
)
EDITABLE = (
    "name",
    "provider",
    "is_enabled",
    "disabled_reason",
    "priority",
    "price_per_hour",
    "accelerator_types",
    "region",
    "options",
    "max_live",
    "max_provisioning",
    "ready_timeout_seconds",
    "max_lifetime_seconds",
    "loss_retries",
    "observe_interval_seconds",
    "absence_confirm_seconds",
)
ADDRESS = ("provider", "options")
# Beyond these the engine could not reckon with them, or would not look in time.
SPANS = {"observe_interval_seconds": (0.1, 3600), "absence_confirm_seconds": (0, 86_400)}
FIXED = (
    "Cannot be changed while provisions here are not released: at another address they would read as gone, and nobody "
    "would give them back. Disable this pool, make another, and change this one once it holds nothing."
)


def _held(pool_id: Any) -> QuerySet[Provision]:
    return Provision.objects.filter(figures.HELD, pool=pool_id)


def _counted(rows: QuerySet[Provision]) -> Coalesce:
    counted = rows.order_by().values("pool").annotate(number=Count("pk")).values("number")
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)


def with_use(pools: QuerySet[Pool]) -> QuerySet[Pool]:
    """With what each holds and what of it is not yet ready, counted in the same query."""
    here = OuterRef("pk")
    starting = _held(here).filter(status__in=sorted({P.REQUESTED, P.PROVISIONING}))
    return pools.annotate(held=_counted(_held(here)), starting=_counted(starting))


class PoolForm(forms.ModelForm):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """What makes a usable pool."""

    class Meta:
        model = Pool
        fields = EDITABLE

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "provider" in self.fields:
            known = sorted({*settings.PLANNER_PROVIDERS, *filter(None, [self.instance.provider])})
            self.fields["provider"] = forms.ChoiceField(choices=[(name, name) for name in known])
        for name in SPANS.keys() & self.fields.keys():
            low, high = SPANS[name]
            self.fields[name].validators += [MinValueValidator(low), MaxValueValidator(high)]

    def clean_options(self) -> dict[str, Any]:
        """An object."""
        options = {} if self.cleaned_data["options"] is None else self.cleaned_data["options"]
        if not isinstance(options, dict):
            raise forms.ValidationError("Options must be a JSON object.")
        if secrets := ", ".join(secrets_in(options)):
            raise forms.ValidationError(
                f"Name a variable or a file with the secret (api_key_env, ...), not it: {secrets}."
            )
        return options

    def clean_accelerator_types(self) -> list[str]:
        """A list of names."""
        types = [] if self.cleaned_data["accelerator_types"] is None else self.cleaned_data["accelerator_types"]
        if not isinstance(types, list) or not all(isinstance(name, str) and name for name in types):
            raise forms.ValidationError('Accelerator types must be a JSON list of names, such as ["H100"].')
        return types


def _measured(found: calibration.Measured) -> str:
    kind = f"{found.accelerator_type}: " if found.accelerator_type else ""
    spans = f"p50 {found.p50:.1f} s, p95 {found.p95:.1f} s, max {found.longest:.1f} s, " if found.ready else ""
    late = f", {found.late} not in time" if found.late else ""
    return f"{kind}{spans}of {found.ready}{late} in the last {calibration.WINDOW.days} days"


def _refresh_outcome(pool: Pool) -> str:
    if pool.observe_at is None and pool.observe_lease_expires_at is None:
        return "Nothing: nothing is held there."
    return f"The workers ask {pool.provider} next what is there; last asked {moment(pool.observed_at)}."


@admin.register(Pool)
class PoolAdmin(SteeredAdmin):
    """Pools: edited by people with that right, deleted only when nothing is held there."""

    steerings = (
        Steering(
            "pause",
            "Pause",
            "jobs.hold_pool",
            ask=lambda user, pool, answers: planner.hold_pool(user, pool.name, reason=answers["reason"]),
            outcome=lambda pool: "It takes no further job; what it holds goes on to its end.",
            is_offered=lambda pool: pool.is_enabled,
            done="paused",
        ),
        Steering(
            "resume",
            "Resume",
            "jobs.hold_pool",
            ask=lambda user, pool, answers: planner.resume_pool(user, pool.name, reason=answers["reason"]),
            outcome=lambda pool: "Nothing: it is not paused." if pool.is_enabled else "It takes jobs again.",
            is_offered=lambda pool: not pool.is_enabled,
            done="resumed",
        ),
        Steering(
            "refresh",
            "Refresh now",
            "jobs.refresh_pool",
            ask=lambda user, pool, answers: planner.refresh_pool(user, pool.name),
            outcome=_refresh_outcome,
            is_offered=lambda pool: pool.observe_at is not None,
            done="to be looked at next",
        ),
    )

    form = PoolForm
    formfield_overrides = {  # noqa: RUF012 - Django's own shape
        models.JSONField: {
            "form_class": DocumentField,
            "widget": forms.Textarea(attrs={"rows": 4, "cols": 60}),
        },
        models.TextField: {"widget": forms.Textarea(attrs={"rows": 2, "cols": 60})},
    }
    list_display = ("name", "provider", "is_enabled", "priority", "live", "provisioning", "observed", "observe_error")
    list_filter = ("is_enabled",)
    search_fields = ("name__istartswith",)
    show_facets = admin.ShowFacets.NEVER
    fieldsets = (
        (None, {"fields": ("name", "provider", "priority", "price_per_hour")}),
        ("Hold", {"fields": ("is_enabled", "disabled_reason", "held_since")}),
        ("Offer", {"fields": ("accelerator_types", "region", "options")}),
        (
            "Limits",
            {"fields": (*LIMITS, "ready_timeout_seconds", "time_to_ready", "max_lifetime_seconds", "loss_retries")},
        ),
        ("Observation", {"fields": ("observe_interval_seconds", "absence_confirm_seconds", "observed")}),
        ("Control", {"classes": ("collapse",), "fields": CONTROL}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Pool]:
        """With what each holds, counted in the same query."""
        return with_use(super().get_queryset(request))

    def row_label(self, row: Any) -> SafeString:
        """Whether it takes jobs."""
        return label("ready" if row.is_enabled else "held", "ready" if row.is_enabled else "alarm")

    def row_facts(self, row: Any) -> str:
        """What it holds, and why it is paused."""
        reason = f"; {row.disabled_reason}" if row.disabled_reason else ""
        return f"{row.provider}; {self.live(row)} held{reason}"

    def row_trace(self, row: Pool) -> object:
        """What these wishes write."""
        locked = Pool.objects.select_for_update(no_key=True).filter(pk=row.pk)
        return locked.values_list("is_enabled", "held_at", "observe_at").get()

    def get_form(self, request: HttpRequest, obj: Pool | None = None, change: bool = False, **kwargs: Any) -> Any:
        """With the reason beside what cannot be edited now."""
        if obj is not None and request.method == "POST":
            self.row_trace(obj)  # the row before the admission: everybody locks them in this order
            planner.hold_admission()  # what is not held there now is not held when the edit is committed
        if obj is not None and _held(obj.pk).exists():
            kwargs["help_texts"] = dict.fromkeys(ADDRESS, FIXED)
        return super().get_form(request, obj, change=change, **kwargs)

    def get_readonly_fields(self, request: HttpRequest, obj: Pool | None = None) -> tuple[str, ...]:
        """The engine's columns always; where the provider is while something of ours is held there."""
        fixed = ("held_since", "observed", "time_to_ready", *CONTROL)
        return (*ADDRESS, *fixed) if obj is not None and _held(obj.pk).exists() else fixed

    def save_model(self, request: HttpRequest, obj: Pool, form: Any, change: bool) -> None:
        """Write what was edited and nothing else: the engine writes other columns of this row meanwhile."""
        changed = {*form.changed_data}
        if {"is_enabled", "disabled_reason"} & changed:
            changed |= {*planner.mark_hold(obj, logged_in(request), obj.hold, obj.disabled_reason)}
        if change:
            obj.save(update_fields=changed)
        else:
            obj.save()
        planner.announce_change()

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Say why not, rather than "forbidden"."""
        pool = self.get_object(request, unquote(object_id))
        if pool is not None and self._refuses(pool) and super().has_delete_permission(request, pool):
            text = f"Pool {pool} cannot be deleted: it has provisions that are not released. Disable it instead."
            self.message_user(request, text, messages.ERROR)
            return HttpResponseRedirect(reverse("admin:jobs_pool_change", args=[object_id]))
        return super().delete_view(request, object_id, extra_context)

    def has_delete_permission(self, request: HttpRequest, obj: Pool | None = None) -> bool:
        """Never while something is held there: its credentials are what gives it back."""
        return super().has_delete_permission(request, obj) and not (obj is not None and self._refuses(obj))

    def _refuses(self, pool: Pool) -> bool:
        return _held(pool.pk).exists()

    @admin.display(description="held / limit")
    def live(self, pool: Any) -> str:
        """Everything that may cost money."""
        return f"{pool.held} / {pool.max_live}"

    @admin.display(description="starting / limit")
    def provisioning(self, pool: Any) -> str:
        """Not yet ready."""
        return f"{pool.starting} / {pool.max_provisioning}"

    @admin.display(description="held")
    def held_since(self, pool: Pool) -> str:
        """By whom as well."""
        return held(pool)

    @admin.display(description="last observed")
    def observed(self, pool: Pool) -> str:
        """The age of everything shown of it."""
        return moment(pool.observed_at)

    @admin.display(description="measured time to ready")
    def time_to_ready(self, pool: Pool) -> str:
        """What the ready timeout should be set by (R7)."""
        found = calibration.measured(pool)
        lines = [_measured(each) for each in found]
        suggested = calibration.suggested_timeout(pool, found)
        lines.append(f"suggested timeout: {suggested} s" if suggested else "")
        return format_html_join("", "<div>{}</div>", [(line,) for line in lines if line]) or NONE
