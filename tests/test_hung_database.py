"""A PostgreSQL whose processes all stand still: it takes connections and queries, and answers nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
import requests

from planner_site.postgres import EmbeddedServer
from planner_site.processes import answers, free_port
from tests.checkouts import Checkout, outcome
from tests.waiting import eventually

pytestmark = pytest.mark.processes

STALLED = 1.0
STOP_GRACE = 10.0
QUICK_SETTINGS = f"""
from jobs.conf import Times
from planner_site.settings import *
PLANNER_TIMES = vars(Times()) | {{"stalled": {STALLED}, "beat": 0.2, "stop_grace": {STOP_GRACE}}}
"""
ENVIRONMENT = {"DJANGO_DEBUG": "1", "DJANGO_SETTINGS_MODULE": "quick_settings", "PLANNER_WORKERS": "1"}


@pytest.fixture
def server(checkout: Checkout) -> EmbeddedServer:
    """With all tables, and nothing connected to it."""
    (checkout.folder / "quick_settings.py").write_text(QUICK_SETTINGS)
    code, _, errors = checkout.run("manage.py", "migrate", environment=ENVIRONMENT)
    assert code == 0, errors
    return checkout.servers["dev"]


@contextmanager
def hung(server: EmbeddedServer) -> Iterator[None]:
    """Within, every process of the server is stopped."""
    pids = server.processes()
    assert pids
    for pid in pids:
        with suppress(ProcessLookupError):  # one that served a connection which has just ended
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def count_of_workers(server: EmbeddedServer) -> int:
    with psycopg.connect(server.url) as session:
        row = session.execute("SELECT count(*) FROM jobs_worker").fetchone()
    return int(row[0]) if row else 0


def test_run_workers_obeys_a_stop_while_the_database_hangs(checkout: Checkout, server: EmbeddedServer) -> None:
    workers = checkout.start("manage.py", "run_workers", environment=ENVIRONMENT)
    eventually(lambda: count_of_workers(server) > 0, 60, what="a worker that has beaten")
    with hung(server):
        stopped_at = time.monotonic()
        eventually(lambda: time.monotonic() > stopped_at + 3 * STALLED, what="a judgement that hangs")
        workers.send_signal(signal.SIGTERM)
        code, _, errors = outcome(workers, timeout=STOP_GRACE + 20)
        assert code == 0, errors
    eventually(lambda: checkout.processes() <= server.processes(), 10, what="nothing left but the server")


def test_the_web_says_that_it_lives_and_is_not_ready_while_the_database_hangs(
    checkout: Checkout, server: EmbeddedServer
) -> None:
    port = free_port()
    web = f"http://127.0.0.1:{port}"
    checkout.start(
        "-m", "gunicorn", "-c", "planner_site/gunicorn_conf.py", "--bind", f"127.0.0.1:{port}",
        environment=ENVIRONMENT | {"DATABASE_URL": server.url},
    )  # fmt: skip
    eventually(lambda: answers(f"{web}/healthz"), 60, what="an answer of /healthz")

    def database() -> Any:
        response = requests.get(f"{web}/readyz", timeout=30)
        assert response.status_code == 503, "there are no workers"
        return response.json()["checks"]["database"]

    assert database() == "ok"
    with hung(server):
        for _ in range(3):
            began = time.monotonic()
            assert database().startswith("does not answer")
            assert time.monotonic() - began < 10
            assert requests.get(f"{web}/healthz", timeout=10).status_code == 200
    eventually(lambda: database() == "ok", 30, what="the database to be seen again")
