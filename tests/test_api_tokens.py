"""Personal tokens over REST: issued by people, shown once, listed, used, expired, revoked."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any, NoReturn

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import tokens
from jobs.models import ApiToken
from jobs.models.access import ApiTokenQuerySet
from tests.api_client import API, ApiClient, api, assert_refused
from tests.factories import make_user

pytestmark = pytest.mark.django_db


def bearer(secret: str) -> Client:
    return Client(headers={"Authorization": f"Bearer {secret}"}, raise_request_exception=False)


def issued(client: ApiClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/auth/tokens", {"name": "nightly", **body})
    assert answer.status_code == 200, answer.content
    assert answer["Cache-Control"] == "no-store"
    made: dict[str, Any] = answer.json()
    return made


def listed(client: ApiClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/auth/tokens").json()["tokens"]
    return found


def test_it_works() -> None:
    client = api()
    made = issued(client)
    secret = made["secret"]
    assert bearer(secret).get(f"{API}/auth/userinfo").json()["username"] == client.user.username
    [token] = listed(client)
    assert token == {**made["token"], "lastUsedAt": token["lastUsedAt"]}
    assert set(token) == {"id", "name", "createdAt", "expiresAt", "lastUsedAt"}
    assert (token["name"], token["expiresAt"], made["token"]["lastUsedAt"]) == ("nightly", "0", "0")
    assert int(token["lastUsedAt"]) >= int(token["createdAt"]) > 0

    assert client.client.delete(f"{API}/auth/tokens/{token['id']}").json() == {}

    assert_refused(bearer(secret).get(f"{API}/auth/userinfo"), 401, 16)
    assert listed(client) == []


def test_the_secret_is_nowhere_else() -> None:
    client = api()
    secret = issued(client)["secret"]
    assert secret not in str(ApiToken.objects.values())
    assert secret not in client.get("/auth/tokens").content.decode()


def test_a_token_expires() -> None:
    client = api()
    made = issued(client, expires_in_seconds=60)
    assert 0 < int(made["token"]["expiresAt"]) - int(made["token"]["createdAt"]) <= 61
    assert bearer(made["secret"]).get(f"{API}/jobs").status_code == 200
    ApiToken.objects.update(expires_at=timezone.now())
    assert_refused(bearer(made["secret"]).get(f"{API}/jobs"), 401, 16, "expired")


def test_the_command_and_the_admin_make_tokens_that_expire() -> None:
    user = make_user("superuser")
    call_command("create_token", user.username, "--days", "2", stdout=StringIO())
    left = ApiToken.objects.get().expires_at - timezone.now()
    assert timedelta(days=1) < left < timedelta(days=2)
    client = Client()
    client.force_login(user)
    fields = {"name": "by hand", "expires_at_0": "2030-01-02", "expires_at_1": "00:00:00"}
    assert client.post("/admin/jobs/apitoken/add/", fields).status_code == 200
    assert ApiToken.objects.get(name="by hand").expires_at.year == 2030


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": 5}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"expires_in_seconds": 0}, "expires_in_seconds"),
        ({"expires_in_seconds": 10**30}, "expires_in_seconds"),
        ({"expires_in_seconds": "60"}, "expires_in_seconds"),
        ({"expires_in_seconds": True}, "expires_in_seconds"),
    ],
)
def test_what_cannot_be_issued_is_a_400(body: dict[str, Any], field: str) -> None:
    assert_refused(api().post("/auth/tokens", {"name": "nightly", **body}), 400, 3, field=field)
    assert not ApiToken.objects.exists()


def test_a_token_issues_no_other_which_would_outlive_it() -> None:
    secret = issued(api())["secret"]
    answer = bearer(secret).post(f"{API}/auth/tokens", {"name": "heir"}, content_type="application/json")
    assert_refused(answer, 403, 7, "token")
    assert ApiToken.objects.count() == 1


def test_nobody_sees_or_revokes_the_tokens_of_others() -> None:
    made = issued(api())
    other = api("superuser")
    assert listed(other) == []
    for token_id in (made["token"]["id"], "0", "x", "-1", "9" * 40, "²"):
        assert_refused(other.client.delete(f"{API}/auth/tokens/{token_id}"), 404, 5)
    assert bearer(made["secret"]).get(f"{API}/jobs").status_code == 200


def test_revoking_again_changes_nothing() -> None:
    client = api()
    path = f"{API}/auth/tokens/{issued(client)['token']['id']}"
    assert client.client.delete(path).status_code == 200
    revoked_at = ApiToken.objects.get().revoked_at
    assert client.client.delete(path).status_code == 200
    assert ApiToken.objects.get().revoked_at == revoked_at


def test_there_is_an_end_to_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_TOKENS", 2)
    client = api()
    first, _ = issued(client), issued(client)
    assert_refused(client.post("/auth/tokens", {"name": "third"}), 409, 10, "revoke")
    client.client.delete(f"{API}/auth/tokens/{first['token']['id']}")
    assert issued(client)


# When it was last used


def test_that_a_token_is_used_is_written_once_a_minute_and_nothing_else_is() -> None:
    _, secret = ApiToken.issue(make_user("viewer"), "script")
    verbs = []
    for _ in range(3):
        with CaptureQueriesContext(connection) as queries:
            assert bearer(secret).get(f"{API}/jobs").status_code == 200
        all_verbs = [query["sql"].split()[0] for query in queries]
        verbs.append([verb for verb in all_verbs if verb != "SELECT"])
    assert verbs == [["UPDATE"], [], []]
    an_hour_ago = timezone.now() - timedelta(hours=1)
    ApiToken.objects.update(last_used_at=an_hour_ago)
    assert bearer(secret).get(f"{API}/jobs").status_code == 200
    assert ApiToken.objects.get().last_used_at > an_hour_ago + timedelta(minutes=59)


def test_a_read_is_answered_although_its_use_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> NoReturn:
        raise OperationalError("cannot execute UPDATE in a read-only transaction")

    _, secret = ApiToken.issue(make_user("viewer"), "script")
    monkeypatch.setattr(ApiTokenQuerySet, "note_use", fail)
    assert bearer(secret).get(f"{API}/jobs").status_code == 200
