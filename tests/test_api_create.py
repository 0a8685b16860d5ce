"""POST /jobs: what is accepted, and every refusal with nothing stored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from jobs.models import Job, JobEvent, QueueMessage
from tests.api_client import ApiClient, api, assert_refused, job_body
from tests.factories import TEMPLATE_SPEC, make_file, make_model, make_pool, make_template

pytestmark = pytest.mark.django_db


def created(client: ApiClient, **fields: Any) -> Any:
    response = client.post("/jobs", job_body(client.user, **fields))
    assert response.status_code == 200, response.content
    return response.json()


def test_it_works() -> None:
    client = api()
    body = job_body(client.user, completion_window="90m")

    answer = client.post("/jobs", body).json()

    job = Job.objects.get()
    assert answer["id"] == job.pk
    assert answer["status"] == "pending"
    assert answer["completionWindow"] == "90m"
    assert answer["requestCounts"] == {"total": 3, "completed": 0, "failed": 0}
    assert answer["createdAt"] == str(int(job.accepted_at.timestamp()))
    assert int(answer["expiresAt"]) - int(answer["createdAt"]) == 90 * 60
    assert answer["createdBy"] == client.user.email
    assert answer["modelTemplateName"] == body["model_template_name"]
    assert [event["label"] for event in answer["events"]] == ["Accepted"]
    assert job.owner == client.user


def test_the_answer_is_what_a_later_look_gives_and_costs_twelve_statements() -> None:
    client = api()
    body = job_body(client.user, metadata={"team": "eval"}, queue_timeout_seconds=600)

    with CaptureQueriesContext(connection) as queries:
        answer = client.post("/jobs", body).json()

    assert len(queries) <= 12, [query["sql"][:60] for query in queries]
    seen = client.get(f"/jobs/{answer['id']}").json()
    told_later = ("waitingReason", "waitingCode", "waitingPools", "queuePosition")
    assert {**answer, **dict.fromkeys(told_later)} == {**seen, **dict.fromkeys(told_later)}


def test_every_accepted_field_is_kept() -> None:
    client = api()
    retry = {"max_retries": 4, "base_delay_seconds": 0.5, "max_delay_seconds": 3, "no_endpoint_max_retries": 2}
    settings = {
        "max_concurrency": 16,
        "request_timeout_seconds": 30,
        "adaptive_concurrency": False,
        "adaptive_max_factor": 1.5,
        "adaptive_healthy_window": 3,
        "adaptive_additive_increase": 2,
        "retry_policy": retry,
    }
    body = job_body(
        client.user,
        resource_request={"replicas": 3, "provider_config": {"duration": "2h", "deep": [{"x": None}]}},
        client=settings,
        metadata={"team": "eval"},
        queue_timeout_seconds=600,
    )

    assert client.post("/jobs", body).status_code == 200

    job = Job.objects.get()
    assert job.input_file_id == body["input_dataset"]
    assert job.endpoint == "/v1/chat/completions"
    assert (job.completion_window, job.completion_window_seconds) == ("12h", 43_200)
    assert job.name == "nightly-eval"
    assert (job.model_id, job.template_name, job.template_version) == (
        body["model_id"],
        body["model_template_name"],
        "v1.0.0",
    )
    assert job.template_spec == TEMPLATE_SPEC
    assert job.replicas == 3
    assert job.provider_config == {"duration": "2h", "deep": [{"x": None}]}
    assert job.client == settings
    assert job.metadata == {"team": "eval"}
    assert job.queue_timeout_seconds == 600


def test_both_spellings_unknown_names_nulls_and_numbers_as_strings_are_taken() -> None:
    client = api()
    file = make_file(client.user)
    template = make_template(make_model())
    body = {
        "inputDataset": file.pk,
        "endpoint": "/v1/completions",
        "completionWindow": None,
        "modelTemplateName": template.name,
        "model_template_version": None,
        "modelId": template.model_id,
        "requestCountTotal": 9,
        "resourceRequest": {"replicas": "2", "providerConfig": None, "zone": "x"},
        "client": {"maxConcurrency": "8", "retryPolicy": {"maxRetries": 1.0, "unheardOf": 1}, "colour": "red"},
        "injection_config": {"enabled": True},
        "max_tokens": 5,
    }

    answer = client.post("/jobs", body).json()

    job = Job.objects.get()
    assert answer["completionWindow"] == "24h"
    assert (job.input_file_id, job.template_version, job.replicas) == (file.pk, "v1.0.0", 2)
    assert job.client == {"max_concurrency": 8, "retry_policy": {"max_retries": 1}}


def test_a_job_needs_no_model_and_no_template() -> None:
    client = api()
    answer = created(client, model_id=None, model_template_name=None, model_template_version=None)
    assert (answer["model"], answer["modelTemplateRef"]) == ("", None)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("input_dataset", {"input_dataset": None}),
    ("input_dataset", {"input_dataset": ""}),
    ("input_dataset", {"input_dataset": 5}),
    ("input_dataset", {"input_dataset": "file-nope"}),
    ("input_dataset", {"input_dataset": "nul\0"}),
    ("endpoint", {"endpoint": None}),
    ("endpoint", {"endpoint": "/v1/videos"}),
    ("endpoint", {"endpoint": ["/v1/completions"]}),
    ("endpoint", {"endpoint": "/v1/embeddings"}),  # not among the template's
    *(
        ("completion_window", {"completion_window": window})
        for window in ("0h", "24 hours", "2h1d", "1.5h", "24H", "-1h", "30s", "h", "  ", "31d", 24, "9" * 40 + "d")
    ),
    ("name", {"name": "x" * 256}),
    ("name", {"name": {"a": 1}}),
    ("name", {"name": "\ud800"}),
    ("model_id", {"model_id": "model-nope"}),
    ("model_template_name", {"model_template_name": "nope"}),
    ("model_template_name", {"model_template_name": None}),  # a version alone
    ("model_template_version", {"model_template_version": "v9"}),
    ("resource_request", {"resource_request": [1]}),
    ("resource_request.replicas", {"resource_request": {"replicas": 1025}}),
    ("resource_request.replicas", {"resource_request": {"replicas": -1}}),
    ("resource_request.replicas", {"resource_request": {"replicas": 1.5}}),
    ("resource_request.replicas", {"resource_request": {"replicas": "many"}}),
    ("resource_request.replicas", {"resource_request": {"replicas": True}}),
    ("resource_request.replicas", {"resource_request": {"replicas": []}}),
    ("resource_request.replicas", {"resource_request": {"replicas": False}}),
    ("resource_request.provider_config", {"resource_request": {"provider_config": []}}),
    ("resource_request.provider_config", {"resource_request": {"provider_config": "2h"}}),
    *(
        (f"resource_request.{kind}", {"resource_request": {kind: names}})
        for kind in ("providers", "pools", "regions")
        for names in ("nowhere", ["nowhere"], [""], ["x" * 129], ["\0"], [5], 5, {"a": 1}, ["a"] * 17)
    ),
    ("client", {"client": "fast"}),
    ("client.max_concurrency", {"client": {"max_concurrency": 0}}),
    ("client.max_concurrency", {"client": {"max_concurrency": 1025}}),
    ("client.adaptive_concurrency", {"client": {"adaptive_concurrency": "no"}}),
    ("client.adaptive_max_factor", {"client": {"adaptive_max_factor": 0.5}}),
    ("client.adaptive_healthy_window", {"client": {"adaptive_healthy_window": 0}}),
    ("client.adaptive_additive_increase", {"client": {"adaptive_additive_increase": 0}}),
    ("client.retry_policy", {"client": {"retry_policy": 3}}),
    ("client.retry_policy.max_retries", {"client": {"retry_policy": {"max_retries": -1}}}),
    ("client.retry_policy.no_endpoint_max_retries", {"client": {"retry_policy": {"no_endpoint_max_retries": -1}}}),
    (
        "client.retry_policy.base_delay_seconds",
        {"client": {"retry_policy": {"base_delay_seconds": 3, "max_delay_seconds": 2}}},
    ),
    ("metadata", {"metadata": {"n": 1}}),
    ("metadata", {"metadata": {f"k{n}": "v" for n in range(17)}}),
    ("metadata", {"metadata": "x"}),
    ("metadata", {"metadata": []}),
    ("queue_timeout_seconds", {"queue_timeout_seconds": 0}),
]


@pytest.mark.parametrize(("field", "fields"), REFUSED)
def test_a_wrong_field_is_named_and_nothing_is_stored(field: str, fields: dict[str, Any]) -> None:
    client = api()

    response = client.post("/jobs", job_body(client.user, **fields))

    assert_refused(response, 400, 3, field=field)
    assert not Job.objects.exists()
    assert not JobEvent.objects.exists()
    assert not QueueMessage.objects.exists()


@pytest.mark.parametrize("status", ["draft", "deprecated"])
def test_a_template_that_is_not_active_is_refused(status: str) -> None:
    client = api()
    template = make_template(status=status)
    named = {"model_template_name": template.name, "model_id": template.model_id}

    response = client.post("/jobs", job_body(client.user, **named))

    assert_refused(response, 400, 3, field="model_template_version")
    assert not Job.objects.exists()


def test_somebody_elses_file_is_as_unknown_as_one_that_does_not_exist() -> None:
    client = api()
    theirs = client.post("/jobs", job_body(client.user, input_dataset=make_file().pk))
    nobodys = client.post("/jobs", job_body(client.user, input_dataset="file-nope"))
    assert_refused(theirs, 400, 3, field="input_dataset")
    assert_refused(nobodys, 400, 3, field="input_dataset")


@pytest.mark.parametrize(
    "body",
    ["{", "", "[1]", '"x"', "null", '{"a": NaN}', "\x00", b"\xff\xfe\xfa", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"],
)
def test_a_body_that_is_no_json_object_is_refused(body: str | bytes) -> None:
    refused = assert_refused(api().post("/jobs", body), 400, 3)
    assert "sys." not in refused["message"]  # no word of the interpreter's
    assert not Job.objects.exists()


def test_a_body_over_the_limit_is_refused(settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    response = api().post("/jobs", json.dumps({"name": "x" * 1000}))
    assert_refused(response, 413, 3, "too large")


def test_another_content_type_is_refused() -> None:
    response = api().client.post("/api/v1/jobs", "a=b", content_type="text/plain")
    assert_refused(response, 415, 3)


def test_a_full_queue_is_an_answer(settings: Any) -> None:
    settings.PLANNER_QUEUE_CAPACITY = 1
    client = api()
    created(client)

    response = client.post("/jobs", job_body(client.user))

    assert_refused(response, 429, 8)
    assert int(response["Retry-After"]) > 0
    assert Job.objects.count() == 1


def test_the_same_idempotency_key_answers_the_same_job() -> None:
    client = api()
    body = job_body(client.user)

    first = client.post("/jobs", body, Idempotency_Key="k1")
    again = client.post("/jobs", body, Idempotency_Key="k1")
    other = client.post("/jobs", {**body, "name": "other"}, Idempotency_Key="k1")

    assert again.json()["id"] == first.json()["id"]
    assert_refused(other, 409, 10)
    assert Job.objects.count() == 1


def test_a_repeat_over_http_is_the_same_whatever_its_spelling() -> None:
    client = api()
    body = job_body(client.user)
    camel = {**body, "inputDataset": body["input_dataset"]}
    del camel["input_dataset"]

    first = client.post("/jobs", body, Idempotency_Key="k1").json()

    assert client.post("/jobs", camel, Idempotency_Key="k1").json()["id"] == first["id"]


def test_an_idempotency_key_that_is_too_long_is_refused() -> None:
    client = api()
    response = client.post("/jobs", job_body(client.user), Idempotency_Key="k" * 256)
    assert_refused(response, 400, 3)
    assert not Job.objects.exists()


def test_a_viewer_may_not_submit() -> None:
    client = api("viewer")
    assert_refused(client.post("/jobs", job_body(client.user)), 403, 7)
    assert not Job.objects.exists()


def test_a_pool_is_not_needed_to_accept_a_job() -> None:
    make_pool(is_enabled=False)
    assert created(api())["waitingReason"] != ""
