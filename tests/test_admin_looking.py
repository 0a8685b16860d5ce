"""The admin: what operators and viewers see, what it costs, and that nobody can edit what the planner writes."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import planner
from jobs.admin import rows
from jobs.admin.job_actions import _new_job
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
    ServedModel,
    Worker,
)
from tests.admin_client import make_one_of_each, operator_client, reading_only, signed_in, url, words
from tests.factories import make_file, make_job, make_provision, make_template, make_user, refused

pytestmark = pytest.mark.django_db

ROWS = [Job, Provision, JobEvent, InputFile, Worker, BatchScan]
EDITED = [Pool, ServedModel, DeploymentTemplate, ApiToken, Identity, Queue, OwnerQuota]


def test_it_works() -> None:
    job = make_job(name="nightly", status="in_progress", cancel_requested_at=timezone.now())
    client = operator_client()
    listed = client.get(url(Job))
    assert listed.status_code == 200
    assert "nightly" in words(listed)
    assert '<span class="status status-cancelling">cancelling</span>' in listed.content.decode()
    assert "nightly" in words(client.get(url(Job, "change", job.pk)))


def test_a_job_and_its_retry_lead_to_each_other_whatever_their_ids() -> None:
    """The admin reads `_40` in an address as `@`."""
    old, new = make_job(id="job_40-old", status="failed"), make_job(id="job_40-new", retry_of="job_40-old")
    client = operator_client()
    for job, other in ((old, new), (new, old)):
        shown = client.get(url(Job, "change", job.pk)).content.decode()
        (address,) = re.findall(rf'<a href="([^"]+)">{other.pk}</a>', shown)
        assert client.get(address).status_code == 200
    assert client.get(re.findall(r'href="([^"]+)"', _new_job(new))[0]).status_code == 200


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
    for model in (Job, Provision, Pool):
        listed = client.get(url(model))
        assert listed.status_code == 200
        assert 'name="action"' not in listed.content.decode()
        page = client.get(url(model, "change", made[model].pk)).content.decode()
        for steering in admin.site._registry[model].steerings:  # type: ignore[attr-defined]
            address = f"{url(model)}{steering.name}/"
            assert address not in page
            assert client.get(address, {"id": made[model].pk}).status_code == 403
            assert client.post(address, {"id": made[model].pk, "reason": "because"}).status_code == 403
            client.post(url(model), {"action": steering.name, "_selected_action": [made[model].pk]})
    assert client.post(url(Pool, "change", made[Pool].pk), {"max_live": 1}).status_code == 403
    assert not LogEntry.objects.exists()
    assert JobEvent.objects.count() == 1


def test_a_submitter_is_not_let_in() -> None:
    assert signed_in(make_user()).get(url(Job)).status_code == 302


def test_the_right_to_the_rows_includes_the_right_to_see_everybodys() -> None:
    user = make_user("", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_job"))
    assert signed_in(user).get(url(Job)).status_code == 403


def test_lists_cost_the_same_queries_for_1_and_100_rows() -> None:
    client = signed_in(make_user("superuser"))
    lists = (Job, Provision, JobEvent, InputFile, Pool, DeploymentTemplate)

    def queries() -> dict[type, int]:
        found: dict[type, int] = {}
        for model in lists:
            with CaptureQueriesContext(connection) as captured:
                assert client.get(url(model)).status_code == 200
            found[model] = len(captured)
        return found

    make_one_of_each()
    queries()  # caches content types
    one = queries()
    for _ in range(99):
        make_job(status="provisioning")
        make_file()
        make_template()
    assert queries() == one
    assert max(one.values()) <= 15


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
    assert "more than 3 jobs" in words(listed)


def test_the_filter_goes_by_the_status_people_are_shown() -> None:
    pending = make_job(name="waits")
    make_job(name="wanted gone", cancel_requested_at=timezone.now())
    client = operator_client()
    assert "wanted gone" not in words(client.get(url(Job), {"status": "pending"}))
    assert pending.name in words(client.get(url(Job), {"status": "pending"}))
    assert "wanted gone" in words(client.get(url(Job), {"status": "cancelling"}))
    assert pending.name in words(client.get(url(Job), {"status": "no such"}))


def test_failing_releases_are_red_and_can_be_listed() -> None:
    stuck = make_provision(status="releasing", **refused(7), last_error="provider says 500")
    taken = refused() | {"last_error_code": "", "last_error_at": None}
    calm = make_provision(status="releasing", **taken)
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
    text, timeline = words(response), response.content.decode().partition("<h2>Timeline")[2]
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
    assert "Observed state absent" in words(client.get(url(Provision, "change", provision.pk)))
    assert "Observed absent, " in words(client.get(f"/jobs/{provision.job_id}"))
    assert client.get(f"/api/v1/provisions/{provision.pk}").json()["observedState"] == "absent"


def test_what_is_over_has_no_next_action_and_no_deadline() -> None:
    later = timezone.now() + timedelta(hours=1)
    job = make_job(status="completed", deadline_at=later)
    ended = {"status": "released", "released_at": timezone.now(), "expires_at": later}
    provision = make_provision(job, ready_at=timezone.now(), **ended)
    client = operator_client()
    told = words(client.get(url(Job, "change", job.pk)))
    assert "Next action -" in told
    assert "Deadline" not in told
    assert "Next action -" in (told := words(client.get(url(Provision, "change", provision.pk))))
    assert "Ends by itself -" in told


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


def test_every_model_of_the_planner_is_registered_but_messages_and_rates() -> None:
    registered = {model for model in admin.site._registry if model._meta.app_label == "jobs"}
    assert registered == {*ROWS, *EDITED}
