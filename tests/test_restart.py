"""What a worker leaves in doubt is settled without it; who comes back late takes back what is no longer wanted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from jobs import planner
from jobs.conf import times
from jobs.lifecycle.claims import step
from jobs.models import BatchScan, Job, Pool, Provision, QueueMessage
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls, run_pass
from jobs.reconciler.submission import submission
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from jobs.wakeup import send_hint
from tests.clock import pass_time
from tests.engine import claimed, is_quiet, simulated_pool, submitting_job, ticking_until
from tests.factories import make_job

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(("is_applied", "attempt"), [(True, 1), (False, 2)])
def test_a_submit_without_an_answer_makes_one_batch(
    is_applied: bool, attempt: int, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    simulated_pool(simulated_server)
    job = make_job()
    fake_mds.add_rule(Rule("create", drop=True, is_applied=is_applied))
    ticking_until(is_quiet)
    job.refresh_from_db()
    assert (job.status, job.attempt, job.lost_attempts) == ("completed", attempt, 0)
    assert [batch.id for batch in fake_mds.batches()] == [job.batch_id]


def test_a_batch_made_by_a_worker_that_was_thought_dead_is_stopped(
    fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    """The submit of a stopped worker leaves long after another attempt was made (G7)."""
    simulated_pool(simulated_server)
    job = make_job()
    fake_mds.add_rule(Rule("create", drop=True))
    ticking_until(lambda: Job.objects.get().attempt == 2)
    late = Job.objects.get()
    late.attempt = 1
    ticking_until(lambda: Job.objects.get().batch_id != "")
    assert late.provision is not None
    calls.batch_client().create(submission(late, late.provision, None))
    ticking_until(is_quiet)
    ticking_until(lambda: not fake_mds.running())
    job.refresh_from_db()
    assert (job.status, [batch.id for batch in fake_mds.counted()]) == ("completed", [job.batch_id])


def test_a_worker_that_comes_back_takes_back_what_its_job_no_longer_wants(
    fake_mds: FakeMds, simulated_server: SimulatedServer, settings: Any
) -> None:
    """It hangs in its submit while its lease runs out and the job is cancelled without it (G7)."""
    # an answer that comes in the end: the caller still waits for it, though rows have aged meanwhile
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "create_batch_timeout": 60, "lease": 90}
    simulated_pool(simulated_server)
    job = make_job()
    hung = fake_mds.add_rule(Rule("create", delay_seconds=600))
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(pass_elsewhere)
        assert fake_mds.wait_until(lambda: fake_mds.in_flight["create"] == 1, 10)
        planner.cancel(job.owner, job.id)
        pass_time(times().lease)
        ticking_until(is_quiet)
        before = Job.objects.values().get()
        BatchScan.objects.update(due_at=timezone.now() + timedelta(hours=1))  # so that no scan does it for him
        fake_mds.withdraw(hung)
        hanging.result()
    assert before["status"] == "cancelled"
    assert Job.objects.values().get() == before
    assert [batch.status for batch in fake_mds.batches()] == ["cancelled"]
    assert simulated_server.live() == []


def pass_elsewhere() -> None:
    """A pass of another worker, on a connection of its own."""
    try:
        run_pass(send_hint)
    finally:
        connection.close()


def test_a_pass_told_to_stop_starts_no_call_and_leaves_a_hint(
    fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    simulated_pool(simulated_server)
    make_job()
    submitting_job(Pool.objects.get())
    assert run_pass(send_hint, lambda: True) == 0
    assert fake_mds.stats()["calls"] == simulated_server.stats()["calls"] == {}
    assert QueueMessage.objects.count() == 1


def test_a_pool_made_a_moment_ago_is_known_when_its_job_is_submitted(
    fake_mds: FakeMds, simulated_server: SimulatedServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "safety_net": 1000.0}  # the pools are loaded once a pass
    made: list[Job] = []

    def claimed_late(*args: Any, **options: Any) -> Any:
        if not made:
            pool = simulated_pool(simulated_server)
            made.append(submitting_job(pool))
            spec = {"accelerator_type": "", "accelerator_count": 0, "replicas": 1, "options": {}}
            Provision.objects.update(spec=spec)
        return step(*args, **options)

    monkeypatch.setattr("jobs.reconciler.passes.step", claimed_late)
    run_pass(send_hint)
    assert [batch.id for batch in fake_mds.batches()] == [Job.objects.get().batch_id]


def test_a_look_that_cannot_be_recorded_takes_no_pass_along(
    fake_mds: FakeMds,
    simulated_server: SimulatedServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    simulated_pool(simulated_server)
    job = make_job()

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("jobs.reconciler.passes.record_observation", broken)
    monkeypatch.setattr("jobs.reconciler.passes.record_scan", broken)
    ticking_until(lambda: Job.objects.get().status == "completed")
    assert "could not be recorded" in caplog.text
    assert BatchScan.objects.get().lease_expires_at is not None
    monkeypatch.undo()
    job.refresh_from_db()
    assert (job.crashes, claimed().claims) != (1, [])
