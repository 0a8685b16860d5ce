"""`manage.py create_token USER`: a personal token for scripts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from jobs.management.migrated import MigratedCommand
from jobs.management.options import LONGEST, number
from jobs.models import ApiToken


class Command(MigratedCommand):
    """Print a new token; it cannot be shown again."""

    help = (
        "Make a token for scripts (Authorization: Bearer ...) and print it, this once. "
        "Example: manage.py create_token alice --days 90"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose token, and what it is called."""
        parser.add_argument("user", help="user name")
        parser.add_argument("--name", default="script", help="what it is for, to know it again (default: %(default)s)")
        parser.add_argument(
            "--days", type=number(int, 1, LONGEST.days), help="it expires after so many days (default: never)"
        )

    def handle(self, *args: Any, **options: Any) -> str:
        """The token alone, so that a script can capture it."""
        user = User.objects.filter(username=options["user"], is_active=True).first()
        if user is None:
            raise CommandError(f'there is no active user "{options["user"]}"')
        if len(options["name"]) > 100:
            raise CommandError("the name must not be longer than 100 characters")
        expires_at = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
        _row, token = ApiToken.issue(user, options["name"], expires_at)
        return token
