"""Under /v1 every refusal has OpenAI's shape, and everybody gets what is theirs and no more."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from django.core.exceptions import SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.test import Client

from jobs import errors, planner
from jobs.models import Job
from tests.api_client import ApiClient
from tests.factories import make_file, make_job, make_user
from tests.openai_client import OpenAIClient, assert_refused, batch_body, openai
from tests.test_openai_files import CONTENT

# --- who may do what: anonymous, then each role where the job and the files are somebody else's, then the owner ---

WHO = ["nobody", "", "submitter", "viewer", "operator", "owner"]
# An operation that needs the MDS is not done here: 503 is "may".
ACCESS: dict[str, tuple[int, int, int, int, int, int]] = {
    "GET /batches": (401, 200, 200, 200, 200, 200),
    "POST /batches": (401, 403, 200, 403, 200, 200),
    "GET /batches/{job}": (401, 404, 404, 200, 200, 200),
    "POST /batches/{job}/cancel": (401, 404, 404, 403, 200, 200),
    "GET /files": (401, 200, 200, 200, 200, 200),
    "POST /files": (401, 403, 503, 403, 503, 503),
    "GET /files/{input}": (401, 404, 404, 404, 200, 200),
    "GET /files/{output}": (401, 404, 404, 404, 200, 200),
    "GET /files/{input}/content": (401, 404, 404, 404, 503, 503),
    "GET /files/{output}/content": (401, 404, 404, 404, 503, 503),
    "DELETE /files/{input}": (401, 404, 404, 404, 503, 503),
    "DELETE /files/{output}": (401, 404, 404, 404, 503, 503),
}


@pytest.fixture
def no_mds(settings: Any) -> None:
    settings.PLANNER_MDS_URL = "http://127.0.0.1:9"


@pytest.mark.django_db
@pytest.mark.usefixtures("no_mds")
@pytest.mark.parametrize(
    ("endpoint", "who", "status"),
    [(endpoint, who, row[n]) for endpoint, row in ACCESS.items() for n, who in enumerate(WHO)],
)
def test_who_may_do_what(endpoint: str, who: str, status: int) -> None:
    owner = make_user()
    file, running = make_file(owner), make_job(owner, status="in_progress")
    make_job(owner, status="completed", input_file_id=file.pk, output_file_id="out-1")
    users = {"nobody": None, "owner": owner}
    client = OpenAIClient(users[who] if who in users else make_user(who))
    method, _, path = endpoint.format(job=running.pk, input=file.pk, output="out-1").partition(" ")

    if endpoint == "POST /files":
        answer = client.upload(CONTENT)
    elif endpoint == "POST /batches":
        answer = client.post(path, {} if who == "nobody" else batch_body(client.user))
    else:
        answer = getattr(client, method.lower())(path)

    if status == 200:
        assert answer.status_code == 200, answer.content
    else:
        assert_refused(answer, status, code={401: "invalid_api_key", 404: "not_found"}.get(status))
    running.refresh_from_db()
    is_cancelled = running.cancel_requested_at is not None
    assert is_cancelled is (status == 200 and endpoint.endswith("cancel"))


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/batches", "/files"])
def test_a_list_shows_each_his_own(path: str) -> None:
    owner = make_user()
    make_file(owner)
    make_job(owner)
    shown = {role: len(openai(role).get(path).json()["data"]) for role in ("submitter", "viewer", "operator")}
    assert shown == {"submitter": 0, "viewer": 1 if path == "/batches" else 0, "operator": 1}
    assert len(OpenAIClient(owner).get(path).json()["data"]) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["Bearer sk-nope", "Bearer ", "sk-nope", ""])
def test_an_unknown_key_is_a_401_with_a_challenge(key: str) -> None:
    response = Client().get("/v1/batches", headers={"Authorization": key} if key else {})
    assert_refused(response, 401, code="invalid_api_key")
    assert response["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.django_db
def test_a_browsers_session_writes_nothing_for_another_site() -> None:
    client = ApiClient(make_user()).client
    response = client.post("/v1/batches", {}, "application/json", headers={"Sec-Fetch-Site": "cross-site"})
    assert_refused(response, 403)


@pytest.mark.django_db
def test_in_dev_mode_any_key_is_the_one_operators(settings: Any) -> None:
    settings.PLANNER_AUTH_MODE = "dev"
    make_job()
    shown = Client().get("/v1/batches", headers={"Authorization": "Bearer anything"}).json()
    assert len(shown["data"]) == 1


# --- what goes wrong ---

DEFINED = [
    thing
    for _, thing in inspect.getmembers(errors, inspect.isclass)
    if issubclass(thing, Exception) and thing.__module__ == errors.__name__
]
EXAMPLES: list[tuple[Exception, int, str | None]] = [
    (errors.InvalidRequest("a.b", "is wrong: very"), 400, None),
    (errors.InvalidFile(["line 2: is wrong", "line 7: is wrong"]), 400, None),
    (errors.FileTooLarge("file", "is too large"), 413, "content_size_limit_exceeded"),
    (errors.NotFound("gone"), 404, "not_found"),
    (errors.Forbidden("no"), 403, "insufficient_permissions"),
    (errors.Conflict("over"), 409, "conflict"),
    (errors.AlreadyExists("twice"), 409, "conflict"),
    (errors.QueueFull("full", retry_after_seconds=7), 429, "rate_limit_exceeded"),
    (errors.Unavailable("away"), 503, "service_unavailable"),
    (OperationalError("server closed the connection at 10.0.0.1"), 503, "service_unavailable"),
    (InterfaceError("connection already closed at 10.0.0.1"), 503, "service_unavailable"),
    (SuspiciousOperation("odd"), 400, None),
    (RuntimeError("a secret at 10.0.0.1"), 500, None),
    (errors.PlannerError("never raised by itself, a secret"), 500, None),
    (errors.UpstreamError(errors.UpstreamKind.TRANSIENT, "a secret"), 500, None),
]


def raised(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    """The answer to a list whose query raises this."""

    def fail(_user: object) -> None:
        raise error

    monkeypatch.setattr(planner, "visible_jobs", fail)
    return openai().get("/batches")


def test_every_error_has_an_example() -> None:
    assert {*DEFINED} <= {type(error) for error, _, _ in EXAMPLES}


@pytest.mark.django_db
@pytest.mark.parametrize(("error", "status", "code"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_what_is_raised_is_answered_in_shape(
    error: Exception, status: int, code: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = raised(monkeypatch, error)
    body = assert_refused(response, status, param=getattr(error, "field", None))
    assert body["code"] == code
    assert "10.0.0.1" not in body["message"]
    assert "secret" not in body["message"]
    assert ("Retry-After" in response) is (status in {429, 503})


ROUTES = [
    "",
    "/",
    "/nope",
    "/models",
    "/chat/completions",
    "/batches/",
    "/batches/a/b",
    "/files/",
    "//batches",
    "/../x",
]


@pytest.mark.django_db
@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["get", "post", "put", "delete", "patch"])
def test_an_unknown_route_is_a_404_in_shape(path: str, method: str) -> None:
    response = getattr(Client(), method)(f"/v1{path}", content_type="application/json")
    assert_refused(response, 404, code="not_found")


WRONG_METHODS = [
    ("put", "/batches", "GET, POST"),
    ("delete", "/batches", "GET, POST"),
    ("post", "/batches/x", "GET"),
    ("delete", "/batches/x", "GET"),
    ("get", "/batches/x/cancel", "POST"),
    ("put", "/files", "GET, POST"),
    ("post", "/files/x", "GET, DELETE"),
    ("delete", "/files/x/content", "GET"),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("method", "path", "allowed"), WRONG_METHODS)
def test_a_wrong_method_is_a_405(method: str, path: str, allowed: str) -> None:
    response = getattr(openai("operator").client, method)(f"/v1{path}", content_type="application/json")
    assert_refused(response, 405, code="method_not_supported")
    assert set(allowed.split(", ")) <= set(response["Allow"].split(", "))


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/nope", "/v1"])
def test_options_is_empty_for_everybody(path: str) -> None:
    response = Client().options(path)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.django_db
def test_answers_are_json_whatever_is_accepted() -> None:
    for accept in ("text/html", "application/binary", ""):
        response = openai().client.get("/v1/batches?format=html", headers={"Accept": accept})
        assert (response.status_code, response["Content-Type"]) == (200, "application/json")


@pytest.mark.django_db
def test_a_body_that_is_not_read_is_refused(settings: Any) -> None:
    assert_refused(openai().post("/batches", "{}", Transfer_Encoding="chunked"), 411, "Content-Length")
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    assert_refused(openai().post("/batches", {"endpoint": "x" * 1000}), 413, code="content_size_limit_exceeded")
    assert_refused(openai().client.post("/v1/batches", "a=b", content_type="text/plain"), 415)
    assert not Job.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("debug", [True, False])
def test_debug_mode_shows_no_html(debug: bool, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.DEBUG = debug
    assert_refused(Client().get("/v1/nope"), 404)
    assert_refused(raised(monkeypatch, RuntimeError("x")), 500)


@pytest.mark.django_db
def test_what_fails_outside_the_views_has_the_same_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.contrib.sessions.middleware import SessionMiddleware

    assert_refused(Client().get("/v1/batches", headers={"Host": "evil.example"}), 400)

    def fail(*_: object) -> None:
        raise OperationalError("gone at 10.0.0.1")

    monkeypatch.setattr(SessionMiddleware, "process_response", fail)
    response = Client(raise_request_exception=False).get("/v1/batches")
    assert "10.0.0.1" not in assert_refused(response, 503)["message"]
    assert response["Retry-After"] == "5"
