"""No success is answered without a commit: not when the commit fails, not when the database goes away in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection

from jobs.models import Job, JobEvent, Provision, QueueMessage
from tests.api_client import ApiClient, api, job_body
from tests.engine import another_connection, locked
from tests.factories import make_job, make_pool, make_provision

pytestmark = pytest.mark.django_db(transaction=True)

FAILURES = {
    "refused": "RAISE EXCEPTION 'as scripted' USING ERRCODE = 'serialization_failure'",
    "disk full": "RAISE EXCEPTION 'as scripted' USING ERRCODE = 'disk_full'",
    "connection lost": "PERFORM pg_terminate_backend(pg_backend_pid())",
}


@contextmanager
def failing_commits(how: str) -> Iterator[None]:
    """Everything goes well until the very end of a transaction that writes an event."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE FUNCTION fail() RETURNS trigger AS $$ BEGIN {how}; RETURN NULL; END $$ LANGUAGE plpgsql"
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER failing AFTER INSERT ON jobs_jobevent "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()"
        )
    try:
        yield
    finally:
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER failing ON jobs_jobevent")
            cursor.execute("DROP FUNCTION fail")


def enqueue(client: ApiClient) -> Callable[[], Any]:
    body = job_body(client.user)
    return lambda: client.post("/jobs", body)


def cancel(client: ApiClient) -> Callable[[], Any]:
    job = make_job(client.user)
    return lambda: client.post(f"/jobs/{job.pk}/cancel")


def release(client: ApiClient) -> Callable[[], Any]:
    provision = make_provision(make_job(client.user), status="ready")
    return lambda: client.post(f"/provisions/{provision.pk}/release")


def everything() -> list[Any]:
    """All rows that the three can write."""
    return [list(model.objects.order_by("pk").values()) for model in (Job, JobEvent, Provision, QueueMessage)]


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("act", [enqueue, cancel, release])
def test_a_commit_that_fails_is_no_success_and_stores_nothing(act: Callable[..., Any], how: str) -> None:
    call = act(api("superuser"))
    before = everything()
    with failing_commits(FAILURES[how]):
        response = call()
    assert response.status_code in {500, 503}, response.content
    assert everything() == before
    assert call().status_code == 200, "and afterwards it works"


def test_an_accepted_job_is_committed_with_its_hint_before_the_answer_leaves() -> None:
    make_pool()
    answer = enqueue(api())().json()
    with another_connection() as other, other.cursor() as cursor:
        cursor.execute("SELECT status FROM jobs_job WHERE id = %s", [answer["id"]])
        assert cursor.fetchall() == [("pending",)]
        cursor.execute("SELECT reason FROM jobs_jobevent WHERE job_id = %s", [answer["id"]])
        assert cursor.fetchall() == [("accepted",)]
        cursor.execute("SELECT count(*) FROM jobs_queuemessage")
        assert cursor.fetchone() == (1,)


def test_a_cancel_that_cannot_be_written_is_not_answered_as_done() -> None:
    """Somebody holds the job's row for longer than the lock timeout."""
    client = api()
    job = make_job(client.user)
    with locked("jobs_job", job.pk):
        response = client.post(f"/jobs/{job.pk}/cancel")
    assert response.status_code == 503
    assert response["Retry-After"]
    job.refresh_from_db()
    assert job.cancel_requested_at is None


@pytest.mark.parametrize("path", ["/jobs", "/provisions", "/files", "/models"])
def test_a_list_that_cannot_be_read_is_an_error_and_not_empty(path: str) -> None:
    client = api("superuser")
    job = make_job(client.user)
    make_provision(job)
    tables = "jobs_job, jobs_provision, jobs_inputfile, jobs_servedmodel"
    with another_connection() as other:
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        response = client.get(path)
        other.rollback()
    assert response.status_code == 503
    assert set(response.json()) == {"code", "message", "details"}
