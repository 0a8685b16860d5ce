"""`manage.py inspect_job ID`: everything about one job, for who wants to know why it is where it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from jobs.inspection import inspect
from jobs.management.migrated import MigratedCommand

_EMPTY: tuple[Any, ...] = (None, "", 0, False, [], {})


class Command(MigratedCommand):
    """Reads rows, asks the MDS and the provider, and writes nothing."""

    help = (
        "Show everything about one job: rows, timeline, what the engine does next and why, and what the metadata "
        "service and the provider say now. Writes nothing. Example: manage.py inspect_job job_0d0b7f0e-... --json"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Which, and how."""
        parser.add_argument("job", metavar="ID")
        parser.add_argument("--json", action="store_true", help="as one JSON object, with empty columns")
        parser.add_argument("--no-calls", action="store_true", help="rows only: ask neither provider nor MDS")

    def handle(self, *args: Any, **options: Any) -> str:
        """The whole, in one piece."""
        found = inspect(options["job"], asks=not options["no_calls"])
        if found is None:
            raise CommandError(f'there is no job "{options["job"]}"')
        if options["json"]:
            return json.dumps(found, cls=DjangoJSONEncoder)
        return "\n".join(map(_printable, _text(found)))


def _printable(line: str) -> str:
    """One line, whatever others wrote: no line more, and nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def _text(found: dict[str, Any]) -> Iterator[str]:
    job, following = found["job"], found["next"]
    yield f"{job['id']} {job['name']!r} of {job['created_by']}: {job['shown_status']}, at {_shown(found['at'])}"
    yield f"next: {_line(following, but=('why',))}"
    yield f"why: {following['why'] or '-'}"
    if "mds" in found:
        yield f"mds now: {_line(found['mds'])}"
    for provision in found["provisions"]:
        yield f"provision {provision['name']} at pool {provision['pool']}: {provision['status']}"
        if provision["next"]:
            yield f"  next: {_line(provision['next'])}"
        if "provider" in provision:
            yield f"  provider now: {_line(provision['provider'])}"
        yield from _columns(provision, but=("name", "pool", "status", "next", "provider"))
    yield "timeline:"
    for event in found["events"]:
        told = " ".join(filter(None, (event["to_status"] and f"-> {event['to_status']}", event["reason"])))
        more = " ".join(filter(None, (event["actor"] and f"by {event['actor']}", event["message"])))
        yield f"  {event['sequence']:>3} {_shown(event['at'])} {event['source']}: {told} {more}".rstrip()
    yield "row:"
    yield from _columns(job)


def _columns(row: dict[str, Any], but: tuple[str, ...] = ()) -> Iterator[str]:
    for name, value in row.items():
        if name not in but and value not in _EMPTY:
            yield f"  {name}: {_shown(value)}"


def _line(document: dict[str, Any], but: tuple[str, ...] = ()) -> str:
    return ", ".join(f"{name}: {_shown(value)}" for name, value in document.items() if name not in but)


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False)
    return "-" if value is None else str(value)
