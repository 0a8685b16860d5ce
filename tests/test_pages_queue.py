"""The page of the queue: why one's jobs wait, what waits for what, and where there is room."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from jobs.models import Queue
from jobs.pages.queue import SHOWN_JOBS
from jobs.queue_report import ClassLine, queue_report
from tests.factories import make_job, make_pool, make_provision, make_user
from tests.page_client import queries_of, reading_only, signed_in, text_of

pytestmark = pytest.mark.django_db


def shown_to(user: User) -> str:
    client = signed_in(user)
    with reading_only():
        return text_of(client.get("/jobs/queue"))


def test_ones_own_jobs_have_a_reason_and_a_place() -> None:
    make_pool(max_live=0, name="east")
    at = timezone.now()
    make_job(name="of somebody else", accepted_at=at - timedelta(minutes=2))
    mine = make_job(name="mine", accepted_at=at)
    said = shown_to(mine.owner)
    assert "mine 2 Waiting for H100: pool east is full" in said
    assert "of somebody else" not in said
    assert "None of your jobs is waiting" in shown_to(make_user("operator"))


def test_a_job_that_is_held_has_no_place() -> None:
    job = make_job(name="mine", hold=True, hold_reason="Ask first.")
    assert "mine — Held by an operator. Ask first." in shown_to(job.owner)


def test_what_waits_is_counted_by_accelerator_with_the_pools_that_have_it() -> None:
    east = make_pool(name="east", accelerator_types=["H100"])
    west = make_pool(name="west", accelerator_types=["H100"], is_enabled=False)
    at = timezone.now() - timedelta(hours=1)
    make_job(accepted_at=at)
    for _ in range(2):
        make_job()
    make_job(hold=True)
    make_job(accelerator_type="B200", accepted_at=at)
    make_job(status="completed")
    assert queue_report().classes == [
        ClassLine("B200", waiting=1, held=0, oldest_at=at, pools=[]),
        ClassLine("H100", waiting=3, held=1, oldest_at=at, pools=[east, west]),
    ]


def test_pools_say_what_is_held_and_why_they_take_no_more() -> None:
    full = make_pool(name="full", max_live=1)
    make_provision(make_job(status="in_progress"), full, status="ready")
    make_pool(name="shut", is_enabled=False, disabled_reason="Repairs.")
    retry = {"H100": {"at": timezone.now().timestamp() + 60}, "A100": {"at": timezone.now().timestamp() - 60}}
    make_pool(name="out", capacity_retry_at=retry)
    lines = {line.pool.name: line for line in queue_report().pools}
    assert (lines["full"].use.live, lines["full"].is_full, lines["out"].is_full) == (1, True, False)
    assert [kind for kind, _ in lines["out"].is_out_of] == ["H100"]
    said = shown_to(make_user())
    for words in ("full full any 1 1 of 1", "shut held Repairs.", "out open No H100 left there"):
        assert words in said


def test_a_queue_that_is_held_says_by_whom_and_why() -> None:
    held = {"hold": True, "hold_reason": "Moving house.", "held_by": "oscar", "held_at": timezone.now()}
    Queue.objects.update_or_create(pk=1, defaults=held)
    said = shown_to(make_user())
    assert "The queue is held by oscar since" in said
    assert "Moving house." in said


def test_an_installation_without_pools_says_so() -> None:
    assert "There is no pool yet" in shown_to(make_user())


def test_its_cost_is_bounded() -> None:
    owner = make_user()
    for _ in range(SHOWN_JOBS):
        make_job(owner)
    client = signed_in(owner)
    many = queries_of(lambda: client.get("/jobs/queue"))
    for _ in range(5):
        make_job(owner, accelerator_type="B200")
        make_job()
        make_pool()
    assert queries_of(lambda: client.get("/jobs/queue")) == many
