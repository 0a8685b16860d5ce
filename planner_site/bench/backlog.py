"""Many jobs waiting to be admitted: one is accepted over the API, the others are copies of its row."""

from __future__ import annotations

import copy

from planner_site.local import Client, LocalPlanner

_ENOUGH = 1_000_000
_ROWS_AT_ONCE = 1000
_TABLES = "jobs_job, jobs_provision, jobs_jobevent, jobs_queuemessage, jobs_batchscan"


def make_room() -> None:
    """No pool limits anything."""
    from jobs.models import Pool

    Pool.objects.update(max_live=_ENOUGH, max_provisioning=_ENOUGH)


def forget_jobs() -> None:
    """Empty the tables, as if no job had ever been; the pools have nothing to observe."""
    from django.db import connection

    from jobs.models import Pool

    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {_TABLES} CASCADE")
    Pool.objects.update(observe_at=None, observe_lease_expires_at=None, observed_at=None, observe_failures=0)


def add_jobs(planner: LocalPlanner, count: int) -> list[str]:
    """Have so many more jobs wait; return their ids in the queue's order. No hint is sent for the copies."""
    from django.db import connection, transaction

    from jobs.models import Job, JobEvent
    from jobs.models.job import new_job_id
    from planner_site.demo_data import file_row

    client = Client(planner.url)
    client.log_in()
    first = Job.objects.get(pk=client.create_job(file_row().pk))
    rows = [first]
    for _ in range(count - 1):
        row = copy.copy(first)
        row.pk = new_job_id()
        rows.append(row)
    with transaction.atomic():
        Job.objects.bulk_create(rows[1:], batch_size=_ROWS_AT_ONCE)
        accepted = [JobEvent(job_id=row.pk, sequence=1, reason="accepted", to_status=row.status) for row in rows[1:]]
        JobEvent.objects.bulk_create(accepted, batch_size=_ROWS_AT_ONCE)
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {_TABLES}")
    return sorted(row.pk for row in rows)
