"""`manage.py backfill_jobs`: batches that are at the metadata service and not here become jobs."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError, CommandParser

from jobs.errors import UpstreamError
from jobs.management.migrated import MigratedCommand
from jobs.management.options import moment
from jobs.management.progress import Progress
from jobs.reconciler.backfill import OVER, OWNER_KEYS, RUNNING, Owners, PageRead, UnknownPlace, backfill

_NAMED = 10  # batches that were not imported


class Command(MigratedCommand):
    """One whole run. What is here already is passed over, so that it may be run again at any time."""

    help = (
        "Import batches that are at the metadata service and not here: made by other clients, or before this planner. "
        "Each becomes a job with its timeline; one that still runs is followed, and stopped only if somebody asks for "
        "that. Safe twice at once. Example: manage.py backfill_jobs --since 7d --owner alice --dry-run"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """The flags."""
        parser.add_argument(
            "--since", type=moment, metavar="WHEN", help="no batch older than this: 2026-01-31, or 7d for a week"
        )
        parser.add_argument("--owner", metavar="USERNAME", help="whose those become whose metadata names nobody here")
        keys = ", ".join(OWNER_KEYS)
        parser.add_argument(
            "--owner-key",
            action="append",
            metavar="KEY",
            help=f"of the metadata: user name or e-mail of the owner (the first there is of {keys})",
        )
        parser.add_argument("--after", default="", metavar="BATCH", help="go on behind this batch, as a run has told")
        parser.add_argument("--dry-run", action="store_true", help="say what would be imported, and write nothing")
        parser.add_argument("--json", action="store_true", help="the result as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Import, and tell what was done, also when broken off."""
        owners = Owners(options["owner_key"] or OWNER_KEYS, _user(options["owner"]))
        result = _Result(options["after"], options["dry_run"])
        progress = Progress(sys.stderr)
        trouble = ""
        try:
            for page in backfill(owners, since=options["since"], after=options["after"], dry_run=options["dry_run"]):
                result.add(page)
                progress.show(result.read, "batches")
        except UpstreamError as error:
            place = f", or go on with --after {result.after}" if result.after else ""
            trouble = f"{error}. See PLANNER_MDS_URL; run it again{place}."
        except UnknownPlace as error:
            trouble = f"The metadata service does not know batch {error} any more: run it again without --after."
        except KeyboardInterrupt:
            place = f", or go on with --after {result.after}" if result.after else ""
            trouble = f"Broken off; run it again{place}."
        progress.close()
        self.stdout.write(json.dumps(result.as_json()) if options["json"] else result.as_text())
        if trouble:
            raise CommandError(trouble)
        if result.refused:
            raise CommandError(f"{len(result.refused)} batches cannot be stored.")


def _user(username: str | None) -> User | None:
    if username is None:
        return None
    user = User.objects.filter(username=username).first()
    if user is None:
        raise CommandError(f'there is no user "{username}"')
    return user


class _Result:
    """Over all pages; of batches that were left out, some by name."""

    def __init__(self, after: str, dry_run: bool) -> None:
        self.dry_run = dry_run
        self.after = after
        self.counts: Counter[str] = Counter()
        self.refused: dict[str, str] = {}
        self.without_owner = 0
        self._ownerless: list[str] = []
        self._began = time.monotonic()

    def add(self, page: PageRead) -> None:
        self.after = page.after
        self.counts += page.counts
        self.refused |= page.refused
        self.without_owner += len(page.without_owner)
        self._ownerless = (self._ownerless + page.without_owner)[:_NAMED]

    @property
    def read(self) -> int:
        return self.counts.total() + self.without_owner + len(self.refused)

    def as_json(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._began
        return {
            "dry_run": self.dry_run,
            "read": self.read,
            **{what.replace(", ", "_").replace(" ", "_").replace("'", ""): n for what, n in self.counts.items()},
            "imported": self.counts[OVER] + self.counts[RUNNING],
            "without_owner": {"count": self.without_owner, "batches": self._ownerless},
            "refused": self.refused,
            "after": self.after,
            "seconds": round(seconds, 1),
            "batches_per_second": round(self.read / max(seconds, 0.001), 1),
        }

    def as_text(self) -> str:
        lines = [f"{what}: {number:,}" for what, number in self.counts.items()]
        if self.without_owner:
            some = ", ".join(self._ownerless) + (", ..." if self.without_owner > _NAMED else "")
            lines.append(f"without an owner here, left out: {self.without_owner:,} (see --owner): {some}")
        lines += [f"cannot be stored: {batch}: {why}" for batch, why in self.refused.items()]
        seconds = time.monotonic() - self._began
        rate = self.read / max(seconds, 0.001)
        done = "; nothing was written" if self.dry_run else ""
        lines.append(f"{self.read:,} batches read in {seconds:.1f} s ({rate:,.0f}/s){done}")
        return "\n".join(lines)
