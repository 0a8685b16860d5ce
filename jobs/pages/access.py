"""Who is looking: pages are for people who are logged in, by whatever mode the installation uses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import logout
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from jobs import oidc
from jobs.pages import live

View = Callable[Concatenate[HttpRequest, User, ...], HttpResponse]


def signed_in(view: View) -> Callable[..., HttpResponse]:
    """Hand the view its user; send everybody else to the login and back, whatever part of a page they asked for."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if isinstance(request.user, User):
            return view(request, request.user, *args, **kwargs)
        return _to_log_in(request, live.page_path(request))

    return guarded


@require_safe
def admin_log_in(request: HttpRequest) -> HttpResponse:
    """In the place of the admin's own log-in, which counts no attempts and knows no identity provider."""
    if request.user.is_authenticated:  # and yet was sent here: another log-in would only lead here again
        raise PermissionDenied("The admin is for operators.")
    return _to_log_in(request, request.GET.get("next", reverse("admin:index")))


def _to_log_in(request: HttpRequest, return_to: str) -> HttpResponse:
    return live.go_to(request, f"{settings.LOGIN_URL}?{urlencode({'return': return_to})}")


@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    """End the session here, and then the one at the identity provider."""
    provider_log_out = oidc.end_session_url(request)
    logout(request)
    return redirect(provider_log_out or "pages:signed_out")


@require_safe
def signed_out(request: HttpRequest) -> HttpResponse:
    """Where a log-out ends: no redirect to a provider that would log in again by itself."""
    return render(request, "auth/signed_out.html", {"login_path": settings.LOGIN_URL})
