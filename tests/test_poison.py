"""A job that kills its workers is given up after a while, and takes nobody along."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from jobs.conf import LONE_CRASHES, MAX_CRASHES
from jobs.lifecycle.claims import Claim
from jobs.lifecycle.steps import CallKind
from jobs.models import Job
from jobs.reconciler import calls
from tests.engine import claimed, provisioning_job, submitting_job
from tests.factories import make_job, make_pool, make_user
from tests.fault_world import World
from tests.faults import Killed
from tests.quiescence import check_quiescent

MANY, SOME = 200, 20


def jobs_in_hand(count: int, settings: Any) -> list[Job]:
    """As many jobs as one pass may have in hand, in a pool that reserves nothing."""
    settings.PLANNER_THREADS = dict.fromkeys(settings.PLANNER_THREADS, count)
    make_pool(provider="passthrough", max_live=count, max_provisioning=count)
    owner = make_user()
    return [make_job(owner) for _ in range(count)]


def ended(jobs: list[Job]) -> dict[str, int]:
    statuses = Job.objects.filter(pk__in=[job.pk for job in jobs]).values_list("status", flat=True)
    return {status: list(statuses).count(status) for status in set(statuses)}


def test_a_job_that_kills_every_worker_takes_no_other_along(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, *innocent = jobs_in_hand(MANY, settings)
    perform, in_hand = calls.perform, []

    def deadly(claim: Claim) -> Any:
        if claim.kind == CallKind.SUBMIT and claim.job.id == poison.id:
            in_hand.append(Job.objects.filter(lease_expires_at__isnull=False).count())
            raise Killed
        return perform(claim)

    monkeypatch.setattr(calls, "perform", deadly)
    world.settle()
    assert in_hand == [MANY] * LONE_CRASHES + [1] * (MAX_CRASHES - LONE_CRASHES)
    assert ended(innocent) == {"completed": MANY - 1}
    failed = Job.objects.get(pk=poison.pk)
    assert (failed.status, failed.error_code, failed.failure_stage) == ("failed", "internal_error", "submit")
    check_quiescent(world.provider, world.mds)


def test_kills_from_outside_fail_no_job(world: World, settings: Any) -> None:
    jobs = jobs_in_hand(SOME, settings)
    for _ in range(MAX_CRASHES):
        world.plan("submit: mds.create", "death before")
    world.settle()
    assert world.planned == []
    assert ended(jobs) == {"completed": SOME}
    check_quiescent(world.provider, world.mds)


@pytest.mark.django_db
def test_a_suspect_whose_upstream_hangs_holds_up_no_suspect_that_does_not_need_it() -> None:
    submitting = submitting_job(crashes=LONE_CRASHES)
    assert [claim.job.id for claim in claimed(lone=True).claims] == [submitting.id]
    another = submitting_job(crashes=LONE_CRASHES, pool=submitting.pool)
    cancelled = provisioning_job(crashes=LONE_CRASHES, cancel_requested_at=timezone.now())
    claimed(lone=True)
    cancelled.refresh_from_db()
    another.refresh_from_db()
    assert (cancelled.status, another.lease_expires_at) == ("cancelled", None)
