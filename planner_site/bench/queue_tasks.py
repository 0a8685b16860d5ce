"""The queue reference: one plain django-q2 task per job. Run with `queue_settings`."""

from __future__ import annotations

import functools

import django

from planner_site.bench import plain

new_session = functools.cache(plain.new_session)  # one per process, whose tasks run one by one


def run_job(job_id: str) -> None:
    """One job, from its row to its batch."""
    from django.conf import settings
    from django.db import connection

    from jobs.models import Job

    job = Job.objects.values(*plain.COLUMNS).get(pk=job_id)
    with connection.cursor() as cursor:
        plain.run(job, settings.PLANNER_MDS_URL, new_session(), cursor.execute)


def main() -> None:
    """Enqueue a task for every job that waits."""
    django.setup()
    from django_q.brokers import get_broker
    from django_q.tasks import async_task

    from jobs.models import Job

    broker = get_broker()
    for job_id in Job.objects.order_by("accepted_at", "id").values_list("id", flat=True):
        async_task("planner_site.bench.queue_tasks.run_job", job_id, broker=broker)


if __name__ == "__main__":
    main()
