"""Checks of the settings that decide who can get in, and of the console's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error


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
    return found


def check_console(**_: Any) -> list[CheckMessage]:
    """A console that is to be served is there."""
    folder = settings.PLANNER_CONSOLE_DIST
    if not folder or (Path(folder) / "index.html").is_file():
        return []
    hint = "Set it to the folder that the console's build made (it holds index.html), or leave it unset."
    return [Error(f"PLANNER_CONSOLE_DIST is {folder!r}, where no index.html is.", hint=hint, id="planner.E004")]
