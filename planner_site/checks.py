"""Checks of the settings that decide who can get in, and of the console's files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning

from planner_site.logs import FORMS

LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "[::1]"}


def check_security(**_: Any) -> list[CheckMessage]:
    """An installation that says it is a real one must not run with what everybody knows."""
    found: list[CheckMessage] = []
    if settings.DEBUG or not settings.HTTPS:
        return found
    if settings.IS_DEVELOPMENT_KEY:
        hint = "Set DJANGO_SECRET_KEY; on a development machine, DJANGO_DEBUG=1 or DJANGO_HTTPS=0."
        found.append(Error("DJANGO_SECRET_KEY is not set.", hint=hint, id="planner.E001"))
    if settings.PLANNER_AUTH_MODE == "dev":
        hint = "In this mode everybody is an operator. Set PLANNER_AUTH_MODE=basic, or DJANGO_HTTPS=0 on loopback."
        found.append(Error("PLANNER_AUTH_MODE is dev.", hint=hint, id="planner.E002"))
    if settings.PLANNER_AUTH_MODE == "oidc" and not settings.PLANNER_OIDC_ISSUER.startswith("https://"):
        hint = "Over plain http anybody on the way can log in as anybody. Set an https address."
        found.append(Error("PLANNER_OIDC_ISSUER is not https.", hint=hint, id="planner.E003"))
    if "*" in settings.ALLOWED_HOSTS:
        hint = "Links in answers are made of the host that a request names. Name those that this installation has."
        found.append(Error("DJANGO_ALLOWED_HOSTS is *.", hint=hint, id="planner.E005"))
    return found


def check_deployment(**_: Any) -> list[CheckMessage]:
    """What an installation has to say for itself: which names it has, and what stands before it."""
    found: list[CheckMessage] = []
    if settings.DEBUG or not settings.HTTPS:
        return found
    if not set(settings.ALLOWED_HOSTS) - LOOPBACK_HOSTS:
        hint = "Set DJANGO_ALLOWED_HOSTS to the names that people use; all others are refused."
        found.append(CheckWarning("DJANGO_ALLOWED_HOSTS names nothing but loopback.", hint=hint, id="planner.W001"))
    if not settings.PLANNER_PROXIES:
        hint = "https ends at a proxy. Set PLANNER_PROXIES to how many there are, or all log-ins come from one address."
        found.append(CheckWarning("PLANNER_PROXIES is 0.", hint=hint, id="planner.W002"))
    return found


def check_logs(**_: Any) -> list[CheckMessage]:
    """The form of the logs is one there is."""
    form = os.environ.get("PLANNER_LOG_FORMAT", "")
    if form in {"", *FORMS}:
        return []
    return [Error(f"PLANNER_LOG_FORMAT is {form!r}.", hint=f"Set it to one of: {', '.join(FORMS)}.", id="planner.E006")]


def check_console(**_: Any) -> list[CheckMessage]:
    """A console that is to be served is there."""
    folder = settings.PLANNER_CONSOLE_DIST
    if not folder or (Path(folder) / "index.html").is_file():
        return []
    hint = "Set it to the folder that the console's build made (it holds index.html), or leave it unset."
    return [Error(f"PLANNER_CONSOLE_DIST is {folder!r}, where no index.html is.", hint=hint, id="planner.E004")]
