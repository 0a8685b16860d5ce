"""The accept reference: a bare DRF view that inserts the job's row as it was asked for.

It has the planner's middleware, database settings and table; it checks nothing, asks for no login, looks nothing up,
and writes neither an event nor a hint.
"""

from __future__ import annotations

import functools
from typing import cast

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from jobs.models import Job


class BareView(APIView):
    """POST, with the planner's own body."""

    def post(self, request: Request) -> Response:
        """Insert one row."""
        asked = cast(dict[str, str], request.data)
        job = Job.objects.create(
            owner_id=_owner_id(),
            created_by="alice@example.org",
            name=asked["name"],
            endpoint=asked["endpoint"],
            input_file_id=asked["input_dataset"],
            completion_window=asked["completion_window"],
            completion_window_seconds=3600,
            model_id=asked["model_id"],
            template_name=asked["model_template_name"],
            queue_class="",
        )
        return Response({"id": job.id, "status": job.status, "name": job.name})


@functools.cache
def _owner_id() -> int:
    return User.objects.get(username="alice").pk


def _healthy(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


urlpatterns = [path("api/v1/jobs", BareView.as_view()), path("healthz", _healthy)]
