"""Routes."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from jobs.api.base import UnknownRoute
from jobs.api.health import healthz, readyz

urlpatterns = [
    path("", RedirectView.as_view(url="/jobs/")),
    path("healthz", healthz),
    path("readyz", readyz),
    path("api", UnknownRoute.as_view()),
    path("api/", include("jobs.api.urls")),
    path("jobs/", include("jobs.pages.urls")),
    path("admin/", admin.site.urls),
]

handler400 = "jobs.api.errors.handler400"
handler403 = "jobs.api.errors.handler403"
handler404 = "jobs.api.errors.handler404"
handler500 = "jobs.api.errors.handler500"
