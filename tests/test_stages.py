"""The bar of stages on a job's page."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs.pages.stages import stages
from tests.factories import make_job, make_pool

pytestmark = pytest.mark.django_db


def states(**fields: Any) -> list[str]:
    """Of a job accepted ten minutes ago; times are minutes since then."""
    accepted_at = timezone.now() - timedelta(minutes=10)
    given = {
        name: accepted_at + timedelta(minutes=value) if name.endswith("_at") else value
        for name, value in fields.items()
    }
    job = make_job(accepted_at=accepted_at, pool=make_pool(), **given)
    return [f"{each.status or each.name} {each.state} {each.lasted}".strip() for each in stages(job)]


def test_it_works() -> None:
    assert states(status="in_progress", provisioning_at=1, submitting_at=3, scheduling_at=4, in_progress_at=5) == [
        "Queue done 1 min",
        "Resource done 2 min",
        "Submission done 1 min",
        "Batch now",
        "completed ahead",
    ]


def test_a_completed_job_has_come_all_the_way() -> None:
    times = {"provisioning_at": 1, "submitting_at": 3, "in_progress_at": 4, "completed_at": 9}
    assert states(status="completed", **times)[-2:] == ["Batch done 5 min", "completed done"]


def test_a_job_that_failed_never_reached_the_stages_behind() -> None:
    assert states(status="failed", provisioning_at=1, failed_at=4) == [
        "Queue done 1 min",
        "Resource left 3 min",
        "Submission skipped",
        "Batch skipped",
        "failed done",
    ]


def test_a_job_being_cancelled_leaves_the_stage_it_is_in() -> None:
    found = states(status="in_progress", provisioning_at=1, submitting_at=3, in_progress_at=4, cancel_requested_at=6)
    assert found[-2:] == ["Batch left 2 min", "cancelling now"]


def test_what_an_earlier_attempt_reached_is_ahead_again() -> None:
    assert states(status="pending", provisioning_at=1, submitting_at=3, in_progress_at=4, pending_at=6) == [
        "Queue now",
        "Resource ahead",
        "Submission ahead",
        "Batch ahead",
        "completed ahead",
    ]
