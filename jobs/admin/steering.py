"""Asking for something on rows: a page that says what will happen, then one planner call and one log line per row."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import Error, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.safestring import SafeString

from jobs.admin.base import ModelAdmin
from jobs.admin.rows import logged_in
from jobs.errors import PlannerError, is_database_away

MAX_ROWS = 500
TOLD_SINGLY = 20
MAX_REASON_LENGTH = 200

Answers = dict[str, Any]


class Questions(forms.Form):
    """What is asked beside "are you sure": a reason, if there is one."""

    reason = forms.CharField(
        label="Reason, for those who read of it later", max_length=MAX_REASON_LENGTH, required=False
    )


class ForcedQuestions(forms.Form):
    """What goes against what is known wants a reason."""

    reason = forms.CharField(label="Reason (needed)", max_length=MAX_REASON_LENGTH, min_length=3)


@dataclass(frozen=True)
class Steering:
    """One thing an operator may ask for, with its words. `ask` is the planner's own call."""

    name: str  # of the action, and in the address
    title: str  # "Cancel"; of the button, and before the rows' name
    permission: str
    ask: Callable[[User, Any, Answers], object]
    outcome: Callable[[Any], str]  # what will happen to this row
    is_offered: Callable[[Any], bool]  # on the row's own page
    done: str  # what is told of a row afterwards
    told: Callable[[Any], str | SafeString] = lambda answer: ""  # and what of the planner's answer
    questions: type[forms.Form] = Questions
    is_forced: bool = False


class SteeredAdmin(ModelAdmin):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """Rows with things to ask for: as actions on the list, as buttons on the row's own page."""

    steerings: ClassVar[tuple[Steering, ...]]
    row_related: ClassVar[tuple[str, ...]] = ()  # what the words about a row need
    change_form_template = "admin/jobs/steered_change_form.html"

    def row_label(self, row: Any) -> str | SafeString:
        """Where the row is now."""
        raise NotImplementedError

    def row_facts(self, row: Any) -> str:
        """What one should know before one asks."""
        raise NotImplementedError

    def row_trace(self, row: Any) -> object:
        """What is another value once something was changed. Locks it, so that what is told is true."""
        raise NotImplementedError

    def get_urls(self) -> list[URLPattern]:
        """The confirmation pages, before Django's catch-all of object ids."""
        routes = [
            path(
                f"{steering.name}/",
                self.admin_site.admin_view(partial(self.steer_view, steering=steering)),
                name=self._url_name(steering.name),
            )
            for steering in self.steerings
        ]
        return [*routes, *super().get_urls()]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """What this user may ask for, and nothing else: no bulk delete."""
        return {
            steering.name: (partial(_ask_first, steering=steering), steering.name, f"{steering.title}…")
            for steering in self.steerings
            if request.user.has_perm(steering.permission)
        }

    def _url_name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def _url(self, page: str) -> str:
        return reverse(f"admin:{self._url_name(page)}")

    def _page_url(self, pk: Any) -> str:
        return reverse(f"admin:{self._url_name('change')}", args=[quote(str(pk))])

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Offer what there is to ask for now."""
        row = kwargs.get("obj")
        if row is not None:
            context["steerings"] = [
                {"title": f"{steering.title}…", "url": f"{self._url(steering.name)}?{urlencode({'id': row.pk})}"}
                for steering in self.steerings
                if request.user.has_perm(steering.permission) and steering.is_offered(row)
            ]
        return super().render_change_form(request, context, *args, **kwargs)

    def steer_view(self, request: HttpRequest, steering: Steering) -> HttpResponse:
        """GET asks, POST does."""
        if not (self.has_view_permission(request) and request.user.has_perm(steering.permission)):
            raise PermissionDenied
        if request.method == "POST":
            return self._steer(request, steering)
        ids = self._valid(request.GET.getlist("id"))
        back = self._page_url(ids[0]) if len(ids) == 1 else self._url("changelist")
        return self.confirmation(request, steering, self._rows(request, ids), back)

    def confirmation(
        self, request: HttpRequest, steering: Steering, rows: QuerySet[Any], back: str, form: forms.Form | None = None
    ) -> HttpResponse:
        """The page that lists the rows, where they are now, and what will happen; it writes nothing."""
        found = list(rows.select_related(*self.row_related)[: MAX_ROWS + 1])
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
                "label": self.row_label(row),
                "facts": self.row_facts(row),
                "outcome": steering.outcome(row),
            }
            for row in found
        ]
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"{steering.title}: please confirm",
            "steering": steering,
            "form": form or steering.questions(),
            "told": told,
            "back": back,
            "action_url": self._url(steering.name),
        }
        return TemplateResponse(request, "admin/jobs/confirm.html", context)

    def _rows(self, request: HttpRequest, ids: list[Any]) -> QuerySet[Any]:
        return self.get_queryset(request).filter(pk__in=ids)

    def _valid(self, ids: list[str]) -> list[Any]:
        """The ids that can be one at all."""
        found = []
        for key in filter(None, (given.replace("\0", "") for given in ids)):
            with contextlib.suppress(ValidationError):
                found.append(self.opts.pk.to_python(key))
        return found

    def _steer(self, request: HttpRequest, steering: Steering) -> HttpResponse:
        ids = self._valid(request.POST.getlist("id"))[: MAX_ROWS + 1]
        rows = self._rows(request, ids)
        back = request.POST.get("back", "")
        if not url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure()):
            back = self._url("changelist")
        form = steering.questions(request.POST)
        if len(ids) > MAX_ROWS or not form.is_valid():
            return self.confirmation(request, steering, rows, back, form)
        outcomes = [
            (row, *self._steer_one(request, steering, row, form.cleaned_data))
            for row in rows.select_related(*self.row_related)
        ]
        self._tell(request, outcomes)
        return HttpResponseRedirect(back)

    def _steer_one(self, request: HttpRequest, steering: Steering, row: Any, answers: Answers) -> tuple[int, str]:
        """One row, in one transaction: the planner's call with its event, and the admin's own history."""
        try:
            with transaction.atomic():
                before = self.row_trace(row)
                answer = steering.ask(logged_in(request), row, answers)
                if self.row_trace(row) == before:
                    return messages.INFO, "asked for already, nothing changed"
                self.log_change(request, row, f"{steering.title}: {steering.done}. {answers['reason']}".strip())
                return messages.SUCCESS, f"{steering.done}{steering.told(answer)}"
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


def _ask_first(admin: SteeredAdmin, request: HttpRequest, rows: QuerySet[Any], steering: Steering) -> HttpResponse:
    """An action of a list: Django has it called with the rows that are selected."""
    return admin.confirmation(request, steering, rows, request.get_full_path())
