"""Who is asking: a bearer token, a session, or in `dev` mode one fixed operator.

Reads here write nothing but when a token was last used, and that once a minute.

A browser sends its session with every request, whoever caused it, so writes that rest on it must come from our
own pages; there are no CSRF tokens under /api, because the console knows none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponseBase
from django.utils.functional import SimpleLazyObject
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from jobs.models import ApiToken
from jobs.models.access import USE_NOTED_FOR

CHALLENGE = 'Bearer realm="planner"'
DEV_USERNAME = "dev-user"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


# Asked with every request; what Django puts together anew for a query costs more than the database takes to answer it.
_DEV_USER = "SELECT * FROM auth_user WHERE username = %s"
_HOLDER = """
    SELECT holder.*, token.id AS token_id,
        COALESCE(token.last_used_at > statement_timestamp() - %(noted_for)s, false) AS is_use_noted
    FROM jobs_apitoken AS token JOIN auth_user AS holder ON holder.id = token.user_id
    WHERE token.digest = %(digest)s AND token.revoked_at IS NULL AND holder.is_active
        AND (token.expires_at IS NULL OR token.expires_at > statement_timestamp())
"""


def is_dev_mode() -> bool:
    """Whether nobody logs in here and everybody is one operator."""
    return bool(settings.PLANNER_AUTH_MODE == "dev")


def dev_user() -> User:
    """The one user of `dev` mode. Made after a migrate; a request makes it only if the mode was changed since."""
    for user in User.objects.raw(_DEV_USER, [DEV_USERNAME]):
        return user
    fields = {"email": "test@aibrix.ai", "first_name": "Test", "last_name": "User", "password": "!"}
    user, _created = User.objects.get_or_create(
        username=DEV_USERNAME, defaults={"is_staff": True, "is_superuser": True, **fields}
    )
    return user


class DevUserMiddleware:
    """In `dev` mode every request, to API, pages and admin alike, is the fixed operator's."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if is_dev_mode():
            # lazy: /healthz and static files need no database
            request.user = cast(User, SimpleLazyObject(functools.cache(dev_user)))
        return self.get_response(request)


class PlannerAuthentication(BaseAuthentication):
    """`Authorization: Bearer`, else the session (in `dev` mode: the fixed user)."""

    def authenticate(self, request: Request) -> tuple[User, str | None] | None:
        """The user and the token; None when nobody is logged in."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and not is_dev_mode():
            return user_of_token(token.strip()), token
        user = request._request.user
        if not user.is_authenticated:
            return None
        refuse_cross_site(request._request)
        return user, None

    def authenticate_header(self, request: Request) -> str:
        """Its presence makes a missing login 401 and not 403."""
        return CHALLENGE


def user_of_token(token: str) -> User:
    """The active user who holds this token. That it is used is written down once a minute, reads or no reads."""
    holders: Any = User.objects.raw(_HOLDER, {"digest": ApiToken.digest_of(token), "noted_for": USE_NOTED_FOR})
    for user in holders:
        if not user.is_use_noted:
            with suppress(DatabaseError):  # a read is answered from a database that takes no writes, too
                ApiToken.objects.filter(pk=user.token_id).note_use()
        return cast(User, user)
    raise AuthenticationFailed("unauthorized: unknown, expired or revoked token")


def refuse_cross_site(request: HttpRequest) -> None:
    """Refuse a write that a browser says another site caused; clients that are no browsers say nothing.

    Sites that PLANNER_CORS_ORIGINS names are no other sites. `*` names none: it opens nothing that rests on a session.
    """
    origin = request.headers.get("Origin")
    if request.method in _SAFE_METHODS or (origin and origin.lower() in settings.CORS_ALLOWED_ORIGINS):
        return
    if request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
        raise PermissionDenied("refused: the request comes from another site")
    if origin is not None and origin.lower() != f"{request.scheme}://{request.get_host()}".lower():
        raise PermissionDenied("refused: the request comes from another site")
