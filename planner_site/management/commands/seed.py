"""`manage.py seed`: a database with many jobs, to look at the planner at size."""

from __future__ import annotations

import os
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from planner_site import postgres
from planner_site.seed import SeedRefused, load

ROWS = 1_000_000
LOOK = "DJANGO_DEBUG=1 PLANNER_AUTH_MODE=dev .venv/bin/python manage.py runserver"


class Command(BaseCommand):
    """Migrate, and replace what was seeded before."""

    help = "Load jobs as long use would have left them, with events and provisions. Example: manage.py seed --rows 1000"
    requires_system_checks = ()  # as `migrate`: nobody gets in by it

    def add_arguments(self, parser: CommandParser) -> None:
        """How many."""
        parser.add_argument("--rows", type=int, default=ROWS, help=f"jobs; {ROWS:,} unless given")

    def handle(self, *args: Any, **options: Any) -> None:
        """Refuse a database that holds other jobs."""
        if options["rows"] < 1:
            raise CommandError("--rows: at least 1")
        call_command("migrate", interactive=False, verbosity=0)
        try:
            load(options["rows"], say=self.stdout.write)
        except SeedRefused as refused:
            raise CommandError(str(refused)) from refused
        if os.environ.get("DATABASE_URL") == postgres.url("dev"):
            self.stdout.write(f"To look at them:  {LOOK}\nThe database goes on running; `make stop` ends it.")
        else:
            self.stdout.write(f"To look at them, with the same DATABASE_URL:  {LOOK}")
