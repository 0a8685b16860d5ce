"""How the planner finds its database, and what it says when it does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
import requests
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import CommandError
from django.core.management.commands import migrate as django_migrate
from django.db import connection
from django.db.migrations.loader import MigrationLoader

from jobs.management.commands import migrate
from planner_site import postgres
from planner_site.database import database_settings
from planner_site.processes import answers, free_port
from tests.checkouts import Checkout, outcome
from tests.waiting import eventually

LIMITS = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")

DEVELOPMENT = {"DJANGO_DEBUG": "1"}


def on_test_database(environment: dict[str, str]) -> dict[str, str]:
    return {**DEVELOPMENT, "DATABASE_URL": environment["DATABASE_URL"]}


def settings_of(monkeypatch: pytest.MonkeyPatch, url: str) -> dict[str, Any]:
    monkeypatch.setenv("DATABASE_URL", url)
    return database_settings()


def shown(name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SHOW {name}")
        return str(cursor.fetchone()[0])


def test_every_part_of_a_url_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(
        monkeypatch, "postgres://us%40er:p%2Fw@db.example.org:5433/plan%20ner?sslmode=require&options=-c%20jit%3Doff"
    )
    assert {key: settings[key] for key in ("USER", "PASSWORD", "HOST", "PORT", "NAME")} == {
        "USER": "us@er",
        "PASSWORD": "p/w",
        "HOST": "db.example.org",
        "PORT": "5433",
        "NAME": "plan ner",
    }
    assert settings["OPTIONS"]["sslmode"] == "require"
    assert settings["OPTIONS"]["options"].endswith("-c jit=off")
    assert "lock_timeout=2000" in settings["OPTIONS"]["options"]


def test_a_socket_folder_is_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(monkeypatch, "postgresql://planner@/planner?host=/run/postgresql&port=5432")
    assert (settings["HOST"], settings["PORT"]) == ("/run/postgresql", "5432")


def test_without_a_url_it_is_the_embedded_server_of_dev(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(monkeypatch, "") == settings_of(monkeypatch, postgres.url("dev"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://root@localhost/planner", "must begin with postgresql://"),
        ("sqlite:///planner.db", "must begin with postgresql://"),
        ("planner", "must begin with postgresql://"),
        ("postgresql://planner@localhost/", "names no database"),
        ("postgresql://planner@localhost:five/planner", "cannot be read"),
    ],
)
def test_any_other_url_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        settings_of(monkeypatch, url)


def test_only_gunicorn_has_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://planner@localhost/planner"
    assert "pool" not in settings_of(monkeypatch, url)["OPTIONS"]
    assert settings_of(monkeypatch, url)["CONN_MAX_AGE"] is None
    monkeypatch.setenv("PLANNER_DATABASE_POOL", "8")
    assert settings_of(monkeypatch, url)["OPTIONS"]["pool"]["max_size"] == 8
    assert settings_of(monkeypatch, url)["CONN_MAX_AGE"] == 0  # Django refuses a pool of persistent connections


@pytest.mark.django_db
def test_a_session_has_limits() -> None:
    assert [shown(name) for name in LIMITS] == ["2s", "10s", "5s"]


@pytest.fixture
def held_lock(transactional_db: None) -> Iterator[psycopg.Connection[Any]]:
    """Another session that migrates, as far as a lock can tell."""
    params = connection.get_connection_params()
    kept = {key: params[key] for key in ("host", "port", "user", "password", "dbname") if params.get(key)}
    with closing(psycopg.connect(**kept, autocommit=True)) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [migrate._LOCK])
        yield other


@pytest.mark.django_db(transaction=True)
def test_migrate_runs_without_the_limits_on_statements_and_leaves_them_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(django_migrate.Command, "handle", lambda *_, **__: seen.extend(shown(name) for name in LIMITS))
    call_command("migrate")
    assert seen == ["2s", "0", "0"]
    assert [shown(name) for name in LIMITS] == ["2s", "10s", "5s"]


@pytest.mark.processes
def test_migrate_waits_for_another_migrate(
    held_lock: psycopg.Connection[Any], child_environment: dict[str, str], checkout: Checkout
) -> None:
    second = checkout.start("manage.py", "migrate", environment=on_test_database(child_environment))
    assert second.stderr
    assert "Waiting for a lock" in second.stderr.readline()
    assert second.poll() is None
    held_lock.close()
    code, output, errors = outcome(second)
    assert code == 0, errors
    assert "No migrations to apply." in output


def test_migrate_gives_up_on_a_lock_in_the_end(
    held_lock: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(migrate, "RETRY_SECONDS", 0)
    with pytest.raises(CommandError, match="A lock was not to be had"):
        call_command("migrate")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:hidden@127.0.0.1:1/planner", "planner at 127.0.0.1"),
        ("postgresql://planner@/planner?host=/nowhere", "planner at /nowhere"),
        ("mysql://root@localhost/planner", "must begin with postgresql://"),
    ],
)
@pytest.mark.parametrize("command", ["migrate", "run_workers", "runserver"])
def test_an_unreachable_database_is_one_line_and_exit_1(checkout: Checkout, command: str, url: str, said: str) -> None:
    code, output, errors = checkout.run("manage.py", command, environment={"DATABASE_URL": url})
    assert code == 1
    assert said in errors
    assert "DATABASE_URL" in errors
    assert "hidden" not in errors
    assert len(errors.splitlines()) == 1
    assert output == ""


@pytest.mark.processes
def test_manage_starts_the_embedded_server_only_for_what_needs_it(checkout: Checkout) -> None:
    for arguments in (["help"], ["version"], ["migrate", "--help"], ["collectstatic", "--no-input", "--dry-run"]):
        assert checkout.run("manage.py", *arguments)[0] == 0
    assert not checkout.servers["dev"].log.exists()
    code, output, errors = checkout.run("manage.py", "showmigrations", "jobs", environment=DEVELOPMENT)
    assert (code, "0001_initial" in output) == (0, True), errors
    assert checkout.servers["dev"].pid()


@pytest.mark.processes
def test_manage_uses_a_database_url_and_starts_nothing(child_environment: dict[str, str], checkout: Checkout) -> None:
    code, output, errors = checkout.run(
        "manage.py", "showmigrations", "jobs", environment=on_test_database(child_environment)
    )
    assert (code, "[X] 0001_initial" in output) == (0, True), errors
    assert not os.path.exists(checkout.servers["dev"].log)
    eventually(lambda: not checkout.processes(), what="end of all processes")


@pytest.mark.processes
def test_the_web_starts_while_the_database_is_down_and_accepts_nothing(checkout: Checkout) -> None:
    port = free_port()
    nowhere = {"DATABASE_URL": "postgresql://planner@/planner?host=/nowhere", "DJANGO_HTTPS": "0"}
    checkout.start(
        "-m", "gunicorn", "-c", "planner_site/gunicorn_conf.py", "--bind", f"127.0.0.1:{port}", environment=nowhere
    )
    eventually(lambda: answers(f"http://127.0.0.1:{port}/healthz"), 30, what="an answer of /healthz")
    assert requests.get(f"http://127.0.0.1:{port}/readyz", timeout=30).status_code == 503
    body = {"input_dataset": "file-1", "endpoint": "/v1/chat/completions"}
    token = {"Authorization": "Bearer abp_some-token"}
    refused = requests.post(f"http://127.0.0.1:{port}/api/v1/jobs", json=body, headers=token, timeout=30)
    assert refused.status_code == 503, refused.text


def what_hangs_on_the_events() -> tuple[set[str], set[int]]:
    """The indexes' names, and the foreign keys by what changes when one is made anew."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'jobs_jobevent'::regclass")
        indexes = {name for (name,) in cursor.fetchall()}
        cursor.execute("SELECT oid FROM pg_constraint WHERE contype = 'f' AND conrelid = 'jobs_jobevent'::regclass")
        return indexes, {oid for (oid,) in cursor.fetchall()}


@pytest.mark.django_db
def test_the_events_lose_their_spare_indexes_and_keep_their_foreign_key_there_and_back() -> None:
    loader = MigrationLoader(connection)
    migration = loader.get_migration("jobs", "0018_event_index")
    indexes, keys = what_hangs_on_the_events()
    assert len(keys) == 1
    with connection.schema_editor() as editor:
        migration.unapply(loader.project_state(("jobs", "0017_job_request_id")), editor)
        before, keys_before = what_hangs_on_the_events()
        assert (len(before - indexes), keys_before) == (2, keys)
        for _ in range(2):  # again, where there are none
            migration.apply(loader.project_state(("jobs", "0017_job_request_id")), editor)
            assert what_hangs_on_the_events() == (indexes, keys)
