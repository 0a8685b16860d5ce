"""Django's own error pages, for the whole site: below an API they are JSON in its shape.

What fails in a middleware, or has no route, never reaches the framework's handlers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views import defaults

from jobs.api.errors import Refusal, refusal_of
from jobs.openai_api.errors import error_json

_SHAPES: dict[str, Callable[[Refusal], dict[str, Any]]] = {"/api": lambda refusal: refusal.body, "/v1": error_json}


def handler400(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Malformed requests, such as an unknown Host."""
    return _answer(request, Refusal(400, "the request is malformed"), defaults.bad_request, exception)


def handler403(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Refusals outside the framework."""
    return _answer(request, refusal_of(exception), defaults.permission_denied, exception)


def handler404(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Paths without a route."""
    return _answer(request, Refusal(404, "Not Found"), defaults.page_not_found, exception)


def handler500(request: HttpRequest) -> HttpResponse:
    """What nobody caught. A database that does not answer is a 503 on every path."""
    refusal = refusal_of(sys.exc_info()[1])
    if refusal.http != 503:
        refusal = Refusal(500, "internal error")
    if answer := _json(request, refusal):
        return answer
    response = defaults.server_error(request, f"{refusal.http}.html")
    response.status_code = refusal.http
    for name, value in refusal.headers.items():
        response[name] = value
    return response


def _answer(
    request: HttpRequest,
    refusal: Refusal,
    page: Callable[[HttpRequest, Exception], HttpResponseBase],
    exception: Exception,
) -> HttpResponseBase:
    return _json(request, refusal) or page(request, exception)


def _json(request: HttpRequest, refusal: Refusal) -> JsonResponse | None:
    """The refusal in the shape of the API that the path belongs to; None outside of both."""
    for prefix, shape in _SHAPES.items():
        if request.path == prefix or request.path.startswith(f"{prefix}/"):
            return JsonResponse(shape(refusal), status=refusal.http, headers=refusal.headers)
    return None
