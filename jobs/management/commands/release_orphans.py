"""`manage.py release_orphans`: what bears our mark outside and no row needs is given back, and reported."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.reconciler.orphans import GRACE_SECONDS, REACH, Sweep, sweep

_TURN_SECONDS = 60.0


class Command(BaseCommand):
    """One whole sweep, in as many turns as it takes."""

    help = (
        "Find resources at the providers and batches at the metadata service that bear this installation's mark and "
        "that no live job needs, and give them back. Safe at any time; the workers do the same every few minutes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """The flags."""
        parser.add_argument("--dry-run", action="store_true", help="report, and give nothing back")
        parser.add_argument(
            "--grace-seconds",
            type=float,
            default=GRACE_SECONDS,
            help="spare what has not been an orphan for that long (default %(default)s)",
        )
        hours = REACH.total_seconds() / 3600
        parser.add_argument("--hours", type=float, default=hours, help="how old batches may be (default %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Sweep and report; an error if something could not be looked at or given back."""
        failed = count = 0
        turn = Sweep(after="")
        while True:
            turn = sweep(
                after=turn.after,
                seconds=_TURN_SECONDS,
                grace_seconds=options["grace_seconds"],
                reach=timedelta(hours=options["hours"]),
                dry_run=options["dry_run"],
            )
            for finding in turn.findings:
                self.stdout.write(": ".join(filter(None, (finding.where, finding.name, finding.why, finding.outcome))))
                count += bool(finding.name)
                failed += finding.is_failed
            if not turn.after:
                break
        self.stdout.write(f"{count} orphans")
        if failed:
            raise CommandError(f"{failed} could not be looked at or given back; the workers go on trying.")
