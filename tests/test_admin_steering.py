"""The admin: what operators may ask for, what they are told before and after, and what it leaves behind."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.utils import timezone

from jobs.admin import steering
from jobs.models import Job, JobEvent, OwnerQuota, Pool, Provision, Queue
from tests.admin_client import operator_client, reading_only, signed_in, url, words
from tests.factories import make_file, make_job, make_pool, make_provision, make_user

pytestmark = pytest.mark.django_db


def test_cancelling_from_the_list_asks_first_and_then_leaves_an_event_and_a_log_entry() -> None:
    jobs = [make_job(name="one"), make_job(name="two")]
    operator = make_user("operator")
    client = signed_in(operator)
    given = {"action": "cancel", "_selected_action": [job.pk for job in jobs]}
    with reading_only():
        asked = client.post(url(Job), given)
    assert "Cancel 2 jobs? Nothing has happened yet" in words(asked)
    assert "It ends before anything is reserved" in words(asked)
    ids = re.findall(r'name="id" value="([^"]+)"', asked.content.decode())
    assert set(ids) == {job.pk for job in jobs}
    done = client.post(f"{url(Job)}cancel/", {"id": ids, "reason": "wrong model", "back": url(Job)}, follow=True)
    assert done.redirect_chain == [(url(Job), 302)]
    for job in jobs:
        job.refresh_from_db()
        assert job.cancel_requested_by == operator.email
        event = JobEvent.objects.get(job=job, reason="cancel_requested")
        assert (event.actor, event.message, event.source) == (operator.email, "wrong model", "operator")
        entry = LogEntry.objects.get(object_id=job.pk)
        assert entry.user == operator
        assert entry.change_message == "Cancel: cancel requested. wrong model"
        assert f"“{job.name}”: cancel requested" in words(done)


def test_the_button_on_a_job_leads_to_the_same_question() -> None:
    job = make_job(status="provisioning")
    client = operator_client()
    link = re.search(r'href="([^"]+/cancel/\?id=[^"]+)"', client.get(url(Job, "change", job.pk)).content.decode())
    assert link
    asked = client.get(link[1])
    assert "Nothing is submitted; its resource is released" in words(asked)
    job.refresh_from_db()
    assert job.cancel_requested_at is None
    back = re.search(r'name="back" value="([^"]+)"', asked.content.decode())
    assert back
    assert client.post(f"{url(Job)}cancel/", {"id": job.pk, "back": back[1]})["Location"] == back[1]
    assert client.get(back[1]).status_code == 200
    job.refresh_from_db()
    assert job.cancel_requested_at is not None
    assert "/cancel/" not in client.get(url(Job, "change", job.pk)).content.decode()


def test_each_row_gets_its_own_outcome() -> None:
    over, asked = make_job(name="over", status="completed"), make_job(name="asked", cancel_requested_at=timezone.now())
    live = make_job(name="live")
    client = operator_client()
    done = words(client.post(f"{url(Job)}cancel/", {"id": [over.pk, asked.pk, live.pk, "job_gone"]}, follow=True))
    assert "“over”: not done: job is already completed" in done
    assert "“asked”: asked for already, nothing changed" in done
    assert "“live”: cancel requested" in done
    assert list(LogEntry.objects.values_list("object_id", flat=True)) == [live.pk]
    assert "These rows are gone" in words(client.post(f"{url(Job)}cancel/", {"id": ["job_gone", "\0"]}, follow=True))
    assert "These rows are gone" in words(client.get(f"{url(Job)}cancel/", {"id": "job_gone"}, follow=True))


def test_many_rows_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "TOLD_SINGLY", 2)
    ids = [make_job(name=f"n{number}").pk for number in range(3)] + [make_job(status="failed").pk]
    done = words(operator_client().post(f"{url(Job)}cancel/", {"id": ids}, follow=True))
    assert "3 cancel requested" in done
    assert "1 not done: job is already failed" in done


def test_a_job_that_moved_on_meanwhile_is_still_cancelled_whatever_the_filter() -> None:
    job = make_job()
    client = operator_client()
    asked = client.post(f"{url(Job)}?status=pending", {"action": "cancel", "_selected_action": [job.pk]})
    make_provision(job)
    Job.objects.filter(pk=job.pk).update(status="provisioning")
    action = re.search(r'<form method="post" action="([^"]+)"', asked.content.decode())
    assert action
    client.post(action[1], {"id": job.pk})
    job.refresh_from_db()
    assert job.cancel_requested_at is not None


def test_too_many_rows_are_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "MAX_ROWS", 2)
    jobs = [make_job() for _ in range(3)]
    client = operator_client()
    given = {"action": "cancel", "_selected_action": [jobs[0].pk], "select_across": "1"}
    assert "narrow the list" in words(client.post(url(Job), given, follow=True))
    done = client.post(f"{url(Job)}cancel/", {"id": [job.pk for job in jobs]}, follow=True)
    assert "narrow the list" in words(done)
    assert not Job.objects.filter(cancel_requested_at__isnull=False).exists()


def test_five_hundred_is_the_limit() -> None:
    assert steering.MAX_ROWS == 500


def test_asking_needs_a_csrf_token() -> None:
    job = make_job()
    client = signed_in(make_user("operator"), enforce_csrf_checks=True)
    assert client.post(f"{url(Job)}cancel/", {"id": job.pk}).status_code == 403
    job.refresh_from_db()
    assert job.cancel_requested_at is None


def test_the_way_back_never_leaves_the_site() -> None:
    job = make_job()
    done = operator_client().post(f"{url(Job)}cancel/", {"id": job.pk, "back": "https://evil.example/"})
    assert done["Location"] == url(Job)


def test_the_wish_and_the_log_entry_are_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the log cannot be written")

    monkeypatch.setattr(LogEntry.objects, "log_actions", refuse)
    with pytest.raises(RuntimeError):
        operator_client().post(f"{url(Job)}cancel/", {"id": job.pk})
    job.refresh_from_db()
    assert job.cancel_requested_at is None
    assert not JobEvent.objects.filter(job=job, reason="cancel_requested").exists()


@pytest.mark.django_db(transaction=True)
def test_a_row_that_is_busy_is_told_and_the_others_go_on() -> None:
    busy, free = make_job(name="busy"), make_job(name="free")
    client = operator_client()
    params = connection.get_connection_params()
    holder = psycopg.connect(
        **{key: params[key] for key in ("dbname", "user", "password", "host", "port") if params.get(key)}
    )
    try:
        holder.execute("SELECT 1 FROM jobs_job WHERE id = %s FOR NO KEY UPDATE", [busy.pk])
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
        done = words(client.post(f"{url(Job)}cancel/", {"id": [busy.pk, free.pk]}, follow=True))
    finally:
        holder.close()
        connection.close()
    assert "“busy”: not done: the row is busy" in done
    assert "“free”: cancel requested" in done


def test_releasing_says_what_it_costs_and_does_and_leaves_its_traces() -> None:
    pool = make_pool(name="us-east", price_per_hour="2.5")
    job = make_job(status="in_progress", name="nightly")
    provision = make_provision(job, pool, status="ready")
    operator = make_user("operator")
    client = signed_in(operator)
    with reading_only():
        asked = client.post(url(Provision), {"action": "release", "_selected_action": [provision.pk]})
    assert "us-east, 2.5000 per hour; job nightly is in_progress" in words(asked)
    assert "The job loses it" in words(asked)
    done = client.post(f"{url(Provision)}release/", {"id": provision.pk, "reason": "too dear"}, follow=True)
    assert f"“{provision.name}”: release requested" in words(done)
    provision.refresh_from_db()
    assert provision.release_requested_by == operator.email
    event = JobEvent.objects.get(job=job, reason="release_requested")
    assert (event.actor, event.message) == (operator.email, "too dear")
    assert LogEntry.objects.get(object_id=str(provision.pk)).user == operator


@pytest.mark.parametrize(
    ("fields", "outcome", "answer"),
    [
        ({"status": "released"}, "Nothing: it is released", "not done: provision is already released"),
        ({"status": "releasing"}, "tried again at once", "release requested"),
        ({"status": "lost", "lost_at": "now"}, "It is released.", "release requested"),
        ({"status": "ready", "release_requested_at": "now"}, "Nothing new", "asked for already, nothing changed"),
    ],
)
def test_a_release_says_beforehand_what_it_then_does(fields: dict[str, Any], outcome: str, answer: str) -> None:
    job = make_job(status="completed")
    values = {name: timezone.now() if value == "now" else value for name, value in fields.items()}
    provision = make_provision(job, **values)
    client = operator_client()
    assert outcome in words(client.get(f"{url(Provision)}release/", {"id": provision.pk}))
    assert answer in words(client.post(f"{url(Provision)}release/", {"id": provision.pk}, follow=True))


def test_ids_that_cannot_be_one_are_no_error() -> None:
    asked = operator_client().get(f"{url(Provision)}release/", {"id": "nonsense"}, follow=True)
    assert "These rows are gone" in words(asked)


@pytest.mark.parametrize(
    ("action", "fields", "answers", "outcome", "done", "reason"),
    [
        ("hold", {}, {}, "not admitted until it is resumed", "held", "held"),
        ("resume", {"hold": True}, {}, "admitted again when its turn comes", "resumed", "resumed"),
        ("retry", {"status": "failed"}, {}, "A new job of", "queued again as", "retried"),
        ("prioritise", {}, {"priority": "9"}, "Its priority, now 0, becomes", "priority changed", "prioritised"),
        ("refresh", {}, {}, "look at it next", "to be looked at next", "refresh_requested"),
    ],
)
def test_each_wish_on_a_job_is_told_before_done_once_and_leaves_its_event(
    action: str, fields: dict[str, Any], answers: dict[str, str], outcome: str, done: str, reason: str
) -> None:
    owner = make_user()
    job = make_job(owner, name="nightly", input_file_id=make_file(owner).pk, **fields)
    operator = make_user("operator")
    client, address = signed_in(operator), f"{url(Job)}{action}/"
    assert f"{action}/?id={job.pk}" in client.get(url(Job, "change", job.pk)).content.decode()
    assert outcome in words(client.get(address, {"id": job.pk}))
    told = words(client.post(address, {"id": job.pk, "reason": "as agreed", **answers}, follow=True))
    assert f"“nightly”: {done}" in told
    event = job.events.get(reason=reason)
    assert (event.actor, event.message, event.source) == (operator.email, "as agreed", "operator")
    assert LogEntry.objects.get(object_id=job.pk).user == operator


def test_a_priority_that_is_none_is_asked_for_again() -> None:
    job = make_job()
    again = operator_client().post(f"{url(Job)}prioritise/", {"id": job.pk, "priority": "101", "reason": "now"})
    assert "less than or equal to 100" in words(again)
    assert 'value="now"' in again.content.decode()
    assert not LogEntry.objects.exists()


def test_pools_are_paused_and_resumed_and_looked_at_by_operators() -> None:
    pool = make_pool(observe_at=timezone.now() + timedelta(hours=1))
    operator = make_user("operator")
    client = signed_in(operator)
    done = client.post(f"{url(Pool)}pause/", {"id": pool.pk, "reason": "firmware"}, follow=True)
    assert f"“{pool}”: paused" in words(done)
    assert "firmware" in words(client.get(f"{url(Pool)}resume/", {"id": pool.pk}))
    pool.refresh_from_db()
    assert (pool.is_enabled, pool.disabled_reason, pool.held_by) == (False, "firmware", operator.email)
    for action in ("refresh", "resume"):
        client.post(f"{url(Pool)}{action}/", {"id": pool.pk})
    pool.refresh_from_db()
    assert pool.is_enabled
    assert pool.observe_at is not None
    assert pool.observe_at <= timezone.now()
    told = [entry.change_message for entry in LogEntry.objects.order_by("pk")]
    assert told == ["Pause: paused. firmware", "Refresh now: to be looked at next.", "Resume: resumed."]
    again = client.post(f"{url(Pool)}resume/", {"id": pool.pk}, follow=True)
    assert "asked for already, nothing changed" in words(again)


def test_the_queue_is_drained_and_resumed_and_an_owner_is_held() -> None:
    Queue.objects.get_or_create(pk=1)
    owner = make_user()
    OwnerQuota.objects.create(owner=owner)
    client = operator_client()
    assert "none is admitted" in words(client.get(f"{url(Queue)}drain/", {"id": 1}))
    client.post(f"{url(Queue)}drain/", {"id": 1, "reason": "upgrade"})
    assert Queue.objects.get().hold_reason == "upgrade"
    client.post(f"{url(Queue)}resume/", {"id": 1})
    assert not Queue.objects.get().hold
    client.post(f"{url(OwnerQuota)}hold/", {"id": owner.pk})
    assert OwnerQuota.objects.get().hold


def test_writing_off_is_for_superusers_and_wants_a_reason() -> None:
    provision = make_provision(make_job(status="completed"), status="releasing", retry_count=3)
    address = f"{url(Provision)}write_off/"
    operator = operator_client()
    assert operator.post(address, {"id": provision.pk, "reason": "gone"}).status_code == 403
    assert "write_off" not in operator.get(url(Provision, "change", provision.pk)).content.decode()
    client = signed_in(make_user("superuser"))
    asked = words(client.get(address, {"id": provision.pk}))
    assert "cannot be taken back" in asked
    assert "it costs money until somebody ends it" in asked
    assert "This field is required" in words(client.post(address, {"id": provision.pk, "reason": " "}))
    assert "written off" in words(client.post(address, {"id": provision.pk, "reason": "deleted by hand"}, follow=True))
    provision.refresh_from_db()
    assert provision.status == "written_off"
