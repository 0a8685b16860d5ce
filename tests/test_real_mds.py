"""Every way in which the real metadata service was seen to misbehave, and how a whole job comes out of it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from jobs import planner
from jobs.batch_client import Submission
from jobs.models import Job, JobEvent
from jobs.provisioners.base import Runtime
from jobs.provisioners.simulated import SimulatedProvisioner
from jobs.reconciler import calls
from jobs.reconciler.submission import submission
from jobs.tasks import run_pass
from planner_site.metadata_service import MetadataService
from tests.engine import passes_until, passes_until_quiet, simulated_pool
from tests.factories import make_file, make_template, make_user
from tests.flow import ENDPOINT, Planner, has_status, now, path, upload, upload_content
from tests.peers import Peer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.mds]

LONG = 3_000  # lines: half a minute


def enqueued(file_id: str) -> Job:
    """A job over a file that need not be there."""
    user, template = make_user(), make_template()
    make_file(user, id=file_id)
    request = planner.JobRequest(
        input_file_id=file_id, endpoint=ENDPOINT, model_id=template.model_id, template_name=template.name
    )
    return planner.enqueue(user, request)


@pytest.fixture
def runs_on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have the provider's resources run by this target of the MDS."""

    def choose(target: str, **options: Any) -> None:
        monkeypatch.setattr(SimulatedProvisioner, "runtime", lambda *_: Runtime(target, options))

    return choose


# --- batches that fail ---

BAD_INPUTS = {
    "unknown": "",
    "malformed": "{",
    "another url": '{"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": ""}}',
}


@pytest.mark.parametrize("content", BAD_INPUTS.values(), ids=list(BAD_INPUTS))
def test_an_input_the_mds_cannot_use_fails_the_job_and_costs_no_second_attempt(here: Planner, content: str) -> None:
    simulated_pool(here.server)
    job = enqueued(upload_content(here.mds, content.encode()) if content else "no-such-file")
    passes_until_quiet()
    assert (now(job).status, job.failure_stage, job.attempt) == ("failed", "batch", 1)
    assert job.error_code in {"invalid_input_file", "validation_error"}
    assert job.error_message
    assert job.in_progress_at is None
    here.assert_clean()


RUNTIMES = {
    "Kubernetes": {},
    "noop": {},
    "RunPod": {"host": "127.0.0.1", "http_base_url": "http://127.0.0.1:9", "model": "m"},
}


@pytest.mark.parametrize("target", RUNTIMES)
def test_a_runtime_that_fails_fails_the_job_with_the_mds_own_words(here: Planner, runs_on: Any, target: str) -> None:
    simulated_pool(here.server)
    runs_on(target, **RUNTIMES[target])
    job = here.job()
    passes_until_quiet()
    assert (now(job).status, job.failure_stage, job.attempt) == ("failed", "batch", 1)
    assert job.error_code in {"invalid_driver", "inference_failed", "internal_error"}
    assert len(here.batches()) == 1
    here.assert_clean()


# --- deadlines ---


@pytest.fixture
def mds_has_until(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have the MDS be told that a batch's time is up in so many seconds."""

    def choose(seconds: float) -> None:
        def told(*of: Any) -> Submission:
            made = submission(*of)
            decision = replace(made.decision, provision_resource_deadline=int(time.time() + seconds))
            return replace(made, decision=decision)

        monkeypatch.setattr(calls, "submission", told)

    return choose


def test_a_batch_whose_deadline_is_past_on_arrival_expires_the_job(here: Planner, mds_has_until: Any) -> None:
    simulated_pool(here.server)
    mds_has_until(-60)
    job = here.job()
    passes_until_quiet()
    assert (now(job).status, job.error_code, job.in_progress_at) == ("expired", "deadline", None)
    assert [batch.status for batch in here.batches()] == ["expired"]
    here.assert_clean()


def test_a_batch_cut_off_by_its_deadline_expires_and_keeps_what_it_did(here: Planner, mds_has_until: Any) -> None:
    simulated_pool(here.server)
    mds_has_until(3)
    job = here.job(lines=1500)
    passes_until_quiet(timeout=40)
    (batch,) = here.batches()
    assert batch.status in {"completed", "expired"}, "it calls this either"
    assert (now(job).status, job.error_code) == ("expired", "deadline")
    assert 0 < job.request_completed < 1500
    # the file itself is there only if the MDS called it expired: what it wrote of a "completed" one is lost to all
    assert (job.output_file_id, job.batch_id) == (batch.output_file_id, batch.id)
    here.assert_clean()


# --- an MDS of our own, with one place and no patience ---


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MDS that runs one batch at a time and tries a session twice."""
    environment = {"AIBRIX_BATCH_JOB_POOL_SIZE": "1", "AIBRIX_BATCH_SESSION_RETRY_ATTEMPTS": "1"}
    service = MetadataService(tmp_path_factory.mktemp("narrow"), environment=environment)
    try:
        service.wait_until_up()
        yield service.url
    finally:
        service.stop()


@pytest.fixture
def one_place(here: Planner, narrow: str, settings: Any) -> Planner:
    settings.PLANNER_MDS_URL = here.mds = narrow
    simulated_pool(here.server)
    return here


def test_jobs_wait_their_turn_at_the_mds_and_each_can_be_cancelled(one_place: Planner) -> None:
    running = one_place.job(lines=LONG)
    passes_until(has_status(running, "in_progress"))
    waiting, unwanted = one_place.job(), one_place.job()
    forgotten = one_place.job()
    for job in (waiting, unwanted, forgotten):
        passes_until(has_status(job, "scheduling"))
    requests.delete(f"{one_place.mds}/v1/files/{forgotten.input_file_id}", timeout=30)
    planner.cancel(unwanted.owner, unwanted.id)
    passes_until(has_status(unwanted, "cancelled"))
    assert now(waiting).status == "scheduling"
    planner.cancel(running.owner, running.id)
    passes_until_quiet(timeout=40)
    assert (now(running).status, now(waiting).status) == ("cancelled", "completed")
    assert (now(forgotten).status, forgotten.error_code) == ("failed", "invalid_input_file")
    assert "in_progress" not in path(unwanted)
    one_place.assert_clean()


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_batch_that_fails_late_ends_the_job_as_it_ended(one_place: Planner, runs_on: Any, is_cancelled: bool) -> None:
    """Also when a cancel was asked for: what the MDS says happened is what happened."""
    runs_on("KubernetesJob")
    job = one_place.job()
    passes_until(has_status(job, "in_progress"))
    if is_cancelled:
        planner.cancel(job.owner, job.id)
    passes_until_quiet(timeout=40)
    (batch,) = one_place.batches()
    assert batch.status in ({"failed", "cancelled"} if is_cancelled else {"failed"})
    assert now(job).status == batch.status
    one_place.assert_clean()


# --- lost answers ---


@pytest.mark.parametrize("how", ["the answer is dropped", "the caller gives up at once"])
def test_a_batch_whose_answer_is_lost_is_found_and_runs_once(here: Planner, settings: Any, how: str) -> None:
    simulated_pool(here.server)
    job = here.job()
    lost: list[bytes] = []

    def forward(request: bytes) -> bytes | None:
        answer = passed_on(here.mds, request)
        if request.startswith(b"POST /v1/batches ") and not lost:
            lost.append(request)
            return None
        return answer

    patient = settings.PLANNER_TIMES
    if how == "the caller gives up at once":
        settings.PLANNER_TIMES = {**patient, "create_batch_timeout": 0.002}
        passes_until(lambda: now(job).submit_ended_at)
        settings.PLANNER_TIMES = patient
        passes_until_quiet()
    else:
        with Peer(forward, closes=True) as losing:
            settings.PLANNER_MDS_URL = losing.url
            passes_until_quiet()
    assert now(job).status == "completed"
    assert "submit_unknown" in set(JobEvent.objects.filter(job=job).values_list("reason", flat=True))
    assert [batch.id for batch in here.batches() if batch.status == "completed"] == [job.batch_id]
    assert len(here.batches()) == 1 or how == "the caller gives up at once"
    here.assert_clean()


def passed_on(mds: str, request: bytes) -> bytes:
    """What the MDS answers to these bytes."""
    with socket.create_connection(("127.0.0.1", urlsplit(mds).port or 80)) as onward:
        onward.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
        return b"".join(iter(lambda: onward.recv(65536), b""))


# --- an MDS that goes away ---


class Mortal:
    """An MDS that a test may kill, stop and start again, in the same place or another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.service = MetadataService(folder / "first")
        self.url = self.service.url
        self.service.wait_until_up()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.service.service.pid, number)

    def restart(self, place: str = "first") -> None:
        """In the place it was, or in one where it knows nothing."""
        self.service.stop()
        port = urlsplit(self.url).port or 0
        self.service = MetadataService(self._folder / place, port=port)
        self.service.wait_until_up()


@pytest.fixture
def mortal(here: Planner, tmp_path: Path, settings: Any) -> Iterator[Mortal]:
    mortal = Mortal(tmp_path / "mds")
    settings.PLANNER_MDS_URL = here.mds = mortal.url
    simulated_pool(here.server)
    try:
        yield mortal
    finally:
        mortal.signal(signal.SIGCONT)
        mortal.service.stop()


def test_a_killed_mds_that_comes_back_ends_what_it_ran(here: Planner, mortal: Mortal, settings: Any) -> None:
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "wind_up_timeout": 15}
    running, queued = here.job(lines=400), here.job()
    passes_until(has_status(running, "in_progress"))
    mortal.signal(signal.SIGKILL)
    passes_until(lambda: now(running).retry_count >= 2)
    assert now(running).status == "in_progress"
    mortal.restart()
    passes_until_quiet(timeout=60)
    # what it was finalizing it leaves so for ever
    is_left = now(queued).error_code == "wind_up_timeout"
    assert queued.status == ("failed" if is_left else "completed")
    # it loses a line or two now and then, and calls that completed; we do not
    is_whole = now(running).request_completed + running.request_failed == 400
    assert (running.status, running.error_code) == (("completed", "") if is_whole else ("failed", "incomplete_output"))
    assert running.attempt == 1
    assert here.server.live() == []
    assert here.running() == ({queued.batch_id} if is_left else set())


def test_an_mds_that_hangs_holds_its_jobs_up_and_ends_none(here: Planner, mortal: Mortal) -> None:
    running = here.job(lines=300)
    passes_until(has_status(running, "in_progress"))
    file_id = upload(here.mds, 2)
    mortal.signal(signal.SIGSTOP)
    unsent = enqueued(file_id)
    passes_until(lambda: now(running).last_error_code == "timeout" and now(unsent).submit_started_at, timeout=40)
    assert (now(running).status, now(unsent).status) == ("in_progress", "submitting")
    mortal.signal(signal.SIGCONT)
    passes_until_quiet(timeout=60)
    assert (now(running).status, now(unsent).status) == ("completed", "completed")
    assert {batch.status for batch in here.batches() if batch.id not in {running.batch_id, unsent.batch_id}} <= {
        "cancelled"
    }
    here.assert_clean()


def test_an_mds_that_forgot_everything_ends_nothing_by_silence(here: Planner, mortal: Mortal) -> None:
    """The batch is run again; its input is gone as well, and that is what the job is told in the end."""
    job = here.job(lines=LONG)
    passes_until(has_status(job, "in_progress"))
    first = job.batch_id
    mortal.restart("second")
    passes_until_quiet(timeout=60)
    assert (now(job).status, job.attempt, job.lost_attempts) == ("failed", 2, 1)
    assert job.error_code == "invalid_input_file"
    assert "batch_lost" in set(JobEvent.objects.filter(job=job).values_list("reason", flat=True))
    assert job.batch_id != first
    run_pass()
    here.assert_clean()
