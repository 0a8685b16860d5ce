"""`manage.py qcluster`: django-q2's cluster, whose processes die with their parent and listen for the word to stop."""

from __future__ import annotations

import gc
import os
from typing import Any

from django.core.checks import Tags
from django_q.management.commands.qcluster import Command as QClusterCommand

from jobs.checks import SETTINGS
from jobs.processes import dying_with_parent
from jobs.supervisor import STOP_SIGNAL
from jobs.tasks import stop_on


class Command(QClusterCommand):  # type: ignore[misc]  # django-q2 ships no types
    """Start one cluster. In production use run_workers, which restarts it when it stalls."""

    help = "Start a django-q2 cluster without supervision; run_workers is what to use in production."
    # not all: those of routes and templates load the whole web, to stay in the memory of every worker
    requires_system_checks = (SETTINGS, Tags.security)

    def handle(self, *args: Any, **options: Any) -> None:
        """Every process forked from here on dies with the one that forked it (a killed parent leaves nothing)."""
        stop_on(STOP_SIGNAL)
        first_of_all = dying_with_parent()

        def before_fork() -> None:
            nonlocal first_of_all
            first_of_all = dying_with_parent()

        os.register_at_fork(before=before_fork, after_in_child=lambda: first_of_all())
        gc.freeze()  # a collection writes to all it looks at: each process would soon have its own copy of this memory
        super().handle(*args, **options)
