"""No NUL reaches the database: Django's admin looks up whatever an address says, and PostgreSQL's text knows no NUL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponseBase


class RefuseNulInAdmin:
    """404 for an admin address with a NUL in its path, 400 for one in its query or among the chosen rows."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *_: Any) -> None:
        """Refuse before the view has begun."""
        if request.resolver_match is None or request.resolver_match.app_name != "admin":
            return
        if "\0" in request.path:
            raise Http404
        if "%00" in request.META["QUERY_STRING"] or any("\0" in pk for pk in request.POST.getlist("_selected_action")):
            raise BadRequest("a NUL in the request")
