"""Observation, claimed per pool: one listing tells of every provision there, and only what changed is written."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from jobs.conf import times
from jobs.errors import PUT_OFF, UpstreamError, UpstreamKind
from jobs.lifecycle import due
from jobs.lifecycle.changes import disabled, pause_after
from jobs.lifecycle.claims import database_now
from jobs.lifecycle.outcomes import resource_facts
from jobs.lifecycle.writing import update_rows
from jobs.models import Job, Pool, Provision
from jobs.provisioners.base import Resource, ResourceState
from jobs.reading import rows
from jobs.statuses import PROVISION_ENDED, TERMINAL, ProvisionStatus

logger = logging.getLogger(__name__)

# A requested one is still being created, a failed or lost one is about to be released.
_WATCHED = (ProvisionStatus.PROVISIONING, ProvisionStatus.READY, ProvisionStatus.RELEASING)

# Thousands may be gone at once. They are read a few at a time, for a process keeps the memory of the most it has held.
_ROWS_AT_ONCE = 200

_HELD = f"""
    status NOT IN ({", ".join(f"'{status}'" for status in sorted(PROVISION_ENDED))})
    AND holds_resources AND create_started_at IS NOT NULL
"""
# Those whose time has come, and those that hold something for the first time.
_DUE_POOLS = f"""
    SELECT * FROM jobs_pool WHERE id = ANY(%s) AND (
        COALESCE(observe_lease_expires_at, observe_at) <= now()
        OR COALESCE(observe_lease_expires_at, observe_at) IS NULL
            AND EXISTS (SELECT FROM jobs_provision WHERE pool_id = jobs_pool.id AND {_HELD})
    )
"""  # noqa: S608 - only constants are put in

# What a listing may have news of: thousands that wait and tell nothing new are compared where they are, and never read.
_MAY_HAVE_NEWS = f"""
    SELECT p.id FROM jobs_provision p
    LEFT JOIN jsonb_to_recordset(%(listing)s::jsonb)
        AS seen (name text, state text, region text, ids jsonb, detail jsonb) ON seen.name = p.name
    WHERE p.pool_id = %(pool)s AND p.status = ANY(%(watched)s) AND {_HELD}
    AND (seen.name IS NULL OR seen.state = %(failed)s OR p.absent_since_at IS NOT NULL
        OR (p.observed_state, p.region, p.external_ids, p.detail)
            IS DISTINCT FROM (seen.state, seen.region, seen.ids, seen.detail))
"""  # noqa: S608 - only constants are put in


@dataclass(frozen=True)
class Observation:
    """One listing to be made, of these names, by the holder of the pool's observation lease."""

    pool: Pool
    version: int
    names: tuple[str, ...]
    began_at: datetime  # on the database's clock, before the listing
    send_by: float  # on this process's monotonic clock: what follows from the listing is not sent after it


def claim_observations(pool_ids: Collection[int]) -> list[Observation]:
    """Lease the due pools among these: those whose time has come, and those that hold something for the first time."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT EXISTS ({_DUE_POOLS})", [list(pool_ids)])
        if not cursor.fetchone()[0]:
            return []  # the usual answer, at every tick of every pass: without a transaction
    send_by = time.monotonic() + times().look_lease - times().call_timeout - times().send_margin
    with transaction.atomic():
        now = database_now()
        claimed: list[Observation] = []
        for pool in rows(Pool, f"{_DUE_POOLS} FOR NO KEY UPDATE SKIP LOCKED", [list(pool_ids)]):
            names = _held(pool)
            pool.observe_version += 1
            pool.observe_at = None
            pool.observe_lease_expires_at = now + timedelta(seconds=times().look_lease) if names else None
            pool.save(update_fields=["observe_version", "observe_at", "observe_lease_expires_at"])
            if names:
                claimed.append(Observation(pool, pool.observe_version, names, now, send_by))
    return claimed


def _held(pool: Pool) -> tuple[str, ...]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT name FROM jobs_provision WHERE pool_id = %s AND {_HELD}", [pool.pk])  # noqa: S608 - a constant
        return tuple(name for (name,) in cursor.fetchall())


def record_observation(observation: Observation, answer: dict[str, Resource] | UpstreamError) -> bool:
    """Write what the listing told. False if the observation was stale, and nothing was written.

    A lock timeout, at once, if the pool's row is in somebody's hands.
    """
    with transaction.atomic():
        now = database_now()
        # before all else, so that nobody's rows are held while this is not to be had
        mine = Pool.objects.select_for_update(nowait=True, no_key=True)
        pool = mine.filter(pk=observation.pool.pk, observe_version=observation.version).first()
        if pool is None:
            return False
        if isinstance(answer, UpstreamError):
            _record_failure(pool, answer, now)
        else:
            _record_facts(observation, answer)
            _end(pool, now, observed_at=observation.began_at, observe_error="", observe_failures=0)
        return True


def _record_failure(pool: Pool, error: UpstreamError, now: datetime) -> None:
    if error.code == PUT_OFF:  # the provider was not asked: its last answer stands
        _end(pool, now, pause=pause_after(error, 1, times().retry_max))
        return
    failures = pool.observe_failures + 1
    columns: dict[str, Any] = {"observe_error": str(error), "observe_failures": failures}
    if error.kind == UpstreamKind.INVALID_CREDENTIAL and pool.is_enabled:
        logger.error("pool %s is disabled: %s", pool, error)
        columns |= disabled(str(error), now)
    _end(pool, now, pause=pause_after(error, failures, times().retry_max), **columns)


def _end(pool: Pool, now: datetime, *, pause: timedelta | None = None, **columns: Any) -> None:
    """Give the lease back and set the next look."""
    pause = pause or timedelta(seconds=pool.observe_interval_seconds)
    Pool.objects.filter(pk=pool.pk).update(observe_lease_expires_at=None, observe_at=now + pause, **columns)


def _record_facts(observation: Observation, listing: dict[str, Resource]) -> None:
    ids = _may_have_news(observation.pool, listing)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        _record_some(observation, listing, ids[start : start + _ROWS_AT_ONCE])


def _record_some(observation: Observation, listing: dict[str, Resource], ids: list[UUID]) -> None:
    """Compare, lock what differs (jobs first), write it, and make it due. What is locked by others waits a round."""
    news: dict[Any, tuple[Provision, dict[str, Any]]] = {}
    for provision in rows(Provision, due.PROVISIONS, [ids]):
        facts = _news(provision, listing.get(provision.name), observation)
        if facts:
            news[provision.id] = (provision, facts)
    if not news:
        return
    jobs = due.lock_jobs(provision.job_id for provision, _ in news.values())
    held = due.lock_provisions(pid for pid, (provision, _) in news.items() if provision.job_id in jobs)
    updates: list[tuple[Any, dict[str, Any]]] = []
    job_ids: list[str] = []
    for pid, provision in held.items():
        facts = _news(provision, listing.get(provision.name), observation)
        if not facts:
            continue
        if provision.status == ProvisionStatus.RELEASING:
            # gone, or there again; the first listing that misses it changes nothing yet
            facts |= {} if facts.get("absent_since_at") else {"due_at": observation.began_at}
        elif jobs[provision.job_id].status not in TERMINAL:
            job_ids.append(provision.job_id)
        updates.append((pid, facts))
    update_rows(Provision, updates)
    Job.objects.filter(id__in=job_ids).update(due_at=Now())


def _may_have_news(pool: Pool, listing: dict[str, Resource]) -> list[UUID]:
    seen = [
        {"name": name, "state": each.state, "region": each.region, "ids": each.external_ids, "detail": each.detail}
        for name, each in listing.items()
    ]
    told: dict[str, Any] = {
        "pool": pool.pk,
        "watched": [status.value for status in _WATCHED],
        "failed": ResourceState.FAILED.value,
        "listing": json.dumps(seen),
    }
    with connection.cursor() as cursor:
        cursor.execute(_MAY_HAVE_NEWS, told)
        return [row[0] for row in cursor.fetchall()]


def _news(provision: Provision, resource: Resource | None, observation: Observation) -> dict[str, Any]:
    """The columns that differ from what the row tells; none if the row knows of something newer than the listing."""
    if provision.status not in _WATCHED or provision.create_started_at is None:
        return {}
    if provision.observed_at is not None and provision.observed_at >= observation.began_at:
        return {}
    if resource is None:
        return _absence(provision, observation)
    facts = resource_facts(resource, observation.began_at)
    if provision.status == ProvisionStatus.RELEASING:
        # that a resource on its way out is broken is no failure of the release
        facts = {name: value for name, value in facts.items() if not name.startswith("last_error")}
    compared = [name for name in facts if name not in {"observed_at", "last_error_at"}]
    if all(getattr(provision, name) == facts[name] for name in compared):
        return {}
    return facts | {"absence_confirmed_at": None}


def _settled_at(provision: Provision) -> datetime:
    """From when on a listing that misses the resource tells of something: after its create, and after its delete."""
    if provision.status == ProvisionStatus.RELEASING and provision.release_sent_at is None:
        return datetime.max.replace(tzinfo=UTC)
    unanswered = timedelta(seconds=times().lease)
    ends = [provision.create_ended_at, provision.release_sent_at]
    if provision.create_ended_at is None and provision.create_started_at is not None:
        ends.append(provision.create_started_at + unanswered)
    return max(end for end in ends if end is not None)


def _absence(provision: Provision, observation: Observation) -> dict[str, Any]:
    """Absence counts in two listings far enough apart, and only if no create can take effect any more."""
    if observation.began_at <= _settled_at(provision):
        return {}
    if provision.absent_since_at is None:
        return {"absent_since_at": observation.began_at, "observed_at": observation.began_at}
    confirm = timedelta(seconds=observation.pool.absence_confirm_seconds)
    if provision.absence_confirmed_at is None and provision.absent_since_at + confirm <= observation.began_at:
        return {"absence_confirmed_at": observation.began_at, "observed_at": observation.began_at}
    return {}
