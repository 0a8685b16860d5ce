"""GET /jobs: one order, pages by cursor, filters; a cost that does not grow with the page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.models import Job, JobEvent, Provision
from tests.api_client import ApiClient, api, assert_refused
from tests.factories import make_job, make_pool, make_provision, make_user

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def walk(client: ApiClient, *limits: int, **query: Any) -> list[str]:
    """All ids, page by page, as the console does it; with several limits by turns."""
    ids: list[str] = []
    after = ""
    for turn in range(50):
        cursor = {"after": after} if after else {}
        page = client.get("/jobs", limit=limits[turn % len(limits)], **query, **cursor).json()
        rows = [job["id"] for job in page["jobs"]]
        assert (page["firstId"], page["lastId"]) == ((rows[0], rows[-1]) if rows else ("", ""))
        ids += rows
        if not page["hasMore"]:
            return ids
        after = page["lastId"]
    raise AssertionError("hasMore never ended")


def test_an_empty_list_has_all_its_keys() -> None:
    assert api().get("/jobs").json() == {"jobs": [], "firstId": "", "lastId": "", "hasMore": False}


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 8])
def test_pages_cover_every_job_once_newest_first(limit: int) -> None:
    same = [make_job(accepted_at=NOON) for _ in range(3)]  # ties are broken by id
    others = [make_job() for _ in range(4)]
    expected = sorted([*same, *others], key=lambda job: (job.accepted_at, job.pk), reverse=True)
    assert walk(api("viewer"), limit) == [job.pk for job in expected]


def test_an_exactly_full_last_page_has_no_more() -> None:
    for _ in range(2):
        make_job()
    assert api("viewer").get("/jobs", limit=2).json()["hasMore"] is False
    assert api("viewer").get("/jobs", limit=1).json()["hasMore"] is True


def test_a_job_accepted_meanwhile_moves_nothing() -> None:
    jobs = [make_job() for _ in range(4)]
    client = api("viewer")
    first = client.get("/jobs", limit=2).json()
    make_job()
    second = client.get("/jobs", limit=2, after=first["lastId"]).json()
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == [job.pk for job in reversed(jobs)]


@pytest.mark.parametrize(
    ("given", "expected"), [({}, 20), ({"limit": 0}, 20), ({"limit": ""}, 20), ({"limit": 200}, 25)]
)
def test_the_limit_has_a_default(given: dict[str, Any], expected: int) -> None:
    owner = make_user()
    for _ in range(25):
        make_job(owner)
    assert len(api("viewer").get("/jobs", **given).json()["jobs"]) == expected


def test_the_limit_has_a_maximum() -> None:
    owner = make_user()
    for _ in range(201):
        make_job(owner)
    page = api("viewer").get("/jobs", limit=5000).json()
    assert (len(page["jobs"]), page["hasMore"]) == (200, True)


@pytest.mark.parametrize("limit", ["-1", "x", "1.5", "1e3", "9" * 30, "²"])
def test_a_limit_that_is_no_count_is_refused(limit: str) -> None:
    assert_refused(api().get("/jobs", limit=limit), 400, 3, field="limit")


def test_an_unknown_cursor_gives_an_empty_page() -> None:
    make_job()
    page = api("viewer").get("/jobs", after="job_nope").json()
    assert page == {"jobs": [], "firstId": "", "lastId": "", "hasMore": False}


def test_somebody_elses_job_is_no_cursor() -> None:
    owner = make_user()
    make_job(owner)
    theirs = make_job()
    assert ApiClient(owner).get("/jobs", after=theirs.pk).json()["jobs"] == []


@pytest.mark.parametrize("name", ["after", "status", "limit"])
def test_a_nul_character_in_the_query_is_refused(name: str) -> None:
    assert_refused(api().get("/jobs", **{name: "x\0"}), 400, 3, field=name)


def test_a_filter_keeps_its_place_when_the_cursor_leaves_it() -> None:
    jobs = [make_job(status="pending") for _ in range(3)]
    client = api("viewer")
    cursor = client.get("/jobs", limit=1, status="pending").json()["lastId"]
    type(jobs[2]).objects.filter(pk=cursor).update(status="scheduling")
    rest = client.get("/jobs", status="pending", after=cursor).json()["jobs"]
    assert [job["id"] for job in rest] == [jobs[1].pk, jobs[0].pk]


@pytest.mark.parametrize(("vocabulary", "word"), [("planner", "queued"), ("console", "pending"), ("planner", "x")])
def test_a_word_of_no_status_is_refused(vocabulary: str, word: str, settings: Any) -> None:
    settings.PLANNER_STATUS_VOCABULARY = vocabulary
    assert_refused(api().get("/jobs", status=word), 400, 3, "completed", field="status")


def found(client: ApiClient, **query: Any) -> list[str]:
    return [job["id"] for job in client.get("/jobs", **query).json()["jobs"]]


def test_the_search_goes_by_the_beginning_of_name_id_or_model_in_any_case() -> None:
    named, served = make_job(name="Nightly_eval 100%"), make_job(name="other", model="Qwen/Small")
    client = api("viewer")
    for search in ("nightly", "NIGHTLY_EVAL 100%", named.pk, named.pk[:12], named.pk[4:12].upper(), " nightly "):
        assert found(client, search=search) == [named.pk], search
    assert found(client, search="qwen/") == [served.pk]
    assert found(client, search="") == [served.pk, named.pk]
    for search in ("eval", "nightlyx", "nightly%", "%", "small", "job", "\\"):
        assert found(client, search=search) == [], search


def test_the_owner_is_found_by_exact_email_or_user_name() -> None:
    owner = make_user(username="alice", email="alice@example.org")
    job, other = make_job(owner), make_job()
    client = api("viewer")
    assert found(client, created_by="alice") == found(client, created_by="alice@example.org") == [job.pk]
    assert found(client, created_by="ali") == found(client, created_by="nobody") == []
    assert found(ApiClient(other.owner), created_by="alice") == []


def test_the_model_is_found_by_its_whole_name() -> None:
    job = make_job(model="Qwen/Small")
    make_job(model="Qwen/Small-2")
    client = api("viewer")
    assert found(client, model="Qwen/Small") == found(client, model="qwen/small") == [job.pk]
    assert found(client, model="Qwen") == []


def test_the_provider_is_that_of_the_pool() -> None:
    rented = make_job(status="provisioning", pool=make_pool(provider="simulated"))
    again = make_job(status="provisioning", pool=make_pool(provider="simulated"))
    kept = make_job(status="provisioning", pool=make_pool(provider="closed-down"))
    make_job()
    client = api("viewer")
    assert found(client, provider="simulated") == [again.pk, rented.pk]
    assert found(client, provider="closed-down") == [kept.pk]  # no longer a provider, but its jobs are there
    assert found(client, provider="passthrough") == []
    assert_refused(
        client.get("/jobs", provider="nope"),
        400,
        3,
        "closed-down, kubernetes, lambda_cloud, passthrough, runpod",
        field="provider",
    )


@pytest.mark.parametrize(
    "noon", ["1777896000", "2026-05-04T12:00:00Z", "2026-05-04 14:00:00.000+02:00", " 1777896000 "]
)
def test_jobs_are_found_by_when_they_were_accepted(noon: str) -> None:
    before, at, after = (make_job(accepted_at=NOON + timedelta(microseconds=number)) for number in (-1, 0, 1))
    client = api("viewer")
    assert found(client, created_after=noon) == [after.pk, at.pk]
    assert found(client, created_before=noon) == [before.pk]
    assert found(client, created_after=noon, created_before=noon) == []


@pytest.mark.parametrize("name", ["created_after", "created_before"])
@pytest.mark.parametrize(
    "given",
    [
        "yesterday",
        "-1",
        "1.5",
        "1e9",
        "9" * 12,
        "2026-05-04",
        "2026-05-04T12:00:00",
        "2026-02-30T12:00:00Z",
        "١٢",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_a_time_that_cannot_be_read_is_refused(name: str, given: str) -> None:
    assert_refused(api().get("/jobs", **{name: given}), 400, 3, "RFC 3339", field=name)


@pytest.mark.parametrize("name", ["search", "created_by", "model", "provider"])
def test_a_filter_that_no_value_could_match_is_refused(name: str) -> None:
    assert_refused(api().get("/jobs", **{name: "x" * 256}), 400, 3, field=name)
    assert_refused(api().get("/jobs", **{name: "x\0"}), 400, 3, field=name)


def test_names_that_are_no_filter_are_ignored() -> None:
    job = make_job()
    assert found(api("viewer"), colour="red", q="x") == [job.pk]


@pytest.fixture
def viewer() -> ApiClient:
    return api("viewer")


@pytest.fixture
def assortment() -> list[Job]:
    """Twenty-four jobs that differ in everything a list is filtered by; each three accepted at one moment."""
    owners = [make_user(username="alice"), make_user(username="bob")]
    pools = [make_pool(provider="simulated"), make_pool(provider="simulated"), make_pool(provider="passthrough")]
    return [
        make_job(
            owners[number % 2],
            name=("Nightly", "nightly two", "weekly")[number % 3],
            model=("qwen/small", "llama")[number // 2 % 2],
            status=("pending", "completed", "failed", "in_progress")[number // 3 % 4],
            pool=None if number % 4 == 0 else pools[number % 3],
            cancel_requested_at=NOON if number % 8 == 1 else None,
            accepted_at=NOON + timedelta(seconds=number // 3),
        )
        for number in range(24)
    ]


# One filter each: what is asked, and which jobs that means, told without any SQL.
MEANINGS: dict[str, dict[str, Callable[[Job], bool]]] = {
    "status": {word: lambda job, word=word: job.shown_status == word for word in ("pending", "failed", "cancelling")},
    "search": {
        "NIGHTLY": lambda job: job.name.lower().startswith("nightly"),
        "qwen": lambda job: job.model.startswith("qwen"),
        "nightly t": lambda job: job.name == "nightly two",
    },
    "created_by": {"alice": lambda job: job.owner.username == "alice", "nobody": lambda job: False},
    "model": {"llama": lambda job: job.model == "llama"},
    "provider": {"simulated": lambda job: job.pool is not None and job.pool.provider == "simulated"},
    "created_after": {str(int(NOON.timestamp()) + 2): lambda job: job.accepted_at >= NOON + timedelta(seconds=2)},
    "created_before": {str(int(NOON.timestamp()) + 6): lambda job: job.accepted_at < NOON + timedelta(seconds=6)},
}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    query=st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(sorted(words)) for name, words in MEANINGS.items()}
    ),
    limits=st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_any_sequence_of_pages_is_the_sorted_filtered_set(
    assortment: list[Job], viewer: ApiClient, query: dict[str, str], limits: list[int]
) -> None:
    wanted = [job for job in assortment if all(MEANINGS[name][value](job) for name, value in query.items())]
    expected = [job.pk for job in sorted(wanted, key=lambda job: (job.accepted_at, job.pk), reverse=True)]
    assert walk(viewer, *limits, **query) == expected


def cost(client: ApiClient, path: str) -> int:
    with CaptureQueriesContext(connection) as queries:
        assert client.get(path, limit=200).status_code == 200
    statements = [query["sql"] for query in queries]
    lists = [sql for sql in statements if "LIMIT 201" in sql]
    assert len(lists) == 1
    assert "COUNT(" not in lists[0]
    assert "OFFSET" not in lists[0]
    return len(statements)


@pytest.mark.parametrize("path", ["/jobs", "/provisions"])
def test_thirty_rows_cost_as_many_queries_as_one(path: str) -> None:
    pool, owner, client = make_pool(), make_user(), api("operator")

    def add_jobs(number: int) -> None:
        for _ in range(number):
            make_job(owner)
            make_provision(make_job(owner, status="in_progress"), pool, status="ready")
            job = make_job(owner, status="failed", event_count=3)
            make_provision(job, pool, status="releasing")
            JobEvent.objects.create(job=job, sequence=2, reason="admitted", to_status="provisioning")
            JobEvent.objects.create(job=job, sequence=3, reason="failed", to_status="failed")

    add_jobs(1)
    for_one = cost(client, path)
    add_jobs(30)

    assert cost(client, path) == for_one
    assert for_one <= 10
    assert Provision.objects.count() == 62


def test_reading_writes_nothing() -> None:
    job = make_job()
    client = api("operator")
    paths = [
        "/jobs",
        f"/jobs/{job.pk}",
        "/provisions",
        "/files",
        "/models",
        "/auth/userinfo",
        "/config/job-capabilities",
    ]
    with CaptureQueriesContext(connection) as queries:
        for path in paths:
            assert client.get(path).status_code == 200
    assert {query["sql"].split()[0] for query in queries} == {"SELECT"}
