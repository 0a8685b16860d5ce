"""What all read-only lists share: no edits, no whole-table counts, labels in the statuses' colours."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from jobs.admin.base import ModelAdmin
from jobs.redaction import without_secrets
from jobs.story import span

COUNT_CAP = 1_000
NONE = "-"


class _MoreThanCap(int):
    """A number of rows that was not counted to its end, and says so where it is shown."""

    def __str__(self) -> str:
        return f"more than {COUNT_CAP:,}"


class CappedPaginator(Paginator):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """Counts no further than `COUNT_CAP` rows: beyond that a filter serves better than a page number."""

    @cached_property
    def count(self) -> int:
        """At most one more than the cap."""
        rows = self.object_list
        count = rows[: COUNT_CAP + 1].count() if isinstance(rows, QuerySet) else len(rows)
        return count if count <= COUNT_CAP else _MoreThanCap(count)


class RowsAdmin(ModelAdmin):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """Rows to look at and never to edit. They are everybody's, so it takes the right to see everybody's jobs."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    sortable_by: ClassVar[tuple[str, ...]] = ()  # each list has the one order that an index serves
    list_defer: ClassVar[tuple[str, ...]] = ()  # documents a list never shows
    list_filter_submit = True
    list_fullwidth = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Without the documents where a list asks."""
        rows = super().get_queryset(request)
        is_list = request.resolver_match is not None and str(request.resolver_match.url_name).endswith("_changelist")
        return rows.defer(*self.list_defer) if is_list else rows

    def found(self, term: str) -> Q:
        """The rows that a search finds, in terms that indexes serve: no column of another table beside one's own."""
        return Q()

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Any:
        """By `found`; `search_fields` only has the box shown."""
        return (queryset.filter(self.found(search_term.strip())) if search_term.strip() else queryset), False

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Django's own, and the planner's."""
        return super().has_view_permission(request, obj) and request.user.has_perm("jobs.view_all_jobs")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Rows come from the planner."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Rows are changed by the planner."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """A deleted row is a resource forgotten; retention is a command."""
        return False


def owners_named(term: str) -> list[Any]:
    """The keys of the users with exactly this name or e-mail."""
    return list(User.objects.filter(Q(username=term) | Q(email=term)).values_list("pk", flat=True))


def logged_in(request: HttpRequest) -> User:
    """The admin's user; the site has seen to it that there is one."""
    user = request.user
    if not isinstance(user, User):
        raise TypeError("the admin is for users")
    return user


def label(status: str, css: str = "") -> SafeString:
    """A status in its colour, always with its name."""
    return format_html('<span class="status status-{}">{}</span>', css or status, status)


def pretty(document: Any) -> SafeString | str:
    """JSON to read; whatever is named like a secret is not shown."""
    if not document:
        return NONE
    return format_html("<pre>{}</pre>", json.dumps(without_secrets(document), indent=2, ensure_ascii=False))


def ago(at: datetime | None) -> SafeString | str:
    """The same for a list's narrow column; the time itself on hover."""
    if at is None:
        return NONE
    now = timezone.now()
    distance = f"{span(now - at)} ago" if at <= now else f"in {span(at - now)}"
    return format_html('<span class="desk-time" title="{} UTC">{}</span>', f"{at:%Y-%m-%d %H:%M:%S}", distance)


def moment(at: datetime | None) -> str:
    """A time and how far away it is."""
    if at is None:
        return NONE
    now = timezone.now()
    seconds = abs(now - at).total_seconds()
    distance = f"{seconds:.0f} s" if seconds < 120 else timesince(min(at, now), max(at, now), depth=2)
    return (
        f"{at:%Y-%m-%d %H:%M:%S} UTC ({distance} ago)" if at <= now else f"{at:%Y-%m-%d %H:%M:%S} UTC (in {distance})"
    )
