"""/v1/batches: OpenAI's words for a job, what a create takes, and what it refuses with nothing stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs import planner
from jobs.models import Job, JobEvent, QueueMessage
from jobs.statuses import LIVE, TERMINAL, JobStatus
from tests.api_client import ApiClient
from tests.factories import make_file, make_job, make_model, make_template
from tests.openai_client import OpenAIClient, assert_refused, batch_body, openai

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def created(client: OpenAIClient, **fields: Any) -> Any:
    response = client.post("/batches", batch_body(client.user, **fields))
    assert response.status_code == 200, response.content
    return response.json()


def test_it_works() -> None:
    client = openai()
    body = batch_body(client.user, metadata={"team": "evals"})

    answer = client.post("/batches", body).json()

    job = Job.objects.get()
    assert answer == {
        "id": job.pk,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": None,
        "errors": None,
        "input_file_id": body["input_file_id"],
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": int(job.accepted_at.timestamp()),
        "in_progress_at": None,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "expires_at": int((job.accepted_at + timedelta(days=1)).timestamp()),
        "request_counts": {"total": 3, "completed": 0, "failed": 0},
        "usage": None,
        "metadata": {"team": "evals"},
    }
    assert client.get(f"/batches/{job.pk}").json() == answer
    assert job.owner == client.user
    assert QueueMessage.objects.count() == 1


def test_the_window_may_be_left_out() -> None:
    assert created(openai(), completion_window=None)["completion_window"] == "24h"


EXTRAS: dict[str, Any] = {
    "name": "nightly",
    "resource_request": {"replicas": 3, "provider_config": {"duration": "2h"}},
    "client": {"max_concurrency": 16, "retry_policy": {"max_retries": 4}},
    "queue_timeout_seconds": 600,
    "priority": 7,
}


def assert_has_the_extras(job: Job) -> None:
    assert (job.name, job.replicas, job.provider_config) == ("nightly", 3, {"duration": "2h"})
    assert job.client == {"max_concurrency": 16, "retry_policy": {"max_retries": 4}}
    assert (job.queue_timeout_seconds, job.priority) == (600, 7)


def test_what_a_job_may_say_beyond_openai_stands_under_aibrix() -> None:
    client, template = openai("operator"), make_template()
    deployment = {
        "model_id": template.model_id,
        "model_template_name": template.name,
        "model_template_version": template.version,
    }
    answer = created(client, aibrix={**deployment, **EXTRAS})
    job = Job.objects.get()
    assert_has_the_extras(job)
    assert (job.model_id, job.template_name, job.template_version) == tuple(deployment.values())
    assert answer["model"] == template.model.serving_name
    assert answer["metadata"] is None


def test_what_stands_under_aibrix_is_what_the_console_says() -> None:
    """A request and its repeat, one from each face, are one job."""
    client = openai("operator")
    body = batch_body(client.user, aibrix=EXTRAS, metadata={"team": "evals"})
    console = {
        "input_dataset": body["input_file_id"],
        "endpoint": body["endpoint"],
        "completion_window": "24h",
        "metadata": {"team": "evals"},
        **EXTRAS,
    }
    job_id = ApiClient(client.user).post("/jobs", console, Idempotency_Key="k").json()["id"]
    assert client.post("/batches", body, Idempotency_Key="k").json()["id"] == job_id


def test_the_same_may_be_said_in_the_metadata_which_is_kept_as_given() -> None:
    client, template = openai("operator"), make_template()
    metadata = {
        "aibrix.name": "from the metadata",
        "aibrix.model_template_name": template.name,
        "aibrix.resource_request.replicas": "3",
        "aibrix.client.max_concurrency": "16",
        "aibrix.priority": "7",
        "aibrix.colour": "red",
        "team": "evals",
    }
    answer = created(client, metadata=metadata, aibrix={"name": "nightly", "resource_request": {}})
    job = Job.objects.get()
    assert (job.name, job.template_name, job.replicas, job.priority) == ("nightly", template.name, 3, 7)
    assert job.client == {"max_concurrency": 16}
    assert answer["metadata"] == metadata


@pytest.mark.parametrize("field", ["id", "serving_name"])
@pytest.mark.parametrize("name", ["model", "model_id"])
def test_a_model_is_known_by_its_id_and_by_the_name_it_is_served_under(name: str, field: str) -> None:
    model = make_model()
    assert created(openai(), aibrix={name: getattr(model, field)})["model"] == model.serving_name
    assert Job.objects.get().model_id == model.pk


def test_a_name_that_two_models_are_served_under_says_nothing() -> None:
    make_model(serving_name="twin")
    make_model(serving_name="", name="twin")
    client = openai()
    response = client.post("/batches", batch_body(client.user, aibrix={"model": "twin"}))
    assert_refused(response, 400, "several models", param="aibrix.model_id")


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("input_file_id", {"input_file_id": None}),
    ("input_file_id", {"input_file_id": 5}),
    ("input_file_id", {"input_file_id": "file-nope"}),
    ("input_file_id", {"input_file_id": "nul\0"}),
    ("endpoint", {"endpoint": None}),
    ("endpoint", {"endpoint": "/v1/videos"}),
    ("completion_window", {"completion_window": "soon"}),
    ("completion_window", {"completion_window": 24}),
    ("metadata", {"metadata": {f"k{number}": "" for number in range(17)}}),
    ("metadata", {"metadata": {"k" * 65: ""}}),
    ("metadata", {"metadata": {"k": "ä" * 513}}),
    ("metadata", {"metadata": {"k": 1}}),
    ("metadata", {"metadata": ["k"]}),
    ("output_expires_after", {"output_expires_after": {"anchor": "created_at", "seconds": 3600}}),
    ("inputFileId", {"inputFileId": "x"}),
    ("\\ud800", {"\ud800": "x"}),
    ("aibrix", {"aibrix": "fast"}),
    ("aibrix.colour", {"aibrix": {"colour": "red"}}),
    ("aibrix.modelId", {"aibrix": {"modelId": "x"}}),
    ("aibrix.job_id", {"aibrix": {"job_id": "mine"}}),
    ("aibrix.resource_request.zone", {"aibrix": {"resource_request": {"zone": "x"}}}),
    ("aibrix.resource_request.replicas", {"aibrix": {"resource_request": {"replicas": 1025}}}),
    ("aibrix.resource_request.replicas", {"metadata": {"aibrix.resource_request.replicas": "many"}}),
    ("aibrix.resource_request.provider_config", {"aibrix": {"resource_request": {"provider_config": "2h"}}}),
    ("aibrix.client.colour", {"aibrix": {"client": {"colour": "red"}}}),
    ("aibrix.client.max_concurrency", {"aibrix": {"client": {"max_concurrency": 0}}}),
    ("aibrix.client.retry_policy.colour", {"aibrix": {"client": {"retry_policy": {"colour": "red"}}}}),
    ("aibrix.name", {"aibrix": {"name": "x" * 256}}),
    ("aibrix.model_id", {"aibrix": {"model": "nope"}}),
    ("aibrix.model", {"aibrix": {"model": "a", "model_id": "b"}}),
    ("aibrix.model_template_name", {"aibrix": {"model_template_name": "nope"}}),
    ("aibrix.model_template_name", {"metadata": {"aibrix.model_template_version": "v1"}}),
    ("aibrix.queue_timeout_seconds", {"aibrix": {"queue_timeout_seconds": -1}}),
    ("aibrix.priority", {"aibrix": {"priority": 101}}),
]


@pytest.mark.parametrize(("param", "fields"), REFUSED)
def test_a_wrong_field_is_named_and_nothing_is_stored(param: str, fields: dict[str, Any]) -> None:
    client = openai("operator")
    assert_refused(client.post("/batches", batch_body(client.user, **fields)), 400, param=param)
    assert not Job.objects.exists()
    assert not JobEvent.objects.exists()
    assert not QueueMessage.objects.exists()


@pytest.mark.parametrize("body", ["{", "[1]", '"x"', '{"metadata": NaN}', b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(body: str | bytes) -> None:
    assert client_error(openai().post("/batches", body)) == 400
    assert not Job.objects.exists()


def client_error(response: Any) -> int:
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return int(response.status_code)


def test_metadata_at_openais_limits_is_kept() -> None:
    metadata = {f"{number:064}": "ä" * 512 for number in range(16)}
    assert created(openai(), metadata=metadata)["metadata"] == metadata


def test_a_priority_is_for_operators_to_give() -> None:
    client = openai()
    response = client.post("/batches", batch_body(client.user, aibrix={"priority": 1}))
    assert_refused(response, 403, "only operators")
    assert not Job.objects.exists()


def test_a_priority_at_accept_is_worth_as_much_as_one_given_later() -> None:
    client = openai("operator")
    later, at_once = (created(client, aibrix=aibrix)["id"] for aibrix in ({}, {"priority": 40}))
    planner.prioritise(client.user, later, 40)
    ahead = {job.pk: job.accepted_at - job.ranked_at for job in Job.objects.all()}
    assert ahead[at_once] == ahead[later] > timedelta(0)


def test_the_same_idempotency_key_answers_the_same_batch() -> None:
    client = openai()
    body = batch_body(client.user)
    first = client.post("/batches", body, Idempotency_Key="k1")
    again = client.post("/batches", body, Idempotency_Key="k1")
    other = client.post("/batches", {**body, "completion_window": "1h"}, Idempotency_Key="k1")
    assert again.json() == first.json()
    assert assert_refused(other, 409)["code"] == "conflict"
    assert other["x-should-retry"] == "false"
    assert_refused(client.post("/batches", body, Idempotency_Key="k" * 256), 400, param="Idempotency-Key")
    assert Job.objects.count() == 1


def test_a_full_queue_is_a_429(settings: Any) -> None:
    settings.PLANNER_QUEUE_CAPACITY = 1
    client = openai()
    created(client)
    response = client.post("/batches", batch_body(client.user))
    assert_refused(response, 429, code="rate_limit_exceeded")
    assert int(response["Retry-After"]) > 0
    assert Job.objects.count() == 1


def test_somebody_elses_file_is_as_unknown_as_none() -> None:
    client = openai()
    response = client.post("/batches", batch_body(client.user, input_file_id=make_file().pk))
    assert_refused(response, 400, "unknown file", param="input_file_id")


# --- what is shown ---

WORDS = {
    "pending": "validating",
    "provisioning": "validating",
    "submitting": "validating",
    "scheduling": "validating",
    "validating": "validating",
    "in_progress": "in_progress",
    "finalizing": "finalizing",
    "cancelling": "cancelling",
    "completed": "completed",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}


@pytest.mark.parametrize("status", list(JobStatus))
def test_a_status_is_one_of_openais_eight(status: JobStatus) -> None:
    job = make_job(status=status)
    client = OpenAIClient(job.owner)
    shown = client.get(f"/batches/{job.pk}").json()
    assert shown["status"] == WORDS[status.value]
    assert client.get("/batches").json()["data"] == [shown]
    assert shown["in_progress_at"] is None


def test_a_batch_that_is_over_says_everything() -> None:
    times = {f"{name}_at": NOON + timedelta(minutes=n) for n, name in enumerate(["in_progress", "finalizing"])}
    job = make_job(
        status="completed",
        completed_at=NOON + timedelta(minutes=2),
        deadline_at=NOON + timedelta(hours=1),
        request_completed=2,
        request_failed=1,
        output_file_id="out-1",
        error_file_id="err-1",
        usage={"input_tokens": 30, "output_tokens": 5, "total_tokens": 35, "input_tokens_details": None},
        **times,
    )
    shown = OpenAIClient(job.owner).get(f"/batches/{job.pk}").json()
    noon = int(NOON.timestamp())
    assert [shown[f"{name}_at"] - noon for name in ("in_progress", "finalizing", "completed", "expires")] == [
        0,
        60,
        120,
        3600,
    ]
    assert shown["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert (shown["output_file_id"], shown["error_file_id"]) == ("out-1", "err-1")
    assert shown["usage"] == {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 35,
    }


def test_a_batch_that_went_back_to_the_queue_has_not_begun() -> None:
    job = make_job(status="pending", in_progress_at=NOON, finalizing_at=NOON)
    shown = OpenAIClient(job.owner).get(f"/batches/{job.pk}").json()
    assert (shown["status"], shown["in_progress_at"], shown["finalizing_at"]) == ("validating", None, None)


@pytest.mark.parametrize(
    ("stage", "view", "expected"),
    [
        ("provision", None, [("no_capacity", "none left", None, None)]),
        ("batch", {"status": "failed"}, [("no_capacity", "none left", None, None)]),
        ("batch", {"errors": "odd"}, [("no_capacity", "none left", None, None)]),
        (
            "batch",
            {"errors": {"data": [{"code": "validation_error", "message": "bad", "line": 2}, {"code": "x"}]}},
            [("validation_error", "bad", None, 2), ("x", "", None, None)],
        ),
    ],
)
def test_a_failed_batch_says_why(stage: str, view: Any, expected: list[Any]) -> None:
    job = make_job(
        status="failed", failure_stage=stage, error_code="no_capacity", error_message="none left", batch_view=view
    )
    errors = OpenAIClient(job.owner).get(f"/batches/{job.pk}").json()["errors"]
    assert errors["object"] == "list"
    assert [tuple(error[key] for key in ("code", "message", "param", "line")) for error in errors["data"]] == expected


# --- cancel ---


@pytest.mark.parametrize("status", sorted(LIVE - {JobStatus.CANCELLING}))
def test_a_cancel_reads_cancelling_at_once(status: JobStatus) -> None:
    job = make_job(status=status)
    client = OpenAIClient(job.owner)
    answer = client.post(f"/batches/{job.pk}/cancel").json()
    assert (answer["status"], answer["cancelled_at"]) == ("cancelling", None)
    assert answer["cancelling_at"] is not None
    assert client.post(f"/batches/{job.pk}/cancel").json() == answer
    assert JobEvent.objects.filter(reason="cancel_requested").count() == 1


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_cancel_of_a_batch_that_is_over_is_refused_for_good(status: JobStatus) -> None:
    job = make_job(status=status)
    response = OpenAIClient(job.owner).post(f"/batches/{job.pk}/cancel")
    assert_refused(response, 409, f"already {status}", code="conflict")
    assert response["x-should-retry"] == "false"
