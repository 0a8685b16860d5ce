"""When the supervisor takes its cluster for stalled. The cluster here is a process that does nothing at all."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models.functions import Now

from jobs import supervisor as module
from jobs.models import Job, Worker
from jobs.supervisor import Supervisor
from tests.engine import long_ago
from tests.factories import make_job
from tests.waiting import eventually

pytestmark = [pytest.mark.django_db, pytest.mark.processes]

STALLED = 0.3
FROZEN = 60.0


@pytest.fixture
def supervisor(settings: Any) -> Iterator[Supervisor]:
    """One whose cluster runs, while work is overdue."""
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "stalled": STALLED, "beat": 0.1, "retry_min": 0.01}
    make_job()
    Job.objects.update(due_at=long_ago())
    supervisor = Supervisor([sys.executable, "-c", "import time; time.sleep(60)"])
    supervisor._start()
    yield supervisor
    supervisor._kill()


def beat(pid: int) -> None:
    """The heartbeat of a worker process of this machine."""
    values = {"pass_started_at": Now(), "beat_at": Now()}
    Worker.objects.update_or_create(host=socket.gethostname(), pid=pid, defaults=values)


def seconds_until_stalled(supervisor: Supervisor) -> float:
    """How long a cluster just started is waited for, on the supervisor's own clock; then start the next one."""
    eventually(supervisor._is_stalled, 30, 0.01)
    waited = time.monotonic() - supervisor._judged_from
    supervisor._restart_stalled()
    return waited


def test_a_cluster_that_never_beats_is_waited_for_longer_each_time(supervisor: Supervisor) -> None:
    """Else a machine too busy to start one in time would start it for ever."""
    for patience in (1, 2, 4):
        assert seconds_until_stalled(supervisor) >= patience * STALLED


def test_patience_has_an_end(supervisor: Supervisor) -> None:
    for _ in range(9):
        supervisor._restart_stalled()
    assert supervisor._patience == module._MOST_PATIENCE


def test_a_cluster_that_has_beaten_is_given_no_more_than_the_usual_time(supervisor: Supervisor) -> None:
    for _ in range(2):
        supervisor._restart_stalled()
    assert supervisor._cluster is not None
    beat(supervisor._cluster.pid)
    supervisor._judged_from -= 60
    assert not supervisor._is_stalled()
    assert supervisor._patience == 1


@pytest.mark.parametrize("whose", ["another cluster's on this machine", "a process's that is gone"])
def test_beats_of_others_do_not_hide_a_stalled_cluster(whose: str, supervisor: Supervisor) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    beat(os.getpid() if whose.startswith("another") else gone.pid)
    eventually(supervisor._is_stalled)


def test_a_stop_is_obeyed_while_the_database_hangs(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    is_asked, goes_on, is_over = threading.Event(), threading.Event(), threading.Event()

    def hang(self: Supervisor) -> bool:
        is_asked.set()
        if not goes_on.wait(10):
            is_over.set()
        return False

    def stop_once_asked() -> None:
        if is_asked.wait(30):
            os.kill(os.getpid(), signal.SIGTERM)

    supervisor._kill()
    monkeypatch.setattr(Supervisor, "_is_stalled", hang)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threading.Thread(target=stop_once_asked, daemon=True).start()
    try:
        supervisor.run()
        assert not is_over.is_set(), "the database hangs to this moment"
    finally:
        goes_on.set()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert supervisor._cluster is not None
    assert supervisor._cluster.poll() is not None


def test_what_a_database_that_hung_says_of_the_time_before_is_no_judgement(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(self: Supervisor) -> bool:
        threading.Event().wait(0.2)  # longer than a beat
        return True

    monkeypatch.setattr(Supervisor, "_is_stalled", hang)
    supervisor._judged_from = float("-inf")
    supervisor._judge_once()
    assert supervisor._stalled is None
    assert supervisor._judged_from > 0
    monkeypatch.setattr(Supervisor, "_is_stalled", lambda self: True)
    supervisor._judge_once()
    assert supervisor._stalled is supervisor._cluster


@pytest.fixture
def idle(supervisor: Supervisor, settings: Any) -> Supervisor:
    """One with nothing to do: what is due, others do."""
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "frozen": FROZEN}
    Job.objects.update(due_at=None)
    return supervisor


def test_a_frozen_cluster_is_noticed_though_others_do_all_the_work(idle: Supervisor) -> None:
    """Else nobody knows until the others are gone, too: an idle one that is well makes a pass now and then."""
    idle._judged_from -= FROZEN / 2
    assert not idle._is_stalled()
    idle._judged_from -= FROZEN
    assert idle._is_stalled()


def test_an_idle_cluster_that_beats_now_and_then_is_not_frozen(idle: Supervisor) -> None:
    assert idle._cluster is not None
    beat(idle._cluster.pid)
    Worker.objects.update(beat_at=long_ago(FROZEN / 2))
    idle._judged_from -= 10 * FROZEN
    assert not idle._is_stalled()


def test_a_worker_that_lives_and_makes_no_progress_is_named_once_and_a_dead_one_forgotten(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    assert supervisor._cluster is not None
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (supervisor._cluster.pid, gone.pid):
        beat(pid)
    Worker.objects.update(beat_at=long_ago(40))
    for _ in range(2):
        supervisor._name_the_stalled()
    (line,) = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert line == f"worker {socket.gethostname()}:{supervisor._cluster.pid} has made no progress for 40 s"
    assert list(Worker.objects.values_list("pid", flat=True)) == [supervisor._cluster.pid]
