"""Who is asked to come back later: writes of one user, and log-ins of one name or from one address.

The framework imports this before it has views, so it imports none.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from collections.abc import Iterator
from contextlib import suppress

from django.conf import settings
from django.http import HttpRequest
from rest_framework.exceptions import Throttled
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from jobs.rate_limits import Rate

# Log-ins that fail. Those that succeed are given back, so that scripts and shared addresses are not in the way.
NAME_RATE = Rate(10, 300)
ADDRESS_RATE = Rate(60, 60)


class WriteThrottle(BaseThrottle):
    """At most PLANNER_WRITES_PER_MINUTE writes of one user, over all of the web's processes; 0: no limit."""

    _wait = 0.0

    def allow_request(self, request: Request, view: object) -> bool:
        """One statement for each write, none for a read."""
        if request.method in SAFE_METHODS or not settings.PLANNER_WRITES_PER_MINUTE:
            return True
        self._wait = Rate(settings.PLANNER_WRITES_PER_MINUTE, 60).take(f"writes:{request.user.pk}")
        return not self._wait

    def wait(self) -> float:
        """Seconds until there is room for one more."""
        return self._wait


class LogInAttempt:
    """One try to log in. It counts against the address first, so that one address cannot use up many names."""

    def __init__(self, request: HttpRequest, username: str = "") -> None:
        self._buckets = [*_address_bucket(request), *_name_bucket(username)]

    def begin(self) -> None:
        """Count it; raises `Throttled`, with the same words whether there is such a user or not."""
        for rate, key in self._buckets:
            if wait := rate.take(key):
                raise Throttled(math.ceil(wait), "too many attempts to log in")

    def succeeded(self) -> None:
        """Count it no longer."""
        for rate, key in self._buckets:
            rate.give_back(key)


def _name_bucket(username: str) -> Iterator[tuple[Rate, str]]:
    if username:
        # a digest: whatever was typed, perhaps a password, is not to be kept
        yield NAME_RATE, f"login:name:{hashlib.sha256(username.casefold().encode(errors='replace')).hexdigest()}"


def _address_bucket(request: HttpRequest) -> Iterator[tuple[Rate, str]]:
    with suppress(ValueError):
        seen = ipaddress.ip_address(client_address(request))
        address = getattr(seen, "ipv4_mapped", None) or seen
        # Loopback is a proxy of which nobody was told: its one bucket would be everybody's.
        if not address.is_loopback:
            prefix = 64 if address.version == 6 else 32  # whoever has one address of IPv6 has a whole network
            yield ADDRESS_RATE, f"login:address:{ipaddress.ip_network((address, prefix), strict=False)}"


def client_address(request: HttpRequest) -> str:
    """Where the request comes from: the address that the outermost of PLANNER_PROXIES trusted proxies has seen."""
    seen = [*request.headers.get("X-Forwarded-For", "").split(","), request.META.get("REMOTE_ADDR", "")]
    known = [address.strip() for address in seen if address.strip()]
    return known[-1 - min(settings.PLANNER_PROXIES, len(known) - 1)] if known else ""
