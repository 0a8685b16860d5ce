"""What the tests run on: a real PostgreSQL, a real metadata service, a simulated provider. All of their own."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management.commands import flush
from django.db import connection
from django.db.backends.postgresql.operations import DatabaseOperations
from django_q.models import Schedule

from jobs.conf import Times
from jobs.lifecycle import due
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.fake_mds import FakeMds
from planner_site import postgres
from planner_site.metadata_service import MetadataService
from tests import fault_world
from tests.checkouts import Checkout
from tests.flow import Planner

_alone: list[TextIO] = []


def pytest_configure(config: pytest.Config) -> None:
    """One run at a time in this checkout, however many processes share it: this is the process that starts them."""
    Path(settings.STATIC_ROOT).mkdir(exist_ok=True)  # WhiteNoise warns of a missing folder, and that is an error here
    if hasattr(config, "workerinput"):
        return
    folder = settings.BASE_DIR / ".data" / "test"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "pytest.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pytest.exit("Another run of the tests uses this checkout's test database: wait for it.", returncode=1)
    _alone.append(lock)
    postgres.stop("test")  # and with it whatever a killed run left connected


def pytest_unconfigure(config: pytest.Config) -> None:
    """Whatever server the run needed ends with it."""
    if _alone:
        postgres.stop("test")
        _alone.pop().close()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """Run the embedded server once a test needs a database; nothing if DATABASE_URL named another.

    pytest-django asks for this fixture just before it creates the test database, one for each process of the run.
    """
    if os.environ["DATABASE_URL"] == postgres.url("test"):
        postgres.ensure_running("test")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line of what ran in a browser: where there is none, its tests are only skipped."""
    found = {word: _in_a_browser(terminalreporter, word) for word in ("passed", "failed", "skipped")}
    if any(found.values()):
        told = ", ".join(f"{len(reports)} {word}" for word, reports in found.items() if reports)
        reasons = {report.longrepr[2] for report in found["skipped"]}
        terminalreporter.write_line(" ".join([f"Tests in a browser: {told}.", *sorted(reasons)]))


def _in_a_browser(reporter: pytest.TerminalReporter, word: str) -> list[pytest.TestReport]:
    return [report for report in reporter.stats.get(word, []) if "browser" in report.keywords]


# What a migrate leaves in these is made once; a test that changes it undoes its own change.
_STANDING = {model._meta.db_table for model in (ContentType, Permission, Group, Group.permissions.through, Schedule)}


@pytest.fixture(scope="session", autouse=True)
def quick_flush() -> Iterator[None]:
    """Empty the tables after a test with DELETE: they hold a few rows, and TRUNCATE makes every file anew.

    Types, permissions, roles and schedules stay, and nobody has to make them again.
    """

    def deletes(_: Any, style: Any, tables: Iterable[str], **options: bool) -> list[str]:
        # in any order: Django's foreign keys are checked when this one transaction commits
        return [f'DELETE FROM "{table}"' for table in tables if table not in _STANDING]  # noqa: S608 - our own tables

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(DatabaseOperations, "sql_flush", deletes)
        patches.setattr(flush, "emit_post_migrate_signal", lambda *args, **options: None)
        yield


@pytest.fixture(autouse=True)
def database_of_long_standing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests move rows into the past (tests/clock.py), and the database was there then, too."""
    monkeypatch.setattr(due, "database_started_at", lambda: datetime.min.replace(tzinfo=UTC))


@pytest.fixture
def child_environment(transactional_db: None) -> dict[str, str]:
    """The environment of a child process (`manage.py ...`) that is to see what the test commits."""
    url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
    return {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "tests.settings"}


@pytest.fixture(scope="session")
def mds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real metadata service that is empty at the start of the session."""
    service = MetadataService(tmp_path_factory.mktemp("mds"))
    try:
        service.wait_until_up()
        yield service.url
    finally:
        service.stop()


@pytest.fixture
def real_mds(mds: str, settings: Any) -> str:
    """The planner is pointed at the real metadata service."""
    settings.PLANNER_MDS_URL = mds
    return mds


@pytest.fixture
def no_mds(settings: Any) -> Iterator[None]:
    """An address where nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        settings.PLANNER_MDS_URL = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        yield


@pytest.fixture
def simulated_server(tmp_path: Path) -> Iterator[SimulatedServer]:
    """A simulated provider of its own for each test, ready at once unless told otherwise."""
    with SimulatedServer(ledger_path=tmp_path / "ledger.jsonl") as server:
        yield server


@pytest.fixture
def fake_mds(settings: Any) -> Iterator[FakeMds]:
    """An MDS for each test that runs nothing and misbehaves when told to; the planner is pointed at it."""
    with FakeMds() as server:
        settings.PLANNER_MDS_URL = server.url
        yield server


@pytest.fixture
def patience(settings: Any) -> None:
    """Calls may take what a busy machine needs: for some a thirtieth of their time is too short."""
    longer = {"call_timeout": 3, "connect_timeout": 1, "create_batch_timeout": 4, "lease": 9}
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, **longer}


@pytest.fixture
def here(mds: str, simulated_server: SimulatedServer, settings: Any, patience: None) -> Planner:
    """An installation of its own on the real MDS, with a provider of its own."""
    settings.PLANNER_MDS_URL = mds
    settings.PLANNER_INSTALLATION = f"test-{uuid.uuid4().hex[:8]}"
    return Planner(mds, simulated_server)


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[SimulatedServer, FakeMds]]:
    """One provider and one MDS for all worlds of a module: at the end of each they hold nothing."""
    with SimulatedServer() as provider, FakeMds() as mds:
        yield provider, mds


@pytest.fixture
def world(
    upstreams: tuple[SimulatedServer, FakeMds], settings: Any, transactional_db: None
) -> Iterator[fault_world.World]:
    """A whole installation in which time passes at a word; all that is left to wait for is the tick of a pass."""
    provider, mds = upstreams
    settings.PLANNER_MDS_URL = mds.url
    settings.PLANNER_TIMES = {**vars(Times()), "tick": 0.001, "beat": 0.05, "poll_max": 15}
    # what a dead process has open is nobody's: in memory there is nothing to be left open
    settings.FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.MemoryFileUploadHandler"]
    mds.run_seconds = fault_world.AT_ONCE
    try:
        with fault_world.world_of(provider, mds) as made:
            yield made
    finally:
        fault_world.leave_nothing(provider, mds)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """A copy of this checkout, for tests of what starts everything: they meet no server that runs from this one."""
    copy = Checkout(tmp_path / "checkout")
    try:
        yield copy
    finally:
        copy.remove()
