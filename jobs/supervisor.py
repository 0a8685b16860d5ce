"""Keeping one django-q2 cluster alive and progressing: what `run_workers` does.

django-q2 facts this is built around: a killed idle worker can take the shared queue's lock along and freeze the cluster
while every process still lives; a killed parent leaves its children; a SIGTERM can hang. So the cluster runs in a
session of its own, dies with this process, and is judged by the progress of its passes alone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from queue import Empty, SimpleQueue

from django.db import DatabaseError, InterfaceError, connection
from django.db.models.functions import Now

from jobs import vital_signs
from jobs.conf import times
from jobs.lifecycle.due import seconds_to_next_timer
from jobs.models import QueueMessage, Worker
from jobs.processes import dying_with_parent

logger = logging.getLogger(__name__)

# django-q2 has its own use for SIGTERM and SIGINT; this one tells every process of the cluster to start no more calls.
STOP_SIGNAL = signal.SIGUSR1

# A cluster that has never beaten is given up to this many times `Times.stalled`: on a machine too busy to start one
# in that time, starting it over and over would never get anywhere.
_MOST_PATIENCE = 8


class Supervisor:
    """Runs until SIGTERM or SIGINT. The database is asked on a thread of its own: one that hangs delays no signal."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._signals: SimpleQueue[int] = SimpleQueue()  # its put is safe in a signal handler, an Event's set is not
        self._is_told_to_stop = False
        self._cluster: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._judged_from = 0.0
        self._patience = 1
        self._named: set[int] = set()  # the workers that were said to be stalled
        self._stalled: subprocess.Popen[bytes] | None = None  # the cluster that was last judged so

    def run(self) -> None:
        """Start the cluster, restart it when it dies or stalls, stop it when told to."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self._start()
        threading.Thread(target=self._judge, daemon=True).start()
        while not self._stops_within(times().beat / 2):
            if self._cluster is None or self._cluster.poll() is not None:
                logger.error("the cluster has died; starting it again")
                self._restart()
            elif self._stalled is self._cluster:
                self._restart_stalled()
        self._shut_down()

    def _on_signal(self, signum: int, _frame: object) -> None:
        self._signals.put(signum)

    def _stops_within(self, seconds: float) -> bool:
        """Wait; True as soon as it has been told to stop."""
        if not self._is_told_to_stop:
            with suppress(Empty):
                self._signals.get(timeout=seconds)
                self._is_told_to_stop = True
        return self._is_told_to_stop

    def _start(self) -> None:
        self._started_at = self._judged_from = time.monotonic()
        # two arenas are enough for threads that wait; with glibc's eight per core freed memory lies scattered and stays
        environment = {"MALLOC_ARENA_MAX": "2", **os.environ}
        self._cluster = subprocess.Popen(  # noqa: S603 - our own command line
            self._command, start_new_session=True, preexec_fn=dying_with_parent(), env=environment
        )

    def _restart(self) -> None:
        self._kill()
        if time.monotonic() - self._started_at < times().stalled:
            self._stops_within(times().retry_min)  # it dies at once: do not spin
        self._start()

    def _restart_stalled(self) -> None:
        waited = time.monotonic() - self._judged_from
        logger.error("no pass has made progress, the cluster has been waited for %.0f s; restarting", waited)
        self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self._restart()

    def _kill(self) -> None:
        """The whole process group, whatever state it is in."""
        if self._cluster is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._cluster.pid, signal.SIGKILL)
        self._cluster.wait()

    def _judge(self) -> None:
        """Leave word on the cluster for the main loop until that has been told to stop."""
        while not self._is_told_to_stop:
            self._judge_once()
            time.sleep(times().beat / 2)

    def _judge_once(self) -> None:
        cluster, began = self._cluster, time.monotonic()
        if self._is_stalled():
            self._stalled = cluster
        if time.monotonic() - began > times().beat:
            self._judge_from_now()  # the database hung: what it says of the time before is no judgement

    def _judge_from_now(self) -> None:
        """Nothing progresses without the database: not the cluster's fault, and it needs time to catch up after."""
        self._judged_from = time.monotonic()
        self._stalled = None

    def _is_stalled(self) -> bool:
        """Whether no pass of this cluster has beaten while work was overdue, or for far longer than an idle one waits.

        The latter since a frozen cluster would otherwise go unnoticed for as long as others do all the work.
        """
        waited = time.monotonic() - self._judged_from
        if waited < self._patience * times().stalled:
            return False
        try:
            if self._has_beaten(times().stalled):
                self._patience = 1
                self._name_the_stalled()
                return False
            is_frozen = waited >= self._patience * times().frozen and not self._has_beaten(times().frozen)
            return is_frozen or self._is_overdue()
        except (DatabaseError, InterfaceError):
            connection.close()
            self._judge_from_now()
            return False

    def _name_the_stalled(self) -> None:
        """Say once of each worker that it lives and makes no progress; forget those that ended in the middle."""
        stalled = {worker.pid: worker for worker in vital_signs.stalled_workers(socket.gethostname())}
        ended = [pid for pid in stalled if not _runs(pid)]
        if ended:
            Worker.objects.filter(host=socket.gethostname(), pid__in=ended, pass_ended_at=None).delete()
        alive = {pid for pid in stalled if self._is_ours(pid)}
        for pid in alive - self._named:
            logger.error("worker %s", stalled[pid])
        self._named = alive

    def _is_overdue(self) -> bool:
        timer = seconds_to_next_timer()
        if timer is not None and timer < -times().stalled:
            return True
        since = Now() - timedelta(seconds=times().stalled)
        return QueueMessage.objects.filter(created_at__lt=since).exists()

    def _has_beaten(self, seconds: float) -> bool:
        """Of this cluster: those of another one on this machine, or of the one before, tell nothing of it."""
        since = Now() - timedelta(seconds=seconds)
        beaten = Worker.objects.filter(host=socket.gethostname(), beat_at__gte=since)
        return any(self._is_ours(pid) for pid in beaten.values_list("pid", flat=True))

    def _is_ours(self, pid: int) -> bool:
        with suppress(ProcessLookupError):
            return self._cluster is not None and os.getsid(pid) == self._cluster.pid
        return False

    def _shut_down(self) -> None:
        """No new calls; those under way recorded or left to their leases; gone within the stop grace."""
        if self._cluster is None or self._cluster.poll() is not None:
            return
        os.killpg(self._cluster.pid, STOP_SIGNAL)
        self._cluster.terminate()
        try:
            self._cluster.wait(timeout=times().stop_grace - times().beat)
        except subprocess.TimeoutExpired:
            logger.warning("the cluster did not stop in time; killing it")
        self._kill()


def _runs(pid: int) -> bool:
    with suppress(PermissionError):  # somebody else's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def cluster_command() -> list[str]:
    """The command line of the cluster: this same `manage.py`."""
    return [sys.executable, sys.argv[0], "qcluster"]
