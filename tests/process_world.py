"""A whole installation of real processes: web, workers, and what is to happen to them at named points."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests
from django.conf import settings
from django.contrib.auth.models import User

from jobs.models import ApiToken, Worker
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.fake_mds import FakeMds
from planner_site.process_tree import parents
from planner_site.processes import Service, free_port
from tests.api_client import API
from tests.batch_file import line
from tests.engine import is_quiet
from tests.fault_world import AT_ONCE, UNTIL_STOPPED, leave_nothing, rows
from tests.process_faults import Folder
from tests.waiting import eventually
from tests.workers import Host

_PATIENCE = 90.0
_LONGEST_ANSWER = 4.0


class Processes:
    """What runs for all cases: two web workers, two workers."""

    def __init__(self, environment: dict[str, str], provider: SimulatedServer, mds: FakeMds, folder: Path) -> None:
        self.provider = provider
        self.mds = mds
        self.faults = Folder(folder / "faults")
        (folder / "faults").mkdir()
        self.environment = {
            **environment,
            "DJANGO_SETTINGS_MODULE": "tests.settings_faults",
            "PLANNER_MDS_URL": mds.url,
            "FAULTS_FOLDER": str(folder / "faults"),
        }
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.web = Service(
            "web",
            [sys.executable, "-m", "gunicorn", "-c", "planner_site/gunicorn_conf.py", "--bind", f"127.0.0.1:{port}"],
            log=folder / "web.log",
            folder=Path(settings.BASE_DIR),
            environment={**self.environment, "WEB_CONCURRENCY": "2"},
        )
        self.workers = Host(self.environment, folder / "workers.log", workers=2)

    def start(self) -> None:
        """Wait until everything is there."""
        self.web.wait_until_answers(f"{self.url}/healthz", timeout_seconds=60)
        self.workers.cluster()

    def stop(self) -> None:
        """End everything."""
        self.workers.stop()
        self.web.stop()


class ProcessWorld:
    """One case: like `fault_world.World`, with time that passes by itself."""

    pace = 0.3  # seconds between listings

    def __init__(self, processes: Processes) -> None:
        self.provider = processes.provider
        self.mds = processes.mds
        self.sweeps = False
        self._processes = processes
        self._tokens: dict[int, str] = {}
        self._sweeping: list[subprocess.Popen[bytes]] = []

    def plan(self, point: str, fault: str) -> None:
        """Have a fault happen."""
        self._processes.faults.plan(point, fault)

    @property
    def planned(self) -> list[str]:
        """The points whose faults have not happened yet."""
        return self._processes.faults.planned()

    def is_met(self) -> bool:
        """Whether all that was planned has happened; a pass that is about to end may still come by."""
        with suppress(AssertionError):
            eventually(lambda: not self.planned, _LONGEST_ANSWER)
        return not self.planned

    def turn(self) -> None:
        """The workers do what they do by themselves; only the sweep would come too seldom."""
        if self.sweeps:
            command = [sys.executable, "manage.py", "release_orphans", "--grace", "0s"]
            environment = self._processes.environment
            process = subprocess.Popen(
                command, cwd=settings.BASE_DIR, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            self._sweeping.append(process)
            eventually(lambda: process.poll() is not None or process.pid in self._stopped(), _PATIENCE)

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait until it holds."""

        def turn() -> Any:
            self.turn()
            return condition()

        eventually(turn, _PATIENCE, 0.05, what=f"{condition}")

    def settle(self) -> None:
        """Wait until nothing is left to do; then whoever stands still goes on, too late to change anything."""
        self.until(is_quiet if self.is_somebody_standing() else self._is_quiet)
        self.mds.run_seconds = UNTIL_STOPPED  # whatever is made now is made too late
        while stopped := self._stopped():
            before = rows()
            self._let_go(stopped[0])
            self.until(self._is_quiet)
            assert rows() == before, "it came back and changed a row"

    def _let_go(self, pid: int) -> None:
        """Return when its pass, if it was in one, is over, or when it stands still again."""
        in_a_pass = Worker.objects.filter(pid=pid)
        passes = in_a_pass.values_list("passes", flat=True).first()
        self._processes.faults.let_go(pid)
        if passes is not None:
            later = in_a_pass.filter(passes__gt=passes)
            eventually(lambda: pid not in parents() or pid in self._stopped() or later.exists(), _PATIENCE)

    def _is_quiet(self) -> bool:
        return is_quiet() and not self.mds.running() and not self.provider.live()

    def is_somebody_standing(self) -> bool:
        """Whether a process stands still in the middle of something."""
        return bool(self._stopped())

    def _stopped(self) -> list[int]:
        return self._processes.faults.stopped()

    def clean_up(self) -> None:
        """Whatever happened, nobody is left standing, nothing is planned, and nothing is held outside."""
        for pid in self._stopped():
            self._processes.faults.let_go(pid)
        for process in self._sweeping:
            process.wait(_PATIENCE)
        self._processes.faults.clear()
        self.mds.run_seconds = AT_ONCE
        leave_nothing(self.provider, self.mds)

    def post(self, user: User, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        """What a client gets in the end, who asks again until somebody answers."""
        return self._answer(user, path, json=body, headers={name.replace("_", "-"): v for name, v in headers.items()})

    def upload(self, user: User) -> str:
        """The id of an input file of one request."""
        form = {"file": ("in.jsonl", line())}
        return str(self._answer(user, "/files/upload", files=form, data={"purpose": "batch"}, headers={})["id"])

    def _answer(self, user: User, path: str, *, headers: dict[str, str], **sent: Any) -> dict[str, Any]:
        if user.pk not in self._tokens:
            self._tokens[user.pk] = ApiToken.issue(user, "crash points")[1]
        headers = {"Authorization": f"Bearer {self._tokens[user.pk]}", **headers}
        url = f"{self._processes.url}{API}{path}"

        def ask() -> list[dict[str, Any]]:
            with suppress(requests.RequestException):  # its process died, or stands still
                answer = requests.post(url, headers=headers, timeout=_LONGEST_ANSWER, **sent)
                # a conflict is the answer to what was asked before, and done
                return [answer.json()] if answer.ok or answer.status_code == HTTPStatus.CONFLICT else []
            return []

        return eventually(ask, _PATIENCE, 0.05, what=f"an answer to {path}")[0]
