"""The embedded PostgreSQL, with real processes: whatever is killed, the next start or stop deals with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from planner_site import postgres_home
from planner_site.postgres import EmbeddedServer
from planner_site.postgres_home import Account, EmbeddedServerError
from tests.waiting import eventually

CHECKOUT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.processes


def remove(server: EmbeddedServer) -> None:
    server.stop()
    shutil.rmtree(server.log.parents[1], ignore_errors=True)


@pytest.fixture
def fresh() -> Iterator[EmbeddedServer]:
    """A server that has no folder yet."""
    server = EmbeddedServer(f"selftest-{uuid.uuid4().hex[:8]}")
    yield server
    remove(server)


@pytest.fixture(scope="module")
def shared() -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(f"selftest-{uuid.uuid4().hex[:8]}")
    yield server
    remove(server)


@pytest.fixture
def server(shared: EmbeddedServer) -> EmbeddedServer:
    """A running server; tests may kill it."""
    shared.start()
    return shared


def query(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def command(*arguments: str, checkout: Path = CHECKOUT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "planner_site.postgres", *arguments],
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, errors = process.communicate(timeout=120)
    return process.returncode, (output + errors).strip()


def kill_and_wait(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}/cwd").exists(), what=f"end of {pid}")  # a zombie has none


def processes_of(server: EmbeddedServer) -> set[int]:
    return server.processes()


def data_folder(server: EmbeddedServer) -> Path:
    return server.log.parent / "data"


def test_it_works(fresh: EmbeddedServer) -> None:
    url = fresh.start()
    assert query(url, "SELECT current_database()") == "planner"
    assert fresh.start() == url  # again changes nothing
    assert fresh.stop() is True
    assert processes_of(fresh) == set()
    assert fresh.stop() is False


def test_it_is_durable_private_and_without_tcp(server: EmbeddedServer) -> None:
    settings = {name: query(server.url, f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")}
    assert set(settings.values()) == {"on"}
    assert query(server.url, "SHOW listen_addresses") == ""
    assert int(str(query(server.url, "SHOW max_connections"))) >= 200
    for folder in (
        server.log.parent,
        data_folder(server),
        Path(str(query(server.url, "SHOW unix_socket_directories"))),
    ):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert os.stat(f"/proc/{server.pid()}").st_uid != 0


def test_rows_survive_a_killed_server(server: EmbeddedServer) -> None:
    query(server.url, "CREATE TABLE kept AS SELECT 7 AS row")
    pid = server.pid()
    assert pid
    os.kill(pid, signal.SIGKILL)
    server.start()
    assert server.pid() not in {None, pid}
    assert query(server.url, "SELECT row FROM kept") == 7


def test_a_server_on_its_way_out_is_no_running_server(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a killed server is still there at the first look and gone at the next."""
    pid = server.pid()
    assert pid
    kill_and_wait(pid)
    look, looks = server._postmaster, iter([pid])
    monkeypatch.setattr(server, "_postmaster", lambda: next(looks, None) or look())
    server.start()
    assert server.pid() not in {None, pid}
    assert query(server.url, "SELECT 1") == 1


def test_a_killed_backend_is_recovered_from(server: EmbeddedServer) -> None:
    with closing(psycopg.connect(server.url)) as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        server.start()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert query(server.start(), "SELECT 1") == 1


def test_an_orphaned_backend_that_does_not_notice_is_ended(server: EmbeddedServer) -> None:
    pid = server.pid()
    assert pid
    with closing(psycopg.connect(server.url)) as connection:
        orphan = connection.info.backend_pid
        os.kill(orphan, signal.SIGSTOP)
        kill_and_wait(pid)
        assert orphan in processes_of(server)  # it still holds the shared memory
        server.start()
    assert orphan not in processes_of(server)
    assert query(server.url, "SELECT 1") == 1


def test_stop_ends_a_stopped_server_and_its_orphans(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner_site.postgres.STOP_SECONDS", 2)
    pid = server.pid()
    assert pid
    with closing(psycopg.connect(server.url)):
        os.kill(pid, signal.SIGSTOP)
        assert server.stop() is True
    assert processes_of(server) == set()


def test_a_pid_used_again_by_another_process_is_not_taken_for_the_server(server: EmbeddedServer) -> None:
    pid = server.pid()
    assert pid
    pid_file = data_folder(server) / "postmaster.pid"
    recorded = pid_file.read_text()
    owner = pid_file.stat()
    as_owner = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "60"], **as_owner) as bystander:
        server.stop()
        # of the same account: PostgreSQL by itself would refuse to start
        pid_file.write_text(recorded.replace(str(pid), str(bystander.pid), 1))
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        assert server.pid() is None
        assert query(server.start(), "SELECT 1") == 1
        pid_file.write_text(recorded.replace(str(pid), str(bystander.pid), 1))
        assert server.stop() is False
        assert bystander.poll() is None
        assert processes_of(server) == set()
        bystander.kill()


def test_a_deleted_data_folder_is_made_anew(fresh: EmbeddedServer) -> None:
    query(fresh.start(), "CREATE TABLE gone ()")
    shutil.rmtree(data_folder(fresh))
    assert query(fresh.start(), "SELECT count(*) FROM pg_class WHERE relname = 'gone'") == 0


@pytest.mark.parametrize(
    "moment", ["postgres.lock", "unfinished-*/PG_VERSION", "unfinished-*/global/pg_control", "data"]
)
def test_a_starter_killed_at_any_moment_is_made_up_for(fresh: EmbeddedServer, moment: str) -> None:
    home = fresh.log.parent
    folder = home.parent if moment == "postgres.lock" else home
    starter = command("start", fresh.purpose)
    eventually(lambda: list(folder.glob(moment)), 60, 0.001, what=moment)
    starter.kill()
    starter.communicate()
    assert query(fresh.start(), "SELECT 1") == 1
    # a killed `initdb` has a child that may write for a moment longer; any later start clears that away
    eventually(lambda: fresh.start() and not list(home.glob("unfinished-*")), what="removal of what was left")
    assert fresh.stop() is True
    assert processes_of(fresh) == set()


def test_two_starters_at_once_get_the_same_server(fresh: EmbeddedServer) -> None:
    starters = [command("start", fresh.purpose) for _ in range(3)]
    assert {outcome(starter) for starter in starters} == {(0, fresh.url)}
    assert query(fresh.url, "SELECT 1") == 1


def test_starts_and_stops_at_once_end_in_one_of_the_two(fresh: EmbeddedServer) -> None:
    racers = [command(action, fresh.purpose) for action in ("start", "stop", "start", "stop")]
    assert [outcome(racer)[0] for racer in racers] == [0, 0, 0, 0]
    assert query(fresh.start(), "SELECT 1") == 1


def test_the_command_line_starts_reports_and_stops(fresh: EmbeddedServer) -> None:
    assert outcome(command("status", fresh.purpose)) == (0, f"PostgreSQL of {fresh.purpose}: not running")
    assert outcome(command("start", fresh.purpose)) == (0, fresh.url)
    assert outcome(command("status"))[1].count(f"PostgreSQL of {fresh.purpose}: running, pid {fresh.pid()}") == 1
    assert outcome(command("stop", fresh.purpose)) == (0, f"PostgreSQL of {fresh.purpose}: stopped")
    assert outcome(command("start"))[0] == 2


def test_a_fresh_database_is_empty_whoever_is_connected(server: EmbeddedServer) -> None:
    query(server.url, "CREATE TABLE IF NOT EXISTS old ()")
    with psycopg.connect(server.url):
        assert query(server.fresh_database(), "SELECT count(*) FROM pg_class WHERE relname = 'old'") == 0


def test_a_checkout_the_account_cannot_reach_works_too(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    checkout = tmp_path / "a checkout, with an odd name and a path too long for a socket" / ("x" * 60)
    for part in ("planner_site", "jobs"):
        shutil.copytree(CHECKOUT / part, checkout / part)
    copy = EmbeddedServer("dev", checkout)
    try:
        assert outcome(command("start", "dev", checkout=checkout)) == (0, copy.url)
        assert query(copy.url, "SELECT 1") == 1
        assert outcome(command("stop", checkout=checkout)) == (0, "PostgreSQL of dev: stopped")
    finally:
        copy.stop()
        base = copy.log.parents[2]
        shutil.rmtree(base)
    assert (base.parent == postgres_home.SYSTEM_FOLDER) is (os.geteuid() == 0)


def test_binaries_the_account_cannot_reach_are_copied_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account("somebody", 12345, 12345)
    monkeypatch.setattr(postgres_home, "can_reach", lambda account, folder: False)
    results: list[Path] = []
    copiers = [
        threading.Thread(target=lambda: results.append(postgres_home.binaries(tmp_path, account))) for _ in range(2)
    ]
    for copier in copiers:
        copier.start()
    for copier in copiers:
        copier.join()
    assert len(set(results)) == 1
    assert tmp_path in results[0].parents
    assert [entry.name for entry in tmp_path.iterdir()] == [results[0].relative_to(tmp_path).parts[0]]
    for program in ("initdb", "pg_ctl", "postgres"):
        version = subprocess.run([results[0] / program, "--version"], capture_output=True, text=True, check=True)
        assert "PostgreSQL" in version.stdout


def test_a_socket_folder_that_somebody_else_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EmbeddedServerError, match="is not ours"):
        postgres_home.private_folder(tmp_path / "link", None)
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match="is not ours"):
        postgres_home.private_folder(tmp_path / "file", None)


def test_a_long_path_has_its_socket_in_a_short_folder(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 100) / "postgres"
    assert len(str(postgres_home.socket_folder(home))) < 60
    assert postgres_home.socket_folder(home) != postgres_home.socket_folder(home / "other")
    assert postgres_home.socket_folder(Path("/srv/planner/.data/dev/postgres")).parent.name == "postgres"
