"""One's own tokens for scripts: issued by people, shown once, revoked rather than deleted."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth.models import User
from django.utils import timezone

from jobs.errors import Conflict, InvalidRequest, NotFound
from jobs.models import ApiToken
from jobs.models.access import ApiTokenQuerySet
from jobs.validation import is_storable

MAX_TOKENS = 100  # of one user that are not revoked; so lists need no pages
MAX_NAME = 100
MAX_SECONDS = 10 * 365 * 86_400


def tokens_of(user: User) -> ApiTokenQuerySet:
    """Those that are not revoked, newest first."""
    return ApiToken.objects.unrevoked().filter(user=user)


def issue_token(user: User, name: str, expires_in_seconds: int | None = None) -> tuple[ApiToken, str]:
    """A new token; returns its row, and the token itself, which cannot be had again.

    Raises `InvalidRequest`, and `Conflict` for one too many; each stores nothing.
    """
    name = name.strip()
    if not name or len(name) > MAX_NAME or not is_storable(name):
        raise InvalidRequest("name", f"must have 1 to {MAX_NAME} characters: what the token is for")
    if expires_in_seconds is not None and not 0 < expires_in_seconds <= MAX_SECONDS:
        raise InvalidRequest("expires_in_seconds", f"must be an integer from 1 to {MAX_SECONDS}")
    if tokens_of(user).count() >= MAX_TOKENS:
        raise Conflict(f"you have {MAX_TOKENS} tokens; revoke one that is not needed any more")
    lifetime = None if expires_in_seconds is None else timedelta(seconds=expires_in_seconds)
    token, secret = ApiToken.issue(user, name, None if lifetime is None else timezone.now() + lifetime)
    token.refresh_from_db()
    return token, secret


def revoke_token(user: User, token_id: str) -> ApiToken:
    """Revoke one of one's own, at once and for good; again is no error. `NotFound` if there is none."""
    is_number = token_id.isascii() and token_id.isdigit() and len(token_id) < 19
    mine = ApiToken.objects.filter(pk=int(token_id) if is_number else 0, user=user)
    token = mine.first()
    if token is None:
        raise NotFound(f'token "{token_id}" not found')
    mine.revoke()
    return token
