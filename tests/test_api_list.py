"""GET /jobs: one order, pages by cursor, filters; a cost that does not grow with the page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from jobs.models import JobEvent, Provision
from tests.api_client import ApiClient, api, assert_refused
from tests.factories import make_job, make_pool, make_provision, make_user

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def walk(client: ApiClient, **query: Any) -> list[str]:
    """All ids, page by page, as the console does it."""
    ids: list[str] = []
    after = ""
    for _ in range(50):
        page = client.get("/jobs", **query, **({"after": after} if after else {})).json()
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
    assert walk(api("viewer"), limit=limit) == [job.pk for job in expected]


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
