"""What is due and for whom: the claims' SQL, and the timers a broker sleeps on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models.functions import Now

from jobs.conf import LONE_CRASHES
from jobs.models import Job, Pool, Provision
from jobs.reading import rows
from jobs.statuses import NO_CALL, ProvisionStatus

# A job whose last claims died with it is a suspect: it is claimed alone, so that it takes nobody along.
_SUSPECT = f"(crashes >= {LONE_CRASHES} OR (crashes = {LONE_CRASHES - 1} AND lease_expires_at IS NOT NULL))"

_DUE_JOBS = f"""
    SELECT due.*
    FROM unnest(%s::bigint[], %s::int[]) AS share(bulkhead, free)
    CROSS JOIN LATERAL (
        SELECT * FROM jobs_job
        WHERE bulkhead = share.bulkhead AND claimable_at <= now() AND NOT {_SUSPECT}
        ORDER BY claimable_at LIMIT share.free
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS due
    ORDER BY due.claimable_at
"""  # noqa: S608 - only constants are put in

_HAS_SUSPECT = f"""
    SELECT EXISTS (SELECT FROM jobs_job WHERE crashes > 0 AND claimable_at <= now() AND {_SUSPECT})
"""  # noqa: S608 - only constants are put in

# One at a time per status and pool in the whole installation: many suspects leave the other workers to the other jobs,
# and an upstream that hangs holds up no suspect that does not need it. (A leased row's bulkhead is of its next call.)
_DUE_SUSPECT = f"""
    SELECT * FROM jobs_job WHERE crashes > 0 AND claimable_at <= now() AND {_SUSPECT}
    AND (bulkhead = {NO_CALL} OR NOT EXISTS (
        SELECT 1 FROM jobs_job AS held WHERE held.crashes >= {LONE_CRASHES} AND held.lease_expires_at > now()
        AND held.status = jobs_job.status AND held.pool_id IS NOT DISTINCT FROM jobs_job.pool_id
    ))
    ORDER BY claimable_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
"""  # noqa: S608 - only constants are put in

# The job's row is locked before its provision's, here as everywhere.
_DUE_RELEASES = """
    SELECT due.id, due.job_id
    FROM unnest(%s::bigint[], %s::int[]) AS share(pool, free)
    CROSS JOIN LATERAL (
        SELECT p.id, p.job_id FROM jobs_provision p JOIN jobs_job j ON j.id = p.job_id
        WHERE p.pool_id = share.pool AND p.status = 'releasing' AND p.claimable_at <= now()
        ORDER BY p.claimable_at LIMIT share.free
        FOR NO KEY UPDATE OF j SKIP LOCKED
    ) AS due
"""

# Read at every turn of every pass: text that stays the same is not put together anew each time.
_LOCK_JOBS = "SELECT * FROM jobs_job WHERE id = ANY(%s) FOR NO KEY UPDATE SKIP LOCKED"
_LOCK_PROVISIONS = "SELECT * FROM jobs_provision WHERE id = ANY(%s) FOR NO KEY UPDATE SKIP LOCKED"
PROVISIONS = "SELECT * FROM jobs_provision WHERE id = ANY(%s)"
_POOLS = "SELECT * FROM jobs_pool WHERE id = ANY(%s)"

_NEXT_TIMER = """
    SELECT EXTRACT(EPOCH FROM LEAST(
        (SELECT min(claimable_at) FROM jobs_job WHERE claimable_at IS NOT NULL),
        (SELECT min(claimable_at) FROM jobs_provision WHERE status = 'releasing' AND claimable_at IS NOT NULL),
        (SELECT min(COALESCE(observe_lease_expires_at, observe_at)) FROM jobs_pool),
        (SELECT min(COALESCE(lease_expires_at, due_at)) FROM jobs_batchscan)
    ) - clock_timestamp())
"""


def seconds_to_next_timer() -> float | None:
    """Until the earliest row becomes claimable; negative if one is, None if there is none."""
    with connection.cursor() as cursor:
        cursor.execute(_NEXT_TIMER)
        seconds = cursor.fetchone()[0]
    return None if seconds is None else float(seconds)


def database_started_at() -> datetime:
    """Since when the database has been running without a break."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_postmaster_start_time()")
        started_at: datetime = cursor.fetchone()[0]
    return started_at


def due_jobs(free: Mapping[int, int]) -> list[Job]:
    """Lock what is due, per bulkhead at most its free places."""
    return rows(Job, _DUE_JOBS, [list(free), list(free.values())])


def has_suspect() -> bool:
    """Whether a due job may have killed its worker before: the usual answer, no, needs no transaction."""
    with connection.cursor() as cursor:
        cursor.execute(_HAS_SUSPECT)
        return bool(cursor.fetchone()[0])


def due_suspect() -> list[Job]:
    """Lock one due job that may have killed its worker before, if there is one."""
    return rows(Job, _DUE_SUSPECT)


def due_releases(free: Mapping[int, int], but_not: Collection[str]) -> list[tuple[Job, Provision]]:
    """Lock due releases with their jobs, per pool at most its free places and one for each job."""
    if not free:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_DUE_RELEASES, [list(free), list(free.values())])
        wanted = {job_id: provision_id for provision_id, job_id in cursor.fetchall() if job_id not in but_not}
    if not wanted:
        return []
    # the look came before the job's lock: whoever held that last may have taken the release himself
    locked = Provision.objects.select_for_update(skip_locked=True, no_key=True, of=("self",)).select_related("pool")
    found = locked.filter(id__in=wanted.values(), status=ProvisionStatus.RELEASING, claimable_at__lte=Now())
    jobs = {job.id: job for job in Job.objects.filter(id__in=wanted)}
    return [(jobs[provision.job_id], provision) for provision in found]


def lock_jobs(ids: Iterable[str]) -> dict[str, Job]:
    """Lock these jobs, but those locked by somebody else."""
    wanted = sorted(set(ids))
    return {job.id: job for job in rows(Job, _LOCK_JOBS, [wanted])} if wanted else {}


def lock_provisions(ids: Iterable[UUID]) -> dict[UUID, Provision]:
    """Lock these provisions, but those locked by somebody else. The jobs' locks come first."""
    wanted = set(ids)
    found = _with_pools(rows(Provision, _LOCK_PROVISIONS, [list(wanted)])) if wanted else []
    return {provision.id: provision for provision in found}


def newest_provisions(jobs: Iterable[Job]) -> dict[str, Provision]:
    """Each job's newest provision, with its pool. Only its job's holder writes a live one, so no lock is needed."""
    wanted = {job.provision_id: job.id for job in jobs if job.provision_id is not None}
    found = _with_pools(rows(Provision, PROVISIONS, [list(wanted)])) if wanted else []
    return {wanted[provision.id]: provision for provision in found}


def _with_pools(provisions: list[Provision]) -> list[Provision]:
    """Thousands of provisions share a pool, which is read once."""
    pools = {pool.pk: pool for pool in rows(Pool, _POOLS, [list({each.pool_id for each in provisions})])}
    for provision in provisions:
        provision.pool = pools[provision.pool_id]
    return provisions
