"""`manage.py run_workers`: the workers of one host, kept alive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import CommandError
from django.db import connection

from jobs.checks import SETTINGS
from jobs.exporter import exporting
from jobs.management.migrated import MigratedCommand
from jobs.supervisor import Supervisor, cluster_command


class Command(MigratedCommand):
    """Run the workers of this host until SIGTERM; more hosts on the same database scale out."""

    help = (
        "Run this host's workers: a django-q2 cluster that is restarted whenever it dies or stops making progress. "
        "Stop with SIGTERM. Example: manage.py run_workers"
    )

    # not all: those of routes and templates load the whole web, to stay in the supervisor's memory
    requires_system_checks = (SETTINGS, Tags.security)

    def handle(self, *args: Any, **options: Any) -> None:
        """Supervise until told to stop."""
        connection.close()  # the supervisor's thread has one of its own
        with self._exporting():
            Supervisor(cluster_command()).run()

    @contextmanager
    def _exporting(self) -> Iterator[None]:
        port = settings.PLANNER_WORKERS_METRICS_PORT
        with ExitStack() as stack:
            try:
                stack.enter_context(exporting(port))
            except OSError as error:
                raise CommandError(f"PLANNER_WORKERS_METRICS_PORT is {port}: {error.strerror}.") from error
            yield
