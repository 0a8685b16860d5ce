"""A job's story as people read it: the timeline with how long each status lasted, and the provisions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from jobs.models import Job, JobEvent, Provision

TIMELINE_LINES = 200


def span(length: timedelta) -> str:
    """A length of time in its two largest units: `2 d 4 h`, `3 min 20 s`, `0.4 s`."""
    seconds = length.total_seconds()
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    rest = round(seconds)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        parts.append((count, unit))
    first = next(place for place, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


@dataclass(frozen=True)
class Line:
    """One line of the timeline; for one that changed the status, how long that status lasted, "" until it is over."""

    event: JobEvent
    lasted: str
    is_current: bool


def timeline(job: Job) -> list[Line]:
    """The newest lines of the job's story, in order."""
    events = list(job.events.defer("data").order_by("-sequence")[:TIMELINE_LINES])[::-1]
    changes = [event for event in events if event.to_status]
    ends = {event.pk: following.at for event, following in itertools.pairwise(changes)}
    return [
        Line(
            event,
            lasted=span(ends[event.pk] - event.at) if event.pk in ends else "",
            is_current=not job.is_terminal and bool(changes) and event is changes[-1],
        )
        for event in events
    ]


@dataclass(frozen=True)
class Reservation:
    """One provision of a job and the spans people ask for."""

    provision: Provision
    ready_after: str
    held_for: str


def reservations(provisions: Iterable[Provision]) -> list[Reservation]:
    """A job's provisions as its page shows them."""
    return [
        Reservation(
            provision,
            ready_after=span(provision.ready_at - provision.requested_at) if provision.ready_at else "",
            held_for=span(provision.released_at - provision.requested_at) if provision.released_at else "",
        )
        for provision in provisions
    ]
