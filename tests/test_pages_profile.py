"""One's own page: tokens are issued once, listed, revoked, and nobody else's."""

from __future__ import annotations

import re

import pytest
from django.http import HttpResponse
from django.test import Client

from jobs import tokens
from jobs.models import ApiToken
from tests.factories import make_user
from tests.page_client import signed_in, text_of

pytestmark = pytest.mark.django_db


def issue(client: Client, **changes: str) -> HttpResponse:
    return client.post("/jobs/profile", {"name": "nightly", "days": "30", **changes})


def test_a_token_is_shown_once_and_opens_the_api() -> None:
    client = signed_in(make_user())
    made = issue(client)
    assert made["Cache-Control"] == "no-store"
    secret = re.search(r"abp_[\w-]+", made.content.decode())
    assert secret
    bearer = Client(headers={"Authorization": f"Bearer {secret[0]}"})
    assert bearer.get("/api/v1/jobs").status_code == 200
    later = client.get("/jobs/profile")
    assert "nightly" in text_of(later)
    assert secret[0] not in later.content.decode()


@pytest.mark.parametrize(("days", "lasts"), [("30", 30), ("365", 365), ("", None)])
def test_a_token_ends_when_it_was_said_to(days: str, lasts: int | None) -> None:
    issue(signed_in(make_user()), days=days)
    token = ApiToken.objects.get()
    found = token.expires_at and round((token.expires_at - token.created_at).total_seconds() / 86_400)
    assert found == lasts


@pytest.mark.parametrize("wrong", [{"name": " "}, {"name": "x" * 101}, {"name": "a\0"}, {"days": "7"}, {"days": "x"}])
def test_what_cannot_be_issued_is_said_beside_the_field(wrong: dict[str, str]) -> None:
    refused = issue(signed_in(make_user()), **wrong)
    assert refused.status_code == 400
    assert re.search(r'id="id_name_error" role="alert">[^<]+<', refused.content.decode())
    assert not ApiToken.objects.exists()


def test_there_is_an_end_to_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_TOKENS", 1)
    client = signed_in(make_user())
    assert issue(client).status_code == 200
    refused = issue(client)
    assert refused.status_code == 409
    assert "revoke one" in text_of(refused)


def test_a_revoked_token_is_gone_from_the_list_and_opens_nothing() -> None:
    user = make_user()
    client = signed_in(user)
    token, secret = ApiToken.issue(user, "nightly")
    assert client.get(f"/jobs/profile/tokens/{token.pk}/revoke").status_code == 405
    done = client.post(f"/jobs/profile/tokens/{token.pk}/revoke", follow=True)
    assert "is revoked" in text_of(done)
    assert "Revoke nightly" not in done.content.decode()
    assert Client(headers={"Authorization": f"Bearer {secret}"}).get("/api/v1/jobs").status_code == 401


def test_tokens_of_others_are_neither_shown_nor_revoked() -> None:
    token, _ = ApiToken.issue(make_user(), "theirs")
    client = signed_in(make_user("superuser"))
    assert "theirs" not in text_of(client.get("/jobs/profile"))
    assert client.post(f"/jobs/profile/tokens/{token.pk}/revoke").status_code == 404
    assert ApiToken.objects.get().revoked_at is None


def test_it_says_who_one_is_here() -> None:
    said = text_of(signed_in(make_user("operator", username="oscar", email="oscar@example.org")).get("/jobs/profile"))
    for word in ("oscar", "oscar@example.org", "operator"):
        assert word in said
