"""The whole planner on this machine, for the demo, the bench and the soak, with nothing to install or configure first.

An embedded PostgreSQL, the real metadata service, the double of a provider of accelerators, the web and the workers.
Each run starts empty. Everything it starts ends with it; what a kill -9 leaves, the next run takes over.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TextIO

import django
import requests
from django.core.management import call_command

from planner_site.local_providers import SIMULATED, LocalProvider
from planner_site.metadata_service import MetadataService
from planner_site.postgres import EmbeddedServer
from planner_site.processes import Service, free_port

CHECKOUT = Path(__file__).resolve().parent.parent
SAMPLE = CHECKOUT / "docs" / "sample.jsonl"
WEB_PORT = 8000
_PROVIDER = "provider"
WORKERS_STOP_SECONDS = 60  # they promise to be out within 45


class LocalError(Exception):
    """It cannot go on; the message is for the user of the command line."""


def say(text: str = "") -> None:
    """Progress goes to stderr: stdout is for the result."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - for command lines


def data_folder(purpose: str) -> Path:
    """Where the files of one purpose are."""
    return CHECKOUT / ".data" / purpose


class LocalPlanner:
    """Everything that runs. `start` it inside a `with`: leaving that stops it all, in order, and waits."""

    def __init__(
        self,
        purpose: str,
        *,
        provider: LocalProvider = SIMULATED,
        ready_seconds: float = 0,
        provider_url: str = "",
        mds_url: str = "",
        hosts: int = 1,
        settings_module: str = "planner_site.settings",
    ) -> None:
        """The provider's double, where resources are ready after that long, and an MDS are started unless named.

        With no `hosts` there are no workers: whoever wants some starts them with `service`.
        """
        self._purpose = purpose
        self._folder = data_folder(purpose)
        self._logs = self._folder / "logs"
        self._provider = provider
        self._ready_seconds = ready_seconds
        self.provider_url = provider_url
        self._mds_url = mds_url
        self._hosts = hosts
        self._settings_module = settings_module
        self.postgres = EmbeddedServer(purpose)
        self.services: dict[str, Service] = {}  # by name
        self._stack = ExitStack()
        self.url = ""

    def __enter__(self) -> Self:
        for stale in ("logs", "mds", "provider"):
            shutil.rmtree(self._folder / stale, ignore_errors=True)
        self._logs.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        # a second Ctrl-C must not leave half of it running
        stopping = (signal.SIGINT, signal.SIGTERM)
        handlers = [signal.signal(number, signal.SIG_IGN) for number in stopping]
        say("Stopping everything ...")
        self._stack.close()
        for number, handler in zip(stopping, handlers, strict=True):
            signal.signal(number, handler)

    def start(self) -> None:
        """Start all of it and wait until the web answers."""
        say(f"Logs: {self._logs}")
        self._prepare_environment()
        say(f"PostgreSQL ... (the {self._purpose}'s own; what an earlier {self._purpose} stored in it is dropped)")
        self._stack.callback(self.postgres.stop)
        self.postgres.start()
        os.environ["DATABASE_URL"] = self.postgres.fresh_database()

        mds = None if self._mds_url else self._metadata_service()
        is_provider_ours = not self.provider_url
        if is_provider_ours:
            self.provider_url = self._start_provider()

        say("Tables, static files and sample data ...")
        os.environ["PLANNER_MDS_URL"] = mds.url if mds else self._mds_url
        self._prepare_database()
        if is_provider_ours:
            self.services[_PROVIDER].wait_until_answers(f"{self.provider_url}/healthz", timeout_seconds=30)
        if mds:
            mds.wait_until_up()

        say("Web and workers ...")
        for number in range(1, self._hosts + 1):
            name = "workers" if number == 1 else f"workers {number}"
            self.workers(name)
        self.url = self.web("web", port=free_port(WEB_PORT))

    def check_running(self) -> None:
        """Raise if a part of it has ended by itself."""
        for service in self.services.values():
            service.check_running()

    def _prepare_environment(self) -> None:
        os.environ.update(
            DJANGO_SETTINGS_MODULE=self._settings_module,
            DJANGO_SECRET_KEY=secrets.token_urlsafe(64),
            DJANGO_DEBUG="0",
            PLANNER_LOG_FORMAT="plain",  # the logs here are for people
            DJANGO_HTTPS="0",
            DJANGO_ALLOWED_HOSTS="127.0.0.1,localhost",
            PLANNER_AUTH_MODE="basic",
            PLANNER_INSTALLATION=self._purpose,
            PLANNER_PROVIDER="",  # the sample data brings its pool along
            PLANNER_WRITES_PER_MINUTE="1000000",  # one user is the whole load; each write is counted all the same
            **self._provider.environment,
        )

    def _metadata_service(self) -> MetadataService:
        say("Metadata service ... (the real one, in dry-run: it echoes requests instead of calling a model)")
        mds = MetadataService(self._folder / "mds", log=self._logs / "metadata-service.log")
        self._own(mds.service)
        return mds

    def _start_provider(self) -> str:
        port = free_port()
        ledger = self._folder / "provider" / "ledger.jsonl"
        ledger.parent.mkdir()
        self.service(
            _PROVIDER, "-m", self._provider.double, "--port", str(port),
            "--ledger", str(ledger), "--ready-seconds", str(self._ready_seconds),
        )  # fmt: skip
        return f"http://127.0.0.1:{port}"

    def _prepare_database(self) -> None:
        django.setup()
        from django.db import connection

        from planner_site import demo_data

        with (self._logs / "setup.log").open("w") as log:
            call_command("migrate", interactive=False, stdout=log, stderr=log)
            call_command("collectstatic", interactive=False, stdout=log, stderr=log)
        demo_data.create(self._provider, self.provider_url)
        connection.close()

    def workers(self, name: str, environment: Mapping[str, str] | None = None) -> Service:
        """Start the workers of one more host."""
        return self.service(
            name, "manage.py", "run_workers", grace_seconds=WORKERS_STOP_SECONDS, environment=environment
        )

    def web(self, name: str, *, port: int, environment: Mapping[str, str] | None = None) -> str:
        """Start one more web server and wait until it answers; return its URL."""
        url = f"http://127.0.0.1:{port}"
        web = self.service(
            name, "-m", "gunicorn", "--config", "planner_site/gunicorn_conf.py", "--bind", f"127.0.0.1:{port}",
            environment=environment,
        )  # fmt: skip
        web.wait_until_answers(f"{url}/healthz", timeout_seconds=60)
        return url

    def service(
        self, name: str, *arguments: str, grace_seconds: float = 30, environment: Mapping[str, str] | None = None
    ) -> Service:
        """Start one more part: Python with these arguments, logging to a file of its own.

        `environment` is what it differs from ours in.
        """
        log = self._logs / f"{name.replace(' ', '-')}.log"
        own = {**os.environ, **environment} if environment else None
        service = Service(name, [sys.executable, *arguments], log=log, folder=CHECKOUT, environment=own)
        self._own(service, grace_seconds)
        return service

    def _own(self, service: Service, grace_seconds: float = 30) -> None:
        self.services[service.name] = service
        self._stack.callback(service.stop, grace_seconds=grace_seconds)


class Client:
    """Somebody, over the REST API: what any client does."""

    def __init__(self, url: str) -> None:
        self._api = f"{url}/api/v1"
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment has no business on loopback
        self._session.headers["Connection"] = "close"  # a kept one may be closed just as the next call is sent

    def call(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        """One call; anything but a 2xx with an object is an error."""
        try:
            answer = self._session.request(method, f"{self._api}{path}", timeout=60, **content)
            body = answer.json() if answer.ok else None
        except requests.RequestException as error:
            raise LocalError(f"{method} {path}: {error}") from error
        if not isinstance(body, dict):
            raise LocalError(f"{method} {path} was answered {answer.status_code}: {answer.text[:500]}")
        return body

    def log_in(self, name: str = "alice") -> None:
        """Open the session of one of the demo's people."""
        from planner_site import demo_data

        self.call("POST", "/auth/login", json={"username": name, "password": demo_data.password(name)})

    def upload_sample(self) -> str:
        """Upload the sample file; return its id."""
        with SAMPLE.open("rb") as lines:
            file = self.call("POST", "/files/upload", files={"file": (SAMPLE.name, lines)}, data={"purpose": "batch"})
        return str(file["id"])

    def create_job(self, file_id: str, name: str = "sample") -> str:
        """Create the sample job with this input; return its id."""
        from planner_site import demo_data

        return str(self.call("POST", "/jobs", json=demo_data.job_request(file_id) | {"name": name})["id"])


@contextmanager
def only_one(purpose: str) -> Iterator[None]:
    """One per checkout and purpose. The lock's file holds the pid; the kernel frees it whatever happens."""
    data_folder(purpose).mkdir(parents=True, exist_ok=True)
    with _lock_file(purpose) as lock:
        if not _try_lock(lock):
            pid = lock.read().strip()
            raise LocalError(f"A {purpose} of this checkout runs already (pid {pid}): `make stop` ends it.")
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def stop_running(purpose: str) -> None:
    """Ask the one that runs from this checkout to stop, and wait until it has."""
    if not data_folder(purpose).exists():
        return
    with _lock_file(purpose) as lock:
        if _try_lock(lock):
            return
        with suppress(ValueError, ProcessLookupError):
            os.kill(int(lock.read()), signal.SIGTERM)
        say(f"Waiting for the {purpose} to stop ...")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _lock_file(purpose: str) -> TextIO:
    file = (data_folder(purpose) / f"{purpose}.lock").open("a+")
    file.seek(0)
    return file


def _try_lock(file: TextIO) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def stop_on(number: int, _: object) -> None:
    """A signal handler that ends the program in order."""
    raise SystemExit(128 + number)
