"""Log-in by OpenID Connect, against a provider that really signs: who gets in, as whom, and who does not."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.test import Client

from jobs.models import ApiToken, Identity
from tests.api_client import API, assert_refused
from tests.factories import make_user
from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider, callback_address

pytestmark = pytest.mark.django_db

LOGIN = f"{API}/auth/login"
ALICE = {
    "sub": "a-1",
    "name": "Alice Liddell",
    "email": "alice@example.org",
    "email_verified": True,
    "preferred_username": "alice",
    "groups": ["everybody"],
}


@pytest.fixture
def provider(settings: Any) -> Iterator[OidcProvider]:
    settings.PLANNER_AUTH_MODE = "oidc"
    settings.PLANNER_OIDC_CLIENT_ID = CLIENT_ID
    settings.PLANNER_OIDC_CLIENT_SECRET = CLIENT_SECRET
    settings.PLANNER_OIDC_ROLES = {"submitter": ["everybody"], "viewer": [], "operator": ["ops", "Boss@example.org"]}
    with OidcProvider() as running:
        settings.PLANNER_OIDC_ISSUER = running.issuer
        running.person = dict(ALICE)
        yield running


def log_in(provider: OidcProvider, client: Client | None = None, return_to: str = "/jobs/", **changed: str) -> Any:
    """The whole way there and back; returns the callback's answer, with `client` on it."""
    client = client or Client(raise_request_exception=False)
    there = client.get(LOGIN, {"return": return_to})
    assert there.status_code == 302
    return client.get(callback_address({**provider.authorize(there["Location"]), **changed}))


def userinfo(answer: Any) -> Any:
    return answer.client.get(f"{API}/auth/userinfo").json()


def roles(answer: Any) -> set[str]:
    return set(User.objects.get(username=userinfo(answer)["username"]).groups.values_list("name", flat=True))


# Who gets in


def test_it_works(provider: OidcProvider) -> None:
    assert Client().get(f"{API}/auth/config").json() == {"mode": "oidc"}
    answer = log_in(provider, return_to="/jobs/new?x=1")
    assert (answer.status_code, answer["Location"]) == (302, "/jobs/new?x=1")
    assert userinfo(answer) == {
        "id": "a-1",
        "name": "Alice Liddell",
        "email": "alice@example.org",
        "role": "viewer",
        "username": "alice",
        "picture": "",
    }
    assert roles(answer) == {"submitter"}
    assert answer.client.get("/jobs/").status_code == 200


def test_the_next_log_in_is_the_same_user_whatever_has_become_of_names_and_email(provider: OidcProvider) -> None:
    first = userinfo(log_in(provider))
    provider.person |= {"preferred_username": "al", "email": "al@example.org", "given_name": "Al", "family_name": "L"}
    again = userinfo(log_in(provider))
    assert (again["username"], again["id"]) == (first["username"], "a-1")
    assert (again["name"], again["email"]) == ("Al L", "al@example.org")
    assert User.objects.count() == Identity.objects.count() == 1


@pytest.mark.parametrize(
    ("person", "expected", "is_staff"),
    [
        ({"groups": ["ops"]}, {"operator"}, True),
        ({"groups": "ops"}, {"operator"}, True),
        ({"groups": ["ops", "everybody", 7]}, {"operator", "submitter"}, True),
        ({"groups": [], "email": "boss@EXAMPLE.org"}, {"operator"}, True),
        ({"groups": [], "email": "boss@example.org", "email_verified": False}, set(), False),
        ({"groups": [], "email": "boss@example.org", "email_verified": None}, set(), False),
        ({"groups": ["Everybody"]}, set(), False),
        ({"groups": 5}, set(), False),
        ({}, {"submitter"}, False),
    ],
)
def test_groups_and_verified_emails_give_roles(
    person: dict[str, Any], expected: set[str], is_staff: bool, provider: OidcProvider
) -> None:
    provider.person |= person
    answer = log_in(provider)
    assert roles(answer) == expected
    assert (answer.client.get("/admin/").status_code == 200) == is_staff


def test_a_group_that_is_left_takes_its_role_along_at_the_next_log_in(provider: OidcProvider) -> None:
    provider.person["groups"] = ["ops"]
    assert roles(log_in(provider)) == {"operator"}
    User.objects.get().groups.add(Group.objects.create(name="of this house"))
    provider.person["groups"] = ["everybody"]
    answer = log_in(provider)
    assert roles(answer) == {"submitter", "of this house"}
    assert not User.objects.get().is_staff
    assert answer.client.get("/admin/login/?next=/admin/").status_code == 403  # and round and round it does not go


def test_without_a_group_there_is_the_default_role(provider: OidcProvider, settings: Any) -> None:
    provider.person["groups"] = []
    settings.PLANNER_OIDC_DEFAULT_ROLE = "viewer"
    assert roles(log_in(provider)) == {"viewer"}


def test_superusers_are_made_and_unmade_only_if_a_setting_names_some(provider: OidcProvider, settings: Any) -> None:
    log_in(provider)
    User.objects.update(is_superuser=True)
    log_in(provider)
    assert User.objects.get().is_superuser
    settings.PLANNER_OIDC_ROLES |= {"superuser": ["roots"]}
    log_in(provider)
    assert not User.objects.get().is_superuser
    provider.person["groups"] = ["roots"]
    log_in(provider)
    assert User.objects.get().is_superuser


def test_groups_may_be_elsewhere_and_come_from_the_userinfo_endpoint(provider: OidcProvider, settings: Any) -> None:
    settings.PLANNER_OIDC_GROUPS_CLAIM = "memberOf"
    provider.userinfo = {"memberOf": ["ops"], "email": "somebody@else", "name": "Somebody Else"}
    answer = log_in(provider)
    assert roles(answer) == {"operator"}
    assert userinfo(answer)["name"] == "Alice Liddell"  # what is signed comes first
    provider.userinfo["sub"] = "b-2"
    assert_refused(log_in(provider), 502, 14)


def test_a_provider_that_takes_the_secret_in_the_body_gets_it_there(provider: OidcProvider) -> None:
    provider.discovery = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert log_in(provider).status_code == 302


# As whom


@pytest.mark.parametrize("is_verified", [True, False])
def test_the_account_of_another_is_not_taken_over_by_its_email_or_name(
    is_verified: bool, provider: OidcProvider
) -> None:
    local = make_user("operator", username="alice", email="Alice@example.org")
    provider.person["email_verified"] = is_verified
    info = userinfo(log_in(provider))
    assert info["username"].startswith("alice-")
    assert info["email"] == ""  # by which jobs are told apart: it stays the other's
    local.refresh_from_db()
    assert (local.email, local.identities.count()) == ("Alice@example.org", 0)
    assert info["username"] == userinfo(log_in(provider))["username"]


def test_an_unverified_email_is_nobodys(provider: OidcProvider) -> None:
    provider.person["email_verified"] = False
    assert userinfo(log_in(provider))["email"] == ""


@pytest.mark.parametrize(
    ("wished", "given"),
    [
        ("bob@example.org", "bob"),
        ("b o\0b", "bob"),
        ("", "user-"),
        (None, "user-"),
        (7, "user-"),
        ("x" * 200, "x" * 100),
    ],
)
def test_a_name_is_made_that_can_be_stored_and_is_no_email(wished: Any, given: str, provider: OidcProvider) -> None:
    provider.person["preferred_username"] = wished
    name = userinfo(log_in(provider))["username"]
    assert name == given or (given.endswith("-") and name.startswith(given))


def test_the_same_subject_of_another_provider_is_another_person(provider: OidcProvider) -> None:
    Identity.objects.create(user=make_user(), issuer="https://other.example", subject="a-1")
    log_in(provider)
    assert Identity.objects.count() == User.objects.count() == 2


def test_an_account_that_was_there_before_is_linked_by_hand(provider: OidcProvider) -> None:
    local = make_user("viewer", username="al")
    Identity.objects.create(user=local, issuer=provider.issuer, subject="a-1")
    answer = log_in(provider)
    assert userinfo(answer)["username"] == "al"
    assert roles(answer) == {"submitter"}  # the provider says so


def test_a_disabled_account_stays_out(provider: OidcProvider) -> None:
    log_in(provider)
    User.objects.update(is_active=False)
    answer = log_in(provider)
    assert_refused(answer, 401, 16, "disabled")
    assert answer.client.get(f"{API}/auth/userinfo").status_code == 401


# Who does not get in


def assert_out(answer: Any, status: int, code: int, *words: str) -> None:
    assert_refused(answer, status, code, *words)
    assert answer.client.get(f"{API}/auth/userinfo").status_code == 401
    assert not User.objects.exists()


def test_a_state_that_was_not_given_here_is_refused(provider: OidcProvider) -> None:
    assert_out(log_in(provider, state="forged"), 400, 3, "state")
    assert_out(Client().get(callback_address({"code": "x", "state": "y"})), 400, 3, "state")
    assert_out(Client().get(f"{API}/auth/callback"), 400, 3, "state")
    assert "/token" not in provider.calls


def test_a_state_serves_the_browser_it_was_given_to_and_once(provider: OidcProvider) -> None:
    client = Client()
    answer = provider.authorize(client.get(LOGIN)["Location"])
    assert_out(Client().get(callback_address(answer)), 400, 3, "state")
    assert client.get(callback_address(answer)).status_code == 302
    assert_refused(client.get(callback_address(answer)), 400, 3, "state")


def test_a_log_in_takes_ten_minutes_at_most(provider: OidcProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    answer = provider.authorize(client.get(LOGIN)["Location"])
    now = time.time()
    monkeypatch.setattr("jobs.oidc.time.time", lambda: now + 601)
    assert_out(client.get(callback_address(answer)), 400, 3, "state")


def test_a_refusal_of_the_provider_is_told(provider: OidcProvider) -> None:
    client = Client()
    state = provider.authorize(client.get(LOGIN)["Location"])["state"]
    answer = client.get(callback_address({"error": "access_denied", "state": state}), headers={"Accept": "text/html"})
    assert answer.status_code == 400
    assert "access_denied" in answer.content.decode()
    state = provider.authorize(client.get(LOGIN)["Location"])["state"]
    assert_out(client.get(callback_address({"error": "<script>", "state": state})), 400, 3, "error")
    state = provider.authorize(client.get(LOGIN)["Location"])["state"]
    assert_out(client.get(callback_address({"state": state})), 400, 3, "code")


def test_another_nonce_is_refused(provider: OidcProvider) -> None:
    for nonce in ("another", None):
        provider.changed = {"nonce": nonce}
        assert_out(log_in(provider), 400, 3, "nonce")


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1_700_000_000},
        {"exp": None},
        {"iat": 4_000_000_000},
        {"aud": "somebody else"},
        {"iss": "https://evil.example"},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": "a\0b"},
    ],
    ids=str,
)
def test_a_token_that_is_not_for_us_and_now_is_a_401(changed: dict[str, Any], provider: OidcProvider) -> None:
    provider.changed = changed
    assert_out(log_in(provider), 401, 16)


def test_a_signature_of_another_is_a_401(provider: OidcProvider) -> None:
    provider.signing_key = "mallory"
    assert_out(log_in(provider), 401, 16)


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_another_algorithm_is_a_401(algorithm: str, provider: OidcProvider) -> None:
    parts = [{"alg": algorithm, "kid": "one"}, {**ALICE, "iss": provider.issuer, "aud": CLIENT_ID}]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    provider.token_answer = {"id_token": ".".join([*encoded, ""])}
    assert_out(log_in(provider), 401, 16)


@pytest.mark.parametrize(
    ("status", "answer"),
    [(400, {"error": "invalid_grant"}), (500, {}), (200, {"access_token": "x"}), (200, {"id_token": 5}), (200, ["x"])],
)
def test_a_code_that_brings_no_token_is_a_502(status: int, answer: Any, provider: OidcProvider) -> None:
    provider.token_status, provider.token_answer = status, answer
    assert_out(log_in(provider), 502, 14)


def test_a_code_of_somebody_elses_log_in_is_a_502(provider: OidcProvider) -> None:
    stolen = provider.authorize(Client().get(LOGIN)["Location"])["code"]
    assert_out(log_in(provider, code=stolen), 502, 14)  # PKCE: its verifier is in the other session


def test_a_provider_that_is_down_is_a_503_and_asked_again_when_it_may_be_up(
    provider: OidcProvider, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PLANNER_OIDC_ISSUER = "http://127.0.0.1:9"
    answer = Client().get(LOGIN)
    assert_refused(answer, 503, 14, "identity provider")
    assert answer["Retry-After"] == "5"
    page = Client().get(LOGIN, headers={"Accept": "text/html"})
    assert (page.status_code, page["Retry-After"]) == (503, "5")
    assert "identity provider" in page.content.decode()
    assert Client().get(f"{API}/auth/config").status_code == 200
    settings.PLANNER_OIDC_ISSUER = provider.issuer
    provider.discovery = {"jwks_uri": ""}
    assert Client().get(LOGIN).status_code == 503
    provider.discovery = {"issuer": "https://evil.example"}
    assert Client().get(LOGIN).status_code == 503
    assert provider.calls == ["/.well-known/openid-configuration"]  # not by everybody who waits
    provider.discovery = {}
    now = time.monotonic()
    monkeypatch.setattr("jobs.oidc.time.monotonic", lambda: now + 6)
    assert Client().get(LOGIN).status_code == 302
    assert Client().get(LOGIN).status_code == 302
    assert len(provider.calls) == 2


def test_a_provider_that_goes_down_on_the_way_is_a_502(provider: OidcProvider) -> None:
    client = Client()
    answer = provider.authorize(client.get(LOGIN)["Location"])
    provider.stop()
    assert_out(client.get(callback_address(answer)), 502, 14)


# Sessions


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", ""])
def test_a_log_in_leads_nowhere_else(path: str, provider: OidcProvider) -> None:
    assert log_in(provider, return_to=path)["Location"] == "/"


def test_the_session_before_the_log_in_is_not_the_one_after(provider: OidcProvider) -> None:
    client = Client()
    client.get(LOGIN)
    planted = client.cookies["sessionid"].value
    log_in(provider, client)
    assert client.cookies["sessionid"].value != planted
    assert not Session.objects.filter(session_key=planted).exists()


def test_a_session_of_somebody_else_ends_with_the_log_in(provider: OidcProvider) -> None:
    client = Client()
    client.force_login(make_user(username="eve"))
    eves = client.cookies["sessionid"].value
    assert userinfo(log_in(provider, client))["username"] == "alice"
    assert not Session.objects.filter(session_key=eves).exists()


def test_a_log_out_ends_both_sessions(provider: OidcProvider) -> None:
    client = log_in(provider).client
    answer = client.post(f"{API}/auth/logout").json()
    address = urlsplit(answer["redirect_url"])
    query = {name: values[0] for name, values in parse_qs(address.query).items()}
    assert answer["message"] == "logged out"
    assert f"{address.scheme}://{address.netloc}{address.path}" == f"{provider.issuer}/logout"
    assert query["post_logout_redirect_uri"] == "http://testserver/"
    assert query["id_token_hint"].count(".") == 2
    assert query["state"]
    assert client.get(f"{API}/auth/userinfo").status_code == 401
    client = log_in(provider).client
    assert client.post("/jobs/logout")["Location"].startswith(f"{provider.issuer}/logout?")


def test_without_an_end_session_endpoint_a_log_out_is_ours_alone(provider: OidcProvider) -> None:
    provider.discovery = {"end_session_endpoint": None}
    assert log_in(provider).client.post(f"{API}/auth/logout").json() == {"message": "logged out"}


# The other ways in


def test_passwords_open_nothing_in_this_mode(provider: OidcProvider) -> None:
    make_user("superuser", username="root", password="open sesame")
    credentials = {"username": "root", "password": "open sesame"}
    assert_refused(Client().post(LOGIN, credentials, content_type="application/json"), 400, 3, "provider")
    admin = Client().post("/admin/login/?next=/admin/", credentials)
    assert admin.status_code == 405
    assert Client().get("/admin/login/?next=/admin/")["Location"] == f"{LOGIN}?return=%2Fadmin%2F"


def test_tokens_go_on_working(provider: OidcProvider) -> None:
    user = make_user(username="robot")
    _, token = ApiToken.issue(user, "script")
    info = Client(headers={"Authorization": f"Bearer {token}"}).get(f"{API}/auth/userinfo").json()
    assert (info["id"], info["username"]) == ("basic-robot", "robot")
    assert provider.calls == []
