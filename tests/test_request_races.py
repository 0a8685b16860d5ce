"""Races of requests: repeats of one create, a list beside a cancel, and a client who tries again until he is heard."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from jobs.models import ApiToken, Job, JobEvent, QueueMessage
from tests.api_client import API, ApiClient, job_body
from tests.factories import make_job, make_user
from tests.threads import at_once, elsewhere, limit_sessions, stopped, until_waiting

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 50


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many requests at once need longer than a lock timeout to begin on a busy machine."""
    limit_sessions(monkeypatch, lock_seconds=60, idle_seconds=0)


def creating(user: User) -> Callable[[], Any]:
    """One create with the key `k`, as a program sends it; the same each time."""
    headers = {"Authorization": f"Bearer {ApiToken.issue(user, 'program')[1]}", "Idempotency-Key": "k"}
    body = job_body(user)

    def create() -> Any:
        return Client().post(f"{API}/jobs", body, content_type="application/json", headers=headers)

    return create


def assert_one_job(responses: list[Any]) -> None:
    assert {response.status_code for response in responses} == {200}
    (job_id,) = {response.json()["id"] for response in responses}
    assert Job.objects.get().id == job_id
    assert JobEvent.objects.count() == QueueMessage.objects.count() == 1


def test_fifty_creates_with_one_key_that_begin_together_make_one_job(patient: None) -> None:
    create = creating(make_user())
    assert_one_job(at_once(*[create] * MANY))


def test_creates_that_wait_for_the_first_with_their_key_answer_its_job(patient: None) -> None:
    create = creating(make_user())
    with stopped(create) as first:
        others = [elsewhere(create) for _ in range(MANY - 1)]
        until_waiting(MANY - 1)
        assert_one_job([first.result(), *(other.result(60) for other in others)])


def test_of_creates_that_wait_for_one_that_dies_another_makes_the_job(patient: None) -> None:
    create = creating(make_user())
    with stopped(create) as first:
        others = [elsewhere(create) for _ in range(9)]
        until_waiting(9)
        first.lose_session()
        assert_one_job([other.result(60) for other in others])
        assert first.result().status_code == 503


# --- reads beside a cancel ---


@pytest.mark.parametrize("path", ["/jobs", "/jobs/{id}", "/jobs?status=cancelling"])
def test_a_read_beside_a_cancel_neither_waits_for_it_nor_undoes_it(path: str) -> None:
    """A read that had begun before the cancel was written ends after it, and has changed nothing (O06)."""
    job = make_job(status="in_progress", batch_id="b1")
    reader, owner = ApiClient(job.owner), ApiClient(job.owner)
    address = path.format(id=job.id)
    with stopped(lambda: owner.post(f"/jobs/{job.id}/cancel")) as cancel:
        assert "cancelling" not in shown(reader.get("/jobs").json())
        # every read of the row, in list and detail, names its columns
        with stopped(lambda: reader.get(address), after='"jobs_job"."cancel_requested_at"') as read:
            assert cancel.result().status_code == 200
            before = Job.objects.values().get()
            assert read.result().status_code == 200
    assert Job.objects.values().get() == before
    assert before["cancel_requested_at"] is not None
    assert shown(reader.get("/jobs").json()) == {"cancelling"}


def shown(listing: Any) -> set[str]:
    return {job["status"] for job in listing["jobs"]}


# --- the bound ---


def test_a_client_who_tries_again_is_heard_once_the_stopped_session_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most the idle limit and one more try; each try in between is told to come back."""
    lock_seconds, idle_seconds = 0.2, 1.0
    limit_sessions(monkeypatch, lock_seconds=lock_seconds, idle_seconds=idle_seconds)
    job = make_job()
    client = ApiClient(job.owner)
    answers: list[int] = []
    with stopped(lambda: client.post(f"/jobs/{job.id}/cancel")):
        began = time.monotonic()
        while answers[-1:] != [200]:
            response = client.post(f"/jobs/{job.id}/cancel")
            answers.append(response.status_code)
            assert response.status_code == 200 or response["Retry-After"]
            assert time.monotonic() - began < idle_seconds + lock_seconds + 10
    assert set(answers[:-1]) <= {503}
    assert JobEvent.objects.filter(job=job, reason="cancel_requested").count() == 1
