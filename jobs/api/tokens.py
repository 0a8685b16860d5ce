"""/auth/tokens: one's own tokens for scripts. Issued by people, not by tokens, and shown once."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from jobs import tokens
from jobs.api.base import ApiView, user_of
from jobs.api.parsing import Body
from jobs.api.wire import unix
from jobs.errors import Forbidden, InvalidRequest
from jobs.models import ApiToken


class TokensView(ApiView):
    """The tokens that are not revoked, and a new one."""

    def get(self, request: Request) -> Response:
        """Newest first; the tokens themselves cannot be shown again."""
        return Response({"tokens": [token_json(token) for token in tokens.tokens_of(user_of(request))]})

    def post(self, request: Request) -> Response:
        """Issue one: `secret` is the token, in this answer and nowhere else."""
        user = user_of(request)
        if request.auth is not None:
            raise Forbidden("a token issues no tokens; log in with your name")
        body = Body(request.data)
        token, secret = tokens.issue_token(user, body.text("name"), _seconds_of(body))
        return Response({"token": token_json(token), "secret": secret}, headers={"Cache-Control": "no-store"})


class TokenView(ApiView):
    """One token."""

    def delete(self, request: Request, token_id: str) -> Response:
        """Revoke it, at once and for good; again is no error."""
        tokens.revoke_token(user_of(request), token_id)
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


def _seconds_of(body: Body) -> int | None:
    seconds = body.get("expires_in_seconds")
    if seconds is not None and (not isinstance(seconds, int) or isinstance(seconds, bool)):
        raise InvalidRequest("expires_in_seconds", f"must be an integer from 1 to {tokens.MAX_SECONDS}")
    return seconds
