"""Users of an identity provider: who they are here, and which roles they have by what the provider says now."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import connection, transaction
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from jobs.models import Identity
from jobs.roles import ROLES

SUPERUSER = "superuser"
_LOCK = 7_205_911  # of PostgreSQL's advisory locks; any number that nobody else uses


@transaction.atomic
def user_of_claims(issuer: str, claims: dict[str, Any]) -> User:
    """The user of this subject of this issuer, made at their first log-in, with the roles they have from now on.

    Nobody is known by e-mail: it can change hands, and an account of the same one may be somebody else's.
    """
    with connection.cursor() as cursor:  # e-mails are not unique by themselves
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    subject = claims["sub"]
    identity = Identity.objects.select_related("user").filter(issuer=issuer, subject=subject).first()
    user = identity.user if identity else _new_user(issuer, subject, claims)
    user.email = _free_email(user, claims) or user.email
    given, family = _text(claims, "given_name", 150), _text(claims, "family_name", 150)
    user.first_name, user.last_name = (given, family) if given else (_text(claims, "name", 150), "")
    _give_roles(user, roles_of(claims))
    if identity is None:
        Identity.objects.create(user=user, issuer=issuer, subject=subject)
    return user


def roles_of(claims: dict[str, Any]) -> set[str]:
    """The roles that groups and verified e-mail give; without any, the default one if there is one."""
    groups = claims.get(settings.PLANNER_OIDC_GROUPS_CLAIM)
    names = {str(group) for group in (groups if isinstance(groups, list) else [groups])}
    email = _verified_email(claims).casefold()
    found = {
        role
        for role, members in settings.PLANNER_OIDC_ROLES.items()
        if any(member in names or member.casefold() == email for member in members)
    }
    return found or {settings.PLANNER_OIDC_DEFAULT_ROLE} - {""}


def limit_session(*, request: HttpRequest, **_: Any) -> None:
    """Receiver of `user_logged_in`: the session ends a fixed time from now, however much it is used."""
    request.session.set_expiry(timezone.now() + timedelta(seconds=settings.SESSION_COOKIE_AGE))


def _give_roles(user: User, roles: set[str]) -> None:
    """Exactly these; groups that are no roles, and superusers whom no setting names, are left as they are."""
    if settings.PLANNER_OIDC_ROLES.get(SUPERUSER):
        user.is_superuser = SUPERUSER in roles
    user.is_staff = user.is_superuser or "operator" in roles  # the admin is theirs
    user.save()
    user.groups.remove(*Group.objects.filter(name__in=ROLES.keys() - roles))
    user.groups.add(*Group.objects.filter(name__in=ROLES.keys() & roles))


def _new_user(issuer: str, subject: str, claims: dict[str, Any]) -> User:
    # Without what follows an @: a name must not look like an e-mail, by which owners are told apart.
    wished = User.normalize_username(_text(claims, "preferred_username", 100).partition("@")[0])
    wished = re.sub(r"[^\w.+-]", "", wished)[:100]
    if not wished or _is_taken(wished):
        wished = f"{wished or 'user'}-{hashlib.sha256(f'{issuer} {subject}'.encode()).hexdigest()[:12]}"
    user = User(username=wished)
    user.set_unusable_password()
    return user


def _free_email(user: User, claims: dict[str, Any]) -> str:
    email = _verified_email(claims)
    return "" if not email or _is_taken(email, but_for=user) else email


def _is_taken(name: str, but_for: User | None = None) -> bool:
    others = User.objects.exclude(pk=but_for.pk) if but_for and but_for.pk else User.objects
    return others.filter(Q(username__iexact=name) | Q(email__iexact=name)).exists()


def _verified_email(claims: dict[str, Any]) -> str:
    """What anybody can enter at their provider counts for nothing."""
    return _text(claims, "email", 254) if claims.get("email_verified") in (True, "true") else ""


def _text(claims: dict[str, Any], name: str, length: int) -> str:
    value = claims.get(name)
    return value.replace("\0", "").strip()[:length] if isinstance(value, str) else ""
