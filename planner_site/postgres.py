"""The embedded PostgreSQL: a real, durable server per purpose, for a checkout that is given no DATABASE_URL.

It listens on a unix socket only, in a folder that nobody else can enter. Any process may be killed at any moment,
the starter and the server included: the next start or stop finds out what is left and deals with it.
Linux only: what runs is read from /proc.

    python -m planner_site.postgres start|stop|status [PURPOSE ...]
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg

from jobs.processes import dying_with_parent
from planner_site.postgres_home import (
    CHECKOUT,
    EmbeddedServerError,
    base_folder,
    binaries,
    private_folder,
    server_account,
    socket_folder,
)

USER = DATABASE = "planner"
PORT = 5432  # part of the socket's name; nothing listens on it
START_SECONDS = 120
STOP_SECONDS = 30
LOCK_SECONDS = 300  # longer than the longest start or stop of whoever holds it
_POLL_SECONDS = 0.05

_CONFIGURATION = """
# The planner's: unix socket only; everything else, durability included, is PostgreSQL's default.
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 200
"""


class EmbeddedServer:
    """The server of one purpose. Making one only computes names; `start` and `stop` act."""

    def __init__(self, purpose: str, checkout: Path = CHECKOUT) -> None:
        self._account = server_account()
        self._base = base_folder(checkout.resolve(), self._account)
        self._home = self._base / purpose / "postgres"
        self._data = self._home / "data"
        self._sockets = socket_folder(self._home)
        self.purpose = purpose
        self.log = self._home / "server.log"

    @property
    def url(self) -> str:
        """Its DATABASE_URL, whether it runs or not."""
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={quote(str(self._sockets), safe='/')}&port={PORT}"

    def start(self) -> str:
        """Make sure that the server runs and has the planner's database; return its URL. Safe to repeat and to race."""
        with self._locked():
            for folder in (self._base, self._home.parent):
                folder.mkdir(parents=True, exist_ok=True)
                if self._account is not None:
                    folder.chmod(folder.stat().st_mode | 0o111)  # whatever the umask was
            private_folder(self._home, self._account)
            private_folder(self._sockets, self._account)
            for leftover in self._home.glob("unfinished-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            pid = self._postmaster()
            if not self._data.exists():
                self._initialise()
            if pid is None:
                self._launch()
            try:
                self._await_answer()
            except EmbeddedServerError:
                if pid is None or self._postmaster() is not None:
                    raise
                self._launch()  # the one that ran was on its way out
                self._await_answer()
            self._create_database()
        return self.url

    def stop(self) -> bool:
        """Make sure that the server does not run; returns whether it did. Safe to repeat and to race."""
        if not self._home.exists():
            return False
        with self._locked():
            was_running = self._postmaster() is not None
            if was_running:
                with suppress(EmbeddedServerError):
                    self._pg_ctl("stop", "-m", "fast", "-t", str(STOP_SECONDS))
            self._kill(self.processes())
            self._forget_pid()
            with suppress(OSError):
                self._sockets.rmdir()
        return was_running

    def pid(self) -> int | None:
        """The running server's process id."""
        recorded = self._recorded_pid()
        return recorded if recorded in self.processes() else None

    def fresh_database(self) -> str:
        """Drop the planner's database with whoever is connected, create it empty, return its URL."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {DATABASE}")
        return self.url

    # What is there

    def processes(self) -> set[int]:
        """Every server process whose working folder is our data folder, also if that was deleted meanwhile."""
        ours = {str(self._data), f"{self._data} (deleted)"}
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended, or it is another user's and so not ours
                if (process / "comm").read_text().strip() == "postgres" and os.readlink(process / "cwd") in ours:
                    found.add(int(process.name))
        return found

    def _recorded_pid(self) -> int | None:
        with suppress(OSError, ValueError, IndexError):
            return int((self._data / "postmaster.pid").read_text().splitlines()[0])
        return None

    def _postmaster(self) -> int | None:
        """The pid of the server in charge. Without one, whatever a dead server left is cleared away first."""
        running = self.processes()
        recorded = self._recorded_pid()
        if recorded in running:
            return recorded
        # Orphans of a killed server (one that is stopped or busy does not notice), or a server whose folder was
        # deleted: they keep the shared memory or the socket from the next one. Their work is in the WAL.
        self._kill(running)
        self._forget_pid()
        return None

    def _forget_pid(self) -> None:
        """The pid in these files is dead, a zombie or, used again, somebody else's; PostgreSQL would believe in it."""
        for file in (self._data / "postmaster.pid", *self._sockets.glob(".s.PGSQL.*")):
            file.unlink(missing_ok=True)

    def _kill(self, pids: set[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + STOP_SECONDS
        while pids & self.processes():
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"Processes {sorted(pids)} of {self._data} cannot be killed.")
            time.sleep(_POLL_SECONDS)

    # Changing it

    def _initialise(self) -> None:
        """`initdb` elsewhere, then one rename: a data folder that has its name is whole."""
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=self._home))
        private_folder(unfinished, self._account)
        self._run("initdb", "-D", unfinished, "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
        with (unfinished / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION)
            configuration.flush()
            os.fsync(configuration.fileno())
        unfinished.rename(self._data)
        home = os.open(self._home, os.O_RDONLY)
        os.fsync(home)
        os.close(home)

    def _launch(self) -> None:
        with suppress(FileNotFoundError):
            self.log.replace(self.log.with_suffix(".log.old"))
        try:
            self._pg_ctl(
                "start", "-t", str(START_SECONDS), "-l", str(self.log), "-o", f"-k {shlex.quote(str(self._sockets))}"
            )
        except EmbeddedServerError:
            if self.pid() is None:  # else a start whose starter was killed came first; its server is as good
                raise

    def _await_answer(self) -> None:
        """It may be recovering from a crash, or still starting for a starter that was killed."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self._url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if self.pid() is None or time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"The embedded PostgreSQL does not answer ({_one_line(error)}): see {self.log}; "
                        f"`.venv/bin/python -m planner_site.postgres stop {self.purpose}` ends it."
                    ) from error
                time.sleep(_POLL_SECONDS)
            else:
                return

    def _create_database(self) -> None:
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def _pg_ctl(self, action: str, *arguments: str) -> None:
        self._run("pg_ctl", action, "-w", "-D", self._data, *arguments)

    def _run(self, program: str, *arguments: str | Path) -> None:
        """Run one of PostgreSQL's programs as the server's account, in an environment without PG* variables."""
        account = self._account
        done = subprocess.run(  # noqa: S603 - the wheel's own programs, no shell
            [binaries(self._base, account) / program, *arguments],
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            cwd="/",
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            umask=0o077,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # a Ctrl-C is ours to handle, not the server's
            preexec_fn=dying_with_parent(),  # the server itself outlives its `pg_ctl`
        )
        if done.returncode:
            said = _one_line(done.stderr or done.stdout)
            raise EmbeddedServerError(f"{program} failed: {said}{self._log_tail()}")

    def _log_tail(self) -> str:
        with suppress(OSError):
            tail = self.log.read_text(errors="replace").splitlines()[-10:]
            return "\n".join(["", f"{self.log} ends:", *(f"  {line}" for line in tail)])
        return ""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One starter or stopper at a time. The kernel takes the lock from whoever dies with it."""
        self._home.parent.mkdir(parents=True, exist_ok=True)
        with (self._home.parent / "postgres.lock").open("a") as lock:
            deadline = time.monotonic() + LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise EmbeddedServerError(f"Somebody holds {lock.name} for {LOCK_SECONDS} s.") from None
                    time.sleep(_POLL_SECONDS)
            yield


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def url(purpose: str) -> str:
    """The DATABASE_URL of a purpose's server, whether it runs or not."""
    return EmbeddedServer(purpose).url


def ensure_running(purpose: str) -> str:
    """Start the purpose's server unless it runs; return its DATABASE_URL."""
    return EmbeddedServer(purpose).start()


def stop(purpose: str) -> bool:
    """Stop the purpose's server; returns whether it ran."""
    return EmbeddedServer(purpose).stop()


def purposes() -> list[str]:
    """Every purpose this checkout has a server folder for."""
    base = base_folder(CHECKOUT, server_account())
    return sorted(home.parent.name for home in base.glob("*/postgres"))


def main(arguments: list[str] | None = None) -> int:
    """The command line; `stop` and `status` without a purpose mean all."""
    parser = argparse.ArgumentParser(prog="python -m planner_site.postgres", description="The embedded PostgreSQL.")
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument("purposes", nargs="*", metavar="PURPOSE", help="dev, demo, test, ...; none: all there are")
    options = parser.parse_args(arguments)
    if options.action == "start" and not options.purposes:
        parser.error("start needs a PURPOSE")
    try:
        for purpose in options.purposes or purposes():
            _act(options.action, EmbeddedServer(purpose))
    except (EmbeddedServerError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command line
        return 1
    return 0


def _act(action: str, server: EmbeddedServer) -> None:
    if action == "start":
        answer = server.start()
    elif action == "stop":
        answer = f"PostgreSQL of {server.purpose}: {'stopped' if server.stop() else 'was not running'}"
    else:
        pid = server.pid()
        answer = (
            f"PostgreSQL of {server.purpose}: {'not running' if pid is None else f'running, pid {pid}, {server.url}'}"
        )
    print(answer)  # noqa: T201 - a command line


if __name__ == "__main__":
    sys.exit(main())
