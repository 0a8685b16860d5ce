"""Checks of the settings that decide who can get in."""

from __future__ import annotations

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
    return found
