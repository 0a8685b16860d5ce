"""What the console's screens ask for, call by call, as one session and without a CSRF token."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.statuses import FailureStage
from tests.answers import error
from tests.api_client import ApiClient, api, job_body
from tests.engine import claimed, provisioning_job, recorded, submitting_job
from tests.factories import make_job, make_template, make_user

pytestmark = pytest.mark.django_db

# Each screen's calls when it is opened, and the key under which it looks for what it shows.
SCREENS: dict[str, list[tuple[str, str]]] = {
    "every page": [("/auth/userinfo", "email")],
    "home": [("/deployments", "deployments"), ("/jobs", "jobs"), ("/models", "models")],
    "batches": [("/jobs?limit=20", "jobs"), ("/jobs?limit=20&after={job}", "jobs"), ("/jobs?limit=200", "jobs")],
    "a new batch": [
        ("/models", "models"),
        ("/config/job-capabilities", "resource_request"),
        ("/models/{model}/deployment-templates?status=active", "templates"),
        ("/files", "data"),
    ],
    "one batch": [("/jobs/{job}?include_deployment=true", "status"), ("/jobs/{job}", "status")],
    "adapters": [("/model-adapters", "model_adapters"), ("/model-adapter-targets", "targets")],
}


@pytest.mark.parametrize("screen", SCREENS)
def test_every_call_of_a_screen_is_answered(screen: str) -> None:
    owner, template = make_user(), make_template()
    ids = {"job": make_job(owner).pk, "model": template.model_id}
    for path, key in SCREENS[screen]:
        answer = ApiClient(owner).get(path.format(**ids))
        assert answer.status_code == 200, path
        assert key in answer.json(), path


def test_a_deployment_is_asked_for_and_there_is_none() -> None:
    """Without the key the console shows no card for it, and asks no more."""
    job = make_job()
    client = ApiClient(job.owner)
    assert client.get(f"/jobs/{job.pk}", include_deployment="true").json()["extraBody"] == {}


@pytest.mark.parametrize("call", [("post", "/models"), ("post", "/jobs"), ("post", "/auth/logout")])
def test_an_empty_body_reads_as_an_empty_object(call: tuple[str, str]) -> None:
    """As the console sends them: with the content type of JSON, and nothing in it."""
    method, path = call

    def answered(body: Any) -> tuple[int, str]:
        answer = getattr(api("operator"), method)(path, body)
        return answer.status_code, answer.content.decode()

    assert answered("") == answered("{}") == answered(" ")


def test_of_several_wrong_fields_the_first_is_named() -> None:
    client = api()
    wrong: dict[str, Any] = {
        "input_dataset": "",
        "endpoint": "/v1/videos",
        "resource_request": {"replicas": 2000},
        "completion_window": "0h",
        "name": "x" * 256,
    }
    right, named = job_body(client.user), []
    while wrong:
        refused = client.post("/jobs", right | wrong).json()
        named.append(refused["details"][0]["field"])
        del wrong[next(iter(wrong))]
    assert named == ["input_dataset", "endpoint", "resource_request.replicas", "completion_window", "name"]


@pytest.mark.parametrize(
    ("make", "stage", "word"),
    [
        (provisioning_job, FailureStage.PROVISION, "resource_failed"),
        (submitting_job, FailureStage.SUBMIT, "submit_failed"),
    ],
)
def test_the_event_of_a_failure_says_why(make: Any, stage: FailureStage, word: str, settings: Any) -> None:
    settings.PLANNER_STATUS_VOCABULARY = "console"
    job = make()
    (claim,) = claimed().claims
    recorded(claim, error("permanent", "No such image.", code="bad_image"))
    shown = ApiClient(job.owner).get(f"/jobs/{job.pk}").json()
    event = shown["events"][-1]
    assert (shown["status"], shown["failureStage"], shown["errorMessage"]) == (word, stage.value, "No such image.")
    assert (event["status"], event["label"], event["message"]) == (word, "Bad image", "No such image.")
