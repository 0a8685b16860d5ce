"""One error shape on every path under /api, whatever goes wrong and wherever it does."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from django.core.exceptions import SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.test import Client

from jobs import errors, planner
from jobs.api.errors import ANSWERS, NEVER_REACHES_HTTP
from tests.api_client import ApiClient, api, assert_refused
from tests.factories import make_user

DEFINED = [
    thing
    for _, thing in inspect.getmembers(errors, inspect.isclass)
    if issubclass(thing, Exception) and thing.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", DEFINED)
def test_every_error_has_an_answer_or_never_reaches_http(error: type[Exception]) -> None:
    has_answer = getattr(error, "code", None) in ANSWERS and issubclass(error, errors.PlannerError)
    assert has_answer != (error in NEVER_REACHES_HTTP)


def raised(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    """The answer to a list whose query raises this."""

    def fail(_user: object) -> None:
        raise error

    monkeypatch.setattr(planner, "visible_jobs", fail)
    return api().get("/jobs")


EXAMPLES: list[tuple[Exception, int, int]] = [
    (errors.InvalidRequest("a.b", "is wrong: very"), 400, 3),
    (errors.FileTooLarge("file", "is too large"), 413, 3),
    (errors.NotFound("gone"), 404, 5),
    (errors.Forbidden("no"), 403, 7),
    (errors.Conflict("over"), 409, 10),
    (errors.AlreadyExists("twice"), 409, 6),
    (errors.QueueFull("full", retry_after_seconds=7), 429, 8),
    (errors.Unavailable("away"), 503, 14),
    (OperationalError("server closed the connection at 10.0.0.1"), 503, 14),
    (InterfaceError("connection already closed at 10.0.0.1"), 503, 14),
    (SuspiciousOperation("odd"), 400, 3),
    (RuntimeError("a secret at 10.0.0.1"), 500, 13),
    (errors.PlannerError("never raised by itself, a secret"), 500, 13),
    (errors.UpstreamError(errors.UpstreamKind.TRANSIENT, "a secret"), 500, 13),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("error", "status", "code"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_what_is_raised_is_answered_in_shape(
    error: Exception, status: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = assert_refused(raised(monkeypatch, error), status, code)
    assert "10.0.0.1" not in body["message"]
    assert "secret" not in body["message"]


@pytest.mark.django_db
def test_a_refused_field_is_in_the_details(monkeypatch: pytest.MonkeyPatch) -> None:
    body = raised(monkeypatch, errors.InvalidRequest("a.b", "is wrong: very")).json()
    assert body["message"] == "a.b: is wrong: very"
    assert body["details"] == [{"field": "a.b", "message": "is wrong: very"}]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.QueueFull("full", retry_after_seconds=7), "7"),
        (errors.Unavailable("away"), "5"),
        (OperationalError("gone"), "5"),
    ],
)
def test_come_back_later_says_when(error: Exception, seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert raised(monkeypatch, error)["Retry-After"] == seconds


@pytest.mark.django_db
def test_an_unforeseen_error_is_logged_and_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_user: object) -> None:
        raise RuntimeError("the cause")

    monkeypatch.setattr(planner, "visible_jobs", fail)
    client = Client()
    client.force_login(make_user())
    with pytest.raises(RuntimeError, match="the cause"):  # the test client listens to Django's own signal
        client.get("/api/v1/jobs")
    assert "the cause" in caplog.text


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/nope", "/jobs/", "/jobs/a/b/c", "", "/", "/../v2", "/jobs/a/cancel/", "/files/"])
@pytest.mark.parametrize("method", ["get", "post", "put", "delete", "patch"])
def test_an_unknown_route_is_a_json_404(path: str, method: str) -> None:
    response = getattr(ApiClient().client, method)(f"/api/v1{path}", content_type="application/json")
    body = assert_refused(response, 404, 5)
    assert body["message"] == "Not Found"


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v2/jobs", "/api//v1/jobs"])
def test_everything_below_api_is_the_apis(path: str) -> None:
    assert_refused(Client().get(path), 404, 5)


WRONG_METHODS = [
    ("put", "/jobs", "GET, POST"),
    ("delete", "/jobs", "GET, POST"),
    ("post", "/jobs/x", "GET"),
    ("delete", "/jobs/x", "GET"),
    ("get", "/jobs/x/cancel", "POST"),
    ("get", "/provisions/x/release", "POST"),
    ("post", "/provisions", "GET"),
    ("get", "/files/upload", "POST"),
    ("delete", "/files/x", "GET"),
    ("post", "/deployments", "GET"),
    ("post", "/auth/config", "GET"),
    ("post", "/health", "GET"),
    ("get", "/auth/logout", "POST"),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("method", "path", "allowed"), WRONG_METHODS)
def test_a_wrong_method_is_a_405(method: str, path: str, allowed: str) -> None:
    response = getattr(api("operator").client, method)(f"/api/v1{path}", content_type="application/json")
    assert_refused(response, 405, 12)
    assert set(allowed.split(", ")) <= set(response["Allow"].split(", "))


@pytest.mark.parametrize(
    "path", ["/api/v1/jobs", "/api/v1/nope", "/api/v1/auth/login", "/api", "/api/docs", "/api/docs/"]
)
def test_options_is_empty_for_everybody(path: str) -> None:
    response = Client().options(path)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.django_db
@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/xml;q=0.9", ""])
def test_answers_are_json_whatever_is_accepted(accept: str) -> None:
    client = api().client
    for query in ("", "?format=html"):
        response = client.get(f"/api/v1/jobs{query}", headers={"Accept": accept})
        assert (response.status_code, response["Content-Type"]) == (200, "application/json")


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/jobs", "/files/upload"])
def test_a_body_of_unknown_length_is_not_taken_for_an_empty_one(path: str) -> None:
    assert_refused(api().post(path, "{}", Transfer_Encoding="chunked"), 411, 3, "Content-Length")


@pytest.mark.django_db
def test_an_unknown_host_is_refused_in_shape() -> None:
    assert_refused(Client().get("/api/v1/health", headers={"Host": "evil.example"}), 400, 3)


@pytest.mark.django_db
@pytest.mark.parametrize("debug", [True, False])
def test_debug_mode_shows_no_html_below_api(debug: bool, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DEBUG = debug
    assert_refused(Client().get("/api/v1/nope"), 404, 5)
    assert_refused(raised(monkeypatch, RuntimeError("x")), 500, 13)


@pytest.mark.django_db
@pytest.mark.parametrize(("path", "is_json"), [("/api/v1/auth/login", True), ("/jobs/", False)])
def test_a_database_that_fails_below_the_views_is_a_503(
    path: str, is_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.contrib.sessions.middleware import SessionMiddleware

    def fail(*_: object) -> None:
        raise OperationalError("gone at 10.0.0.1")

    monkeypatch.setattr(SessionMiddleware, "process_response", fail)
    response = Client(raise_request_exception=False).get(path)
    assert (response.status_code, response["Retry-After"]) == (503, "5")
    assert b"10.0.0.1" not in response.content
    if is_json:
        assert_refused(response, 503, 14)


@pytest.mark.django_db
def test_other_paths_have_pages() -> None:
    response = Client().get("/nope")
    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")


def test_the_root_leads_to_the_pages() -> None:
    response = Client().get("/")
    assert (response.status_code, response["Location"]) == (302, "/jobs/")
