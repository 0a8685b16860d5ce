"""One's own account: who one is here, and the tokens for scripts."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_POST

from jobs import tokens
from jobs.errors import Conflict, InvalidRequest, NotFound
from jobs.pages import live
from jobs.pages.access import signed_in
from jobs.roles import ROLES

_DAY = 86_400
LIFETIMES = {"30": "30 days", "90": "90 days", "365": "1 year", "": "no end"}  # by days


@require_http_methods(["GET", "HEAD", "POST"])
@signed_in
def profile(request: HttpRequest, user: User) -> HttpResponse:
    """The account and its tokens; on POST a new token, which is in this answer and nowhere else."""
    if request.method != "POST":
        return _page(request, user)
    name, days = request.POST.get("name", ""), request.POST.get("days", "")
    try:
        if days not in LIFETIMES:
            raise InvalidRequest("expires_in_seconds", "is not one of those offered")
        token, secret = tokens.issue_token(user, name, int(days) * _DAY if days else None)
    except (InvalidRequest, Conflict) as refused:
        reason = refused.reason if isinstance(refused, InvalidRequest) else str(refused)
        given = {"error": reason[:1].upper() + reason[1:], "name": name, "days": days}
        return _page(request, user, status=409 if isinstance(refused, Conflict) else 400, **given)
    return _page(request, user, issued=token, secret=secret)


@require_POST
@signed_in
def revoke(request: HttpRequest, user: User, token_id: str) -> HttpResponse:
    """End a token of one's own, at once and for good."""
    try:
        token = tokens.revoke_token(user, token_id)
    except NotFound as missing:
        raise Http404(str(missing)) from missing
    messages.success(request, f"“{token.name}” is revoked: it opens nothing any more.")
    return live.go_to(request, "pages:profile")


def _page(request: HttpRequest, user: User, *, status: int = 200, **context: object) -> HttpResponse:
    shown = {
        "tokens": tokens.tokens_of(user),
        "roles": list(user.groups.filter(name__in=ROLES).values_list("name", flat=True)),
        "lifetimes": LIFETIMES,
        "max_name": tokens.MAX_NAME,
        **context,
    }
    response = render(request, "pages/profile.html", shown, status=status)
    response["Cache-Control"] = "no-store"
    return response
