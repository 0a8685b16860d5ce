"""Copies of this checkout, with everything installed, nothing running and no data."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from planner_site.postgres import EmbeddedServer
from tests.waiting import eventually

ORIGINAL = Path(__file__).resolve().parent.parent
PURPOSES = ("dev", "demo", "bench", "soak")


class Checkout:
    """One copy. `run` and `start` start processes that can be found again, whatever they start themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for part in ("planner_site", "jobs", "templates", "docs"):
            if (ORIGINAL / part).exists():
                shutil.copytree(ORIGINAL / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ORIGINAL / "manage.py", folder)
        (folder / ".venv-mds").symlink_to(ORIGINAL / ".venv-mds")
        self._started: list[subprocess.Popen[str]] = []
        self._mark = f"PLANNER_TEST_MARK={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        # as on a fresh machine: nothing about a database or the planner in the environment
        self.environment = {
            variable: content
            for variable, content in os.environ.items()
            if not variable.startswith(("PLANNER_", "DJANGO_", "DATABASE_URL"))
        } | {name: value}
        self.servers = {purpose: EmbeddedServer(purpose, folder) for purpose in PURPOSES}

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start Python there; its output is for `outcome`."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Run Python there to its end."""
        return outcome(self.start(*arguments, environment=environment))

    def processes(self) -> set[int]:
        """Everything that still runs and was started from here, PostgreSQL included."""
        marked = set(self._marked())
        return marked.union(*(server.processes() for server in self.servers.values()))

    def _marked(self) -> Iterator[int]:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self._mark.encode() in (process / "environ").read_bytes():
                    yield int(process.name)

    def check_nothing_runs(self, timeout: float = 10) -> None:
        """Fail unless everything started from here has ended, at the latest by then."""
        eventually(lambda: not self.processes(), timeout, what=f"end of all processes of {self.folder}")

    def remove(self) -> None:
        """End whatever runs and delete what lies outside the folder."""
        for server in self.servers.values():
            server.stop()
            if self.folder not in server.log.parents:
                shutil.rmtree(server.log.parents[2], ignore_errors=True)
        for pid in self._marked():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started:
            with process:  # waits, and closes its pipes
                process.kill()


def outcome(process: subprocess.Popen[str], timeout: float = 180) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr, once it has ended."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors
