"""Asking for something on rows: a page that says what will happen, then one planner call and one log line per row."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.contrib import messages
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import Error, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import url_has_allowed_host_and_scheme

from jobs.admin.rows import RowsAdmin, logged_in
from jobs.errors import PlannerError, is_database_away
from jobs.models import Job

MAX_ROWS = 500
TOLD_SINGLY = 20


@dataclass(frozen=True)
class Steering:
    """One thing an operator may ask for, with its words. `ask` is the planner's own call."""

    verb: str
    permission: str
    ask: Callable[[User, str, str], object]
    job_id: Callable[[Any], str]
    label: Callable[[Any], str]
    facts: Callable[[Any], str]
    outcome: Callable[[Any], str]
    is_over: Callable[[Any], bool]


class SteeredAdmin(RowsAdmin):
    """Rows with one thing to ask for: as an action on the list, as a button on the row's own page."""

    steering: ClassVar[Steering]
    row_related: ClassVar[tuple[str, ...]]  # what the words about a row need
    change_form_template = "admin/jobs/steered_change_form.html"

    def has_steer_permission(self, request: HttpRequest) -> bool:
        """Whether the action and the button are offered."""
        return request.user.has_perm(self.steering.permission)

    def get_urls(self) -> list[URLPattern]:
        """The confirmation page, before Django's catch-all of object ids."""
        verb = self.steering.verb
        route = path(f"{verb}/", self.admin_site.admin_view(self.steer_view), name=self._url_name(verb))
        return [route, *super().get_urls()]

    def _url_name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Offer the button while there is something to ask for."""
        row = kwargs.get("obj")
        if row is not None and self.has_steer_permission(request) and not self.steering.is_over(row):
            url = reverse(f"admin:{self._url_name(self.steering.verb)}")
            context.update(steer_url=f"{url}?id={row.pk}", steer_verb=self.steering.verb)
        return super().render_change_form(request, context, *args, **kwargs)

    def confirmation(self, request: HttpRequest, rows: QuerySet[Any], back: str) -> HttpResponse:
        """The page that lists the rows, where they are now, and what will happen; it writes nothing."""
        found = list(rows[: MAX_ROWS + 1])
        if not found:
            self.message_user(request, "These rows are gone.", messages.WARNING)
            return HttpResponseRedirect(back)
        if len(found) > MAX_ROWS:
            text = f"More than {MAX_ROWS} rows are selected: narrow the list with a filter. Nothing was done."
            self.message_user(request, text, messages.ERROR)
            return HttpResponseRedirect(back)
        told = [
            {
                "row": row,
                "url": self._page_url(row.pk),
                "label": self.steering.label(row),
                "facts": self.steering.facts(row),
                "outcome": self.steering.outcome(row),
            }
            for row in found
        ]
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "title": f"{self.steering.verb.capitalize()}: please confirm",
            "verb": self.steering.verb,
            "told": told,
            "back": back,
            "action_url": reverse(f"admin:{self._url_name(self.steering.verb)}"),
        }
        return TemplateResponse(request, "admin/jobs/confirm.html", context)

    def steer_view(self, request: HttpRequest) -> HttpResponse:
        """GET asks, POST does."""
        if not (self.has_view_permission(request) and self.has_steer_permission(request)):
            raise PermissionDenied
        if request.method == "POST":
            return self._steer(request)
        ids = self._valid(request.GET.getlist("id"))
        back = self._page_url(ids[0]) if len(ids) == 1 else self._list_url()
        return self.confirmation(request, self._rows(request, ids), back)

    def _rows(self, request: HttpRequest, ids: list[Any]) -> QuerySet[Any]:
        return self.get_queryset(request).filter(pk__in=ids).select_related(*self.row_related)

    def _page_url(self, pk: Any) -> str:
        return reverse(f"admin:{self._url_name('change')}", args=[quote(str(pk))])

    def _list_url(self) -> str:
        return reverse(f"admin:{self._url_name('changelist')}")

    def _valid(self, ids: list[str]) -> list[Any]:
        """The ids that can be one at all."""
        found = []
        for key in filter(None, (given.replace("\0", "") for given in ids)):
            with contextlib.suppress(ValidationError):
                found.append(self.opts.pk.to_python(key))
        return found

    def _steer(self, request: HttpRequest) -> HttpResponse:
        ids = self._valid(request.POST.getlist("id"))[: MAX_ROWS + 1]
        rows = list(self._rows(request, ids))
        back = request.POST.get("back", "")
        if not url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure()):
            back = self._list_url()
        if len(rows) > MAX_ROWS:
            self.message_user(request, f"At most {MAX_ROWS} rows at a time. Nothing was done.", messages.ERROR)
            return HttpResponseRedirect(back)
        reason = request.POST.get("reason", "").strip()
        self._tell(request, [(row, *self._steer_one(request, row, reason)) for row in rows])
        return HttpResponseRedirect(back)

    def _steer_one(self, request: HttpRequest, row: Any, reason: str) -> tuple[int, str]:
        """One row, in one transaction: the planner's call with its event, and the admin's own history."""
        steering = self.steering
        try:
            with transaction.atomic():
                # Locked, so that the count says whether this call or somebody else's changed something.
                job = Job.objects.select_for_update(no_key=True, of=("self",)).filter(pk=steering.job_id(row))
                before = job.values_list("event_count", flat=True).get()
                steering.ask(logged_in(request), str(row.pk), reason)
                after = Job.objects.values_list("event_count", flat=True).get(pk=steering.job_id(row))
                if after == before:
                    return messages.INFO, "asked for already, nothing changed"
                self.log_change(request, row, f"Asked to {steering.verb}. {reason}".strip())
                return messages.SUCCESS, f"{steering.verb} requested"
        except PlannerError as refused:
            return messages.WARNING, f"not done: {refused}"
        except Error as error:
            if not is_database_away(error):
                raise
            return messages.ERROR, "not done: the row is busy, please try again"

    def _tell(self, request: HttpRequest, outcomes: Sequence[tuple[Any, int, str]]) -> None:
        """Each row's outcome; many rows are told together by outcome."""
        if not outcomes:
            self.message_user(request, "These rows are gone.", messages.WARNING)
        if len(outcomes) <= TOLD_SINGLY:
            for row, level, outcome in outcomes:
                self.message_user(request, f"“{row}”: {outcome}.", level)
            return
        by_outcome: dict[tuple[int, str], list[str]] = defaultdict(list)
        for row, level, outcome in outcomes:
            by_outcome[level, outcome].append(str(row))
        for (level, outcome), names in by_outcome.items():
            more = ", …" if len(names) > TOLD_SINGLY else ""
            self.message_user(request, f"{len(names)} {outcome}: {', '.join(names[:TOLD_SINGLY])}{more}.", level)
