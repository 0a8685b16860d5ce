"""The backfill: the list of the MDS is read page by page, one at a time in memory, and what is not here is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.contrib.auth.models import User

from jobs.access_rules import actor_name
from jobs.batch_client import Batch
from jobs.errors import UpstreamError, UpstreamKind
from jobs.lifecycle.imports import Found, already_here, import_batches, is_another_planners, is_ours
from jobs.lifecycle.scans import is_over
from jobs.reconciler.calls import batch_client
from jobs.validation import is_storable

# What the console of AIBrix writes, and then what others do.
OWNER_KEYS = ("aibrix.console.created_by", "created_by", "owner", "user", "email")

OVER, RUNNING = "imported, over", "imported, running"
HERE, OURS, ANOTHERS, GONE = "already here", "of this planner's jobs", "another planner's", "gone meanwhile"


@dataclass
class PageRead:
    """What was found on one page and what became of it. `after` is its last batch: where a next run may go on."""

    after: str
    counts: Counter[str] = field(default_factory=Counter)
    without_owner: list[str] = field(default_factory=list)  # batch ids
    refused: dict[str, str] = field(default_factory=dict)  # by batch id, why it cannot be stored


class UnknownPlace(Exception):
    """The MDS does not know the batch to go on after any more: what follows it cannot be told."""


class Owners:
    """Whose a batch is: the user named in its metadata, by user name or by an e-mail that only one has."""

    def __init__(self, keys: Sequence[str] = OWNER_KEYS, default: User | None = None) -> None:
        self._keys = keys
        self._default = default
        self._known: dict[str, User | None] = {}

    def of(self, batch: Batch) -> User | None:
        """The user; the default one, which may be None, for whom nobody here is known."""
        metadata = batch.raw.get("metadata")
        named = [metadata.get(key) for key in self._keys] if isinstance(metadata, dict) else []
        for name in named:
            if isinstance(name, str) and name and is_storable(name):
                return self._find(name) or self._default
        return self._default

    def _find(self, name: str) -> User | None:
        if name not in self._known:
            if len(self._known) >= _KNOWN_NAMES:
                self._known.clear()
            by_email = User.objects.filter(email__iexact=name)[:2]
            user = User.objects.filter(username=name).first()
            self._known[name] = user or (by_email[0] if len(by_email) == 1 else None)
        return self._known[name]


_KNOWN_NAMES = 10_000


def backfill(
    owners: Owners, *, since: datetime | None = None, after: str = "", dry_run: bool = False
) -> Iterator[PageRead]:
    """Import page by page from the newest batch down to `since`; each page is committed when it is told of.

    Raises `UpstreamError`, and `UnknownPlace`; what was imported before stays.
    """
    while True:
        page = batch_client().list_page(after)
        if after and not page.batches:
            # an end is told by `has_more`: after that nobody asks for another page
            raise UnknownPlace(after)
        read = PageRead(page.batches[-1].id if page.batches else "")
        young = [b for b in page.batches if since is None or b.created_at is None or b.created_at >= since]
        _import(young, owners, read, dry_run=dry_run)
        yield read
        if not page.has_more or not page.batches or len(young) < len(page.batches):
            return
        after = read.after


def _import(batches: Sequence[Batch], owners: Owners, read: PageRead, *, dry_run: bool) -> None:
    here = already_here(batch.id for batch in batches)
    found: list[Found] = []
    for batch in batches:
        if batch.id in here or is_ours(batch) or is_another_planners(batch):
            read.counts[HERE if batch.id in here else OURS if is_ours(batch) else ANOTHERS] += 1
        elif (owner := owners.of(batch)) is None:
            read.without_owner.append(batch.id)
        elif (now := _as_it_is(batch)) is None:
            read.counts[GONE] += 1
        else:
            found.append(Found(now, owner.pk, actor_name(owner)))
    if found and not dry_run:
        imported = import_batches(found)
        read.refused = imported.refused
        read.counts[HERE] += len(found) - len(imported.batch_ids) - len(imported.refused)  # another run was first
        found = [one for one in found if one.batch.id in imported.batch_ids]
    for one in found:
        read.counts[OVER if is_over(one.batch) else RUNNING] += 1


def _as_it_is(batch: Batch) -> Batch | None:
    """The list may be late about what runs, never about an end."""
    if is_over(batch):
        return batch
    try:
        return batch_client().get(batch.id)
    except UpstreamError as error:
        if error.kind == UpstreamKind.NOT_FOUND:
            return None
        raise
