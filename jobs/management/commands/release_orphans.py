"""`manage.py release_orphans`: what bears our mark outside and no row needs is given back, and reported."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser

from jobs.management.migrated import MigratedCommand
from jobs.management.options import LONGEST, number, short_span, span
from jobs.models import Pool
from jobs.reconciler.orphans import GRACE_SECONDS, REACH, Finding, Sweep, sweep

_TURN_SECONDS = 60.0


class Command(MigratedCommand):
    """One whole sweep, in as many turns as it takes."""

    help = (
        "Find resources at the providers and batches at the metadata service that bear this installation's mark and "
        "that no live job needs, and give them back. Safe at any time; the workers do the same every few minutes. "
        "Example: manage.py release_orphans --dry-run"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """The flags."""
        parser.add_argument("--dry-run", action="store_true", help="report, and give nothing back")
        parser.add_argument(
            "--pool",
            action="append",
            default=[],
            metavar="NAME",
            help="only this pool; the metadata service is left out",
        )
        grace = timedelta(seconds=GRACE_SECONDS)
        parser.add_argument(
            "--grace",
            type=span,
            default=grace,
            metavar="SPAN",
            help=f"spare what has not been an orphan for that long ({short_span(grace)})",
        )
        hours, most = (each.total_seconds() / 3600 for each in (REACH, LONGEST))
        parser.add_argument(
            "--hours", type=number(float, 0, most), default=hours, help="how old batches may be (default %(default)s)"
        )
        parser.add_argument("--json", action="store_true", help="the findings as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Sweep and report; an error if something could not be looked at or given back."""
        pools = options["pool"]
        known = set(Pool.objects.filter(name__in=pools).values_list("name", flat=True))
        if unknown := sorted(set(pools) - known):
            raise CommandError(f"there is no pool {', '.join(map(repr, unknown))}")
        found: list[Finding] = []
        turn = Sweep(after="")
        while True:
            turn = sweep(
                after=turn.after,
                seconds=_TURN_SECONDS,
                grace_seconds=options["grace"].total_seconds(),
                reach=timedelta(hours=options["hours"]),
                only_pools=pools,
                dry_run=options["dry_run"],
            )
            found += turn.findings
            if not options["json"]:
                for one in turn.findings:
                    self.stdout.write(": ".join(filter(None, (one.where, one.name, one.why, one.outcome))))
            if not turn.after:
                break
        count = sum(bool(one.name) for one in found)
        if options["json"]:
            told = {"orphans": count, "findings": [dataclasses.asdict(one) for one in found]}
            self.stdout.write(json.dumps(told))
        else:
            self.stdout.write(f"{count} orphans")
        if failed := sum(one.is_failed for one in found):
            raise CommandError(f"{failed} could not be looked at or given back; the workers go on trying.")
