"""`manage.py cleanup_jobs`: jobs that have been over for long enough are deleted, and rows that are dead."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser

from jobs.cleanup import BATCH_SIZE, LEAST_AGE, Policy, purge, remove_jobs
from jobs.cleanup import count_jobs as count
from jobs.management.migrated import MigratedCommand
from jobs.management.options import number, short_span, span
from jobs.management.progress import Progress
from jobs.statuses import TERMINAL

_COUNTED = 1_000_000  # for the progress bar
_NAMED = 10  # jobs that are kept


class Command(MigratedCommand):
    """One whole run; what it has deleted stays deleted if it is broken off, and the next one goes on."""

    help = (
        "Delete jobs that have been over for long enough, with their events and provisions; and results of django-q2, "
        "messages and workers' rows that are dead. Jobs whose resource is not released are kept. Safe at any time and "
        "twice at once. Example: manage.py cleanup_jobs --older-than 30d --keep-failed 90d --dry-run"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """The flags."""
        statuses = ", ".join(sorted(TERMINAL))
        least = short_span(LEAST_AGE)
        parser.add_argument(
            "--older-than", type=span, required=True, help=f"how long they must have been over: 30d; at least {least}"
        )
        parser.add_argument(
            "--status",
            action="append",
            choices=list(map(str, sorted(TERMINAL))),
            metavar="STATUS",
            help=f"only this, more than once if wanted: {statuses}",
        )
        parser.add_argument(
            "--keep-failed", type=span, default=timedelta(days=90), help="keep failed ones at least that long (90d)"
        )
        parser.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
        parser.add_argument(
            "--batch-size", type=number(int, 1, 10_000), default=BATCH_SIZE, help="jobs a transaction (%(default)s)"
        )
        parser.add_argument("--json", action="store_true", help="the result as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Delete, and tell what was done, also when broken off."""
        if options["older_than"] < LEAST_AGE:
            raise CommandError(f"--older-than: at least {short_span(LEAST_AGE)}")
        policy = Policy(options["older_than"], options["keep_failed"], options["status"] or TERMINAL)
        began = time.monotonic()
        result = _Result(options["dry_run"])
        progress = Progress(sys.stderr, count(policy, _COUNTED) if sys.stderr.isatty() else 0)
        try:
            pages = remove_jobs(policy, batch_size=options["batch_size"], dry_run=options["dry_run"])
            for removed in pages:
                result.jobs += removed.jobs
                result.rows += removed.rows
                for why, ids in removed.kept.items():
                    result.kept.setdefault(why, []).extend(ids)
                progress.show(result.jobs.total(), "jobs")
            failed_older_than = max(options["older_than"], options["keep_failed"])
            result.dead = purge(failed_older_than, dry_run=options["dry_run"])
        except KeyboardInterrupt:
            result.is_broken_off = True
        progress.close()
        result.seconds = time.monotonic() - began
        self.stdout.write(json.dumps(result.as_json()) if options["json"] else result.as_text())
        if result.is_broken_off:
            raise CommandError("Broken off; run it again to go on.", returncode=130)


class _Result:
    """Over all pages."""

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.jobs: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.kept: dict[str, list[str]] = {}
        self.dead: dict[str, int] = {}
        self.seconds = 0.0
        self.is_broken_off = False

    def as_json(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "jobs": dict(self.jobs),
            **{what: self.rows[what] for what in ("events", "provisions")},
            **{what: self.dead.get(what, 0) for what in ("task_results", "messages", "workers")},
            "kept": [{"why": why, "count": len(ids), "jobs": ids[:_NAMED]} for why, ids in self.kept.items()],
            "seconds": round(self.seconds, 1),
        }

    def as_text(self) -> str:
        done = "would be deleted" if self.dry_run else "deleted"
        lines = [f"{status}: {number:,} jobs {done}" for status, number in self.jobs.items()]
        for why, ids in self.kept.items():
            more = ", ..." if len(ids) > _NAMED else ""
            lines.append(f"kept, since {why}: {len(ids):,} jobs: {', '.join(ids[:_NAMED])}{more}")
        if self.rows:
            lines.append(f"with them: {self.rows['events']:,} events, {self.rows['provisions']:,} provisions")
        dead = [f"{number:,} {name.replace('_', ' ')}" for name, number in self.dead.items()]
        lines.append(f"dead rows {done}: {', '.join(dead) or 'none'}")
        rate = self.jobs.total() / max(self.seconds, 0.001)
        lines.append(f"{self.jobs.total():,} jobs in {self.seconds:.1f} s ({rate:,.0f}/s)")
        return "\n".join(lines)
