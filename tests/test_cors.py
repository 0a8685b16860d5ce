"""The console from another origin: off unless it is named, and what a named one may then do."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from jobs.models import Job
from tests.api_client import API, ApiClient, assert_refused
from tests.factories import make_job, make_user

pytestmark = pytest.mark.django_db

CONSOLE = "https://console.example.org"
METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"


@pytest.fixture
def named(settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = [CONSOLE]


@pytest.fixture
def anybody(settings: Any) -> None:
    settings.CORS_ALLOW_ALL_ORIGINS = True
    settings.CORS_ALLOW_CREDENTIALS = False


def allowed(response: Any) -> dict[str, str]:
    return {name: value for name, value in response.items() if name.lower().startswith("access-control-")}


def preflight(path: str = f"{API}/jobs", origin: str = CONSOLE) -> Any:
    return Client().options(path, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})


def test_it_is_off_unless_an_origin_is_named() -> None:
    assert allowed(preflight()) == {}
    assert (preflight().status_code, preflight().content) == (200, b"")
    assert allowed(Client().get(f"{API}/health", headers={"Origin": CONSOLE})) == {}


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("path", [f"{API}/jobs", f"{API}/nope", "/api", "/v1/batches"])
def test_a_named_origin_may_ask_for_everything(path: str) -> None:
    response = preflight(path)
    answer = allowed(response)
    assert (response.status_code, response.content) == (200, b"")
    assert answer["access-control-allow-origin"] == CONSOLE
    assert answer["access-control-allow-credentials"] == "true"
    assert answer["access-control-allow-methods"] == METHODS
    names = set(answer["access-control-allow-headers"].split(", "))
    assert {"Content-Type", "Authorization", "X-User-ID"} <= names
    assert "origin" in response["Vary"].lower()


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://console.example.org", "https://console.example.org.evil.example", "null", ""],
)
def test_another_origin_gets_nothing(origin: str) -> None:
    assert allowed(preflight(origin=origin)) == {}
    job = make_job()
    client = ApiClient(job.owner)
    assert_refused(client.post(f"/jobs/{job.pk}/cancel", Origin=origin), 403, 7, "another site")


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("path", ["/jobs/", "/admin/", "/healthz"])
def test_pages_are_for_no_other_origin(path: str) -> None:
    assert allowed(preflight(path)) == {}


@pytest.mark.usefixtures("named")
def test_a_named_origin_writes_with_the_session() -> None:
    job = make_job()
    client = ApiClient(job.owner)
    headers = {"Origin": CONSOLE, "Sec_Fetch_Site": "same-site"}
    answer = client.post(f"/jobs/{job.pk}/cancel", **headers)
    assert (answer.status_code, allowed(answer)["access-control-allow-origin"]) == (200, CONSOLE)
    job.refresh_from_db()
    assert job.cancel_requested_at is not None
    make_user(username="alice", password="open sesame")
    credentials = {"username": "alice", "password": "open sesame"}
    assert ApiClient().post("/auth/login", credentials, **headers).status_code == 200


@pytest.mark.usefixtures("named")
def test_a_refusal_can_be_read_by_a_named_origin_too() -> None:
    answer = Client().get(f"{API}/jobs", headers={"Origin": CONSOLE})
    assert_refused(answer, 401, 16)
    assert allowed(answer)["access-control-allow-origin"] == CONSOLE


@pytest.mark.usefixtures("anybody")
def test_if_anybody_may_read_nobody_else_writes_with_a_session() -> None:
    answer = allowed(preflight())
    assert answer["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer
    job = make_job()
    assert_refused(ApiClient(job.owner).post(f"/jobs/{job.pk}/cancel", Origin=CONSOLE), 403, 7, "another site")
    assert Job.objects.get().cancel_requested_at is None
