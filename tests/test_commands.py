"""The command line: every command tells how it is used, in its help and on its page; spans, moments, a progress bar."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.core.management.base import SystemCheckError
from django.db.migrations.executor import MigrationExecutor

from jobs.management.options import moment, number, short_span, span
from jobs.management.progress import Progress
from jobs.supervisor import Supervisor
from tests.documentation import DOCS

# Django's and django-q2's own, which ours only harden
_HARDENED = {"migrate", "qcluster"}
MANAGE = [sys.executable, str(DOCS.parent / "manage.py")]
COMMANDS = sorted(name for name, app in get_commands().items() if app == "jobs" and name not in _HARDENED)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_an_example_in_its_help_and_has_a_section_on_the_page(name: str) -> None:
    parser = load_command_class("jobs", name).create_parser("manage.py", name)
    assert f"Example: manage.py {name}" in " ".join(parser.format_help().split())
    assert f"\n## {name}\n" in (DOCS / "operations" / "commands.md").read_text()


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("45s", 45, "45s"),
        ("90m", 5400, "90m"),
        ("24h", 86_400, "1d"),
        ("1.5d", 129_600, "36h"),
        ("2W", 1_209_600, "14d"),
    ],
)
def test_a_span_is_a_number_and_a_unit(text: str, seconds: int, shown: str) -> None:
    assert span(text) == timedelta(seconds=seconds)
    assert short_span(span(text)) == shown


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "1d2h", "9" * 20 + "d", "999999999d", "9" * 400 + "d"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        span(text)
    with pytest.raises(argparse.ArgumentTypeError):
        moment(text)


def test_a_moment_is_a_day_a_time_or_a_span_before_now() -> None:
    assert moment("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("2026-01-31T12:00+02:00") == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert datetime.now(UTC) - moment("7d") == pytest.approx(timedelta(days=7), abs=timedelta(minutes=1))
    with pytest.raises(argparse.ArgumentTypeError, match="2026-02-31"):
        moment("2026-02-31")


@pytest.mark.parametrize("text", ["", "x", "0", "-5", "11", "9" * 5000, "nan", "inf", "1e300"])
def test_a_number_out_of_bounds_is_refused(text: str) -> None:
    assert (number(int, 1, 10)("10"), number(float, 0, 1)("0.5")) == (10, 0.5)
    for kind in (int, float):
        with pytest.raises(argparse.ArgumentTypeError, match="from 1 to 10"):
            number(kind, 1, 10)(text)


@pytest.mark.parametrize(
    "line",
    [
        ["cleanup_jobs", "--older-than", "999999999d"],
        ["cleanup_jobs", "--older-than", "30d", "--batch-size", "9" * 20],
        ["create_token", "alice", "--days", "3000000"],
        ["release_orphans", "--hours", "nan"],
    ],
)
def test_a_value_beyond_the_calendar_or_the_database_is_refused_before_anything_is_done(line: list[str]) -> None:
    with pytest.raises(CommandError, match=f"argument {line[-2]}"):
        call_command(*line)


def test_a_command_line_that_is_not_utf_8_is_refused_in_one_line() -> None:
    ended = subprocess.run([*MANAGE, "inspect_job", b"job_\xff"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "The command line is not UTF-8.\n")


NEEDED = {"cleanup_jobs": ["--older-than", "30d"], "create_token": ["alice"], "inspect_job": ["job_1"]}


@pytest.mark.django_db
@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"doctor"}))
def test_without_all_tables_a_command_ends_in_one_line_before_it_has_done_anything(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MigrationExecutor, "migration_plan", lambda *_: [("one", False), ("two", False)])
    monkeypatch.setattr(Supervisor, "run", lambda _: None)
    with pytest.raises(CommandError, match=r"lacks 2 migrations. Run: manage.py migrate"):
        call_command(name, *NEEDED.get(name, []))


@pytest.mark.django_db
def test_workers_do_not_start_with_settings_that_are_wrong(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PLANNER_QUEUE_CAPACITY = 0
    monkeypatch.setattr(Supervisor, "run", lambda _: None)
    with pytest.raises(SystemCheckError, match="PLANNER_QUEUE_CAPACITY is 0"):
        call_command("run_workers", skip_checks=False)


def test_a_command_that_nobody_reads_or_that_is_broken_off_ends_without_a_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody:
        unread = subprocess.run([*MANAGE, "help"], stdout=nobody, stderr=subprocess.PIPE, text=True, check=False)
    assert (unread.returncode, unread.stderr) == (141, "")
    interrupted = "import manage, signal; manage.main = lambda: signal.raise_signal(signal.SIGINT); exit(manage._run())"
    ended = subprocess.run(
        [sys.executable, "-c", interrupted], cwd=DOCS.parent, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "Broken off; it may be run again.\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_bar_is_one_line_of_a_terminal_and_leaves_it_empty() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        progress = Progress(stream, 200)
        progress.show(50, "jobs")
        progress.close()
    lines = terminal.getvalue().split("\r")
    assert lines[1].startswith("[########                      ]  25% 50 jobs, ")
    assert (lines[2].strip(), lines[-1]) == ("", "")
    assert file.getvalue() == ""
