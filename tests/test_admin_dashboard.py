"""The admin's first page: what it tells, and that it costs the same whatever there is."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import figures
from jobs.admin.charts import histogram, short
from jobs.figures import Spread
from jobs.models import BatchScan, Pool, Queue, Worker
from tests.admin_client import operator_client, reading_only, signed_in, words
from tests.factories import jobs_everywhere, make_job, make_pool, make_provision, make_user, refused
from tests.plans import explained

pytestmark = pytest.mark.django_db

MOST_QUERIES = 20


def test_it_tells_what_waits_what_is_held_what_is_stuck_and_how_the_upstreams_are() -> None:
    now = timezone.now()
    pool = make_pool(name="us-east", price_per_hour="2.5", ready_timeout_seconds=900, observed_at=now)
    Pool.objects.filter(pk=pool.pk).update(observe_error="401 from the provider")
    make_job(accepted_at=now - timedelta(minutes=90))
    make_job(hold=True)
    for seconds in (10, 20, 1000):
        job = make_job(status="completed", accepted_at=now - timedelta(hours=1), submitting_at=now)
        ready_at = now - timedelta(minutes=30) + timedelta(seconds=seconds)
        make_provision(job, pool, status="released", requested_at=now - timedelta(minutes=30), ready_at=ready_at)
    stuck = make_provision(make_job(status="failed"), pool, status="releasing", **refused(7), last_error="<b>500")
    Worker.objects.create(host="planner-1", pid=7, pass_started_at=now, beat_at=now)
    BatchScan.objects.update_or_create(pk=1, defaults={"last_error": "connection refused", "ended_at": now})
    Queue.objects.update_or_create(pk=1, defaults={"hold": True, "hold_reason": "upgrade", "held_at": now})
    client = operator_client()
    with reading_only():
        page = client.get("/admin/")
    text = words(page)
    assert "1 wait for their turn 1 h 30 min the oldest pending job has waited 1 held 2.50 cost per hour" in text
    assert "1 releases that keep failing" in text
    assert f"{stuck.name} us-east" in text
    assert "7 \N{MULTIPLICATION SIGN}" in text
    assert "<b>500" not in page.content.decode()
    assert "The queue is held by" in text
    assert "Metadata service fails connection refused" in text
    assert "us-east (simulated) fails 401 from the provider" in text
    assert "p50 20 s , p95 15 min of 3 15 min" in text
    assert "planner-1:7 beats" in text
    assert "No workers running" not in text


def test_it_is_calm_where_there_is_nothing() -> None:
    text = words(operator_client().get("/admin/"))
    assert "Nothing is held anywhere" in text
    assert "No workers running" in text
    assert "There is no pool" in text


def test_its_queries_are_as_many_with_one_pool_as_with_twenty_and_whatever_else() -> None:
    client = operator_client()

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get("/admin/").status_code == 200
        return len(captured)

    make_provision(make_job(status="failed"), status="releasing", **refused())
    client.get("/admin/")
    one = queries()
    for number in range(20):
        make_provision(make_job(status="failed"), make_pool(), status="releasing", **refused())
        Worker.objects.create(host="a", pid=number, pass_started_at=timezone.now(), beat_at=timezone.now())
    jobs_everywhere()
    assert queries() == one <= MOST_QUERIES


def test_it_reads_no_more_than_a_part_of_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "NEWEST_JOBS", 5)
    monkeypatch.setattr(figures, "NEWEST_PROVISIONS", 5)
    monkeypatch.setattr(figures, "MOST_COUNTED", 5)
    pool = make_pool()
    for _ in range(40):
        make_provision(make_job(status="completed"), pool, status="released")
        make_job()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")  # what a large table does by itself
        cursor.execute("ANALYZE jobs_job, jobs_provision")
    with explained() as plans:
        text = words(operator_client().get("/admin/"))
    assert "&gt; 5 wait for their turn" in text
    assert len(plans) >= 7
    for plan in plans:
        assert plan.rows["jobs_job"] <= 6, plan
        assert plan.rows["jobs_provision"] <= 6, plan


def test_those_who_may_not_see_everybodys_jobs_see_no_figures() -> None:
    page = signed_in(make_user("", is_staff=True)).get("/admin/")
    assert page.status_code == 200
    assert "wait for their turn" not in words(page)


def test_a_histogram_reaches_to_its_limit_and_marks_what_is_beyond() -> None:
    chart = histogram(Spread([3.0, 4.0, 700.0]), limit=60)
    assert [bar.words for bar in chart.bars if bar.height] == ["2 s to 5 s: 2", "10 min to 20 min: 1"]
    assert [bar.css for bar in chart.bars if bar.height] == ["", "over"]
    assert (chart.first, chart.last) == ("2 s", "20 min")
    assert chart.limit_x is not None
    assert 0 < chart.limit_x < chart.width
    alone = histogram(Spread([100_000.0]))
    assert alone.last == "> 1 d"
    assert alone.spread.p95 == 100_000


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.25, "0.25 s"), (59, "59 s"), (60, "1 min"), (90, "90 s"), (7200, "2 h"), (86_400, "1 d")]
)
def test_spans_are_told_shortly(seconds: float, text: str) -> None:
    assert short(seconds) == text
