"""Whoever waits on somebody else has a deadline and a stated reason, and the deadline ends the wait."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.utils import timezone

from jobs import planner
from jobs.conf import times
from jobs.models import BatchScan, Job, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.statuses import LIVE, JobStatus
from jobs.tasks import run_pass
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.api_client import api, job_body
from tests.clock import pass_time
from tests.engine import is_quiet, simulated_pool, ticking_until
from tests.factories import make_job
from tests.quiescence import check_quiescent
from tests.states import held_back

pytestmark = pytest.mark.django_db(transaction=True)

QUEUE_TIMEOUT = 3600


@pytest.mark.parametrize("status", [status.value for status in JobStatus if status in LIVE and status != "cancelling"])
def test_a_job_that_waits_has_a_deadline_and_a_reason_and_ends_then(
    status: str, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    simulated_pool(simulated_server)
    client = api()
    body = job_body(client.user, queue_timeout_seconds=QUEUE_TIMEOUT)
    job_id = client.post("/jobs", body).json()["id"]
    with held_back(status, simulated_server, fake_mds, job_id):
        shown = client.get(f"/jobs/{job_id}").json()
        job = Job.objects.get()
        assert shown["waitingReason"]
        assert set(planner.oldest_in_status()) == {status}
        assert job.claimable_at is not None, "somebody will look at it"
        ends = job.accepted_at + timedelta(seconds=QUEUE_TIMEOUT) if status == "pending" else job.deadline_at
        assert ends is not None
        assert timezone.now() < ends
        if status != "pending":
            assert int(shown["expiresAt"]) == int(ends.timestamp())
        if job.batch_id:  # the clock of the MDS stands still; a look at it would bring the deadline back
            fake_mds.set_status(job.batch_id, status, expires_at=int(ends.timestamp()) - 10 * 86_400)
        pass_time((ends - timezone.now()).total_seconds() + times().deadline_grace + 1)
        ticking_until(lambda: Job.objects.get().is_terminal)
    job.refresh_from_db()
    assert (job.status, job.error_code) == ("expired", "queue_timeout" if status == "pending" else "deadline")
    ticking_until(is_quiet)
    check_quiescent(simulated_server, fake_mds)


def test_a_job_whose_submission_is_in_doubt_is_ended_by_its_deadline_only_once_the_doubt_is_cleared(
    fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    """Its batch may run: nobody would stop it."""
    simulated_pool(simulated_server)
    fake_mds.run_seconds = 1e6
    fake_mds.add_rule(Rule("create", drop=True, is_applied=True))
    unlisted = fake_mds.add_rule(Rule("list", times=None, status=503))
    make_job()
    ticking_until(lambda: Job.objects.get().submit_ended_at)
    pass_time(3 * 86_400)
    for _ in range(3):
        run_pass()
        pass_time(60)
    job = Job.objects.get()
    assert job.status == "submitting"
    assert "being looked up" in planner.waiting_for(job).sentence
    fake_mds.withdraw(unlisted)
    ticking_until(is_quiet)
    assert Job.objects.get().status == "expired"
    check_quiescent(simulated_server, fake_mds)


def test_a_cancel_that_the_mds_takes_and_never_finishes_is_sent_again(
    fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    simulated_pool(simulated_server)
    fake_mds.run_seconds = 1e6
    fake_mds.cancel_seconds = 1e6
    job = make_job()
    ticking_until(lambda: Job.objects.get().batch_id)
    fake_mds.set_status(Job.objects.get().batch_id, "in_progress")
    planner.cancel(job.owner, job.id)
    ticking_until(lambda: fake_mds.count("cancel") >= 3)
    job.refresh_from_db()
    assert (job.status, job.shown_status) == ("cancelling", "cancelling")
    assert planner.waiting_for(job).sentence.startswith("Cancel requested: waiting for the metadata service")
    fake_mds.set_status(job.batch_id, "cancelled")
    ticking_until(is_quiet)
    assert Job.objects.get().status == "cancelled"


def with_batch(status: str, fake_mds: FakeMds, simulated_server: SimulatedServer) -> Job:
    """A job whose batch got so far, and neither goes on nor stops by itself."""
    simulated_pool(simulated_server)
    fake_mds.run_seconds = fake_mds.cancel_seconds = 1e6
    make_job()
    ticking_until(lambda: Job.objects.get().batch_id)
    fake_mds.set_status(Job.objects.get().batch_id, status)
    ticking_until(lambda: Job.objects.get().status == status)
    return Job.objects.get()


@pytest.mark.parametrize("is_cancelled", [False, True])
@pytest.mark.parametrize("status", ["in_progress", "finalizing"])
def test_a_batch_that_the_mds_neither_ends_nor_stops_is_given_up_long_after_its_deadline(
    status: str, is_cancelled: bool, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    """Its resource is given back, and the batch is left to the scan to stop."""
    job = with_batch(status, fake_mds, simulated_server)
    batch_id = job.batch_id
    if is_cancelled:
        planner.cancel(job.owner, job.id)
    fake_mds.set_status(batch_id, status, expires_at=int(time.time()) - 3600)
    outage = fake_mds.add_rule(Rule("get", times=None, status=503))
    for _ in range(3):
        run_pass()
        pass_time(3600)
    assert not Job.objects.get().is_terminal, "silence is no answer"
    fake_mds.withdraw(outage)
    ticking_until(lambda: Job.objects.get().is_terminal)
    assert fake_mds.count("cancel") > 0, "not before it was told to stop"
    job.refresh_from_db()
    assert (job.status, job.error_code, job.batch_id) == ("expired", "deadline", batch_id)
    ticking_until(is_quiet)
    assert batch_id in BatchScan.objects.get().unwanted
    fake_mds.set_status(batch_id, "completed")
    ticking_until(lambda: not BatchScan.objects.get().unwanted)


@pytest.mark.parametrize(
    ("told", "is_cancelled", "end"),
    [
        ("finalizing", False, ("failed", "wind_up_timeout")),
        ("finalizing", True, ("cancelled", "")),
        ("cancelling", True, ("cancelled", "")),
    ],
)
def test_a_batch_that_only_has_to_be_wound_up_does_not_hold_its_resource_for_a_day(
    told: str, is_cancelled: bool, end: tuple[str, str], fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    """A killed MDS leaves a batch that it was finalizing as it is, for ever."""
    job = with_batch("in_progress" if is_cancelled else told, fake_mds, simulated_server)
    batch_id = job.batch_id
    if is_cancelled:
        planner.cancel(job.owner, job.id)
        ticking_until(lambda: fake_mds.count("cancel"))
    fake_mds.set_status(batch_id, told)
    ticking_until(lambda: (Job.objects.get().batch_view or {})["status"] == told)
    outage = fake_mds.add_rule(Rule("get", times=None, status=503))
    for _ in range(3):
        pass_time(times().wind_up_timeout)
        run_pass()
    assert not Job.objects.get().is_terminal, "silence is no answer"
    fake_mds.withdraw(outage)
    ticking_until(is_quiet)
    job.refresh_from_db()
    assert (job.status, job.error_code, job.batch_id) == (*end, batch_id)
    assert batch_id in BatchScan.objects.get().unwanted
    fake_mds.set_status(batch_id, "completed")
    ticking_until(lambda: not BatchScan.objects.get().unwanted)


def test_the_wait_in_the_queue_does_not_use_up_the_completion_window(
    fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    pool = simulated_pool(simulated_server, is_enabled=False)
    simulated_server.add_rule(Rule("create", is_never_ready=True))
    make_job(completion_window="1h", completion_window_seconds=3600)
    run_pass()
    pass_time(10 * 86_400)
    run_pass()
    job = Job.objects.get()
    assert (job.status, job.deadline_at) == ("pending", None)
    type(pool).objects.update(is_enabled=True)
    ticking_until(lambda: Provision.objects.filter(status="provisioning").exists())
    job.refresh_from_db()
    assert job.deadline_at is not None
    left = job.deadline_at - timezone.now()
    assert (
        timedelta(seconds=pool.ready_timeout_seconds + 3500)
        < left
        < timedelta(seconds=pool.ready_timeout_seconds + 3601)
    )
