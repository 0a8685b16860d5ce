"""Come back later: the writes of one user, and log-ins that fail; counted in the database, for all web processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.models import F
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import tasks
from jobs.api import throttling
from jobs.models import ApiToken, Job, RateLimit
from jobs.rate_limits import Rate, forget_full_buckets
from tests.api_client import API, ApiClient, api, assert_refused, job_body
from tests.factories import make_user

pytestmark = pytest.mark.django_db

LOGIN = f"{API}/auth/login"


def pass_seconds(seconds: float) -> None:
    """Let every bucket fill for so long."""
    RateLimit.objects.update(full_at=F("full_at") - timedelta(seconds=seconds))


# Rates


def test_a_bucket_is_used_up_and_fills_again() -> None:
    rate = Rate(3, 60)
    assert [rate.take("a") for _ in range(3)] == [0, 0, 0]
    assert 19 < rate.take("a") <= 20
    assert rate.take("b") == 0
    pass_seconds(20.1)
    assert rate.take("a") == 0
    assert 19 < rate.take("a") <= 20
    pass_seconds(3600)
    assert [rate.take("a") for _ in range(3)] == [0, 0, 0]  # and no more than that, however long nobody came
    assert rate.take("a") > 0


def test_what_is_refused_is_not_held_against_anybody() -> None:
    rate = Rate(1, 10)
    rate.take("a")
    for _ in range(50):
        assert 9 < rate.take("a") <= 10


def test_what_is_given_back_can_be_used() -> None:
    rate = Rate(1, 60)
    assert rate.take("a") == 0
    rate.give_back("a")
    assert rate.take("a") == 0
    assert rate.take("a") > 0


@pytest.mark.django_db(transaction=True)
def test_many_at_a_time_get_no_more_than_there_is() -> None:
    def take(_: int) -> float:
        try:
            return Rate(20, 3600).take("a")
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(take, range(60))).count(0) == 20


def test_a_count_waits_for_no_disk() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT relpersistence FROM pg_class WHERE relname = 'jobs_ratelimit'")
        assert cursor.fetchone() == ("u",)


def test_what_nobody_will_ask_for_is_forgotten() -> None:
    Rate(1, 60).take("used")
    Rate(1, 60).take("full")
    RateLimit.objects.filter(pk="full").update(full_at=timezone.now() - timedelta(seconds=1))
    assert forget_full_buckets() == 1
    assert list(RateLimit.objects.values_list("pk", flat=True)) == ["used"]
    for user in (make_user(), make_user()):
        ApiClient(user)
    Session.objects.filter(pk=Session.objects.first().pk).update(expire_date=timezone.now())
    tasks.forget()
    assert Session.objects.count() == 1


# Writes


@pytest.fixture
def two_a_minute(settings: Any) -> None:
    settings.PLANNER_WRITES_PER_MINUTE = 2


@pytest.mark.usefixtures("two_a_minute")
def test_a_user_who_writes_too_much_is_asked_to_wait() -> None:
    client = api()
    body = job_body(client.user)
    assert [client.post("/jobs", body).status_code for _ in range(2)] == [200, 200]
    refused = client.post("/jobs", body)
    assert_refused(refused, 429, 8)
    assert 28 <= int(refused["Retry-After"]) <= 30
    assert Job.objects.count() == 2
    assert client.get("/jobs").status_code == 200
    pass_seconds(31)
    assert client.post("/jobs", body).status_code == 200


@pytest.mark.usefixtures("two_a_minute")
def test_sessions_and_tokens_of_a_user_share_one_allowance_and_others_have_theirs() -> None:
    user = make_user()
    _, secret = ApiToken.issue(user, "script")
    script = Client(headers={"Authorization": f"Bearer {secret}"})
    for client in (ApiClient(user).client, script):
        assert client.delete(f"{API}/auth/tokens/0").status_code == 404
    for client in (ApiClient(user).client, script):
        assert_refused(client.delete(f"{API}/auth/tokens/0"), 429, 8)
        refused = client.post("/v1/batches", {}, content_type="application/json")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 28 <= int(refused["Retry-After"]) <= 30
    assert api().client.delete(f"{API}/auth/tokens/0").status_code == 404


def test_a_write_costs_one_statement_and_a_read_none(settings: Any) -> None:
    client = api()
    for method, expected in (("post", 1), ("get", 0)):
        with CaptureQueriesContext(connection) as queries:
            getattr(client, method)("/jobs")
        assert sum("jobs_ratelimit" in query["sql"] for query in queries) == expected
    settings.PLANNER_WRITES_PER_MINUTE = 0
    with CaptureQueriesContext(connection) as queries:
        client.post("/jobs")
    assert not any("jobs_ratelimit" in query["sql"] for query in queries)


# Log-ins


@pytest.fixture
def person() -> User:
    return make_user(username="alice", password="open sesame")


def log_in(username: str = "alice", typed: str = "wrong", address: str = "192.0.2.1", **headers: str) -> Any:
    body = {"username": username, "password": typed}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Client().post(LOGIN, body, content_type="application/json", headers=names, REMOTE_ADDR=address)


@pytest.mark.parametrize("username", ["alice", "ALICE", "nobody", "\ud800"])
def test_guessing_one_password_from_anywhere_is_slowed_down(person: User, username: str) -> None:
    statuses = [log_in(username, address=f"192.0.2.{number}").status_code for number in range(1, 13)]
    assert statuses == [401] * 10 + [429] * 2
    refused = log_in(username, address="192.0.2.99")
    assert_refused(refused, 429, 8, "too many attempts")
    assert 25 <= int(refused["Retry-After"]) <= 30


def test_log_ins_of_others_use_up_no_allowance(person: User, settings: Any) -> None:
    settings.PLANNER_WRITES_PER_MINUTE = 1
    assert [log_in(f"somebody{number}").status_code for number in range(3)] == [401] * 3
    assert log_in(typed="open sesame").status_code == 200


def test_nobody_is_shut_out_for_ever_and_others_never(person: User) -> None:
    make_user(username="bob", password="open sesame")
    for _ in range(20):
        log_in()
    assert log_in(typed="open sesame").status_code == 429
    assert log_in("bob", "open sesame").status_code == 200
    pass_seconds(31)
    assert log_in(typed="open sesame").status_code == 200


def test_a_log_in_that_succeeds_counts_for_nothing(person: User) -> None:
    assert {log_in(typed="open sesame").status_code for _ in range(15)} == {200}


def test_guessing_many_names_from_one_address_is_slowed_down(person: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttling, "ADDRESS_RATE", Rate(3, 60))
    assert [log_in(f"name{number}").status_code for number in range(4)] == [401, 401, 401, 429]
    assert log_in(typed="open sesame", address="192.0.2.2").status_code == 200
    assert RateLimit.objects.filter(pk__startswith="login:name:").count() == 4  # the last one's was not touched


def test_the_form_says_that_it_was_too_often(person: User) -> None:
    for _ in range(10):
        log_in()
    form = "username=alice&password=open+sesame&return=/jobs/new"
    answer = Client().post(LOGIN, form, content_type="application/x-www-form-urlencoded")
    assert (answer.status_code, answer["Retry-After"]) == (429, "30")
    assert "too many attempts" in answer.content.decode()
    assert 'name="return" value="/jobs/new"' in answer.content.decode()


def test_what_was_typed_as_a_name_is_not_kept() -> None:
    log_in("my password")
    assert "my password" not in str(RateLimit.objects.values())


def keys(address: str, **headers: str) -> list[str]:
    RateLimit.objects.all().delete()
    log_in("nobody", address=address, **headers)
    found = RateLimit.objects.filter(pk__startswith="login:address:").values_list("pk", flat=True)
    return [key.removeprefix("login:address:") for key in found]


def test_an_address_is_the_clients_and_not_a_trusted_proxys(settings: Any) -> None:
    forged = {"X_Forwarded_For": "203.0.113.9"}
    assert keys("192.0.2.1", **forged) == ["192.0.2.1/32"]
    assert keys("127.0.0.1", **forged) == []  # a proxy nobody told of: not one bucket for everybody
    settings.PLANNER_PROXIES = 1
    assert keys("127.0.0.1", **forged) == ["203.0.113.9/32"]
    assert keys("127.0.0.1", X_Forwarded_For="203.0.113.9, 198.51.100.1") == ["198.51.100.1/32"]
    assert keys("192.0.2.1") == ["192.0.2.1/32"]
    assert keys("127.0.0.1", X_Forwarded_For="nonsense") == []
    settings.PLANNER_PROXIES = 2
    assert keys("10.0.0.1", X_Forwarded_For="6.6.6.6, 203.0.113.9, 198.51.100.1") == ["203.0.113.9/32"]
    assert keys("10.0.0.1", X_Forwarded_For="203.0.113.9") == ["203.0.113.9/32"]


def test_a_network_of_ipv6_is_one_address() -> None:
    assert keys("2001:db8::1") == keys("2001:db8::ffff") == ["2001:db8::/64"]
    assert keys("::ffff:192.0.2.1") == ["192.0.2.1/32"]
    assert keys("::1") == []


def test_the_admin_has_no_log_in_of_its_own(person: User) -> None:
    answer = Client().post("/admin/login/", {"username": "alice", "password": "open sesame"})
    assert answer.status_code == 405
    page = Client().get("/admin/", follow=True, headers={"Accept": "text/html"})
    assert page.redirect_chain[-1][0] == f"{LOGIN}?return=%2Fadmin%2F"
    assert 'name="return" value="/admin/"' in page.content.decode()


def test_a_session_ends_a_day_after_the_log_in_however_much_it_is_used(person: User) -> None:
    client = Client()
    client.post(LOGIN, {"username": "alice", "password": "open sesame"}, content_type="application/json")
    before = Session.objects.get().expire_date
    session = client.session
    session["used"] = True
    session.save()
    assert Session.objects.get().expire_date == before
    assert timedelta(hours=23) < before - timezone.now() <= timedelta(days=1)
