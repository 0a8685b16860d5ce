"""The admin: what operators see, what they may ask for, and what it leaves behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import planner
from jobs.admin import rows, steering
from jobs.models import (
    ApiToken,
    BatchScan,
    DeploymentTemplate,
    Identity,
    InputFile,
    Job,
    JobEvent,
    OwnerQuota,
    Pool,
    Provision,
    Queue,
    QueueMessage,
    ServedModel,
    Worker,
)
from jobs.reconciler.admission import admission
from jobs.wakeup import send_hint
from tests.engine import places
from tests.factories import make_file, make_job, make_model, make_pool, make_provision, make_template, make_user
from tests.threads import elsewhere, stopped, until_waiting

pytestmark = pytest.mark.django_db

ROWS = [Job, Provision, JobEvent, InputFile, Worker, BatchScan]
EDITED = [Pool, ServedModel, DeploymentTemplate, ApiToken, Identity, Queue, OwnerQuota]


def signed_in(user: User, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(user)
    return client


def operator_client() -> Client:
    return signed_in(make_user("operator"))


def url(model: type, page: str = "", pk: object = None) -> str:
    """An admin address; the admin writes ids in its own way."""
    name = model.__name__.lower()
    return f"/admin/jobs/{name}/" + (f"{quote(str(pk))}/" if pk is not None else "") + (f"{page}/" if page else "")


def words(response: HttpResponse) -> str:
    """What a page says, without markup."""
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def make_one_of_each() -> dict[type, Any]:
    job = make_job(status="provisioning")
    now = timezone.now()
    return {
        Job: job,
        Provision: job.provision,
        JobEvent: job.events.get(),
        InputFile: make_file(),
        Worker: Worker.objects.create(host="a", pid=1, pass_started_at=now, beat_at=now),
        BatchScan: BatchScan.objects.update_or_create(pk=1)[0],
        Pool: job.pool,
        ServedModel: make_model(),
        DeploymentTemplate: make_template(),
        ApiToken: ApiToken.issue(job.owner, "laptop")[0],
        Identity: Identity.objects.create(user=job.owner, issuer="https://idp.example", subject="1"),
    }


@contextmanager
def reading_only() -> Iterator[None]:
    def refuse_writes(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        assert sql.lstrip().upper().startswith("SELECT"), f"a read wrote: {sql}"
        assert "FOR UPDATE" not in sql.upper()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse_writes):
        yield


# Looking


def test_it_works() -> None:
    job = make_job(name="nightly", status="in_progress", cancel_requested_at=timezone.now())
    client = operator_client()
    listed = client.get(url(Job))
    assert listed.status_code == 200
    assert "nightly" in words(listed)
    assert '<span class="status status-cancelling">cancelling</span>' in listed.content.decode()
    assert "nightly" in words(client.get(url(Job, "change", job.pk)))


def test_every_model_has_a_list_and_a_page_and_looking_writes_nothing() -> None:
    made = make_one_of_each()
    client = signed_in(make_user("superuser"))
    with reading_only():
        for model, row in made.items():
            assert client.get(url(model)).status_code == 200, model
            assert client.get(url(model, "change", row.pk)).status_code == 200, model
            assert client.get(url(model), {"q": "abc"}).status_code == 200, model
        for model in (Job, Provision):
            verb = "cancel" if model is Job else "release"
            assert client.get(f"{url(model)}{verb}/", {"id": made[model].pk}).status_code == 200


@pytest.mark.parametrize("model", ROWS)
def test_rows_of_the_planner_cannot_be_added_changed_or_deleted_even_by_a_superuser(model: type) -> None:
    row = make_one_of_each()[model]
    client = signed_in(make_user("superuser"))
    assert client.get(url(model, "add")).status_code == 403
    assert client.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert client.post(url(model, "change", row.pk), {"name": "x", "status": "completed"}).status_code == 403
    listed = client.get(url(model)).content.decode()
    assert "delete_selected" not in listed
    assert model.objects.filter(pk=row.pk).exists()  # type: ignore[attr-defined]


def test_a_viewer_sees_but_has_nothing_to_press() -> None:
    made = make_one_of_each()
    client = signed_in(make_user("viewer", is_staff=True))
    for model, verb in ((Job, "cancel"), (Provision, "release")):
        listed = client.get(url(model))
        assert listed.status_code == 200
        assert 'name="action"' not in listed.content.decode()
        assert f"/{verb}/" not in client.get(url(model, "change", made[model].pk)).content.decode()
        assert client.get(f"{url(model)}{verb}/", {"id": made[model].pk}).status_code == 403
        assert client.post(f"{url(model)}{verb}/", {"id": made[model].pk}).status_code == 403
        given = {"action": verb, "_selected_action": [made[model].pk]}
        client.post(url(model), given)
    assert client.post(url(Pool, "change", made[Pool].pk), {"max_live": 1}).status_code == 403
    made[Job].refresh_from_db()
    made[Provision].refresh_from_db()
    assert made[Job].cancel_requested_at is None
    assert made[Provision].release_requested_at is None


def test_a_submitter_is_not_let_in() -> None:
    assert signed_in(make_user()).get(url(Job)).status_code == 302


def test_the_right_to_the_rows_includes_the_right_to_see_everybodys() -> None:
    user = make_user("", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_job"))
    assert signed_in(user).get(url(Job)).status_code == 403


@pytest.mark.parametrize("model", [Job, Provision, JobEvent, InputFile, Pool, DeploymentTemplate])
def test_lists_cost_the_same_queries_for_1_and_20_rows(model: type) -> None:
    client = signed_in(make_user("superuser"))

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get(url(model)).status_code == 200
        return len(captured)

    make_one_of_each()
    client.get(url(model))  # caches content types
    one = queries()
    for _ in range(19):
        make_job(status="provisioning")
        make_file()
        make_template()
    assert queries() == one


def test_the_page_of_a_job_costs_the_same_queries_for_1_and_20_events_and_provisions() -> None:
    job = make_job(status="provisioning")
    client = operator_client()

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get(url(Job, "change", job.pk)).status_code == 200
        return len(captured)

    client.get(url(Job, "change", job.pk))
    one = queries()
    for n in range(2, 21):
        JobEvent.objects.create(job=job, sequence=n, reason="released", to_status="pending")
        make_provision(job, status="released")
    assert queries() == one


def test_lists_neither_load_documents_nor_count_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "COUNT_CAP", 3)
    for _ in range(6):
        make_job(status="provisioning")
    client = operator_client()
    with CaptureQueriesContext(connection) as captured:
        listed = client.get(url(Job))
        client.get(url(Provision))
    statements = [query["sql"] for query in captured]
    counts = [sql for sql in statements if "COUNT(" in sql]
    assert counts
    assert all("LIMIT 4" in sql for sql in counts)
    assert not [sql for sql in statements if "template_spec" in sql or '"detail"' in sql or "batch_view" in sql]
    assert "4 results" in words(listed)


def test_the_filter_goes_by_the_status_people_are_shown() -> None:
    pending = make_job(name="waits")
    make_job(name="wanted gone", cancel_requested_at=timezone.now())
    client = operator_client()
    assert "wanted gone" not in words(client.get(url(Job), {"status": "pending"}))
    assert pending.name in words(client.get(url(Job), {"status": "pending"}))
    assert "wanted gone" in words(client.get(url(Job), {"status": "cancelling"}))
    assert pending.name in words(client.get(url(Job), {"status": "no such"}))


def test_failing_releases_are_red_and_can_be_listed() -> None:
    stuck = make_provision(status="releasing", retry_count=7, last_error="provider says 500")
    calm = make_provision(status="releasing")
    gone = make_provision(status="released")
    client = operator_client()
    listed = client.get(url(Provision), {"status": "failing"}).content.decode()
    assert stuck.name in listed
    assert calm.name not in listed
    assert '<span class="status status-alarm">releasing</span>' in listed
    assert "release failed 7 times: provider says 500" in listed
    held = client.get(url(Provision), {"status": "held"}).content.decode()
    assert calm.name in held
    assert gone.name not in held
    assert gone.name in client.get(url(Provision), {"status": "released"}).content.decode()


@pytest.mark.parametrize(
    "search", [lambda job: job.pk, lambda job: job.pk[:20], lambda job: "nigh", lambda job: job.batch_id]
)
def test_jobs_are_found_by_id_name_and_batch(search: Any) -> None:
    job = make_job(name="Nightly", batch_id="batch_31")
    make_job(name="not this one")
    listed = words(operator_client().get(url(Job), {"q": search(job)}))
    assert "Nightly" in listed
    assert "not this one" not in listed


def test_the_page_of_a_job_shows_why_it_waits_what_comes_next_and_its_timeline_in_order() -> None:
    job = make_job(due_at=timezone.now() + timedelta(minutes=5), event_count=3)
    JobEvent.objects.create(job=job, sequence=3, reason="third", actor="olga", message="<script>x</script>")
    JobEvent.objects.create(job=job, sequence=2, reason="second", source="provider")
    response = operator_client().get(url(Job, "change", job.pk))
    text, timeline = words(response), response.content.decode().partition("Timeline")[2]
    assert planner.waiting_for(job).sentence in text
    assert f"{job.due_at:%Y-%m-%d %H:%M:%S} UTC (in 5 minutes" in text or "(in 4 minutes" in text or "(in 300 s" in text
    assert timeline.index("accepted") < timeline.index("second") < timeline.index("third")
    assert "olga" in text
    assert f"{job.accepted_at:%Y-%m-%d %H:%M:%S}" in timeline
    assert "<script>x" not in timeline
    job_in_hand = make_job(lease_expires_at=timezone.now())
    assert "in a worker" in words(operator_client().get(url(Job, "change", job_in_hand.pk)))


def test_the_page_of_a_provision_shows_facts_and_their_age_but_no_secrets() -> None:
    provision = make_provision(
        status="ready",
        detail={"endpoint": "http://10.0.0.3", "nodes": [{"api_token": "abc123"}], "password": "abc123"},
        observed_at=timezone.now() - timedelta(seconds=30),
        observed_state="ready",
        last_error="<b>flaky</b>",
    )
    response = operator_client().get(url(Provision, "change", provision.pk))
    text = words(response)
    assert "http://10.0.0.3" in text
    assert "abc123" not in text
    assert re.search(r"3\d s ago", text)
    assert "<b>flaky" not in response.content.decode()


def test_a_resource_that_the_last_listing_missed_reads_absent() -> None:
    at = timezone.now()
    gone = {"observed_state": "ready", "observed_at": at, "absent_since_at": at, "absence_confirmed_at": at}
    provision = make_provision(status="released", released_at=at, **gone)
    client = operator_client()
    assert "Observed state: absent" in words(client.get(url(Provision, "change", provision.pk)))
    assert "Observed absent, " in words(client.get(f"/jobs/{provision.job_id}"))
    assert client.get(f"/api/v1/provisions/{provision.pk}").json()["observedState"] == "absent"


def test_what_is_over_has_no_next_action_and_no_deadline() -> None:
    later = timezone.now() + timedelta(hours=1)
    job = make_job(status="completed", deadline_at=later)
    ended = {"status": "released", "released_at": timezone.now(), "expires_at": later}
    provision = make_provision(job, ready_at=timezone.now(), **ended)
    client = operator_client()
    told = words(client.get(url(Job, "change", job.pk)))
    assert "Next action: - Deadline: -" in told
    assert "Next action: -" in (told := words(client.get(url(Provision, "change", provision.pk))))
    assert "Ends by itself: -" in told


# Asking: cancel and release


def test_cancelling_from_the_list_asks_first_and_then_leaves_an_event_and_a_log_entry() -> None:
    jobs = [make_job(name="one"), make_job(name="two")]
    operator = make_user("operator")
    client = signed_in(operator)
    given = {"action": "cancel", "_selected_action": [job.pk for job in jobs]}
    with reading_only():
        asked = client.post(url(Job), given)
    assert "You are about to cancel 2 jobs" in words(asked)
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
        assert entry.change_message == "Asked to cancel. wrong model"
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
    assert "At most 2 rows" in words(done)
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


# Pools


def pool_form(pool: Pool, **changes: Any) -> dict[str, Any]:
    """What the browser sends back of a pool's page."""
    given = {
        "name": pool.name,
        "provider": pool.provider,
        "priority": pool.priority,
        "accelerator_types": "[]",
        "initial-accelerator_types": "[]",
        "options": "{}",
        "initial-options": "{}",
        "max_live": pool.max_live,
        "max_provisioning": pool.max_provisioning,
        "ready_timeout_seconds": pool.ready_timeout_seconds,
        "observe_interval_seconds": pool.observe_interval_seconds,
        "absence_confirm_seconds": pool.absence_confirm_seconds,
        "disabled_reason": pool.disabled_reason,
        "price_per_hour": "",
        **({"is_enabled": "on"} if pool.is_enabled else {}),
        **changes,
    }
    return {name: value for name, value in given.items() if value is not None}


def test_a_new_limit_is_written_alone_and_wakes_the_workers() -> None:
    pool = make_pool()
    client = signed_in(make_user("superuser"))
    hints = QueueMessage.objects.filter(payload=None).count()
    with CaptureQueriesContext(connection) as captured:
        assert client.post(url(Pool, "change", pool.pk), pool_form(pool, max_live=3)).status_code == 302
    updates = [query["sql"] for query in captured if query["sql"].startswith('UPDATE "jobs_pool"')]
    assert len(updates) == 1
    assert re.findall(r'"(\w+)" = ', updates[0].partition(" WHERE ")[0]) == ["max_live"]
    assert QueueMessage.objects.filter(payload=None).count() == hints + 1
    assert LogEntry.objects.filter(object_id=str(pool.pk)).exists()


def test_the_columns_of_the_engine_cannot_be_edited() -> None:
    pool = make_pool()
    client = signed_in(make_user("superuser"))
    client.post(url(Pool, "change", pool.pk), pool_form(pool, observe_version=9, capacity_retry_at='{"x": {"at": 1}}'))
    pool.refresh_from_db()
    assert (pool.observe_version, pool.capacity_retry_at) == (0, {})


@pytest.mark.parametrize(
    ("field", "value"), [("provider", "passthrough"), ("options", '{"base_url": "http://10.9.9.9"}')]
)
def test_where_a_provider_is_is_fixed_while_something_is_held_there(field: str, value: str) -> None:
    """Else what it holds would read as absent, and count as released."""
    pool = make_pool()
    provision = make_provision(pool=pool, status="releasing")
    client, address = signed_in(make_user("superuser")), url(Pool, "change", pool.pk)
    before = getattr(pool, field)
    assert "Cannot be changed while provisions here are not released" in words(client.get(address))
    client.post(address, pool_form(pool, **{field: value, "max_live": 3}))
    pool.refresh_from_db()
    assert (getattr(pool, field), pool.max_live) == (before, 3)
    Provision.objects.filter(pk=provision.pk).update(status="released", released_at=timezone.now())
    assert "Cannot be changed" not in words(client.get(address))
    client.post(address, pool_form(pool, **{field: value}))
    pool.refresh_from_db()
    assert getattr(pool, field) != before


@pytest.mark.django_db(transaction=True)
def test_a_pool_that_is_being_admitted_to_counts_as_holding_something() -> None:
    pool = make_pool()
    make_job()
    client = signed_in(make_user("superuser"))
    free = places()
    edit = pool_form(pool, options='{"base_url": "http://10.9.9.9"}')
    with stopped(lambda: admission(free, send_hint)) as admitting:
        waiting = elsewhere(lambda: client.post(url(Pool, "change", pool.pk), edit))
        until_waiting()
        assert admitting.result().claims
        assert waiting.result(30).status_code == 302
    pool.refresh_from_db()
    assert pool.options == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("provider", "aws"), ("options", "[]"), ("accelerator_types", '"H100"'), ("accelerator_types", "[1]")],
)
def test_a_pool_that_cannot_work_is_refused(field: str, value: str) -> None:
    pool = make_pool()
    response = signed_in(make_user("superuser")).post(
        url(Pool, "change", pool.pk), pool_form(pool, **{field: value, "max_live": 3})
    )
    assert response.status_code == 200
    assert "errorlist" in response.content.decode()
    pool.refresh_from_db()
    assert pool.max_live != 3


def test_a_pool_that_is_held_in_the_admin_says_since_when_by_whom_and_why() -> None:
    pool, admin = make_pool(), make_user("superuser")
    client, address = signed_in(admin), url(Pool, "change", pool.pk)
    client.post(address, pool_form(pool, is_enabled=None, disabled_reason="firmware"))
    pool.refresh_from_db()
    assert (pool.is_enabled, pool.disabled_reason, pool.held_by) == (False, "firmware", admin.email)
    assert f"by {admin.email}" in words(client.get(address))


def test_a_pool_is_added_and_enabling_one_clears_why_it_was_off() -> None:
    client = signed_in(make_user("superuser"))
    client.post(url(Pool, "add"), pool_form(Pool(name="new", provider="simulated")))
    pool = Pool.objects.get(name="new")
    Pool.objects.filter(pk=pool.pk).update(
        is_enabled=False, disabled_reason="invalid credential", held_at=timezone.now()
    )
    pool.refresh_from_db()
    assert "by the planner" in words(client.get(url(Pool, "change", pool.pk)))
    client.post(url(Pool, "change", pool.pk), pool_form(pool, is_enabled="on"))
    pool.refresh_from_db()
    assert (pool.is_enabled, pool.disabled_reason, pool.held_at) == (True, "", None)


def test_a_pool_that_holds_something_is_not_deleted_and_says_why() -> None:
    pool, empty = make_pool(), make_pool()
    make_provision(pool=pool, status="releasing")
    client = signed_in(make_user("superuser"))
    for request in (client.get, client.post):
        refused = request(url(Pool, "delete", pool.pk), {"post": "yes"}, follow=True)
        assert "cannot be deleted: it has provisions that are not released" in words(refused)
    client.post(url(Pool), {"action": "delete_selected", "_selected_action": [pool.pk], "post": "yes"})
    assert Pool.objects.filter(pk=pool.pk).exists()
    client.post(url(Pool, "delete", empty.pk), {"post": "yes"})
    assert not Pool.objects.filter(pk=empty.pk).exists()


def test_a_pool_shows_what_it_holds_and_how_long_readiness_really_took() -> None:
    pool = make_pool(max_live=9, max_provisioning=8)
    at = timezone.now() - timedelta(hours=1)
    for seconds in (10, 20, 30):
        make_provision(pool=pool, status="releasing", requested_at=at, ready_at=at + timedelta(seconds=seconds))
    make_provision(pool=pool)
    make_provision(pool=pool, status="released")
    client = operator_client()
    listed = words(client.get(url(Pool)))
    assert "4 / 9" in listed
    assert "1 / 8" in listed
    page = words(client.get(url(Pool, "change", pool.pk)))
    assert "p50 20.0 s, p95 29.0 s, max 30.0 s (newest 3)" in page


# Catalogue and tokens


def test_a_template_needs_a_spec_that_can_be_read() -> None:
    model = make_model()
    client = signed_in(make_user("superuser"))
    given = {"model": model.pk, "name": "fast", "version": "v1", "status": "active"}
    for spec in ("[]", '{"accelerator": "H100"}', '{"accelerator": {"type": "H|100"}}', "{"):
        assert client.post(url(DeploymentTemplate, "add"), {**given, "spec": spec}).status_code == 200
    assert not DeploymentTemplate.objects.exists()
    client.post(
        url(DeploymentTemplate, "add"), {**given, "spec": '{"accelerator": {"type": "H100"}, "engine_args": {}}'}
    )
    template = DeploymentTemplate.objects.get()
    assert (template.name, template.spec) == ("fast", {"accelerator": {"type": "H100"}, "engineArgs": {}})


def test_operators_edit_models_by_the_rules_of_the_api() -> None:
    client = operator_client()
    given = {"id": "small", "name": "Small", "categories": '["LLM"]', "tags": "[]", "card": '{"is_new": true}'}
    for wrong in ({"categories": '"LLM"'}, {"id": "a/b"}, {"card": '{"pricing": 5}'}):
        assert "errorlist" in client.post(url(ServedModel, "add"), {**given, **wrong}).content.decode(), wrong
    assert not ServedModel.objects.exists()
    assert client.post(url(ServedModel, "add"), given).status_code == 302
    model = ServedModel.objects.get()
    assert (model.pk, model.categories, model.card) == ("small", ["LLM"], {"isNew": True})


def test_a_token_is_shown_once_and_belongs_to_who_asked() -> None:
    user = make_user("superuser")
    client = signed_in(user)
    issued = client.post(url(ApiToken, "add"), {"name": "laptop", "user": make_user().pk})
    token = re.search(r"abp_[\w-]+", issued.content.decode())
    assert token
    row = ApiToken.objects.get()
    assert (row.user, row.name, row.digest) == (user, "laptop", ApiToken.digest_of(token[0]))
    assert "no-store" in issued["Cache-Control"]
    for path in (url(ApiToken), url(ApiToken, "change", row.pk)):
        assert token[0] not in client.get(path).content.decode()
    assert LogEntry.objects.filter(object_id=str(row.pk)).exists()


def test_tokens_are_revoked_and_neither_edited_nor_deleted() -> None:
    row, _token = ApiToken.issue(make_user(), "laptop")
    client = signed_in(make_user("superuser"))
    assert client.post(url(ApiToken, "change", row.pk), {"name": "other"}).status_code == 403
    assert client.post(url(ApiToken, "delete", row.pk), {"post": "yes"}).status_code == 403
    client.post(url(ApiToken), {"action": "revoke", "_selected_action": [row.pk]})
    row.refresh_from_db()
    revoked_at = row.revoked_at
    assert revoked_at is not None
    client.post(url(ApiToken), {"action": "revoke", "_selected_action": [row.pk]})
    row.refresh_from_db()
    assert row.revoked_at == revoked_at


def test_every_model_of_the_planner_is_registered_but_messages_and_rates() -> None:
    registered = {model for model in admin.site._registry if model._meta.app_label == "jobs"}
    assert registered == {*ROWS, *EDITED}


# What the database cannot hold


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/admin/jobs/job/%00/change/", 404),
        ("/admin/jobs/job/a%00b/history/", 404),
        ("/admin/jobs/servedmodel/%00/change/", 404),
        ("/admin/jobs/inputfile/%00/change/", 404),
        ("/admin/auth/user/%00/change/", 404),
        ("/admin/jobs/job/?status__exact=%00", 400),
        ("/admin/jobs/job/?q=%00", 400),
        ("/admin/jobs/job/cancel/?id=%00", 400),
        ("/admin/jobs/job/cancel/?id=", 302),
    ],
)
def test_an_address_with_a_nul_is_refused(address: str, status: int) -> None:
    client = signed_in(make_user("superuser"), raise_request_exception=False)
    assert client.get(address).status_code == status


def test_a_chosen_row_with_a_nul_is_refused() -> None:
    client = signed_in(make_user("superuser"), raise_request_exception=False)
    assert client.post(url(Job), {"action": "cancel", "_selected_action": "\0"}).status_code == 400
