"""Whole jobs, from accepted to released: real passes, the real MDS, and a provider whose ledger is read at the end."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import pytest
import requests
from django.db import connection

from jobs import planner
from jobs.batch_client import Batch, BatchClient, Submission
from jobs.lifecycle.scans import parse_job_id
from jobs.models import Job, JobEvent, Pool, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls
from jobs.statuses import TERMINAL
from jobs.tasks import run_pass
from jobs.testing.script import Rule
from planner_site.processes import free_port
from tests.engine import passes_until, simulated_pool
from tests.factories import make_file, make_pool, make_template, make_user

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.mds]

ENDPOINT = "/v1/chat/completions"
_OVER = {"completed", "failed", "expired", "cancelled"}


@dataclass
class Planner:
    """One installation of its own on the shared MDS."""

    mds: str
    server: SimulatedServer

    def job(self, lines: int = 2, **fields: Any) -> Job:
        """A job over an input of so many lines; the MDS does about a hundred a second."""
        body = {"model": "m", "messages": []}
        line = {"method": "POST", "url": ENDPOINT, "body": body}
        content = "\n".join(json.dumps({"custom_id": f"c{number}", **line}) for number in range(lines))
        sent = {"file": ("in.jsonl", content)}
        answer = requests.post(f"{self.mds}/v1/files", files=sent, data={"purpose": "batch"}, timeout=30)
        user, template = make_user(), make_template()
        file = make_file(user, id=answer.json()["id"], request_count=lines)
        request = planner.JobRequest(
            input_file_id=file.id, endpoint=ENDPOINT, model_id=template.model_id, template_name=template.name, **fields
        )
        return planner.enqueue(user, request)

    def batches(self) -> list[Batch]:
        """What the MDS has of this installation, newest first, as GET tells it."""
        client = BatchClient(self.mds, connect_timeout=5, call_timeout=30, create_timeout=30)
        ids, after = [], ""
        while True:
            page = client.list_page(after)
            ids += [batch.id for batch in page.batches if parse_job_id(batch.job_id) is not None]
            if not page.has_more:
                return [client.get(batch_id) for batch_id in ids]
            after = page.batches[-1].id

    def is_quiet(self) -> bool:
        """Every job is over and everything is given back."""
        is_open = Job.objects.exclude(status__in=sorted(TERMINAL)).exists()
        return not is_open and not Provision.objects.exclude(status="released").exists()

    def assert_clean(self) -> None:
        assert self.server.live() == []
        assert {batch.status for batch in self.batches()} <= _OVER


@pytest.fixture
def here(mds: str, simulated_server: SimulatedServer, settings: Any) -> Planner:
    settings.PLANNER_MDS_URL = mds
    settings.PLANNER_INSTALLATION = f"test-{uuid.uuid4().hex[:8]}"
    # the real MDS on a busy machine needs more than a thirtieth of its time
    patience = {"call_timeout": 3, "connect_timeout": 1, "create_batch_timeout": 4, "lease": 9}
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, **patience}
    return Planner(mds, simulated_server)


def now(job: Job) -> Job:
    job.refresh_from_db()
    return job


def has_status(job: Job, *statuses: str) -> Callable[[], bool]:
    return lambda: now(job).status in statuses


def path(job: Job) -> list[str]:
    """The statuses the job went through."""
    moves = JobEvent.objects.filter(job=job).exclude(to_status="").order_by("sequence")
    return list(moves.values_list("to_status", flat=True))


def in_background(work: Callable[[], Any]) -> Any:
    """Work on another connection meanwhile."""

    def run() -> Any:
        try:
            return work()
        finally:
            connection.close()

    return ThreadPoolExecutor(1).submit(run)


def test_it_works(here: Planner) -> None:
    pool = simulated_pool(here.server)
    job = here.job()
    passes_until(here.is_quiet)
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
    passes_until(here.is_quiet)
    assert now(job).status == "completed"
    assert (here.server.count("create"), here.server.count("list")) == (0, 0)
    assert len(here.batches()) == 1


def test_many_jobs_share_the_pools_listings(here: Planner) -> None:
    simulated_pool(here.server, max_live=2)
    jobs = [here.job() for _ in range(4)]
    passes_until(here.is_quiet, timeout=40)
    assert {now(job).status for job in jobs} == {"completed"}
    assert here.server.peak["create"] <= 2
    assert len(here.batches()) == 4
    here.assert_clean()


# --- cancel, wherever the job is ---


def test_a_cancel_before_admission_provisions_nothing(here: Planner) -> None:
    simulated_pool(here.server, is_enabled=False)
    job = here.job()
    run_pass()
    planner.cancel(job.owner, job.id)
    passes_until(here.is_quiet)
    assert now(job).status == "cancelled"
    assert (here.server.count("create"), here.batches()) == (0, [])


def test_a_cancel_while_waiting_for_readiness_submits_nothing(here: Planner) -> None:
    simulated_pool(here.server)
    here.server.add_rule(Rule("create", is_never_ready=True))
    job = here.job()
    passes_until(lambda: here.server.live())
    assert now(job).status == "provisioning"
    planner.cancel(job.owner, job.id)
    passes_until(here.is_quiet)
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

    cancelled = in_background(cancel)
    passes_until(here.is_quiet)
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

    done = in_background(cancel)
    passes_until(here.is_quiet)
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
    passes_until(here.is_quiet)
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
    passes_until(here.is_quiet)
    assert (now(job).status, job.attempt) == ("completed", 1)
    assert len(here.batches()) == 1


def test_an_outage_of_the_provider_delays_a_job_and_never_fails_it(here: Planner) -> None:
    port = free_port()
    pool = simulated_pool(here.server, options={"base_url": f"http://127.0.0.1:{port}"})
    job = here.job()
    passes_until(lambda: Provision.objects.filter(retry_count__gte=2).exists())
    assert now(job).status == "provisioning"
    with SimulatedServer(port=port) as server:
        passes_until(here.is_quiet)
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
    passes_until(here.is_quiet)
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
    passes_until(here.is_quiet, timeout=40)
    job = now(job)
    assert (job.status, job.attempt, job.lost_attempts) == ("completed", 2, 0)
    assert job.provision != provision
    assert [batch.status for batch in here.batches()] == ["completed", "cancelled"]
    here.assert_clean()


def test_a_resource_that_breaks_before_it_is_ready_is_replaced(here: Planner) -> None:
    simulated_pool(here.server)
    here.server.add_rule(Rule("create", is_never_ready=True))
    job = here.job()
    passes_until(lambda: here.server.live())
    here.server.fail(here.server.live()[0].name)
    passes_until(here.is_quiet)
    assert (now(job).status, job.lost_attempts, Provision.objects.count()) == ("completed", 1, 2)
    here.assert_clean()


def _reasons(job: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=job).values_list("reason", flat=True))
