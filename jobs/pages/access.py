"""Who is looking: pages are for people who are logged in, by whatever mode the installation uses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import logout
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

View = Callable[Concatenate[HttpRequest, User, ...], HttpResponse]


def signed_in(view: View) -> Callable[..., HttpResponse]:
    """Hand the view its user; send everybody else to the login and back."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if isinstance(request.user, User):
            return view(request, request.user, *args, **kwargs)
        return redirect(f"{settings.LOGIN_URL}?{urlencode({'return': request.get_full_path()})}")

    return guarded


@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    """End the session here."""
    logout(request)
    return redirect("pages:signed_out")


@require_safe
def signed_out(request: HttpRequest) -> HttpResponse:
    """Where a log-out ends: no redirect to a provider that would log in again by itself."""
    return render(request, "auth/signed_out.html", {"login_path": settings.LOGIN_URL})
