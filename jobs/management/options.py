"""Values of command lines: spans of time, moments, bounded numbers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

Number = TypeVar("Number", int, float)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

LONGEST = timedelta(days=100 * 365)  # further back than that there is nothing, and soon no calendar


def span(text: str) -> timedelta:
    """`30d`, `12h`, `90m`, `45s` or `2w`."""
    match = _SPAN.fullmatch(text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a span of time such as 30d, 12h, 90m, 45s or 2w")
    seconds = float(match[1]) * timedelta(**{_UNITS[match[2]]: 1}).total_seconds()
    if seconds > LONGEST.total_seconds():
        raise argparse.ArgumentTypeError(f"{text!r} is too long")
    return timedelta(seconds=seconds)


def number(kind: type[Number], low: Number, high: Number) -> Callable[[str], Number]:
    """A type for numbers within bounds, which are among them."""

    def parse(text: str) -> Number:
        with suppress(ValueError):
            found = kind(text)
            if low <= found <= high:  # false for NaN
                return found
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number from {low:g} to {high:g}")

    return parse


def moment(text: str) -> datetime:
    """A time or a day (of UTC, unless it names a zone), or a span before now."""
    try:
        day = parse_date(text)
        found = datetime(day.year, day.month, day.day) if day else parse_datetime(text)
    except ValueError:
        found = None
    if found is not None:
        return found if timezone.is_aware(found) else timezone.make_aware(found)
    try:
        return timezone.now() - span(text)
    except (argparse.ArgumentTypeError, OverflowError):
        message = f"{text!r} is neither a day or time (2026-01-31, 2026-01-31T12:00Z) nor a span before now (7d)"
        raise argparse.ArgumentTypeError(message) from None


def short_span(value: timedelta) -> str:
    """The other way round, in the largest unit that fits."""
    seconds = value.total_seconds()
    unit, size = next(
        (u, s) for u, s in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)) if seconds % s == 0 or s == 1
    )
    return f"{seconds / size:g}{unit}"
