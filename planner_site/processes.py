"""Child processes of the demo and the tests: they log to files, die with their parent, and are stopped by pid."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from jobs.processes import dying_with_parent

_POLL_SECONDS = 0.05


class ServiceError(Exception):
    """A child process did not start or ended by itself; the message names its log."""


def free_port(wanted: int = 0) -> int:
    """`wanted` if it can be listened on, else the next one that can; 0 leaves the choice to the system."""
    for port in range(wanted, wanted + 100):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise ServiceError(f"No free port from {wanted} to {wanted + 99}.")


def answers(url: str) -> bool:
    """Whether a GET of `url` gives a 200. Straight to the address: a proxy of the environment is not asked."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=2)
    try:
        connection.request("GET", address.path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Service:
    """One child process in a session of its own, so that a terminal's Ctrl-C reaches only who started it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command = [str(part) for part in command]
        self._folder = folder
        self._environment = None if environment is None else dict(environment)
        self._process = self._launched()

    @property
    def pid(self) -> int:
        """The process, or the one that ended last; also the number of its group and session."""
        return self._process.pid

    def start_again(self) -> None:
        """Start it anew, on the same log; whatever still runs of it is killed first."""
        self.stop(grace_seconds=0)
        self._process = self._launched()

    def _launched(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own programs, no shell
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dying_with_parent(),
            )

    def is_running(self) -> bool:
        """Whether the process still lives."""
        return self._process.poll() is None

    def check_running(self) -> None:
        """Raise `ServiceError`, with the end of its log, if it has ended by itself."""
        if not self.is_running():
            raise ServiceError(f"The {self.name} ended with {self._process.returncode}.{self.log_tail()}")

    def wait_until_answers(self, url: str, *, timeout_seconds: float) -> None:
        """Return once a GET of `url` gives a 200; raise `ServiceError` if it does not in time or the process ends."""
        deadline = time.monotonic() + timeout_seconds
        while not answers(url):
            self.check_running()
            if time.monotonic() > deadline:
                raise ServiceError(f"The {self.name} did not answer in {timeout_seconds:.0f} s.{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def log_tail(self, lines: int = 15) -> str:
        """The log's name and its last lines, to end an error message with."""
        with suppress(OSError):
            tail = self.log.read_text(errors="replace").splitlines()[-lines:]
            return "\n".join(["", f"Its log, {self.log}, ends:", *(f"  {line}" for line in tail)])
        return f" Its log is {self.log}."

    def ask_to_stop(self) -> None:
        """Send SIGTERM; `stop` waits."""
        if self.is_running():
            self._process.terminate()

    def stop(self, *, grace_seconds: float = 10) -> None:
        """SIGTERM, then SIGKILL of its whole process group after the grace time. Repeating it is harmless."""
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_seconds)
        with suppress(ProcessLookupError):  # also for what a process that ended by itself left in its group
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
