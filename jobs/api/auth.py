"""/auth: who one is, logging in and out. The console has no login form of its own, so one is served here."""

from __future__ import annotations

import logging

from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import accounts, oidc
from jobs.api.authentication import DEV_USERNAME, is_dev_mode, refuse_cross_site
from jobs.api.base import ApiView, PublicView, user_of
from jobs.api.bodies import FormBody, JsonBody
from jobs.api.errors import BadGateway
from jobs.api.parsing import Body
from jobs.api.throttling import LogInAttempt
from jobs.errors import InvalidRequest
from jobs.validation import is_storable

logger = logging.getLogger(__name__)

_WRONG = "wrong user name or password"
_HOW = {
    "basic": "POST username and password as JSON to log in",
    "dev": "nobody logs in here: every request is the development user's",
}


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


class _ForBrowsers(PublicView):
    """A view that people are sent to: what goes wrong there is a page for them, and JSON for programs."""

    def handle_exception(self, exc: Exception) -> Response | HttpResponse:  # type: ignore[override] # a page, too
        """The refusal, in the form that is asked for."""
        refused = super().handle_exception(exc)
        is_post = self.request.method == "POST"
        if not (_is_form(self.request) if is_post else _wants_page(self.request)):
            return refused
        page = _form if is_post else _refused_page
        response = page(self.request._request, error=refused.data["message"], status=refused.status_code)
        if "Retry-After" in refused:
            response["Retry-After"] = refused["Retry-After"]
        return response


class LoginView(_ForBrowsers):
    """The form for people, JSON for programs; with an identity provider, the way there."""

    parser_classes = (JsonBody, FormBody)

    def get(self, request: Request) -> Response | HttpResponse:
        """The form; in `dev` mode straight back, since nobody logs in there; in `oidc` mode on to the provider."""
        return_to = local_path(request.query_params.get("return", ""))
        if settings.PLANNER_AUTH_MODE == "oidc":
            LogInAttempt(request._request).begin()
            return redirect(oidc.begin(request._request, return_to))
        if not _wants_page(request):
            return Response({"mode": settings.PLANNER_AUTH_MODE, "message": _HOW[settings.PLANNER_AUTH_MODE]})
        return redirect(return_to) if is_dev_mode() else _form(request._request, return_to)

    def post(self, request: Request) -> Response | HttpResponse:
        """Log in: 303 to where one came from for the form, the user for JSON."""
        refuse_cross_site(request._request)
        if settings.PLANNER_AUTH_MODE != "basic":
            raise InvalidRequest("mode", _HOW.get(settings.PLANNER_AUTH_MODE, "people log in at the identity provider"))
        body = Body(request.data)
        user = _user_of_password(request._request, body.text("username"), body.text("password"))
        login(request._request, user)
        return _see_other(local_path(body.text("return"))) if _is_form(request) else Response(user_json(user))


class LogoutView(ApiView):
    """The end of a session."""

    def post(self, request: Request) -> Response:
        """Forget the session; `redirect_url` is where the browser ends the one at the identity provider."""
        provider_log_out = oidc.end_session_url(request._request)
        logout(request._request)
        further = {"redirect_url": provider_log_out} if provider_log_out else {}
        return Response({"message": "logged out", **further})


class CallbackView(_ForBrowsers):
    """Where the identity provider sends people back to."""

    def get(self, request: Request) -> Response | HttpResponse:
        """Log in whom the provider vouches for, and go where they wanted to."""
        if settings.PLANNER_AUTH_MODE != "oidc":
            raise InvalidRequest("mode", "there is no identity provider here")
        try:
            sign_in = oidc.finish(request._request)
        except oidc.ProviderFault as fault:
            logger.warning("identity provider: %s: %s", fault, fault.__cause__)
            raise BadGateway(f"the identity provider: {fault}") from fault
        except oidc.TokenRefused as refused:
            logger.warning("identity provider: an ID token was refused: %s", refused)
            raise AuthenticationFailed("the identity provider's token is not valid here") from refused
        user = accounts.user_of_claims(sign_in.claims["iss"], sign_in.claims)
        if not user.is_active:
            raise AuthenticationFailed("this account is disabled")
        login(request._request, user)
        oidc.keep_id_token(request._request, sign_in.id_token)
        return redirect(sign_in.return_to)


def user_json(user: User) -> dict[str, str]:
    """The six keys, always strings. `email` equals `createdBy` of the user's jobs, or else `username` does."""
    return {
        "id": _wire_id(user),
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


def _wire_id(user: User) -> str:
    if settings.PLANNER_AUTH_MODE == "oidc" and (identity := user.identities.first()):
        return str(identity.subject)
    return DEV_USERNAME if is_dev_mode() else f"basic-{user.username}"


def _user_of_password(request: HttpRequest, username: str, password: str) -> User:
    attempt = LogInAttempt(request, username)
    attempt.begin()
    # what cannot be stored is in no user name, and PostgreSQL refuses to look for it
    is_possible = is_storable(username + password)
    user = authenticate(request, username=username, password=password) if is_possible else None
    if not isinstance(user, User):
        raise AuthenticationFailed(_WRONG)
    attempt.succeeded()
    return user


def _is_form(request: Request) -> bool:
    return bool(request.content_type.startswith(FormBody.media_type))


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("Accept", "")


def _form(request: HttpRequest, return_to: str = "", error: str = "", status: int = 200) -> HttpResponse:
    return_to = return_to or local_path(request.POST.get("return", ""))
    return render(request, "auth/login.html", {"return_to": return_to, "error": error}, status=status)


def _refused_page(request: HttpRequest, error: str, status: int) -> HttpResponse:
    return render(request, "auth/refused.html", {"error": error, "login_path": settings.LOGIN_URL}, status=status)


def _see_other(path: str) -> HttpResponse:
    response = HttpResponseRedirect(path)
    response.status_code = 303
    return response
