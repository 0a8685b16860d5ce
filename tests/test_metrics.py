"""The figures: what a job's life leaves in them, who may read them, and what they cost beside a long history."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from prometheus_client import CollectorRegistry

from jobs import collector, exporter, figures, metric_folder, metrics
from jobs.api.health import answer_of_database
from jobs.errors import UpstreamError, UpstreamKind
from jobs.metrics import may_read, outside_call, registry
from jobs.models import QueueMessage, Worker
from planner_site.processes import free_port
from tests.engine import long_ago, passes_until_quiet, releasing, simulated_pool
from tests.factories import make_job, make_pool, make_provision
from tests.flow import Planner
from tests.plans import explained, repeat

NETWORKS = ["127.0.0.0/8", "::1", "10.1.0.0/16"]


def value(name: str, shown: CollectorRegistry | None = None, **labels: str) -> float:
    """One figure; 0 where nothing was counted yet."""
    return (shown or registry()).get_sample_value(name, labels) or 0.0


@pytest.mark.mds
@pytest.mark.django_db(transaction=True)
def test_a_job_that_completes_is_counted_at_each_step(here: Planner) -> None:
    pool = simulated_pool(here.server).name
    counted = {
        ("planner_job_transitions_total", ("from_status", "pending"), ("to_status", "provisioning")): 1,
        ("planner_provision_transitions_total", ("pool", pool), ("to_status", "released")): 1,
        ("planner_accept_to_submit_seconds_count", ("pool", pool)): 1,
        ("planner_request_to_ready_seconds_count", ("pool", pool)): 1,
        ("planner_outside_call_seconds_count", ("target", pool), ("operation", "create")): 1,
        ("planner_outside_call_seconds_count", ("target", "mds"), ("operation", "submit")): 1,
        ("planner_wakeups_sent_total",): 1,
        ("planner_rows_claimed_total",): 1,
        ("planner_pass_seconds_count",): 1,
    }
    before = {key: value(key[0], **dict(key[1:])) for key in counted}
    here.job()
    passes_until_quiet()
    grown = {key: value(key[0], **dict(key[1:])) - before[key] for key in counted}
    assert {key: count for key, count in grown.items() if count < counted[key]} == {}
    assert {key: count for key, count in grown.items() if key[0].startswith("planner_job") and count != 1} == {}


def test_a_call_that_fails_is_counted_by_the_class_of_its_error() -> None:
    for error in (UpstreamError(UpstreamKind.CAPACITY, "full"), KeyError("ours")):
        with pytest.raises(type(error)), outside_call("somewhere", "create"):
            raise error
    for kind in ("capacity", "defect"):
        labels = {"target": "somewhere", "operation": "create", "error": kind}
        assert value("planner_outside_call_errors_total", **labels) == 1
    assert value("planner_outside_call_seconds_count", target="somewhere", operation="create") == 2


@pytest.mark.django_db
def test_rows_are_told_as_they_are(settings: Any) -> None:
    settings.PLANNER_QUEUE_CAPACITY = 10
    pool = make_pool(is_enabled=False, observe_failures=3, orphans={"abp-1": "2026-01-01T00:00:00+00:00"})
    make_job(accepted_at=timezone.now() - timedelta(seconds=100))
    make_job(hold=True)
    make_job(status="completed")
    releasing(pool, retry_count=1, due_at=long_ago(70), last_error_at=timezone.now())
    releasing(pool, retry_count=1, due_at=long_ago(70), last_error_code="timeout", last_error_at=long_ago(1000))
    QueueMessage.objects.create(created_at=long_ago(30))
    at = timezone.now() - timedelta(seconds=50)
    Worker.objects.create(host="h", pid=7, pass_started_at=at, beat_at=at)
    shown = registry(collector.DatabaseCollector())
    assert value("planner_jobs", shown, status="pending") == 2
    assert shown.get_sample_value("planner_jobs", {"status": "completed"}) is None
    assert 100 <= value("planner_oldest_in_status_seconds", shown, status="pending") < 200
    assert value("planner_queue_depth", shown) == 1
    assert value("planner_queue_fill", shown) == 0.2
    assert value("planner_provisions", shown, pool=pool.name, status="releasing") == 2
    assert value("planner_releases_failing", shown, pool=pool.name) == 1
    assert value("planner_oldest_release_seconds", shown, pool=pool.name) >= 50
    assert shown.get_sample_value("planner_pool_enabled", {"pool": pool.name}) == 0
    assert value("planner_pool_observe_failures", shown, pool=pool.name) == 3
    assert value("planner_pool_orphans", shown, pool=pool.name) == 1
    assert 50 <= value("planner_seconds_since_beat", shown) < 60
    assert 50 <= value("planner_worker_stalled_seconds", shown, host="h", pid="7") < 60
    assert 70 <= value("planner_lag_seconds", shown) < 80
    assert 30 <= value("planner_oldest_hint_seconds", shown) < 40
    assert value("planner_database_up", shown) == 1


@pytest.mark.django_db
def test_a_long_history_and_a_long_queue_cost_nothing(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    few, settings.PLANNER_QUEUE_CAPACITY = 20, 20
    monkeypatch.setattr(figures, "MOST_COUNTED", few)
    monkeypatch.setattr(figures, "MOST_CANCELLING", few)
    over = make_job(status="cancelled", pool=make_pool(), cancel_requested_at=timezone.now())
    repeat(over, 6000)
    repeat(make_provision(over, over.pool, status="released"), 6000, "requested_at", id="gen_random_uuid()", name="n")
    repeat(make_job(), 6000)
    with explained() as plans:
        list(collector.DatabaseCollector().collect())
        answer_of_database()
    read = {plan.sql: plan.rows["jobs_job"] + plan.rows["jobs_provision"] for plan in plans}
    assert len(read) >= 8
    assert {sql: rows for sql, rows in read.items() if rows > 2 * few} == {}
    assert [plan for plan in plans if plan.read_whole & {"jobs_job", "jobs_provision"}] == []


@pytest.mark.django_db(transaction=True)
def test_a_database_that_is_away_costs_its_own_figures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr(collector, "oldest_in_status", fail)
    text = Client().get("/metrics").content.decode()
    assert "planner_database_up 0.0" in text
    assert "planner_jobs{" not in text
    assert "planner_pass_seconds_count" in text


@pytest.mark.parametrize(
    ("address", "authorization", "may"),
    [
        ("127.0.0.1", "", True),
        ("::ffff:127.0.0.1", "", True),
        ("10.1.2.3", "", True),
        ("10.2.0.1", "", False),
        ("", "", False),
        ("somewhere", "", False),
        ("10.2.0.1", "Bearer s3cret", True),
        ("10.2.0.1", "Bearer s3cre", False),
        ("10.2.0.1", "Bearer ", False),
        ("10.2.0.1", "Bearer s3cret\xe9", False),
    ],
)
def test_who_may_read(address: str, authorization: str, may: bool, settings: Any) -> None:
    settings.PLANNER_METRICS_NETWORKS, settings.PLANNER_METRICS_TOKEN = NETWORKS, "s3cret"
    assert may_read(address, authorization) is may


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("proxies", "headers", "status"),
    [
        (0, {}, 200),
        (0, {"X-Forwarded-For": "127.0.0.1"}, 403),  # a proxy nobody told us of: its own address is everybody's
        (1, {"X-Forwarded-For": "203.0.113.9"}, 403),
        (1, {"X-Forwarded-For": "10.1.0.9"}, 200),
        (0, {"X-Forwarded-For": "203.0.113.9", "Authorization": "Bearer s3cret"}, 200),
    ],
)
def test_a_proxy_lets_nobody_in(proxies: int, headers: dict[str, str], status: int, settings: Any) -> None:
    settings.PLANNER_PROXIES = proxies
    settings.PLANNER_METRICS_NETWORKS, settings.PLANNER_METRICS_TOKEN = NETWORKS, "s3cret"
    assert Client().get("/metrics", headers=headers).status_code == status


@pytest.mark.django_db
def test_requests_are_counted_by_route_and_never_by_path() -> None:
    Client().get("/api/v1/jobs/job_1")
    Client().generic("BREW", "/api/v1/jobs/job_2")
    Client().get("/no-such-page")
    shown = registry()
    route = "/api/v1/jobs/<str:job_id>"
    assert value("planner_http_responses_total", shown, method="GET", route=route, status="401") >= 1
    assert value("planner_http_request_seconds_count", shown, method="other", route=route) >= 1
    routes = {s.labels["route"] for m in shown.collect() for s in m.samples if "route" in s.labels}
    assert not [each for each in routes if "job_1" in each or "no-such-page" in each]


# Processes that serve one port together

COUNTS = """
import django; django.setup()
from jobs.metrics import HINTS_SENT; HINTS_SENT.inc()
print(flush=True); input()
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "figures")


def counting(folder: str) -> subprocess.Popen[str]:
    """A process that has counted one hint, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", COUNTS],
        env={"DJANGO_SETTINGS_MODULE": "tests.settings", metric_folder.VARIABLE: folder, "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    return process


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.processes
def test_a_process_takes_over_the_figures_of_one_that_was_killed(folder: str) -> None:
    first, second = counting(folder), counting(folder)
    end(first)
    third = counting(folder)
    assert value("planner_wakeups_sent_total", registry(folder=folder)) == 3
    assert sorted(path.name for path in Path(folder).glob("counter_*")) == ["counter_1.db", "counter_2.db"]
    end(second, third)


@pytest.fixture
def exported() -> Iterator[str]:
    port = free_port()
    with exporter.exporting(port):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.processes
def test_the_workers_port_shows_what_their_processes_count(exported: str, settings: Any) -> None:
    end(counting(os.environ[metric_folder.VARIABLE]))
    assert "planner_wakeups_sent_total 1.0" in requests.get(f"{exported}/metrics", timeout=10).text
    assert requests.get(f"{exported}/", timeout=10).status_code == 404
    settings.PLANNER_METRICS_NETWORKS = []
    assert requests.get(f"{exported}/metrics", timeout=10).status_code == 403


def test_without_a_port_nothing_is_served_and_nothing_kept() -> None:
    with exporter.exporting(0):
        assert metrics.FOLDER not in os.environ
