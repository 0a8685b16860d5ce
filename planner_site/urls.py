"""Routes."""

from __future__ import annotations

from typing import NoReturn

from django.contrib import admin
from django.http import Http404, HttpRequest
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from django_q.models import Failure, Schedule, Success

from jobs.api.base import UnknownRoute
from jobs.api.health import healthz, readyz
from jobs.api.metrics import metrics
from jobs.openai_api.base import UnknownRoute as UnknownOpenAIRoute
from jobs.pages.access import admin_log_in
from jobs.schema.views import DocsView, SchemaView
from planner_site.console import console

admin.autodiscover()
# django-q2's own admin resubmits and deletes messages behind the planner's back. Only here has it been registered.
admin.site.unregister([Failure, Schedule, Success])


def nowhere(request: HttpRequest, **_: str) -> NoReturn:
    """404, whoever asks."""
    raise Http404


urlpatterns = [
    path("jobs", RedirectView.as_view(url="/jobs/")),
    path("admin", RedirectView.as_view(url="/admin/")),
    path("healthz", healthz),
    path("readyz", readyz),
    path("metrics", metrics),
    path("api", UnknownRoute.as_view()),
    path("api/schema", SchemaView.as_view()),
    path("api/docs", DocsView.as_view()),
    path("api/docs/", DocsView.as_view()),
    path("api/", include("jobs.api.urls")),
    path("v1", UnknownOpenAIRoute.as_view()),
    path("v1/", include("jobs.openai_api.urls")),
    path("jobs/", include("jobs.pages.urls")),
    path("admin/login/", admin_log_in),
    # where the admin would lead to a row's page on the site: no row has one, and Django's view stumbles over a bad uuid
    path("admin/r/<path:row>", nowhere),
    path("admin/", admin.site.urls),
    re_path(r"^(?!(?:api|v1|admin|jobs|static|healthz|readyz|metrics)(?:/|$))", console),
]

handler400 = "planner_site.error_pages.handler400"
handler403 = "planner_site.error_pages.handler403"
handler404 = "planner_site.error_pages.handler404"
handler500 = "planner_site.error_pages.handler500"
