"""`make demo`: the whole planner on this machine, with nothing to install or configure first.

An embedded PostgreSQL, the real metadata service, a simulated provider of accelerators, the web and the workers.
Each run starts empty. Everything it starts ends with it; what a kill -9 leaves, the next run takes over.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import django
import requests
from django.core.management import call_command

from planner_site.metadata_service import MetadataService
from planner_site.postgres import EmbeddedServer
from planner_site.postgres_home import EmbeddedServerError
from planner_site.processes import Service, ServiceError, free_port

CHECKOUT = Path(__file__).resolve().parent.parent
FOLDER = CHECKOUT / ".data" / "demo"
SAMPLE = CHECKOUT / "docs" / "sample.jsonl"
WEB_PORT = 8000
READY_SECONDS = 3
ONCE_SECONDS = 180
WORKERS_STOP_SECONDS = 60  # they promise to be out within 45


class DemoError(Exception):
    """The demo cannot go on; the message is for its user."""


def say(text: str = "") -> None:
    """Progress goes to stderr: stdout is for the job's JSON."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a command line


class Demo:
    """Everything that runs. `start` it inside a `with`: leaving that stops it all, in order, and waits."""

    def __init__(self) -> None:
        self._logs = FOLDER / "logs"
        self._postgres = EmbeddedServer("demo")
        self._services: list[Service] = []
        self._stack = ExitStack()
        self.url = ""

    def __enter__(self) -> Demo:
        for stale in ("logs", "mds", "provider"):
            shutil.rmtree(FOLDER / stale, ignore_errors=True)
        self._logs.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        for stopping in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stopping, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it running
        say("Stopping everything ...")
        self._stack.close()

    def start(self) -> None:
        """Start all of it and wait until the web answers."""
        say(f"Logs: {self._logs}")
        self._prepare_environment()
        say("PostgreSQL ... (the demo's own; what an earlier demo stored in it is dropped)")
        self._stack.callback(self._postgres.stop)
        self._postgres.start()
        os.environ["DATABASE_URL"] = self._postgres.fresh_database()

        say("Metadata service ... (the real one, in dry-run: it echoes requests instead of calling a model)")
        mds = MetadataService(FOLDER / "mds", log=self._logs / "metadata-service.log")
        self._own(mds.service)
        provider_port = free_port()
        provider_url = f"http://127.0.0.1:{provider_port}"
        (FOLDER / "provider").mkdir()
        provider = self._service(
            "simulated provider", "-m", "jobs.provisioners.simulated_server", "--port", str(provider_port),
            "--ledger", str(FOLDER / "provider" / "ledger.jsonl"), "--ready-seconds", str(READY_SECONDS),
        )  # fmt: skip

        say("Tables, static files and sample data ...")
        os.environ["PLANNER_MDS_URL"] = mds.url
        self._prepare_database(provider_url)
        provider.wait_until_answers(f"{provider_url}/healthz", timeout_seconds=30)
        mds.wait_until_up()

        say("Web and workers ...")
        self._service("workers", "manage.py", "run_workers", grace_seconds=WORKERS_STOP_SECONDS)
        port = free_port(WEB_PORT)
        self.url = f"http://127.0.0.1:{port}"
        web = self._service(
            "web", "-m", "gunicorn", "--config", "planner_site/gunicorn_conf.py", "--bind", f"127.0.0.1:{port}"
        )
        web.wait_until_answers(f"{self.url}/healthz", timeout_seconds=60)

    def check_running(self) -> None:
        """Raise if a part of it has ended by itself."""
        for service in self._services:
            service.check_running()

    def _prepare_environment(self) -> None:
        os.environ.update(
            DJANGO_SETTINGS_MODULE="planner_site.settings",
            DJANGO_SECRET_KEY=secrets.token_urlsafe(64),
            DJANGO_DEBUG="0",
            DJANGO_HTTPS="0",
            DJANGO_ALLOWED_HOSTS="127.0.0.1,localhost",
            PLANNER_AUTH_MODE="basic",
            PLANNER_INSTALLATION="demo",
            PLANNER_PROVIDER="",  # the demo makes its pool itself
        )

    def _prepare_database(self, provider_url: str) -> None:
        django.setup()
        from django.db import connection

        from planner_site import demo_data

        with (self._logs / "setup.log").open("w") as log:
            call_command("migrate", interactive=False, stdout=log, stderr=log)
            call_command("collectstatic", interactive=False, stdout=log, stderr=log)
        demo_data.create(provider_url)
        connection.close()

    def _service(self, name: str, *arguments: str, grace_seconds: float = 30) -> Service:
        log = self._logs / f"{name.replace(' ', '-')}.log"
        service = Service(name, [sys.executable, *arguments], log=log, folder=CHECKOUT)
        self._own(service, grace_seconds)
        return service

    def _own(self, service: Service, grace_seconds: float = 30) -> None:
        self._services.append(service)
        self._stack.callback(service.stop, grace_seconds=grace_seconds)


class Client:
    """Alice, over the REST API: what any client does."""

    def __init__(self, url: str) -> None:
        self._api = f"{url}/api/v1"
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment has no business on loopback

    def call(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        """One call; anything but a 2xx with an object is an error."""
        try:
            answer = self._session.request(method, f"{self._api}{path}", timeout=60, **content)
            body = answer.json() if answer.ok else None
        except requests.RequestException as error:
            raise DemoError(f"{method} {path}: {error}") from error
        if not isinstance(body, dict):
            raise DemoError(f"{method} {path} was answered {answer.status_code}: {answer.text[:500]}")
        return body

    def submit_sample(self) -> str:
        """Log in, upload the sample file, create the job; return its id."""
        from planner_site import demo_data

        self.call("POST", "/auth/login", json={"username": "alice", "password": demo_data.password("alice")})
        with SAMPLE.open("rb") as lines:
            file = self.call("POST", "/files/upload", files={"file": (SAMPLE.name, lines)}, data={"purpose": "batch"})
        return str(self.call("POST", "/jobs", json=demo_data.job_request(file["id"]))["id"])


def run_once(demo: Demo, seconds: float = ONCE_SECONDS) -> dict[str, Any]:
    """Run the sample job to `completed` and its resources to `released`; return it as the API shows it."""
    client = Client(demo.url)
    job_id = client.submit_sample()
    say(f"Job {job_id}")
    deadline = time.monotonic() + seconds
    shown = ""
    while True:
        job = client.call("GET", f"/jobs/{job_id}")
        provision = (job.get("provision") or {}).get("status", "none")
        if (now := f"{job['status']}, resources: {provision}") != shown:
            say(f"  {now}")
            shown = now
        if job["status"] == "completed" and provision == "released":
            return job
        if job["status"] in {"failed", "expired", "cancelled", "resource_failed", "submit_failed"}:
            raise DemoError(f"The job ended {job['status']}: {job.get('errorMessage')}")
        demo.check_running()
        if time.monotonic() > deadline:
            raise DemoError(f"The job was not done in {seconds:.0f} s; it is {shown}.")
        time.sleep(0.1)


def _run_until_told_to_stop(demo: Demo) -> None:
    from planner_site import demo_data

    say(f"\nThe planner runs at {demo.url}/\n")
    for name, role, what in demo_data.PEOPLE:
        say(f"  {name:8}{demo_data.password(name):14}{role or 'superuser':12}{what if role else ''}")
    say(f"\nPages at /jobs/, admin at /admin/, REST at /api/v1/; a sample input: {SAMPLE.relative_to(CHECKOUT)}")
    say(f"For scripts:  export URL={demo.url} TOKEN={demo_data.token('alice')}")
    say("Ctrl-C stops everything.")
    while True:
        time.sleep(1)
        demo.check_running()


@contextmanager
def _only_one() -> Iterator[None]:
    """One demo per checkout. The lock's file holds the pid for `--stop`; the kernel frees it whatever happens."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with _lock_file() as lock:
        if not _try_lock(lock):
            raise DemoError(f"A demo of this checkout runs already (pid {lock.read().strip()}): `make stop` ends it.")
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _lock_file() -> TextIO:
    file = (FOLDER / "demo.lock").open("a+")
    file.seek(0)
    return file


def _try_lock(file: TextIO) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def stop_running() -> None:
    """Ask a running demo of this checkout to stop, and wait until it has."""
    if not FOLDER.exists():
        return
    with _lock_file() as lock:
        if _try_lock(lock):
            return
        with suppress(ValueError, ProcessLookupError):
            os.kill(int(lock.read()), signal.SIGTERM)
        say("Waiting for the demo to stop ...")
        fcntl.flock(lock, fcntl.LOCK_EX)


def _stop_on(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m planner_site.demo", description="The whole planner, on loopback.")
    parser.add_argument("--once", action="store_true", help="run one sample job, print it as JSON, and end")
    parser.add_argument("--stop", action="store_true", help="end the demo that runs from this checkout")
    options = parser.parse_args()
    if options.stop:
        stop_running()
        return 0
    signal.signal(signal.SIGTERM, _stop_on)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by default in the background of a script
    job = None
    try:
        with _only_one(), Demo() as demo:
            demo.start()
            if options.once:
                job = run_once(demo)
            else:
                _run_until_told_to_stop(demo)
    except KeyboardInterrupt:
        return 0
    except (DemoError, ServiceError, EmbeddedServerError) as error:
        say(f"The demo failed. {error}\nLogs: {FOLDER / 'logs'}")
        return 1
    print(json.dumps(job), flush=True)  # noqa: T201 - what `--once` is for
    return 0


if __name__ == "__main__":
    sys.exit(main())
