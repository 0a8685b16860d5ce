"""Which jobs a list shows: one set of filters for every front door, and what each means in the database.

Every filter is an equality, a prefix or a range that an index serves (docs/decisions/list-filters.md): no list counts,
skips rows, or looks inside of texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Q, QuerySet

from jobs.access_rules import visible_jobs
from jobs.errors import InvalidRequest
from jobs.models import Job, Pool
from jobs.validation import check_text

MAX_TEXT_LENGTH = 255
ID_PREFIX = "job_"

_SECONDS = re.compile(r"[0-9]{1,11}")
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True)
class JobFilter:
    """What a list is narrowed to: all that is given must hold, nothing given is all."""

    shown: Q = field(default_factory=Q)  # the status; each front door has its own words for it
    search: str = ""  # what the name, the id (with or without `job_`) or the model begins with, in any case
    created_by: str = ""  # the owner's e-mail or user name
    model: str = ""  # the name the engine serves, in any case
    provider: str = ""  # of the pool
    created_after: datetime | None = None  # that moment too
    created_before: datetime | None = None  # that moment no more


def job_filter(given: Mapping[str, str], *, shown: Q) -> JobFilter:
    """The filter that a query string asks for; `InvalidRequest` names what cannot be read. Other names are ignored."""

    def text(name: str) -> str:
        return check_text(name, given.get(name, "").strip(), MAX_TEXT_LENGTH)

    return JobFilter(
        shown=shown,
        search=text("search"),
        created_by=text("created_by"),
        model=text("model"),
        provider=text("provider"),
        created_after=_moment("created_after", text("created_after")),
        created_before=_moment("created_before", text("created_before")),
    )


def find_jobs(user: User, wanted: JobFilter) -> QuerySet[Job]:
    """The jobs this user may see and asks for, in no order yet; `InvalidRequest` for a provider that there is not."""
    jobs = visible_jobs(user).filter(wanted.shown)
    if wanted.search:
        jobs = jobs.filter(begins_with(wanted.search))
    if wanted.created_by:
        # keys, not a join: with them the database knows how many rows to expect
        owners = User.objects.filter(Q(email=wanted.created_by) | Q(username=wanted.created_by))
        jobs = jobs.filter(owner__in=list(owners.values_list("pk", flat=True)))
    if wanted.model:
        jobs = jobs.filter(model__iexact=wanted.model)
    if wanted.provider:
        jobs = jobs.filter(pool__in=_pools_of(wanted.provider))
    if wanted.created_after:
        jobs = jobs.filter(accepted_at__gte=wanted.created_after)
    if wanted.created_before:
        jobs = jobs.filter(accepted_at__lt=wanted.created_before)
    return jobs


def begins_with(text: str) -> Q:
    """Jobs whose name, id or model begins with it, in any case."""
    job_id = ID_PREFIX + text.lower().removeprefix(ID_PREFIX)
    return Q(name__istartswith=text) | Q(pk__startswith=job_id) | Q(model__istartswith=text)


def _pools_of(provider: str) -> list[int]:
    pools: dict[str, list[int]] = {name: [] for name in settings.PLANNER_PROVIDERS}
    for key, name in Pool.objects.values_list("pk", "provider"):
        pools.setdefault(name, []).append(key)
    if provider not in pools:
        raise InvalidRequest("provider", f"must be one of {', '.join(sorted(pools))}")
    return pools[provider]


def _moment(name: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        if _SECONDS.fullmatch(text):
            return datetime.fromtimestamp(int(text), UTC)
        if _RFC_3339.fullmatch(text):
            # in UTC: neither the database nor Python's calendar goes beyond the years 1 and 9999
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):  # the 30th of February; the year 0
        pass
    raise InvalidRequest(name, "must be unix seconds or a time as in RFC 3339, with its offset")
