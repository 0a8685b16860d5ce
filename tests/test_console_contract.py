"""What the console's screens ask for, call by call, as one session and without a CSRF token."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api_client import ApiClient, api
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
