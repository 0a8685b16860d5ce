"""/healthz and /readyz."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import conf
from jobs.api import health
from jobs.models import BatchScan, QueueMessage, Worker
from tests.engine import long_ago
from tests.factories import make_job


def beat(seconds_ago: float) -> None:
    at = timezone.now() - timedelta(seconds=seconds_ago)
    pid = Worker.objects.count()
    Worker.objects.create(host="h", pid=pid, pass_started_at=at, beat_at=at, pass_ended_at=at)


def readyz() -> tuple[int, Any]:
    response = Client().get("/readyz")
    return response.status_code, response.json()


def test_healthz_touches_no_database() -> None:
    # no database mark: a query would fail this test
    response = Client().get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("mode", ["dev", "basic"])
def test_healthz_is_the_same_in_every_mode(mode: str, settings: Any) -> None:
    settings.PLANNER_AUTH_MODE = mode
    assert Client().get("/healthz").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_ready_is_with_a_worker_that_beats_whatever_the_mds_does(settings: Any) -> None:
    settings.PLANNER_MDS_URL = "http://127.0.0.1:1"
    beat(conf.times().unready * 9)
    beat(0)
    checks = {"database": "ok", "migrations": "ok", "workers": "ok"}
    information = {"lag_seconds": 0.0, "oldest_hint_seconds": 0.0, "stalled_workers": [], "mds": "not read yet"}
    assert readyz() == (200, {"status": "ready", "checks": checks, "information": information})
    BatchScan.objects.create(ended_at=long_ago(20))
    assert readyz()[1]["information"]["mds"] == "ok"


@pytest.mark.django_db
def test_ready_writes_nothing() -> None:
    beat(0)
    with CaptureQueriesContext(connection) as queries:
        assert set(health.answer_of_database()[0].values()) == {"ok"}
    assert {query["sql"].split()[0] for query in queries} == {"SELECT"}


@pytest.mark.django_db(transaction=True)
def test_what_delays_work_is_told_to_those_who_may_see_it_and_is_no_503(settings: Any) -> None:
    beat(0)
    stopped = Worker.objects.create(host="h9", pid=42, pass_started_at=long_ago(300), beat_at=long_ago(100))
    Worker.objects.create(host="h8", pid=1, pass_started_at=long_ago(300), beat_at=long_ago(9000))
    ended = {"pass_started_at": long_ago(300), "beat_at": long_ago(100), "pass_ended_at": long_ago(100)}
    Worker.objects.create(host="h9", pid=43, **ended)
    BatchScan.objects.create(last_error="The metadata service cannot be reached (Refused)")
    QueueMessage.objects.create(created_at=long_ago(70))
    make_job(due_at=long_ago(80))
    status, body = readyz()
    told = body["information"]
    assert status == 200
    assert told["stalled_workers"] == [f"{stopped} has made no progress for 100 s"]
    assert told["mds"] == "The metadata service cannot be reached (Refused)"
    assert 80 <= told["lag_seconds"] < 90
    assert 70 <= told["oldest_hint_seconds"] < 80
    settings.PLANNER_METRICS_NETWORKS = []
    assert "information" not in readyz()[1]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("has_old_beat", [True, False])
def test_without_a_beat_it_is_not_ready(has_old_beat: bool) -> None:
    if has_old_beat:
        beat(conf.times().unready * 2)
    status, body = readyz()
    assert (status, body["status"]) == (503, "not ready")
    assert body["checks"]["workers"] == f"none has beaten for {conf.times().unready:g} s"
    assert body["checks"]["database"] == body["checks"]["migrations"] == "ok"


@pytest.mark.django_db(transaction=True)
def test_with_a_migration_missing_it_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    beat(0)
    monkeypatch.setattr(MigrationExecutor, "migration_plan", lambda *_: [("one", False), ("two", False)])
    status, body = readyz()
    assert (status, body["checks"]["migrations"]) == (503, "2 not applied")


@pytest.mark.django_db(transaction=True)
def test_without_a_database_it_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("connection to 10.0.0.1 refused for user secret")

    monkeypatch.setattr(MigrationExecutor, "__init__", fail)
    status, body = readyz()
    assert (status, body["checks"]["database"]) == (503, "does not answer (OperationalError)")


@pytest.mark.django_db(transaction=True)
def test_a_database_that_hangs_is_asked_once_and_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    beat(0)
    monkeypatch.setattr(health, "_ANSWER_SECONDS", 0.05)
    asked, goes_on = [], threading.Event()

    def hang(*_: object) -> list[Any]:
        asked.append(threading.current_thread())
        assert goes_on.wait(30)
        return []

    with monkeypatch.context() as patches:
        patches.setattr(MigrationExecutor, "migration_plan", hang)
        for _ in range(3):
            status, body = readyz()
            assert (status, body["checks"]["database"]) == (503, "does not answer within 0.05 s")
        assert len(asked) == 1
        goes_on.set()
        asked[0].join(30)
    monkeypatch.undo()
    assert readyz()[0] == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_are_reads(path: str) -> None:
    assert Client().post(path).status_code == 405
