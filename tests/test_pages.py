"""The pages: who sees what, what they say of a job, how they refresh, how jobs are cancelled from them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest
import time_machine
from django.template.loader import render_to_string
from django.test import Client
from django.utils import timezone

from jobs.models import BatchScan, Job, JobEvent, Provision, Worker
from jobs.statuses import LIVE, JobStatus
from jobs.story import span
from tests.factories import make_job, make_provision, make_template, make_user
from tests.page_client import reading_only, signed_in, text_of

pytestmark = pytest.mark.django_db


# Who sees what


def test_it_works() -> None:
    owner = make_user()
    job = make_job(owner, name="nightly", model="org/small-1b")
    client = signed_in(owner)
    listed = client.get("/jobs/")
    assert listed.status_code == 200
    assert f'href="/jobs/{job.pk}"' in listed.content.decode()
    assert "nightly" in text_of(listed)
    shown = client.get(f"/jobs/{job.pk}")
    assert shown.status_code == 200
    assert "org/small-1b" in text_of(shown)


@pytest.mark.parametrize(
    "path", ["", "?status=failed", "new", "queue", "profile", "job_x", "job_x?part=1", "job_x/cancel"]
)
def test_who_is_not_logged_in_is_sent_to_the_login_and_back(client: Client, path: str) -> None:
    response = client.get(f"/jobs/{path}")
    assert response.status_code == 302
    assert response["Location"].startswith("/api/v1/auth/login?return=%2Fjobs%2F")
    login = client.get(response["Location"], headers={"Accept": "text/html"})
    assert f'name="return" value="/jobs/{path}"' in login.content.decode()


def test_the_login_form_leads_back_to_where_one_came_from(client: Client) -> None:
    user = make_user(username="alice", password="right")
    given = "username=alice&password=wrong&return=/jobs/new"
    refused = client.post("/api/v1/auth/login", given, content_type="application/x-www-form-urlencoded")
    assert refused.status_code == 401
    assert "wrong user name or password" in text_of(refused)
    given = given.replace("wrong", "right")
    accepted = client.post("/api/v1/auth/login", given, content_type="application/x-www-form-urlencoded")
    assert accepted["Location"] == "/jobs/new"
    assert user.email in text_of(client.get("/jobs/"))


def test_logging_out_is_a_post_and_ends_the_session() -> None:
    client = signed_in(make_user())
    assert client.get("/jobs/logout").status_code == 405
    assert client.get("/jobs/").status_code == 200
    assert client.post("/jobs/logout")["Location"] == "/jobs/signed-out"
    assert "Logged out" in text_of(client.get("/jobs/signed-out"))
    assert client.get("/jobs/").status_code == 302


def test_submitters_see_their_own_jobs_and_viewers_all() -> None:
    mine, other = make_user(), make_user()
    make_job(mine, name="mine")
    make_job(other, name="theirs")
    assert "theirs" not in text_of(signed_in(mine).get("/jobs/"))
    seen_by_viewer = text_of(signed_in(make_user("viewer")).get("/jobs/"))
    assert "mine" in seen_by_viewer
    assert "theirs" in seen_by_viewer
    assert other.email in seen_by_viewer


@pytest.mark.parametrize("path", ["", "?part=1", "/cancel"])
def test_somebody_elses_job_does_not_exist(path: str) -> None:
    job = make_job()
    client = signed_in(make_user())
    assert client.get(f"/jobs/{job.pk}{path}").status_code == 404
    assert client.post(f"/jobs/{job.pk}/cancel").status_code == 404
    job.refresh_from_db()
    assert job.cancel_requested_at is None


def test_a_viewer_may_look_but_not_act() -> None:
    job = make_job()
    client = signed_in(make_user("viewer"))
    assert "/cancel" not in client.get(f"/jobs/{job.pk}").content.decode()
    assert 'href="/jobs/new"' not in client.get("/jobs/").content.decode()
    assert client.post(f"/jobs/{job.pk}/cancel").status_code == 403
    refused = client.get("/jobs/new")
    assert refused.status_code == 403
    assert "not submit" in text_of(refused)
    job.refresh_from_db()
    assert job.cancel_requested_at is None


def test_reads_write_nothing() -> None:
    owner = make_user()
    job = make_job(owner, status="provisioning")
    make_template()
    client = signed_in(owner)
    with reading_only():
        for path in (
            "",
            "?part=1",
            "?q=x&status=pending",
            "new",
            "queue",
            "queue?part=1",
            "profile",
            job.pk,
            f"{job.pk}?part=1",
            f"{job.pk}/cancel",
        ):
            assert client.get(f"/jobs/{path}").status_code == 200


# One job


def test_the_page_of_a_job_tells_its_story_with_durations() -> None:
    job = make_job(status="submitting", event_count=3)
    at = timezone.now() - timedelta(hours=1)
    JobEvent.objects.filter(job=job).update(at=at)
    admitted = JobEvent.objects.create(
        job=job,
        sequence=2,
        at=at + timedelta(seconds=90),
        from_status="pending",
        to_status="provisioning",
        reason="admitted",
        message="Reserved at <pool>",
    )
    JobEvent.objects.create(
        job=job, sequence=3, at=at + timedelta(seconds=150), to_status="submitting", reason="ready", source="provider"
    )
    html = signed_in(job.owner).get(f"/jobs/{job.pk}").content.decode()
    assert "1 min 30 s" in html
    assert "Reserved at &lt;pool&gt;" in html
    assert f"{admitted.at:%Y-%m-%d %H:%M:%S} UTC" in html
    assert html.index("accepted") < html.index("admitted") < html.index("Reserved at")
    assert html.count("data-since") == 2, "the stage and the line it is in"


def test_a_long_story_shows_its_newest_lines() -> None:
    job = make_job(event_count=206)
    JobEvent.objects.bulk_create(JobEvent(job=job, sequence=n, reason=f"line-{n}-") for n in range(2, 207))
    text = text_of(signed_in(job.owner).get(f"/jobs/{job.pk}"))
    assert "6 older lines not shown" in text
    assert "line-206-" in text
    assert "line-6-" not in text


def test_progress_error_and_files_are_shown() -> None:
    job = make_job(
        status="failed",
        failure_stage="batch",
        error_code="incomplete_output",
        error_message="<b>bad</b> lines",
        request_total=300,
        request_completed=120,
        request_failed=30,
        output_file_id="file-out",
        error_file_id="file/err",
    )
    html = signed_in(job.owner).get(f"/jobs/{job.pk}").content.decode()
    assert '<progress max="100" value="50"' in html
    assert "150 / 300" in html
    assert "30 failed" in html
    assert "incomplete_output" in html
    assert "&lt;b&gt;bad&lt;/b&gt; lines" in html
    for file_id in (job.input_file_id, "file-out", "file%2Ferr"):
        assert f'href="/api/v1/files/{file_id}/content"' in html


def test_a_release_that_does_not_end_is_visible_on_a_finished_job() -> None:
    job = make_job(status="completed")
    make_provision(job, status="releasing", releasing_at=timezone.now(), last_error="provider says 500", region="eu-1")
    response = signed_in(job.owner).get(f"/jobs/{job.pk}")
    assert "provider says 500" in text_of(response)
    assert "eu-1" in text_of(response)
    assert 'data-live="1"' in response.content.decode()


def test_provider_detail_is_not_for_the_pages() -> None:
    job = make_job(status="provisioning")
    Provision.objects.filter(job=job).update(detail={"key": "hidden-value"})
    assert "hidden-value" not in signed_in(job.owner).get(f"/jobs/{job.pk}").content.decode()


# Refreshing


@pytest.mark.parametrize("path", ["", "{job}"])
def test_the_part_answers_304_until_something_shown_changes(path: str) -> None:
    job = make_job(status="in_progress", in_progress_at=timezone.now())
    client = signed_in(job.owner)
    url = f"/jobs/{path.format(job=job.pk)}"
    etag = re.search(r'data-etag="([^"]+)"', client.get(url).content.decode())
    assert etag
    known = etag[1].replace("&quot;", '"')
    with time_machine.travel(datetime.now() + timedelta(seconds=40)):
        unchanged = client.get(url, {"part": "1"}, headers={"If-None-Match": known})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert unchanged["X-Live"] == "1"
    Job.objects.filter(pk=job.pk).update(request_completed=2)
    changed = client.get(url, {"part": "1"}, headers={"If-None-Match": known})
    assert changed.status_code == 200
    assert "2 / 3" in text_of(changed)
    assert changed["ETag"] != known
    assert "<html" not in changed.content.decode()


@pytest.mark.parametrize("path", ["", "{job}"])
@pytest.mark.parametrize("status", list(JobStatus))
def test_refreshing_ends_when_everything_shown_is_over(path: str, status: JobStatus) -> None:
    job = make_job(status=status)
    part = signed_in(job.owner).get(f"/jobs/{path.format(job=job.pk)}", {"part": "1"})
    assert part["X-Live"] == ("1" if status in LIVE else "0")


def test_banners_tell_of_missing_workers_and_a_silent_metadata_service() -> None:
    client = signed_in(make_user())
    assert "No workers are running" in text_of(client.get("/jobs/"))
    now = timezone.now()
    worker = Worker.objects.create(host="a", pid=1, pass_started_at=now, beat_at=now + timedelta(seconds=60))
    assert "No workers are running" not in text_of(client.get("/jobs/"))
    Worker.objects.filter(pk=worker.pk).update(beat_at=now - timedelta(seconds=60))
    since = f"{now - timedelta(seconds=60):%Y-%m-%d %H:%M:%S} UTC"
    assert f"No workers are running. Since {since}" in text_of(client.get("/jobs/", {"part": "1"}))
    assert "metadata service does not answer" not in text_of(client.get("/jobs/"))
    BatchScan.objects.update_or_create(pk=1, defaults={"last_error": "timed out", "ended_at": now})
    since = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    assert f"metadata service does not answer. Since {since}" in text_of(client.get("/jobs/"))


def test_a_part_asked_for_without_a_session_sends_the_whole_page_to_the_log_in_and_back(client: Client) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/jobs/?status=failed"}
    answer = client.get("/jobs/?status=failed&part=1", headers=headers)
    assert answer.status_code == 200
    assert answer["HX-Redirect"] == "/api/v1/auth/login?return=%2Fjobs%2F%3Fstatus%3Dfailed"


# Cancelling


def test_a_cancel_is_asked_for_confirmed_and_recorded() -> None:
    job = make_job(name="wrong model")
    client = signed_in(job.owner)
    assert f"/jobs/{job.pk}/cancel" in client.get(f"/jobs/{job.pk}").content.decode()
    asked = client.get(f"/jobs/{job.pk}/cancel")
    assert "wrong model" in text_of(asked)
    job.refresh_from_db()
    assert job.cancel_requested_at is None
    done = client.post(f"/jobs/{job.pk}/cancel", {"reason": "typo"}, follow=True)
    assert "Cancel requested" in text_of(done)
    assert "status-cancelling" in done.content.decode()
    event = JobEvent.objects.get(job=job, reason="cancel_requested")
    assert (event.actor, event.message) == (job.owner.email, "typo")
    again = client.post(f"/jobs/{job.pk}/cancel", follow=True)
    assert again.status_code == 200
    assert JobEvent.objects.filter(job=job, reason="cancel_requested").count() == 1


def test_cancelling_what_is_over_says_so() -> None:
    job = make_job(status="completed")
    client = signed_in(job.owner)
    assert "/cancel" not in client.get(f"/jobs/{job.pk}").content.decode()
    assert "nothing to cancel" in text_of(client.get(f"/jobs/{job.pk}/cancel"))
    assert "already completed" in text_of(client.post(f"/jobs/{job.pk}/cancel", follow=True))


def test_a_reason_that_cannot_be_stored_is_refused_with_a_message() -> None:
    job = make_job()
    done = signed_in(job.owner).post(f"/jobs/{job.pk}/cancel", {"reason": "x" * 2000}, follow=True)
    assert "Not cancelled: reason" in text_of(done)
    job.refresh_from_db()
    assert job.cancel_requested_at is None


def test_an_operator_cancels_for_others() -> None:
    job, operator = make_job(), make_user("operator")
    signed_in(operator).post(f"/jobs/{job.pk}/cancel")
    job.refresh_from_db()
    assert job.cancel_requested_by == operator.email


def test_a_post_without_a_token_is_refused_on_our_own_page() -> None:
    job = make_job()
    response = signed_in(job.owner, enforce_csrf_checks=True).post(f"/jobs/{job.pk}/cancel")
    assert response.status_code == 403
    assert "Please try again" in text_of(response)
    job.refresh_from_db()
    assert job.cancel_requested_at is None


# The rest


@pytest.mark.parametrize("name", ["404.html", "403.html", "403_csrf.html", "500.html", "503.html"])
def test_error_pages_render_without_anything(name: str) -> None:
    html = render_to_string(name)
    assert 'href="/jobs/"' in html


def test_an_unknown_address_is_our_own_404() -> None:
    response = signed_in(make_user()).get("/jobs/job_nope")
    assert response.status_code == 404
    assert "Not found" in text_of(response)


@pytest.mark.parametrize("path", ["", "new", "job_x", "logout", "signed-out", "job_x/cancel"])
def test_other_methods_are_refused(path: str) -> None:
    assert signed_in(make_user()).put(f"/jobs/{path}").status_code == 405


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.4 s"), (-1, "0.0 s"), (59.7, "1 min"), (200, "3 min 20 s"), (3600, "1 h"), (187_000, "2 d 3 h")],
)
def test_spans_are_worded_in_two_units(seconds: float, words: str) -> None:
    assert span(timedelta(seconds=seconds)) == words
