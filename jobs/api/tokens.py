"""/auth/tokens: one's own tokens for scripts. Issued by people, not by tokens, and shown once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response

from jobs.api.base import ApiView, user_of
from jobs.api.parsing import Body
from jobs.api.wire import unix
from jobs.errors import Conflict, Forbidden, InvalidRequest, NotFound
from jobs.models import ApiToken
from jobs.validation import is_storable

MAX_TOKENS = 100  # of one user that are not revoked; so the list needs no pages
MAX_NAME = 100
MAX_SECONDS = 10 * 365 * 86_400


class TokensView(ApiView):
    """The tokens that are not revoked, and a new one."""

    def get(self, request: Request) -> Response:
        """Newest first; the tokens themselves cannot be shown again."""
        tokens = ApiToken.objects.unrevoked().filter(user=user_of(request))
        return Response({"tokens": [token_json(token) for token in tokens]})

    def post(self, request: Request) -> Response:
        """Issue one: `secret` is the token, in this answer and nowhere else."""
        user = user_of(request)
        if request.auth is not None:
            raise Forbidden("a token issues no tokens; log in with your name")
        body = Body(request.data)
        name, seconds = _name_of(body), _seconds_of(body)
        if ApiToken.objects.unrevoked().filter(user=user).count() >= MAX_TOKENS:
            raise Conflict(f"you have {MAX_TOKENS} tokens; revoke one that is not needed any more")
        expires_at = None if seconds is None else timezone.now() + timedelta(seconds=seconds)
        token, secret = ApiToken.issue(user, name, expires_at)
        token.refresh_from_db()
        return Response({"token": token_json(token), "secret": secret}, headers={"Cache-Control": "no-store"})


class TokenView(ApiView):
    """One token."""

    def delete(self, request: Request, token_id: str) -> Response:
        """Revoke it, at once and for good; again is no error."""
        is_number = token_id.isascii() and token_id.isdigit() and len(token_id) < 19
        mine = ApiToken.objects.filter(pk=int(token_id) if is_number else 0, user=user_of(request))
        if not mine.exists():
            raise NotFound(f'token "{token_id}" not found')
        mine.revoke()
        return Response({})


def token_json(token: ApiToken) -> dict[str, Any]:
    """A token as its user sees it."""
    return {
        "id": str(token.pk),
        "name": token.name,
        "createdAt": unix(token.created_at),
        "expiresAt": unix(token.expires_at),
        "lastUsedAt": unix(token.last_used_at),
    }


def _name_of(body: Body) -> str:
    name = body.text("name").strip()
    if not name or len(name) > MAX_NAME or not is_storable(name):
        raise InvalidRequest("name", f"must have 1 to {MAX_NAME} characters: what the token is for")
    return name


def _seconds_of(body: Body) -> int | None:
    seconds = body.get("expires_in_seconds")
    if seconds is None:
        return None
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 < seconds <= MAX_SECONDS:
        raise InvalidRequest("expires_in_seconds", f"must be an integer from 1 to {MAX_SECONDS}")
    return seconds
