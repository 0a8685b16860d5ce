"""/metrics: the figures of this web server's processes, and of the rows."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from jobs.api.throttling import client_address
from jobs.collector import DatabaseCollector
from jobs.metrics import may_read, registry


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """In Prometheus's text format, for those that the settings allow; 403 for others."""
    if not may_see_figures(request):
        return HttpResponse("metrics are not for you", status=403, content_type="text/plain")
    return HttpResponse(generate_latest(registry(DatabaseCollector())), content_type=CONTENT_TYPE_LATEST)


def may_see_figures(request: HttpRequest) -> bool:
    """Whether the settings let this caller see what is in the metrics."""
    return may_read(_address(request), request.headers.get("Authorization", ""))


def _address(request: HttpRequest) -> str:
    """Where it comes from; empty behind a proxy nobody told us of, whose own address would pass for everybody's."""
    if not settings.PLANNER_PROXIES and "X-Forwarded-For" in request.headers:
        return ""
    return client_address(request)
