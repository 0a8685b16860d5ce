"""A running installation for tests: hosts of workers as real process groups, a pool, and an input file at the MDS."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from jobs import planner
from jobs.batch_client import Batch
from jobs.models import Job
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.statuses import JobStatus
from planner_site.process_tree import children, parents
from planner_site.processes import Service
from tests.batch_calls import client_of
from tests.engine import is_quiet
from tests.factories import make_file, make_pool, make_user
from tests.flow import ENDPOINT, upload
from tests.waiting import eventually


@dataclass(frozen=True)
class Cluster:
    """The processes of one django-q2 cluster."""

    parent: int
    sentinel: int
    workers: tuple[int, ...]
    monitor: int
    pusher: int

    @property
    def all(self) -> set[int]:
        return {self.parent, self.sentinel, *self.workers, self.monitor, self.pusher}


class Host:
    """One `run_workers` and what it started."""

    def __init__(self, environment: dict[str, str], log: Path, workers: int) -> None:
        self._workers = workers
        self._mark = f"PLANNER_TEST_MARK={uuid.uuid4().hex}"
        name, _, value = self._mark.partition("=")
        self.service = Service(
            "workers",
            [sys.executable, "manage.py", "run_workers"],
            log=log,
            folder=Path(settings.BASE_DIR),
            environment={**environment, "PLANNER_WORKERS": str(workers), name: value},
        )

    def cluster(self) -> Cluster:
        """The cluster that runs now, once it is complete."""
        return eventually(self._cluster, 30, 0.1, what="a complete cluster")

    def _cluster(self) -> Cluster | None:
        self.service.check_running()
        running = parents()
        for parent in children(self.service.pid, running):
            for sentinel in children(parent, running):
                crew = children(sentinel, running)
                if len(crew) == self._workers + 2:
                    *workers, monitor, pusher = crew  # django-q2 forks them in this order
                    return Cluster(parent, sentinel, tuple(workers), monitor, pusher)
        return None

    def processes(self) -> set[int]:
        """Everything that runs and was started from here."""
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self._mark.encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
        return found

    def log(self) -> str:
        """What it has logged."""
        return self.service.log.read_text()

    def terminate(self, within: float) -> None:
        """SIGTERM; fail unless everything is gone in time."""
        self.service.ask_to_stop()
        eventually(lambda: not self.service.is_running() and not self.processes(), within, 0.1, what="the end of all")

    def stop(self) -> None:
        """End it, whatever state it is in."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.service.stop()


class Installation:
    """Everything one test needs, under a name of its own at an MDS it shares with others."""

    def __init__(self, environment: dict[str, str], provider: SimulatedServer, mds: str, folder: Path) -> None:
        self.name = f"test-{uuid.uuid4().hex[:12]}"
        self.provider = provider
        self.hosts: list[Host] = []
        self._mds = mds
        self._folder = folder
        self._environment = {
            **environment,
            "DJANGO_SETTINGS_MODULE": "tests.settings_processes",
            "PLANNER_INSTALLATION": self.name,
            "PLANNER_MDS_URL": mds,
        }
        self.user = make_user()
        self.pool = make_pool(
            options={"base_url": provider.url},
            max_live=1000,
            absence_confirm_seconds=0.2,
            observe_interval_seconds=0.2,
        )

    def start_host(self, workers: int = 2, **environment: str) -> Host:
        """Another host of workers; it is complete only a second later."""
        log = self._folder / f"workers-{len(self.hosts)}.log"
        host = Host({**self._environment, **environment}, log, workers)
        self.hosts.append(host)
        return host

    def upload(self, lines: int) -> str:
        """An input file of that many requests."""
        file_id = upload(self._mds, lines)
        make_file(self.user, id=file_id, request_count=lines)
        return file_id

    def enqueue(self, file_id: str, **fields: Any) -> Job:
        """A job, as the API makes it."""
        return planner.enqueue(self.user, planner.JobRequest(endpoint=ENDPOINT, input_file_id=file_id, **fields))

    def batches(self) -> list[Batch]:
        """All batches of ours, as the MDS tells of each by itself."""
        client = client_of(self._mds, timeout=30)
        found: list[Batch] = []
        after = ""
        while True:
            page = client.list_page(after)
            found += [batch for batch in page.batches if batch.job_id.startswith(f"{self.name}:")]
            if not page.has_more:
                return [client.get(batch.id) for batch in found]
            after = page.batches[-1].id

    def await_end(self, timeout: float = 40) -> None:
        """Wait until every job is over and every resource given back."""
        try:
            eventually(is_quiet, timeout, 0.1, what="the end of all jobs")
        except AssertionError as error:
            rows = Counter(Job.objects.values_list("status", "provision__status", "last_error"))
            logs = "".join(host.service.log_tail() for host in self.hosts)
            raise AssertionError(f"{error}\n{rows}{logs}") from None

    def check_completed(self, jobs: Iterable[Job], timeout: float = 40) -> None:
        """Every job completes, nothing is left at the provider, and each has one batch that counts."""
        self.await_end(timeout)
        jobs = list(jobs)
        ended = Job.objects.filter(pk__in=[job.pk for job in jobs])
        wrong = [f"{job.pk} {job.status}: {job.error_message}" for job in ended if job.status != JobStatus.COMPLETED]
        assert not wrong
        assert self.provider.live() == []
        counted = Counter(batch.job_id.split(":")[1] for batch in self.batches() if batch.status != "cancelled")
        assert counted == {job.pk: 1 for job in jobs}

    def stop(self) -> None:
        """End all hosts."""
        for host in self.hosts:
            host.stop()
