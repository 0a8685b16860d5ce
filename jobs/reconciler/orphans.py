"""The orphan sweep: list what bears our mark at the providers and at the MDS, give back what no row needs.

It may run at any time, in several places at once, and as often as one likes.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from django.db import DatabaseError

from jobs.batch_client import Batch, BatchPage
from jobs.errors import UpstreamError, UpstreamKind
from jobs.lifecycle.orphans import OrphanResource, orphan_batches, orphan_resources
from jobs.lifecycle.scans import is_over
from jobs.models import Pool
from jobs.reconciler.calls import batch_client, provisioner_of, stop_batch
from jobs.reconciler.pacing import in_turn, releasing

logger = logging.getLogger(__name__)

GRACE_SECONDS = 120.0  # an orphan younger than this may still be somebody's affair: it is only noted
REACH = timedelta(hours=24)  # batches older than this are not looked at


@dataclass(frozen=True)
class Finding:
    """One orphan, or one place that could not be looked at, and what was done."""

    where: str  # a pool's name, or "mds"
    name: str  # of the resource, or the batch's id; empty if the place itself is the trouble
    why: str
    outcome: str
    is_failed: bool = False  # somebody has to look at it, or the next sweep will


@dataclass
class Sweep:
    """What one sweep found. `after` is where in the MDS's list the next turn goes on, "" when all was read."""

    findings: list[Finding] = field(default_factory=list)
    after: str = ""


def sweep(
    *,
    after: str = "",
    seconds: float,
    grace_seconds: float = GRACE_SECONDS,
    reach: timedelta = REACH,
    only_pools: Collection[str] = (),
    dry_run: bool = False,
) -> Sweep:
    """One turn of at most about `seconds`: the pools (unless a turn before did), then the MDS's list from `after` on.

    With `only_pools` these alone, and the MDS is left out.
    With `dry_run` nothing is written and nothing is given back. Raises nothing that an upstream did.
    """
    until = time.monotonic() + seconds
    found = Sweep()
    if not after:
        pools = list(Pool.objects.filter(name__in=only_pools) if only_pools else Pool.objects.all())
        random.shuffle(pools)  # should the time be too short for all, it is not always the same ones
        for pool in pools:
            found.findings += _in_pool(pool, grace_seconds, until, dry_run=dry_run)
    if only_pools:
        return found
    try:
        found.after = _batches(found, after, until, timedelta(seconds=grace_seconds), reach, dry_run=dry_run)
    except UpstreamError as error:
        found.findings.append(Finding("mds", "", "its list cannot be read", str(error), is_failed=True))
    return found


def _in_pool(pool: Pool, grace_seconds: float, until: float, *, dry_run: bool) -> list[Finding]:
    """What is found there while there is time; a defect of one provider's adapter keeps nobody from the others."""
    found: list[Finding] = []
    try:
        for finding in _resources(pool, grace_seconds, dry_run=dry_run):
            found.append(finding)
            if time.monotonic() > until:
                break
    except DatabaseError:
        raise
    except Exception as error:
        logger.exception("pool %s: the orphan sweep failed in our own code", pool.name)
        found.append(Finding(pool.name, "", "our own code failed", repr(error), is_failed=True))
    return found


def _resources(pool: Pool, grace_seconds: float, *, dry_run: bool) -> Iterator[Finding]:
    try:
        provisioner = provisioner_of(pool)
        if not provisioner.holds_resources:
            return
        names = set(in_turn(pool, provisioner.discover)())
    except UpstreamError as error:
        yield Finding(pool.name, "", "it cannot be listed", str(error), is_failed=True)
        return
    orphans = orphan_resources(pool, names, is_kept=not dry_run)
    if orphans is None:
        yield Finding(pool.name, "", "its row is in use", "left to the next sweep", is_failed=True)
        return
    for orphan in orphans:
        outcome, is_failed = _give_back(pool, orphan, grace_seconds, dry_run=dry_run)
        yield Finding(pool.name, orphan.name, orphan.why, outcome, is_failed)


def _give_back(pool: Pool, orphan: OrphanResource, grace_seconds: float, *, dry_run: bool) -> tuple[str, bool]:
    if orphan.age_seconds < grace_seconds:
        return f"seen for {orphan.age_seconds:.0f} s; given back after {grace_seconds:.0f} s", False
    if dry_run:
        return "would be released", False
    try:
        # of how many replicas it was is not known any more; a turn for one, and the rest at the provider's own pace
        in_turn(pool, partial(provisioner_of(pool).release, orphan.name), requests=releasing(1))()
    except UpstreamError as error:
        return f"not released: {error}", True
    return "release sent", False


def _batches(found: Sweep, after: str, until: float, grace: timedelta, reach: timedelta, *, dry_run: bool) -> str:
    """Page by page from the newest; the id to go on after when the time is up, "" at the end."""
    stopped = ""  # each turn stops at least one, however long that takes
    while True:
        page = batch_client().list_page(after)
        now = page.server_at or datetime.now(UTC)  # the MDS's own clock, as its batches' times are
        for batch, why in orphan_batches(page.batches):
            if batch.created_at is not None and batch.created_at > now - grace:
                found.findings.append(Finding("mds", batch.id, why, f"younger than {grace.total_seconds():.0f} s"))
            elif stopped and time.monotonic() > until:
                # the rest of the page is still to be stopped, as far as it is within reach
                return "" if batch.created_at is not None and batch.created_at < now - reach else stopped
            else:
                stopped = batch.id
                found.findings += _stop(batch, why, dry_run=dry_run)
        if _is_last(page, now - reach):
            return ""
        after = page.batches[-1].id
        if time.monotonic() > until:
            return after


def _is_last(page: BatchPage, floor: datetime) -> bool:
    oldest = page.batches[-1].created_at if page.batches else None
    return not page.has_more or not page.batches or (oldest is not None and oldest < floor)


def _stop(batch: Batch, why: str, *, dry_run: bool) -> Iterator[Finding]:
    try:
        # the list's word on a status is not to be trusted: GET first
        if is_over(batch_client().get(batch.id)):
            return
        if dry_run:
            yield Finding("mds", batch.id, why, "would be cancelled")
            return
        stopped = stop_batch(batch.id)
        yield Finding("mds", batch.id, why, f"cancel sent; it is {stopped.status}")
    except UpstreamError as error:
        if error.kind != UpstreamKind.NOT_FOUND:
            yield Finding("mds", batch.id, why, f"not cancelled: {error}", is_failed=True)
