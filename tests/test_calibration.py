"""Calibration: what a pool's resources really took to get ready, and the timeout that suggests (R7)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import calibration
from jobs.calibration import Measured
from jobs.models import Pool
from tests.factories import make_job, make_pool, make_provision

NOW = timezone.now()


def took(pool: Pool, seconds: float | None, kind: str = "H100", ago: timedelta = timedelta(hours=1)) -> None:
    """A provision that was ready after so long; None: never within the pool's timeout."""
    since = NOW - ago
    given: dict[str, Any] = {"requested_at": since, "create_started_at": since, "status": "released"}
    if seconds is None:
        given |= {"deadline_at": since + timedelta(seconds=900), "releasing_at": since + timedelta(seconds=901)}
    else:
        given |= {"ready_at": since + timedelta(seconds=seconds)}
    make_provision(make_job(status="completed", accelerator_type=kind), pool, **given)


@pytest.mark.django_db
def test_it_works() -> None:
    pool, other = make_pool(), make_pool()
    for seconds in (10.0, 20.0, 30.0, 40.0, 200.0):
        took(pool, seconds)
    took(pool, None)
    took(pool, 7, kind="A100")
    took(pool, 5000, ago=timedelta(days=31))
    took(other, 9000)
    make_provision(make_job(), pool)  # not ready yet, and not late either
    with CaptureQueriesContext(connection) as queries:
        found = calibration.measured(pool)
    assert len(queries) == 1
    assert found == [
        Measured("A100", ready=1, late=0, p50=7, p95=7, longest=7),
        Measured("H100", ready=5, late=1, p50=30, p95=pytest.approx(168), longest=200),
    ]


@pytest.mark.django_db
def test_only_so_many_are_read_and_by_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool()
    for seconds in (1.0, 2.0, 3.0):
        took(pool, seconds, ago=timedelta(minutes=seconds))
    monkeypatch.setattr(calibration, "NEWEST", 2)
    assert [each.ready for each in calibration.measured(pool)] == [2]
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {calibration._MEASURED}", [pool.pk, calibration.WINDOW.total_seconds(), 2])
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "provision_pool_list" in plan
    assert "Sort Key: jobs_provision.requested_at" not in plan


@pytest.mark.parametrize(
    ("ready", "late", "p95", "longest", "suggested"),
    [
        (4, 0, 50, 60, None),
        (40, 0, 50, 60, 120),
        (40, 0, 50, 290, 360),
        (40, 0, 0.1, 0.2, 60),
        (40, 2, 50, 60, 120),  # one of twenty and no more
        (40, 3, 890, 899, 1800),
        (0, 5, 0, 0, 1800),
    ],
)
def test_a_timeout_is_suggested_by_what_was_measured(
    ready: int, late: int, p95: float, longest: float, suggested: int | None
) -> None:
    found = Measured("H100", ready, late, p50=1, p95=p95, longest=longest)
    assert found.suggested_timeout(900) == suggested


def test_a_pool_gets_the_timeout_that_fits_all_of_its_types() -> None:
    found = [Measured("A", 9, 0, 1, 300, 300), Measured("B", 9, 0, 1, 30, 30), Measured("C", 1, 0, 1, 9000, 9000)]
    assert calibration.suggested_timeout(Pool(ready_timeout_seconds=900), found) == 600
    assert calibration.suggested_timeout(Pool(), []) is None
