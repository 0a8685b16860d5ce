"""Probes and scrapes come to a process by its own address, over plain http, from nobody who is logged in."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase
from django.urls import resolve

PATHS = {"/healthz", "/readyz", "/metrics"}


class AnswerProbes:
    """Answers them before anything looks at their host, scheme or session; none of the three needs one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """The route's own view, or whatever comes next."""
        if request.path_info not in PATHS:
            return self._get_response(request)
        request.resolver_match = match = resolve(request.path_info)
        response: HttpResponseBase = match.func(request, *match.args, **match.kwargs)
        return response
