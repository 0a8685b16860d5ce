"""The workers as they run in production: real processes, killed and stopped in every way, on the real MDS."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.db.models.functions import Now
from psycopg import sql

from jobs import planner
from jobs.lifecycle.due import seconds_to_next_timer
from jobs.models import Job, JobEvent, Pool, Provision, Worker
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.statuses import JobStatus
from jobs.testing.script import Rule
from planner_site.process_tree import parents
from tests.peers import Peer, silence
from tests.settings_processes import PLANNER_TIMES
from tests.waiting import eventually
from tests.workers import Host, Installation

pytestmark = [pytest.mark.processes, pytest.mark.mds]

LONG_BATCH = 600  # lines: some seconds at the MDS
STOP_GRACE = PLANNER_TIMES["stop_grace"]


@pytest.fixture
def installation(
    child_environment: dict[str, str], simulated_server: SimulatedServer, mds: str, tmp_path: Path
) -> Iterator[Installation]:
    installation = Installation(child_environment, simulated_server, mds, tmp_path)
    try:
        yield installation
    finally:
        installation.stop()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in parents(), what=f"the end of {pid}")


def await_status(job: Job, *statuses: JobStatus) -> None:
    eventually(lambda: Job.objects.filter(pk=job.pk, status__in=statuses).exists(), 20, what=f"{statuses}")


def hold_creates(installation: Installation) -> Rule:
    """Creates act, but their answers do not come."""
    return installation.provider.add_rule(Rule(on="create", times=None, answer_delay_seconds=600))


def await_held_create(installation: Installation) -> None:
    assert installation.provider.wait_until(lambda: installation.provider.in_flight["create"] > 0, 20)


def await_idle_worker() -> None:
    """Wait for a moment just after a pass: the next one comes by the safety net, so now the worker is idle."""
    a_moment_ago = {
        "pass_ended_at__gt": Now() - timedelta(seconds=0.3),
        "pass_ended_at__lt": Now() - timedelta(seconds=0.1),
    }
    eventually(lambda: Worker.objects.filter(**a_moment_ago).exists(), 30)


def test_it_works(installation: Installation) -> None:
    installation.start_host()
    installation.check_completed([installation.enqueue(installation.upload(3))])


@pytest.mark.parametrize("kind", ["parent", "sentinel", "pusher", "monitor"])
def test_a_killed_process_costs_no_job(kind: str, installation: Installation) -> None:
    file_id = installation.upload(3)
    host = installation.start_host()
    victim = getattr(host.cluster(), kind)
    first = installation.enqueue(file_id)
    kill(victim)
    second = installation.enqueue(file_id)
    installation.check_completed([first, second])
    assert victim not in host.cluster().all


def test_a_killed_idle_worker_costs_no_job(installation: Installation) -> None:
    file_id = installation.upload(3)
    victim = installation.start_host(workers=3).cluster().workers[0]
    await_idle_worker()
    kill(victim)
    installation.check_completed([installation.enqueue(file_id)])


def test_an_idle_worker_killed_with_the_queues_lock_is_noticed(installation: Installation) -> None:
    """The only worker waits for the next task with the lock of django-q2's queue in hand; whoever comes after it
    waits for that lock for ever, and every process looks well."""
    file_id = installation.upload(3)
    host = installation.start_host(workers=1)
    frozen = host.cluster()
    await_idle_worker()
    kill(frozen.workers[0])
    installation.check_completed([installation.enqueue(file_id)])
    assert host.cluster().parent != frozen.parent
    assert "no pass has made progress" in host.log()


def test_a_busy_worker_killed_in_a_create_leaves_no_second_resource(installation: Installation) -> None:
    hold = hold_creates(installation)
    host = installation.start_host(workers=1)
    job = installation.enqueue(installation.upload(3))
    await_held_create(installation)
    kill(host.cluster().workers[0])
    installation.provider.withdraw(hold)
    installation.check_completed([job])
    assert installation.provider.stats()["bill"]["objects_created"] == 1


def test_nothing_outlives_a_killed_supervisor(installation: Installation) -> None:
    file_id = installation.upload(LONG_BATCH)
    host = installation.start_host()
    assert len(host.cluster().all & host.processes()) == 6
    job = installation.enqueue(file_id)
    await_status(job, JobStatus.IN_PROGRESS)
    kill(host.service.pid)
    eventually(lambda: not host.processes(), 2, what="the end of all its processes")
    installation.start_host()
    installation.check_completed([job])


def test_a_cluster_killed_as_a_whole_is_started_again(installation: Installation) -> None:
    file_id = installation.upload(LONG_BATCH)
    host = installation.start_host()
    job = installation.enqueue(file_id)
    await_status(job, JobStatus.IN_PROGRESS)
    os.killpg(host.cluster().parent, signal.SIGKILL)
    installation.check_completed([job])
    assert "the cluster has died" in host.log()


@contextmanager
def no_database() -> Iterator[None]:
    """Nobody but this test is connected, and nobody gets in."""
    connection.ensure_connection()
    info = connection.connection.info
    database = sql.Identifier(info.dbname)
    with psycopg.connect(**connection.get_connection_params() | {"dbname": "postgres"}, autocommit=True) as other:
        other.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(database))
        try:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s",
                [info.dbname, info.backend_pid],
            )
            yield
        finally:
            other.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(database))


def test_an_outage_of_the_database_costs_time_and_no_process(installation: Installation) -> None:
    installation.provider.ready_seconds = 3600
    host = installation.start_host()
    job = installation.enqueue(installation.upload(3))
    eventually(lambda: Provision.objects.filter(status="provisioning").exists(), 20)
    cluster = host.cluster()
    with no_database():
        # long enough to look like a stall, once the database answers again
        eventually(lambda: (seconds_to_next_timer() or 0) < -PLANNER_TIMES["stalled"] - 1, 30)
        installation.provider.make_ready(Provision.objects.get().name)
    installation.check_completed([job])
    assert host.cluster() == cluster


def stop(host: Host, installation: Installation) -> None:
    """SIGTERM: out in time, and no call begins once the word is out."""
    told_at = time.time()
    host.terminate(STOP_GRACE)
    assert [call for call in installation.provider.calls if call.at > told_at + 0.5] == []


def test_a_stop_leaves_a_pending_job_for_the_next_host(installation: Installation) -> None:
    Pool.objects.update(max_live=0)
    host = installation.start_host()
    job = installation.enqueue(installation.upload(3))
    await_idle_worker()
    stop(host, installation)
    assert Job.objects.get(pk=job.pk).status == JobStatus.PENDING
    Pool.objects.update(max_live=1)
    installation.start_host()
    installation.check_completed([job])


def test_a_stop_while_a_create_is_in_flight_leaks_nothing(installation: Installation) -> None:
    hold = hold_creates(installation)
    host = installation.start_host()
    job = installation.enqueue(installation.upload(3))
    await_held_create(installation)
    stop(host, installation)
    assert Job.objects.get(pk=job.pk).status == JobStatus.PROVISIONING
    installation.provider.withdraw(hold)
    installation.start_host()
    installation.check_completed([job])
    assert installation.provider.stats()["bill"]["objects_created"] == 1


def test_a_stop_while_a_resource_starts_leaves_it_for_the_next_host(installation: Installation) -> None:
    installation.provider.ready_seconds = 3600
    host = installation.start_host()
    job = installation.enqueue(installation.upload(3))
    eventually(lambda: Provision.objects.filter(status="provisioning").exists(), 20)
    stop(host, installation)
    installation.provider.make_ready(Provision.objects.get().name)
    installation.start_host()
    installation.check_completed([job])
    assert installation.provider.stats()["bill"]["objects_created"] == 1


def test_a_stop_while_a_submit_is_in_flight_leaves_one_batch(installation: Installation) -> None:
    file_id = installation.upload(3)
    with Peer(silence) as hung:
        host = installation.start_host(PLANNER_MDS_URL=hung.url)
        job = installation.enqueue(file_id)
        eventually(lambda: Job.objects.filter(pk=job.pk, submit_started_at__isnull=False).exists(), 20)
        stop(host, installation)
    assert Job.objects.get(pk=job.pk).status == JobStatus.SUBMITTING
    installation.start_host()
    installation.check_completed([job])


def test_a_stop_while_a_batch_runs_leaves_it_running(installation: Installation) -> None:
    file_id = installation.upload(LONG_BATCH)
    host = installation.start_host()
    job = installation.enqueue(file_id)
    await_status(job, JobStatus.IN_PROGRESS)
    stop(host, installation)
    assert Job.objects.get(pk=job.pk).status == JobStatus.IN_PROGRESS
    installation.start_host()
    installation.check_completed([job])


def test_a_stop_while_a_job_is_cancelled_does_not_forget_the_cancel(installation: Installation) -> None:
    file_id = installation.upload(3)
    with Peer(silence) as hung:
        host = installation.start_host(PLANNER_MDS_URL=hung.url)
        job = installation.enqueue(file_id)
        eventually(lambda: Job.objects.filter(pk=job.pk, submit_started_at__isnull=False).exists(), 20)
        planner.cancel(installation.user, job.pk)
        stop(host, installation)
    installation.start_host()
    installation.await_end()
    assert Job.objects.get(pk=job.pk).status == JobStatus.CANCELLED
    assert installation.provider.live() == []
    assert installation.batches() == []


def test_a_stop_while_a_resource_is_released_does_not_forget_it(installation: Installation) -> None:
    refusal = installation.provider.add_rule(Rule(on="delete", times=None, status=503))
    host = installation.start_host()
    job = installation.enqueue(installation.upload(3))
    await_status(job, JobStatus.COMPLETED)
    assert installation.provider.wait_until(lambda: installation.provider.count("delete") > 0)
    stop(host, installation)
    assert len(installation.provider.live()) == 1
    installation.provider.withdraw(refusal)
    installation.start_host()
    installation.check_completed([job])


def everything() -> list[Any]:
    """All rows the engine keeps of jobs, in full."""
    return [list(model.objects.order_by("pk").values()) for model in (Job, Provision, JobEvent)]


def test_a_worker_stopped_past_its_lease_changes_nothing_when_it_comes_back(installation: Installation) -> None:
    hold = hold_creates(installation)
    late = installation.start_host(workers=1)
    job = installation.enqueue(installation.upload(3))
    await_held_create(installation)
    stopped = late.cluster().workers[0]
    os.kill(stopped, signal.SIGSTOP)
    installation.provider.withdraw(hold)
    installation.start_host(workers=1)
    installation.check_completed([job])
    before = everything()
    os.kill(stopped, signal.SIGCONT)
    eventually(lambda: "a late create changes nothing here" in late.log())
    installation.check_completed([job])
    assert everything() == before
    assert installation.provider.stats()["bill"]["objects_created"] == 1
