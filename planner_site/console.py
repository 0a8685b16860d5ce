"""A console build, served at `/`: its files, and its index.html for every address that the console itself routes."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_safe
from whitenoise.base import WhiteNoise
from whitenoise.middleware import WhiteNoiseMiddleware

_INDEX = "/index.html"
# As the bundler names what never changes: index-BxQ2f9a1.js
_HASHED_NAME = r"^/assets/.*[-.][A-Za-z0-9_-]{8,}\.[a-z0-9]+$"


@require_safe
def console(request: HttpRequest) -> HttpResponseBase:
    """The file of this path, else index.html. Without a console `/` leads to the pages, and nothing else exists."""
    if not settings.PLANNER_CONSOLE_DIST:
        return _no_console(request)
    files = _files_of(settings.PLANNER_CONSOLE_DIST)
    file = files.get(request.path_info) or files.get(_INDEX)
    if file is None:
        raise Http404("The console has no index.html.")
    response: HttpResponseBase = WhiteNoiseMiddleware.serve(file, request)
    return response


def _no_console(request: HttpRequest) -> HttpResponseBase:
    if request.path_info != "/":
        raise Http404
    return redirect("/jobs/")


@cache
def _files_of(folder: str) -> dict[str, Any]:
    """The files by their addresses. Read once: a path that is not among them reaches no disk."""
    noise = WhiteNoise(
        None,
        root=folder,
        allow_all_origins=False,
        immutable_file_test=_HASHED_NAME,
        add_headers_function=_never_keep_the_index,
    )
    files: dict[str, Any] = noise.files
    return files


def _never_keep_the_index(headers: Any, path: str, url: str) -> None:
    if url == _INDEX:
        headers["Cache-Control"] = "no-cache"
