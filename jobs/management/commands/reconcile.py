"""`manage.py reconcile`: passes by hand, without workers."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from jobs.conf import times
from jobs.lifecycle.due import seconds_to_next_timer
from jobs.models import Job
from jobs.statuses import TERMINAL
from jobs.tasks import run_pass


class Command(BaseCommand):
    """Run one pass, or passes until every job has ended and every resource is released."""

    help = "Run one pass here and now. Example: manage.py reconcile --until-idle"

    def add_arguments(self, parser: CommandParser) -> None:
        """The one flag."""
        parser.add_argument("--until-idle", action="store_true", help="go on until nothing is left to do")

    def handle(self, *args: Any, **options: Any) -> None:
        """Pass, and sleep until the next timer between passes."""
        steps = run_pass()
        while options["until_idle"] and self._is_open():
            wait = seconds_to_next_timer()
            time.sleep(min(times().safety_net, max(times().tick, wait if wait is not None else times().safety_net)))
            steps += run_pass()
        self.stdout.write(f"{steps} calls recorded")

    def _is_open(self) -> bool:
        return (
            Job.objects.exclude(status__in=sorted(TERMINAL)).exists()
            or Job.objects.filter(provisions__status="releasing").exists()
        )
