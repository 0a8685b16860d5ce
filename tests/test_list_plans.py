"""What a filtered page costs at size: the rows that PostgreSQL reads for it, told by its own plans."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from jobs.admin import rows
from jobs.models import Job, Pool
from tests.admin_client import operator_client
from tests.api_client import ApiClient, api
from tests.factories import make_job, make_pool, make_provision, make_user
from tests.plans import explained, repeat

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
MANY, FEW, LIMIT = 6000, 60, 20


@pytest.fixture
def viewer() -> ApiClient:
    """Many jobs; the oldest few are like no others, so that whoever reads from the newest on reads them all."""
    rare = make_job(
        make_user(username="alice"),
        id=f"job_0badcafe-{uuid.uuid4()}",
        name="Special",
        model="meta/rare",
        pool=make_pool(provider="closed-down"),
        status="in_progress",
        cancel_requested_at=NOON,
        accepted_at=NOON,
    )
    usual = make_job(name="nightly", model="qwen/small", pool=make_pool(), accepted_at=NOON + timedelta(hours=1))
    repeat(rare, FEW)
    repeat(usual, MANY)
    return api("viewer")


QUERIES: list[dict[str, Any]] = [
    {},
    {"search": "nightly"},
    {"search": "special"},
    {"search": "0badcafe"},
    {"search": "META/"},
    {"search": "nothing like it"},
    {"created_by": "alice"},
    {"model": "meta/rare"},
    {"model": "qwen/small"},
    {"provider": "closed-down"},
    {"provider": "simulated"},
    {"status": "in_progress"},
    {"status": "cancelling"},
    {"created_before": str(int(NOON.timestamp()) + FEW)},
    {"created_by": "alice", "status": "in_progress", "search": "special", "model": "meta/rare"},
    {"model": "meta/rare", "provider": "closed-down", "created_after": str(int(NOON.timestamp()))},
    {"status": "pending", "model": "meta/rare"},
]


def assert_is_cheap(client: ApiClient, **query: Any) -> dict[str, Any]:
    """The page, for which no more was read than a few times what it could show."""
    with explained() as plans:
        page: dict[str, Any] = client.get("/jobs", limit=LIMIT, **query).json()
    lists = [plan for plan in plans if f"LIMIT {LIMIT + 1}" in plan.sql]
    assert len(lists) == 1
    assert "jobs_job" not in lists[0].read_whole
    assert lists[0].rows["jobs_job"] <= 2 * FEW, (query, lists[0])
    return page


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_no_page_reads_the_jobs_it_does_not_show(viewer: ApiClient, query: dict[str, Any]) -> None:
    page = assert_is_cheap(viewer, **query)
    for _ in range(FEW // LIMIT):
        if page["hasMore"]:
            page = assert_is_cheap(viewer, after=page["lastId"], **query)


def test_the_search_of_a_submitter_reads_his_own_jobs_at_most(viewer: ApiClient) -> None:
    client = ApiClient(User.objects.get(username="alice"))
    assert assert_is_cheap(client, search="nightly")["jobs"] == []
    assert len(assert_is_cheap(client, search="special")["jobs"]) == LIMIT


ADMIN = [
    "job/",
    *(f"job/?status={status}" for status in ("in_progress", "cancelling", "pending", "held")),
    *(f"job/?q={text}" for text in ("nightly", "special", "job_0badcafe", "alice", "nothing like it")),
    "job/?pool__id__exact={rare_pool}",
    "provision/",
    *(f"provision/?status={status}" for status in ("held", "failing", "lost", "released", "written_off")),
    "provision/?pool__id__exact={rare_pool}",
    *(f"provision/?q={text}" for text in ("job_0badcafe", "nothing like it")),
]


def test_no_list_of_the_admin_reads_the_rows_it_does_not_show(viewer: ApiClient, monkeypatch: Any) -> None:
    monkeypatch.setattr(rows, "COUNT_CAP", FEW)
    monkeypatch.setattr(rows.RowsAdmin, "list_per_page", LIMIT)
    job, rare_pool = Job.objects.latest("accepted_at"), Pool.objects.get(provider="closed-down").pk
    provision = make_provision(job, job.pool, status="released")
    repeat(provision, MANY, "requested_at", id="gen_random_uuid()", name="'bp-' || n")
    client = operator_client()
    for path in ADMIN:
        address = f"/admin/jobs/{path.format(rare_pool=rare_pool)}"
        with explained() as plans:
            assert client.get(address).status_code == 200
        for plan in plans:
            if "LIMIT" in plan.sql:
                assert plan.rows["jobs_job"] <= 3 * FEW, (address, plan)
                assert plan.rows["jobs_provision"] <= 3 * FEW, (address, plan)
