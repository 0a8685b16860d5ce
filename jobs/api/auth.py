"""/auth: who one is, logging in and out. The console has no login form of its own, so one is served here."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework.response import Response

from jobs.api.authentication import DEV_USERNAME, is_dev_mode, refuse_cross_site
from jobs.api.base import ApiView, PublicView, user_of
from jobs.api.bodies import FormBody, JsonBody
from jobs.api.parsing import Body
from jobs.errors import InvalidRequest

_WRONG = "wrong user name or password"


class ConfigView(PublicView):
    """How people log in here."""

    def get(self, request: Request) -> Response:
        """The mode."""
        return Response({"mode": settings.PLANNER_AUTH_MODE})


class UserInfoView(ApiView):
    """Who is asking."""

    def get(self, request: Request) -> Response:
        """The user; the console takes the first of email, username and id that is not empty for the owner's name."""
        return Response(user_json(user_of(request)))


class LoginView(PublicView):
    """The form for people, JSON for programs."""

    parser_classes = (JsonBody, FormBody)

    def get(self, request: Request) -> Response | HttpResponse:
        """The form; in `dev` mode straight back, since nobody logs in there."""
        return_to = local_path(request.query_params.get("return", ""))
        if "text/html" not in request.headers.get("Accept", ""):
            return Response(
                {"mode": settings.PLANNER_AUTH_MODE, "message": "POST username and password as JSON to log in"}
            )
        return redirect(return_to) if is_dev_mode() else login_form(request._request, return_to)

    def post(self, request: Request) -> Response | HttpResponse:
        """Log in: 303 to where one came from for the form, the user for JSON."""
        refuse_cross_site(request._request)
        if is_dev_mode():
            raise InvalidRequest("mode", "nobody logs in here: every request is the development user's")
        body = Body(request.data)
        username, password = body.text("username"), body.text("password")
        # NUL is in no user name, and PostgreSQL refuses to look for it
        user = None if "\0" in username else authenticate(request._request, username=username, password=password)
        is_form = request.content_type.startswith(FormBody.media_type)
        return_to = local_path(body.text("return")) if is_form else ""
        if not isinstance(user, User):
            if is_form:
                return login_form(request._request, return_to, error=_WRONG)
            raise AuthenticationFailed(_WRONG)
        login(request._request, user)
        return _see_other(return_to) if is_form else Response(user_json(user))


class LogoutView(ApiView):
    """The end of a session."""

    def post(self, request: Request) -> Response:
        """Forget the session."""
        logout(request._request)
        return Response({"message": "logged out"})


class CallbackView(PublicView):
    """Where an identity provider would send people back to."""

    def get(self, request: Request) -> Response:
        """Refused: there is no such provider in `dev` and `basic` mode."""
        raise InvalidRequest("mode", "there is no identity provider here")


def user_json(user: User) -> dict[str, str]:
    """The six keys, always strings. `email` equals `createdBy` of the user's jobs, or else `username` does."""
    return {
        "id": DEV_USERNAME if is_dev_mode() else f"basic-{user.username}",
        "name": user.get_full_name() or user.username,
        "email": user.email,
        "role": "admin" if user.has_perm("jobs.cancel_any_job") else "viewer",
        "username": user.username,
        "picture": "",
    }


def local_path(path: str) -> str:
    """The path if it leads nowhere but here, else `/`."""
    is_local = path.startswith("/") and url_has_allowed_host_and_scheme(path, allowed_hosts=None)
    return path if is_local else "/"


def login_form(request: HttpRequest, return_to: str, error: str = "") -> HttpResponse:
    """The form; 401 if it says why it comes back."""
    context: dict[str, Any] = {"return_to": return_to, "error": error}
    return render(request, "auth/login.html", context, status=401 if error else 200)


def _see_other(path: str) -> HttpResponse:
    response = HttpResponseRedirect(path)
    response.status_code = 303
    return response
