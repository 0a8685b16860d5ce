"""What the list of jobs is narrowed to, as its address says it; `planner.find_jobs` says what each part means."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from django.db.models import Q
from django.http import QueryDict

from jobs import planner
from jobs.errors import InvalidRequest
from jobs.statuses import JobStatus, shown_as


@dataclass(frozen=True)
class Filters:
    """As given; "" is not given. Days are in UTC, and both are among those shown."""

    status: str = ""
    q: str = ""
    owner: str = ""
    model: str = ""
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, given: QueryDict) -> Filters:
        """Those of an address."""
        # PostgreSQL cannot even compare with a NUL.
        return cls(**{name: given.get(name, "").replace("\0", "").strip() for name in cls.__dataclass_fields__})

    @property
    def is_known(self) -> bool:
        """Whether there is such a status."""
        return self.status in JobStatus.values

    @property
    def narrows(self) -> bool:
        """Whether anything is filtered out."""
        return self != Filters()

    @property
    def has_more(self) -> bool:
        """Whether any of those is set that are folded away."""
        return bool(self.owner or self.model or self.since or self.until)

    def wanted(self) -> planner.JobFilter:
        """For the planner. `InvalidRequest` for what cannot be read."""
        shown = (shown_as(self.status) if self.is_known else Q(pk__in=[])) if self.status else Q()
        given = {
            "search": self.q,
            "created_by": self.owner,
            "model": self.model,
            "created_after": _midnight(self.since),
            "created_before": _midnight(self.until, days_later=1),
        }
        return planner.job_filter(given, shown=shown)


def _midnight(day: str, days_later: int = 0) -> str:
    if not day:
        return ""
    try:
        return f"{date.fromisoformat(day) + timedelta(days=days_later)}T00:00:00Z"
    except (ValueError, OverflowError):
        raise InvalidRequest("day", f"“{day[:40]}” is not a day; write it as 2026-01-31") from None
