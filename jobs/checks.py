"""Checks of the planner's settings: a wrong one is a sentence at start, not a failure in the night."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error

from jobs.conf import Times, times
from jobs.roles import ROLES

SETTINGS = "settings"  # the tag of those that the workers need as well

_CHOICES = {
    "PLANNER_AUTH_MODE": ("dev", "basic", "oidc"),
    "PLANNER_STATUS_VOCABULARY": ("planner", "console"),
}


def check_settings(**_: Any) -> list[CheckMessage]:
    """Choices, shares and spans that the engine relies on."""
    return [*_choices(), *_addresses(), *_shares(), *_networks(), *_identity_provider(), *_spans(times())]


def _choices() -> Iterator[CheckMessage]:
    choices = _CHOICES | {"PLANNER_QUEUE_POLICY": tuple(settings.PLANNER_QUEUE_POLICIES)}
    for name, allowed in choices.items():
        value = getattr(settings, name)
        if value not in allowed:
            yield Error(f"{name} is {value!r}.", hint=f"Set it to one of: {', '.join(allowed)}.", id="jobs.E001")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", settings.PLANNER_INSTALLATION):
        hint = "Letters, digits, '.', '_' and '-', at most 64: it is a part of names at providers and at the MDS."
        yield Error(f"PLANNER_INSTALLATION is {settings.PLANNER_INSTALLATION!r}.", hint=hint, id="jobs.E005")
    provider = settings.PLANNER_PROVIDER
    if provider and provider not in settings.PLANNER_PROVIDERS:
        known = ", ".join(sorted(settings.PLANNER_PROVIDERS))
        yield Error(f"PLANNER_PROVIDER is {provider!r}.", hint=f"Set it to one of: {known}.", id="jobs.E002")


def _addresses() -> Iterator[CheckMessage]:
    if not re.fullmatch(r"https?://[^/?#\[\]\s]+|https?://\[[0-9a-fA-F:.]+\](:\d+)?", settings.PLANNER_MDS_URL):
        hint = "Set it to where the metadata service answers, without a path, such as http://mds.example.org:8090."
        yield Error(f"PLANNER_MDS_URL is {settings.PLANNER_MDS_URL!r}.", hint=hint, id="jobs.E010")


def _shares() -> Iterator[CheckMessage]:
    numbers = {f"PLANNER_THREADS[{name!r}]": count for name, count in settings.PLANNER_THREADS.items()}
    named = ("PLANNER_WORKERS", "PLANNER_QUEUE_CAPACITY", "PLANNER_PRIORITY_AGEING_SECONDS")
    numbers |= {name: getattr(settings, name) for name in named}
    for name, count in numbers.items():
        if count < 1:
            yield Error(f"{name} is {count}.", hint="Set it to 1 or more.", id="jobs.E003")

    at_least_0 = ("WRITES_PER_MINUTE", "PROXIES", "KEEP_JOBS_DAYS", "KEEP_FAILED_DAYS", "WORKERS_METRICS_PORT")
    for name in (f"PLANNER_{end}" for end in at_least_0):
        if getattr(settings, name) < 0:
            yield Error(f"{name} is {getattr(settings, name)}.", hint="Set it to 0 or more.", id="jobs.E003")


def _networks() -> Iterator[CheckMessage]:
    for network in settings.PLANNER_METRICS_NETWORKS:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            hint = "Networks are written like 10.0.0.0/8 or ::1, with commas between."
            yield Error(f"PLANNER_METRICS_NETWORKS: {error}.", hint=hint, id="jobs.E009")


def _identity_provider() -> Iterator[CheckMessage]:
    if settings.PLANNER_AUTH_MODE != "oidc":
        return
    for name in ("PLANNER_OIDC_ISSUER", "PLANNER_OIDC_CLIENT_ID", "PLANNER_OIDC_CLIENT_SECRET"):
        if not getattr(settings, name):
            hint = "PLANNER_AUTH_MODE=oidc needs it; the provider tells it when the planner is registered there."
            yield Error(f"{name} is not set.", hint=hint, id="jobs.E006")
    default = settings.PLANNER_OIDC_DEFAULT_ROLE
    if default and default not in ROLES:
        hint = f"Leave it empty, or set it to one of: {', '.join(ROLES)}."
        yield Error(f"PLANNER_OIDC_DEFAULT_ROLE is {default!r}.", hint=hint, id="jobs.E007")
    if not default and not any(settings.PLANNER_OIDC_ROLES.values()):
        hint = "Name groups in PLANNER_OIDC_SUBMITTERS, _VIEWERS or _OPERATORS, or set PLANNER_OIDC_DEFAULT_ROLE."
        yield Error("Nobody who logs in at the identity provider has a role.", hint=hint, id="jobs.E008")


def _spans(t: Times) -> Iterator[CheckMessage]:
    cluster: dict[str, Any] = settings.Q_CLUSTER
    task_timeout: int = cluster["timeout"]
    rules = [
        ("lease > create_batch_timeout + send_margin", t.lease > t.create_batch_timeout + t.send_margin),
        (
            "look_lease > call_timeout + send_margin + turn_patience",
            t.look_lease > t.call_timeout + t.send_margin + t.turn_patience,
        ),
        ("call_timeout > connect_timeout", t.call_timeout > t.connect_timeout),
        (
            "no_calls_after >= no_long_calls_after + create_batch_timeout",
            t.no_calls_after >= t.no_long_calls_after + t.create_batch_timeout,
        ),
        (
            "Q_CLUSTER['timeout'] > no_calls_after + 2 * call_timeout",
            task_timeout > t.no_calls_after + 2 * t.call_timeout,
        ),
        ("lease > 2 * call_timeout + send_margin", t.lease > 2 * t.call_timeout + t.send_margin),
        ("Q_CLUSTER['retry'] > Q_CLUSTER['timeout']", cluster["retry"] > task_timeout),
        ("stalled > 2 * beat", t.stalled > 2 * t.beat),
        ("frozen > safety_net + beat", t.frozen > t.safety_net + t.beat),
        ("unready > safety_net + beat", t.unready > t.safety_net + t.beat),
    ]
    for rule, holds in rules:
        if not holds:
            yield Error(f"The spans of PLANNER_TIMES break the rule: {rule}.", hint="Change one.", id="jobs.E004")
