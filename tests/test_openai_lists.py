"""Lists of /v1: one order, pages by cursor as the official package walks them, nothing counted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.factories import make_file, make_job, make_provision, make_user
from tests.openai_client import OpenAIClient, assert_refused, openai

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
LISTS = ["/batches", "/files"]


def walk(client: OpenAIClient, path: str, **query: Any) -> list[str]:
    """All ids, page by page."""
    ids: list[str] = []
    for _ in range(50):
        page = client.get(path, **query, **({"after": ids[-1]} if ids else {})).json()
        rows = [row["id"] for row in page["data"]]
        assert (page["first_id"], page["last_id"]) == ((rows[0], rows[-1]) if rows else (None, None))
        ids += rows
        if not page["has_more"]:
            return ids
    raise AssertionError("has_more never ended")


@pytest.mark.parametrize("path", LISTS)
def test_an_empty_list_has_all_its_keys(path: str) -> None:
    expected = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert openai().get(path).json() == expected
    assert openai().get(path, after="nope").json() == expected


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
def test_pages_cover_every_batch_once_newest_first(limit: int) -> None:
    owner = make_user()
    jobs = [make_job(owner, accepted_at=NOON) for _ in range(3)] + [make_job(owner) for _ in range(2)]
    make_job()
    expected = sorted(jobs, key=lambda job: (job.accepted_at, job.pk), reverse=True)
    assert walk(OpenAIClient(owner), "/batches", limit=limit) == [job.pk for job in expected]


@pytest.mark.parametrize("order", ["asc", "desc", ""])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 10_000])
def test_pages_cover_every_file_once_in_the_order_asked_for(limit: int, order: str) -> None:
    owner = make_user()
    files = [make_file(owner, created_at=NOON) for _ in range(3)] + [make_file(owner) for _ in range(2)]
    make_file()
    expected = sorted(files, key=lambda file: (file.created_at, file.pk), reverse=order != "asc")
    assert walk(OpenAIClient(owner), "/files", limit=limit, order=order) == [file.pk for file in expected]


def test_operators_list_everybodys() -> None:
    job, file = make_job(), make_file()
    assert walk(openai("operator"), "/batches") == [job.pk]
    assert walk(openai("operator"), "/files") == [file.pk]


def test_files_are_listed_by_purpose() -> None:
    file = make_file()
    client = OpenAIClient(file.owner)
    assert walk(client, "/files", purpose="batch") == [file.pk]
    assert walk(client, "/files", purpose="batch_output") == []


def test_somebody_elses_row_is_no_cursor() -> None:
    owner = make_user()
    make_job(owner, accepted_at=NOON)
    make_file(owner, created_at=NOON)
    client = OpenAIClient(owner)
    assert client.get("/batches", after=make_job().pk).json()["data"] == []
    assert client.get("/files", after=make_file().pk).json()["data"] == []


@pytest.mark.parametrize(("path", "default"), [("/batches", 20), ("/files", 100)])
def test_the_limit_has_a_default(path: str, default: int) -> None:
    owner = make_user()
    for _ in range(default + 1):
        make_job(owner) if path == "/batches" else make_file(owner)
    page = OpenAIClient(owner).get(path).json()
    assert (len(page["data"]), page["has_more"]) == (default, True)


@pytest.mark.parametrize(
    ("path", "limit"),
    [(path, limit) for path in LISTS for limit in ("0", "-1", "x", "\u00b2", "10001")] + [("/batches", "101")],
)
def test_a_limit_out_of_bounds_is_refused(path: str, limit: str) -> None:
    assert_refused(openai().get(path, limit=limit), 400, param="limit")


@pytest.mark.parametrize("query", [{"order": "up"}, {"after": "x\0"}, {"purpose": "\0"}])
def test_a_wrong_query_is_refused_by_name(query: dict[str, str]) -> None:
    assert_refused(openai().get("/files", **query), 400, param=next(iter(query)))


@pytest.mark.parametrize("path", LISTS)
def test_a_list_is_two_reads_however_long_and_counts_nothing(path: str) -> None:
    owner = make_user()
    for _ in range(30):
        make_provision(make_job(owner, accepted_at=timezone.now()))
        make_file(owner)
    client = OpenAIClient(owner)
    cursor = client.get(path, limit=2).json()["last_id"]
    table = "jobs_job" if path == "/batches" else "jobs_inputfile"
    with CaptureQueriesContext(connection) as queries:
        assert len(client.get(path, limit=20, after=cursor).json()["data"]) == 20
    asked = [query["sql"] for query in queries if table in query["sql"]]
    assert len(asked) == 2, "the cursor, and the page"
    assert not any("COUNT(" in sql or "OFFSET" in sql for sql in asked)


@pytest.mark.parametrize("role", ["submitter", "operator"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_of_files_is_read_by_an_index(role: str, order: str) -> None:
    """With no other way to sort than an index, none is missing."""
    client = openai(role)
    cursor = make_file(client.user).pk
    with connection.cursor() as database:
        database.execute("SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off")
    with CaptureQueriesContext(connection) as queries:
        client.get("/files", after=cursor, order=order)
    sql = [query["sql"] for query in queries if "jobs_inputfile" in query["sql"]][-1]
    with connection.cursor() as database:
        database.execute(f"EXPLAIN {sql}")
        plan = "\n".join(row[0] for row in database.fetchall())
    assert "Sort" not in plan, plan
