"""Who one is: sessions, tokens, the development mode, and writes that another site caused."""

from __future__ import annotations

from io import StringIO
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.core.management.sql import emit_post_migrate_signal
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs.models import ApiToken, Job
from tests.api_client import API, ApiClient, api, assert_refused, job_body
from tests.factories import make_job, make_user

pytestmark = pytest.mark.django_db

LOGIN = f"{API}/auth/login"
NEEDS_LOGIN = [
    ("get", "/jobs"),
    ("post", "/jobs"),
    ("get", "/jobs/x"),
    ("post", "/jobs/x/cancel"),
    ("get", "/provisions"),
    ("get", "/provisions/x"),
    ("post", "/provisions/x/release"),
    ("get", "/files"),
    ("post", "/files/upload"),
    ("get", "/files/x"),
    ("get", "/files/x/content"),
    ("get", "/config/job-capabilities"),
    ("get", "/models"),
    ("get", "/models/x"),
    ("get", "/models/x/deployment-templates"),
    ("get", "/models/x/deployment-templates/y"),
    ("get", "/models/x/deployment-templates/by-name/y"),
    ("get", "/deployments"),
    ("get", "/model-adapters"),
    ("get", "/auth/userinfo"),
    ("post", "/auth/logout"),
    ("get", "/auth/tokens"),
    ("post", "/auth/tokens"),
    ("delete", "/auth/tokens/1"),
]


@pytest.fixture
def person() -> User:
    return make_user(username="alice", password="open sesame", email="alice@local")


@pytest.mark.parametrize(("method", "path"), NEEDS_LOGIN)
def test_without_a_login_it_is_a_401(method: str, path: str) -> None:
    response = getattr(Client(), method)(f"{API}{path}", content_type="application/json")
    assert_refused(response, 401, 16)
    assert response["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("path", "answer"), [("/auth/config", {"mode": "basic"}), ("/health", {"status": "ok"})], ids=["config", "health"]
)
def test_public_paths_need_no_login_and_no_database(path: str, answer: dict[str, str]) -> None:
    with CaptureQueriesContext(connection) as queries:
        response = Client().get(f"{API}{path}")
    assert (response.status_code, response.json()) == (200, answer)
    assert len(queries) == 0


@pytest.mark.parametrize(
    ("role", "wire_role"),
    [("operator", "admin"), ("superuser", "admin"), ("viewer", "viewer"), ("submitter", "viewer")],
)
def test_userinfo_has_six_strings(role: str, wire_role: str) -> None:
    user = make_user(role, username="alice", email="alice@local")
    assert ApiClient(user).get("/auth/userinfo").json() == {
        "id": "basic-alice",
        "name": "alice",
        "email": "alice@local",
        "role": wire_role,
        "username": "alice",
        "picture": "",
    }


@pytest.mark.parametrize("email", ["alice@local", ""])
def test_the_creator_of_a_job_is_the_first_name_in_userinfo(email: str) -> None:
    client = ApiClient(make_user(email=email))
    info = client.get("/auth/userinfo").json()
    job = client.post("/jobs", job_body(client.user)).json()
    assert job["createdBy"] == next(info[key] for key in ("email", "username", "id") if info[key])


def test_a_program_logs_in_and_out(person: User) -> None:
    client = ApiClient()

    answer = client.post("/auth/login", {"username": "alice", "password": "open sesame"})

    assert answer.status_code == 200
    assert answer.json() == client.get("/auth/userinfo").json()
    cookie = answer.cookies["sessionid"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert 86_390 < cookie["max-age"] <= 86_400
    assert client.post("/auth/logout", "").json() == {"message": "logged out"}
    assert_refused(client.get("/auth/userinfo"), 401, 16)


@pytest.mark.parametrize(
    "body",
    [
        {"username": "alice", "password": "wrong"},
        {"username": "nobody", "password": "open sesame"},
        {"username": "nul\0", "password": "open sesame"},
        {"username": "alice", "password": "\0"},
        {"username": "\ud800", "password": "\ud800"},
        {},
    ],
)
def test_wrong_credentials_are_a_401(person: User, body: dict[str, str]) -> None:
    response = ApiClient().post("/auth/login", body)
    assert_refused(response, 401, 16, "wrong user name or password")
    assert "sessionid" not in response.cookies


def test_an_inactive_user_cannot_log_in(person: User) -> None:
    User.objects.update(is_active=False)
    assert_refused(ApiClient().post("/auth/login", {"username": "alice", "password": "open sesame"}), 401, 16)


@pytest.mark.parametrize("body", ["{", "[]", '{"username": 5, "password": "x"}'])
def test_a_login_that_cannot_be_read_is_a_400(body: str) -> None:
    assert_refused(ApiClient().post("/auth/login", body), 400, 3)


def test_people_get_a_form_that_leads_back(person: User) -> None:
    client = Client(enforce_csrf_checks=True)
    page = client.get(LOGIN, {"return": "/jobs/new?x=1"}, headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.status_code == 200
    assert 'name="return" value="/jobs/new?x=1"' in page.content.decode()

    fields = {"username": "alice", "password": "open sesame", "return": "/jobs/new?x=1"}
    answer = client.post(LOGIN, fields, headers={"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 415  # the form is not a file upload

    form = "username=alice&password=open+sesame&return=/jobs/new?x=1"
    answer = client.post(LOGIN, form, content_type="application/x-www-form-urlencoded")
    assert (answer.status_code, answer["Location"]) == (303, "/jobs/new?x=1")
    assert client.get(f"{API}/auth/userinfo").json()["name"] == "alice"


def test_the_form_comes_back_with_what_was_wrong(person: User) -> None:
    form = "username=alice&password=no&return=/jobs/new"
    answer = Client().post(LOGIN, form, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 401
    page = answer.content.decode()
    assert "wrong user name or password" in page
    assert 'name="return" value="/jobs/new"' in page


ELSEWHERE = [
    "//evil.example",
    "/\\evil.example",
    "\\/evil.example",
    "///evil.example",
    "/\t/evil.example",
    "https://evil.example",
    "javascript:alert(1)",
    "evil.example",
    "/jobs\r\nX-Header: 1",
    "",
    "\0//evil.example",
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_login_leads_nowhere_else(person: User, path: str) -> None:
    form = urlencode({"username": "alice", "password": "open sesame", "return": path})
    answer = Client().post(LOGIN, form, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 303
    assert answer["Location"].startswith("/")
    assert "evil" not in answer["Location"]
    assert "X-Header" not in answer


def test_programs_are_told_how_to_log_in() -> None:
    assert Client().get(LOGIN).json()["mode"] == "basic"


def test_there_is_no_identity_provider_to_come_back_from() -> None:
    assert_refused(Client().get(f"{API}/auth/callback", {"code": "x", "state": "y"}), 400, 3)


# Tokens


def bearer(token: str) -> Client:
    return Client(headers={"Authorization": f"Bearer {token}"})


def test_a_token_does_what_its_user_may() -> None:
    user = make_user()
    _, token = ApiToken.issue(user, "script")
    client = bearer(token)
    assert client.get(f"{API}/auth/userinfo").json()["username"] == user.username

    answer = client.post(
        f"{API}/jobs", job_body(user), content_type="application/json", headers={"Origin": "https://elsewhere"}
    )

    assert answer.status_code == 200  # no browser adds a token by itself
    assert Job.objects.get().owner == user


def test_a_token_that_does_not_count_is_refused_even_with_a_session() -> None:
    user = make_user()
    _, expired = ApiToken.issue(user, "expired", timezone.now())
    revoked, token = ApiToken.issue(user, "old")
    ApiToken.objects.filter(pk=revoked.pk).update(revoked_at=timezone.now())
    left = make_user(is_active=False)
    _, lefts_token = ApiToken.issue(left, "left")
    for given in (token, expired, lefts_token, "abp_unknown", "", "ü\0", revoked.digest):
        client = bearer(given)
        client.force_login(user)
        assert_refused(client.get(f"{API}/jobs"), 401, 16)


def test_the_command_prints_a_token_that_works() -> None:
    user = make_user()
    out = StringIO()
    call_command("create_token", user.username, "--name", "nightly", stdout=out)
    token = out.getvalue().strip()
    assert token.startswith("abp_")
    assert bearer(token).get(f"{API}/auth/userinfo").json()["username"] == user.username
    assert ApiToken.objects.get().name == "nightly"
    assert token not in str(ApiToken.objects.values())


def test_the_command_refuses_who_is_not_there() -> None:
    make_user(username="left", is_active=False)
    for name in ("nobody", "left"):
        with pytest.raises(CommandError, match=name):
            call_command("create_token", name)
    with pytest.raises(CommandError, match="100"):
        call_command("create_token", make_user().username, "--name", "x" * 101)


# Other sites

CROSS_SITE = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://testserver.evil.example"},
    {"Origin": "http://testserver:8443"},
    {"Origin": "https://testserver"},
    {"Origin": "testserver"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
]
SAME_SITE = [
    {},
    {"Origin": "http://testserver"},
    {"Origin": "http://TESTSERVER"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("mode", ["basic", "dev"])
@pytest.mark.parametrize("headers", CROSS_SITE)
def test_a_write_that_another_site_caused_is_refused(headers: dict[str, str], mode: str, settings: Any) -> None:
    settings.PLANNER_AUTH_MODE = mode
    job = make_job()
    client = ApiClient(job.owner)
    assert_refused(client.post(f"/jobs/{job.pk}/cancel", **headers), 403, 7, "another site")
    job.refresh_from_db()
    assert job.cancel_requested_at is None
    assert client.client.get(f"{API}/jobs/{job.pk}", headers=headers).status_code == 200


@pytest.mark.parametrize("headers", SAME_SITE)
def test_a_write_from_here_needs_no_csrf_token(headers: dict[str, str]) -> None:
    job = make_job()
    assert ApiClient(job.owner).post(f"/jobs/{job.pk}/cancel", **headers).status_code == 200


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_another_site_cannot_log_somebody_in(person: User, headers: dict[str, str]) -> None:
    response = ApiClient().post("/auth/login", {"username": "alice", "password": "open sesame"}, **headers)
    assert_refused(response, 403, 7)
    assert "sessionid" not in response.cookies


# The development mode


@pytest.fixture
def dev_mode(settings: Any) -> None:
    settings.PLANNER_AUTH_MODE = "dev"


@pytest.mark.usefixtures("dev_mode")
@pytest.mark.parametrize("authorization", ["", "Bearer sk-anything"])
def test_in_dev_mode_everybody_is_one_operator(authorization: str) -> None:
    job = make_job()
    client = Client(headers={"Authorization": authorization} if authorization else None)
    assert client.get(f"{API}/auth/config").json() == {"mode": "dev"}
    assert client.get(f"{API}/auth/userinfo").json() == {
        "id": "dev-user",
        "name": "Test User",
        "email": "test@aibrix.ai",
        "role": "admin",
        "username": "dev-user",
        "picture": "",
    }
    assert client.post(f"{API}/jobs/{job.pk}/cancel", content_type="application/json").status_code == 200
    assert User.objects.filter(username="dev-user").count() == 1


@pytest.mark.usefixtures("dev_mode")
def test_in_dev_mode_the_user_owns_what_it_makes_whoever_had_a_session() -> None:
    client = api("submitter")
    dev = ApiClient()
    dev.client.get(f"{API}/auth/userinfo")
    body = job_body(User.objects.get(username="dev-user"))

    answer = client.post("/jobs", body).json()

    assert answer["createdBy"] == "test@aibrix.ai"
    assert Job.objects.get().owner.username == "dev-user"


@pytest.mark.usefixtures("dev_mode")
def test_in_dev_mode_nobody_logs_in() -> None:
    page = Client().get(LOGIN, {"return": "/jobs/"}, headers={"Accept": "text/html"})
    assert (page.status_code, page["Location"]) == (302, "/jobs/")
    assert Client().get(LOGIN).json()["mode"] == "dev"
    assert_refused(ApiClient().post("/auth/login", {"username": "a", "password": "b"}), 400, 3)


@pytest.mark.usefixtures("dev_mode")
def test_in_dev_mode_the_admin_is_open_and_a_migrate_makes_the_user() -> None:
    emit_post_migrate_signal(verbosity=0, interactive=False, db="default")
    user = User.objects.get(username="dev-user")
    assert not user.has_usable_password()
    assert Client().get("/admin/").status_code == 200


def test_a_migrate_makes_no_such_user_in_other_modes() -> None:
    emit_post_migrate_signal(verbosity=0, interactive=False, db="default")
    assert not User.objects.filter(username="dev-user").exists()
