"""`manage.py reconcile`: passes by hand, without workers."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import CommandError, CommandParser

from jobs.conf import times
from jobs.lifecycle.due import seconds_to_next_timer
from jobs.management.migrated import MigratedCommand
from jobs.management.options import span
from jobs.models import Job, Provision
from jobs.statuses import TERMINAL, ProvisionStatus
from jobs.tasks import run_pass


class Command(MigratedCommand):
    """Run one pass, or passes until every job has ended and every resource is released."""

    help = (
        "Run one pass here and now; workers may run beside it. Example: manage.py reconcile --until-idle --timeout 10m"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """The flags."""
        parser.add_argument("--until-idle", action="store_true", help="go on until nothing is left to do")
        parser.add_argument(
            "--timeout", type=span, metavar="SPAN", help="give up after that long (10m), and say what is left"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Pass, and sleep until the next timer between passes."""
        timeout = options["timeout"]
        until = float("inf") if timeout is None else time.monotonic() + timeout.total_seconds()
        steps = run_pass()
        while options["until_idle"] and (left := _left()):
            if time.monotonic() > until:
                raise CommandError(f"{left} are left after {steps} recorded calls.")
            wait = seconds_to_next_timer()
            time.sleep(min(times().safety_net, max(times().tick, wait if wait is not None else times().safety_net)))
            steps += run_pass()
        self.stdout.write(f"{steps} calls recorded")


def _left() -> str:
    """What is not over, in words; "" if all is."""
    jobs = Job.objects.exclude(status__in=sorted(TERMINAL)).count()
    releases = Provision.objects.filter(status=ProvisionStatus.RELEASING).count()
    return f"{jobs} jobs and {releases} releases" if jobs or releases else ""
