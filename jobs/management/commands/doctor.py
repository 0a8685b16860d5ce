"""`manage.py doctor`: whether everything is there and well, and what to do where it is not."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.doctor import Check, State, examine

_ORDER = list(State)


class Command(BaseCommand):
    """Looks at everything, writes nothing."""

    help = (
        "Check database, migrations, settings, workers, metadata service, pools and clocks; each is ok, warn or fail, "
        "with a remedy. The exit code is 1 if something fails. Writes nothing. Example: manage.py doctor --json"
    )
    requires_system_checks = ()  # they are among what it tells

    def add_arguments(self, parser: CommandParser) -> None:
        """The one flag."""
        parser.add_argument("--json", action="store_true", help="as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Each check as soon as it is known."""
        found: list[Check] = []
        for check in examine():
            found.append(check)
            if not options["json"]:
                self.stdout.write(f"{check.state:<5} {check.name:<16} {check.found}")
                if check.remedy:
                    self.stdout.write(f"{'':<22} {check.remedy}")
        worst = max((check.state for check in found), key=_ORDER.index)
        if options["json"]:
            self.stdout.write(json.dumps({"state": worst, "checks": [dataclasses.asdict(check) for check in found]}))
        if worst == State.FAIL:
            raise CommandError(f"{sum(check.state == State.FAIL for check in found)} checks failed.")
