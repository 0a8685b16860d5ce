"""Whole jobs, from accepted to released: real passes, the real MDS, and a provider whose ledger is read at the end."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest
from django.utils import timezone

from jobs import planner
from jobs.batch_client import Batch, BatchClient, Submission
from jobs.models import Job, JobEvent, Pool, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls
from jobs.tasks import run_pass
from jobs.testing.script import Rule
from planner_site.processes import free_port
from tests.engine import passes_until, passes_until_quiet, simulated_pool
from tests.factories import make_pool, make_user
from tests.flow import Planner, has_status, now, path
from tests.threads import elsewhere

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.mds]


def test_it_works(here: Planner) -> None:
    pool = simulated_pool(here.server)
    job = here.job()
    passes_until_quiet()
    job = now(job)
    assert (job.status, job.request_total, job.request_completed) == ("completed", 2, 2)
    assert (job.attempt, job.lost_attempts, job.pool, bool(job.output_file_id)) == (1, 0, pool, True)
    moves = path(job)
    assert (moves[:3], moves[-1]) == (["pending", "provisioning", "submitting"], "completed")
    (batch,) = here.batches()
    assert batch.id == job.batch_id
    here.assert_clean()


def test_a_provider_that_reserves_nothing_takes_a_job_to_its_end(here: Planner) -> None:
    make_pool(provider="passthrough")
    job = here.job()
    passes_until_quiet()
    assert now(job).status == "completed"
    assert (here.server.count("create"), here.server.count("list")) == (0, 0)
    assert len(here.batches()) == 1


def test_many_jobs_share_the_pools_listings(here: Planner) -> None:
    simulated_pool(here.server, max_live=2)
    jobs = [here.job() for _ in range(4)]
    passes_until_quiet(timeout=40)
    assert {now(job).status for job in jobs} == {"completed"}
    assert here.server.peak["create"] <= 2
    assert len(here.batches()) == 4
    here.assert_clean()


def test_what_a_listing_shows_ready_is_submitted_by_the_pass_that_made_it(here: Planner) -> None:
    pool = simulated_pool(here.server, observe_interval_seconds=3600)
    here.server.add_rule(Rule("create", is_never_ready=True))
    job = here.job()
    passes_until(lambda: (held := now(job).provision) and held.status == "provisioning" and pool_at_rest(pool))
    (held,) = here.server.live()
    here.server.make_ready(held.name)
    Pool.objects.update(observe_at=timezone.now())
    run_pass()
    assert now(job).batch_id != ""


def pool_at_rest(pool: Pool) -> bool:
    """Whether it has been listed, and is not to be for an hour."""
    return Pool.objects.filter(pk=pool.pk, observed_at__isnull=False, observe_lease_expires_at=None).exists()


# --- cancel, wherever the job is ---


def test_a_cancel_before_admission_provisions_nothing(here: Planner) -> None:
    simulated_pool(here.server, is_enabled=False)
    job = here.job()
    run_pass()
    planner.cancel(job.owner, job.id)
    passes_until_quiet()
    assert now(job).status == "cancelled"
    assert (here.server.count("create"), here.batches()) == (0, [])


def test_a_cancel_while_waiting_for_readiness_submits_nothing(here: Planner) -> None:
    simulated_pool(here.server)
    here.server.add_rule(Rule("create", is_never_ready=True))
    job = here.job()
    passes_until(lambda: here.server.live())
    assert now(job).status == "provisioning"
    planner.cancel(job.owner, job.id)
    passes_until_quiet()
    assert now(job).status == "cancelled"
    assert here.batches() == []
    here.assert_clean()


def test_a_cancel_while_the_create_is_in_flight_gives_the_resource_back(here: Planner) -> None:
    simulated_pool(here.server)
    slow = here.server.add_rule(Rule("create", answer_delay_seconds=30))
    job = here.job()

    def cancel() -> None:
        assert here.server.wait_until(lambda: bool(here.server.live()))
        planner.cancel(job.owner, job.id)
        here.server.withdraw(slow)

    cancelled = elsewhere(cancel)
    passes_until_quiet()
    cancelled.result()
    assert (now(job).status, here.server.count("create")) == ("cancelled", 1)
    assert here.batches() == []
    here.assert_clean()


def test_a_cancel_while_the_submit_is_in_flight_stops_the_batch(here: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated_pool(here.server)
    job = here.job(lines=600)
    sent, cancelled = Event(), Event()

    class Slow(BatchClient):
        def create(self, submission: Submission) -> Batch:
            made = super().create(submission)
            sent.set()
            assert cancelled.wait(10)
            return made

    slow = Slow(here.mds, connect_timeout=5, call_timeout=20, create_timeout=20)
    monkeypatch.setattr(calls, "batch_client", lambda: slow)

    def cancel() -> None:
        assert sent.wait(10)
        assert planner.cancel(job.owner, job.id).shown_status == "cancelling"
        cancelled.set()

    done = elsewhere(cancel)
    passes_until_quiet()
    done.result()
    assert now(job).status == "cancelled"
    assert [batch.status for batch in here.batches()] == ["cancelled"]
    here.assert_clean()


def test_a_cancel_of_a_running_batch_stops_it_before_anything_is_released(here: Planner) -> None:
    simulated_pool(here.server)
    job = here.job(lines=600)
    passes_until(has_status(job, "in_progress"))
    planner.cancel(job.owner, job.id)
    assert now(job).shown_status == "cancelling"
    passes_until_quiet()
    job = now(job)
    assert (job.status, job.error_code, path(job)[-2:]) == ("cancelled", "", ["cancelling", "cancelled"])
    assert job.cancelled_at is not None
    assert job.provision is not None
    assert job.provision.releasing_at is not None
    assert job.provision.releasing_at >= job.cancelled_at
    here.assert_clean()


# --- outages ---


def test_an_outage_of_the_mds_delays_a_job_and_never_fails_it(here: Planner, settings: Any) -> None:
    simulated_pool(here.server)
    job = here.job()
    settings.PLANNER_MDS_URL = f"http://127.0.0.1:{free_port()}"
    passes_until(lambda: now(job).retry_count >= 2)
    assert (job.status, job.batch_id, job.last_error_code) == ("submitting", "", "unreachable")
    settings.PLANNER_MDS_URL = here.mds
    passes_until_quiet()
    assert (now(job).status, job.attempt) == ("completed", 1)
    assert len(here.batches()) == 1


def test_an_outage_of_the_provider_delays_a_job_and_never_fails_it(here: Planner) -> None:
    port = free_port()
    pool = simulated_pool(here.server, options={"base_url": f"http://127.0.0.1:{port}"})
    job = here.job()
    passes_until(lambda: Provision.objects.filter(retry_count__gte=2).exists())
    assert now(job).status == "provisioning"
    with SimulatedServer(port=port) as server:
        passes_until_quiet()
        assert server.live() == []
    assert (now(job).status, job.pool) == ("completed", pool)


def test_a_pool_that_cannot_work_is_disabled_and_another_takes_the_job(here: Planner) -> None:
    make_pool(name="broken", provider="unheard-of", priority=9)
    job = here.job()
    passes_until(lambda: Pool.objects.filter(is_enabled=False).exists())
    assert now(job).status == "pending"
    simulated_pool(here.server, name="works")
    passes_until(has_status(job, "completed"))
    job = now(job)
    assert job.pool is not None
    assert (job.pool.name, job.lost_attempts) == ("works", 0)


def test_a_full_provider_keeps_a_job_waiting_until_there_is_room(here: Planner) -> None:
    here.server.capacity = 0
    simulated_pool(here.server)
    job = here.job()
    passes_until(lambda: "no_capacity" in _reasons(job))
    assert now(job).status == "pending"
    here.server.capacity = 1
    passes_until_quiet()
    assert now(job).status == "completed"
    here.assert_clean()


# --- resources that go away ---


@pytest.mark.parametrize("is_asked", [True, False], ids=["released", "vanished"])
def test_a_job_that_loses_its_resource_is_run_again_on_another(here: Planner, is_asked: bool) -> None:
    simulated_pool(here.server)
    job = here.job(lines=500)
    passes_until(has_status(job, "in_progress"))
    provision = now(job).provision
    assert provision is not None
    Pool.objects.update(is_enabled=False)  # so that it stays pending for a while
    if is_asked:
        planner.release(make_user("operator"), str(provision.pk))
    else:
        here.server.vanish(provision.name)
    passes_until(has_status(job, "pending"))
    (stopped,) = here.batches()
    assert stopped.status == "cancelled", "stopped, and seen to have stopped, before the job is pending again"
    Pool.objects.update(is_enabled=True)
    passes_until_quiet(timeout=40)
    job = now(job)
    assert (job.status, job.attempt, job.lost_attempts) == ("completed", 2, 0 if is_asked else 1)
    assert job.provision != provision
    assert [batch.status for batch in here.batches()] == ["completed", "cancelled"]
    here.assert_clean()


def test_a_resource_that_breaks_before_it_is_ready_is_replaced(here: Planner) -> None:
    simulated_pool(here.server)
    here.server.add_rule(Rule("create", is_never_ready=True))
    job = here.job()
    passes_until(lambda: here.server.live())
    here.server.fail(here.server.live()[0].name)
    passes_until_quiet()
    assert (now(job).status, job.lost_attempts, Provision.objects.count()) == ("completed", 1, 2)
    here.assert_clean()


def _reasons(job: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=job).values_list("reason", flat=True))
