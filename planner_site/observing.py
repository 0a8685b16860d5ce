"""Each request gets an id, told in its answer, and is counted by its route."""

from __future__ import annotations

import time
from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

from jobs import request_ids
from jobs.metrics import HTTP_RESPONSES, HTTP_SECONDS

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class ObservedRequests:
    """The first middleware: what it measures is all that the application takes, to the first byte of the body."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request under its id: the caller's own, if it sent one that is fit."""
        request_id = request_ids.new(request.headers.get(request_ids.HEADER, ""))
        began = time.perf_counter()
        with request_ids.bound(request_id):
            response = self._get_response(request)
        method = request.method if request.method in _METHODS else "other"
        route = _route(request)
        HTTP_SECONDS.labels(method, route).observe(time.perf_counter() - began)
        HTTP_RESPONSES.labels(method, route, response.status_code).inc()
        response[request_ids.HEADER] = request_id
        return response


def _route(request: HttpRequest) -> str:
    """The pattern that was matched: never a path, of which there are as many as one likes."""
    match = request.resolver_match
    if match is None:
        return "none"
    return match.view_name if match.route.startswith("^") else f"/{match.route}"
