"""The pages: who sees what, what they say, how they refresh, and how jobs are made and cancelled from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.http import HttpResponse
from django.template.loader import render_to_string
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs import files, planner
from jobs.errors import QueueFull, Unavailable
from jobs.models import BatchScan, InputFile, Job, JobEvent, Provision, Worker
from jobs.pages.show import PAGE_SIZE
from jobs.statuses import LIVE, SHOWN_STATUS, JobStatus, ProvisionStatus, shown_as
from jobs.story import span
from tests.batch_file import line
from tests.factories import make_file, make_job, make_model, make_pool, make_provision, make_template, make_user

pytestmark = pytest.mark.django_db


def signed_in(user: User, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(user)
    return client


def text_of(response: HttpResponse) -> str:
    """The page's words with the markup gone and the spaces folded."""
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


@contextmanager
def reading_only() -> Iterator[None]:
    def refuse_writes(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        assert sql.lstrip().upper().startswith("SELECT"), f"a read wrote: {sql}"
        assert "FOR UPDATE" not in sql.upper()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse_writes):
        yield


def queries_of(get: Callable[[], HttpResponse]) -> int:
    with CaptureQueriesContext(connection) as queries:
        assert get().status_code == 200
    return len(queries)


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


@pytest.mark.parametrize("path", ["", "?status=failed", "new", "job_x", "job_x?part=1", "job_x/cancel"])
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
        for path in ("", "?part=1", "?q=x&status=pending", "new", job.pk, f"{job.pk}?part=1", f"{job.pk}/cancel"):
            assert client.get(f"/jobs/{path}").status_code == 200


# The list


@pytest.mark.parametrize("status", list(JobStatus))
def test_the_filter_finds_exactly_the_jobs_shown_with_a_status(status: JobStatus) -> None:
    for each in JobStatus:
        make_job(status=each)
        make_job(status=each, cancel_requested_at=timezone.now())
    found = set(Job.objects.filter(shown_as(status)).values_list("pk", flat=True))
    assert found == {job.pk for job in Job.objects.all() if job.shown_status == status}
    assert found == set(Job.objects.alias(shown=SHOWN_STATUS).filter(shown=status).values_list("pk", flat=True))
    assert found
    listed = signed_in(make_user("viewer")).get("/jobs/", {"status": status}).content.decode()
    assert set(re.findall(r'href="/jobs/(job_[^"/]+)"', listed)) == found


def test_a_status_that_there_is_not_is_said_not_to_be_and_shows_no_job() -> None:
    job = make_job()
    html = signed_in(job.owner).get("/jobs/?status=<planned>").content.decode()
    assert "There is no status “&lt;planned&gt;”" in html
    assert job.pk not in html


def test_the_search_goes_by_the_beginning_of_name_or_id() -> None:
    owner = make_user()
    job = make_job(owner, name="Nightly eval")
    make_job(owner, name="the nightly one")
    client = signed_in(owner)
    for search in ("nightly", job.pk, job.pk[:12], job.pk.removeprefix("job_")[:8]):
        listed = client.get("/jobs/", {"q": search}).content.decode()
        assert re.findall(r'href="/jobs/(job_[^"/]+)"', listed) == [job.pk], search


@pytest.mark.parametrize("name", ["q", "status", "older_than", "newer_than"])
def test_nul_characters_do_no_harm(name: str) -> None:
    assert signed_in(make_user()).get("/jobs/", {name: "a\0b"}).status_code == 200
    assert signed_in(make_user()).get("/jobs/a\0b").status_code == 404


def test_pages_lead_to_older_jobs_and_back_without_a_gap() -> None:
    owner = make_user()
    at = timezone.now()
    # many share one moment: the id decides
    made = [make_job(owner, accepted_at=at + timedelta(seconds=n // 7)) for n in range(2 * PAGE_SIZE + 5)]
    order = [job.pk for job in sorted(made, key=lambda job: (job.accepted_at, job.pk), reverse=True)]
    client = signed_in(owner)

    def shown(query: str) -> tuple[list[str], dict[str, str]]:
        html = client.get(f"/jobs/{query}").content.decode()
        links = {name: f"?{name}={pk}" for name, pk in re.findall(r'href="\?((?:newer|older)_than)=([^"]+)"', html)}
        return re.findall(r'href="/jobs/(job_[^"/]+)"', html), links

    first, links = shown("")
    assert set(links) == {"older_than"}
    second, links = shown(links["older_than"])
    assert set(links) == {"older_than", "newer_than"}
    back = links["newer_than"]
    third, links = shown(links["older_than"])
    assert set(links) == {"newer_than"}
    assert first + second + third == order
    assert shown(links["newer_than"])[0] == second
    assert shown(back)[0] == first
    assert shown("?older_than=job_gone")[0] == first


def test_paging_keeps_filter_and_search() -> None:
    owner = make_user()
    for _ in range(PAGE_SIZE + 1):
        make_job(owner, name="a&b")
    html = signed_in(owner).get("/jobs/", {"status": "pending", "q": "a&b"}).content.decode()
    assert re.search(r'href="\?older_than=job_[^"&]+&amp;status=pending&amp;q=a%26b"', html)


def test_an_empty_list_says_what_to_do() -> None:
    submitter = signed_in(make_user())
    assert "No jobs yet" in text_of(submitter.get("/jobs/"))
    assert submitter.get("/jobs/").content.decode().count('href="/jobs/new"') > 1
    assert "No job matches" in text_of(submitter.get("/jobs/?q=nothing"))


def test_every_status_has_a_colour_and_a_chip() -> None:
    css = (Path(django_settings.BASE_DIR) / "jobs/static/jobs/status.css").read_text()
    html = signed_in(make_user()).get("/jobs/").content.decode()
    for status in (*JobStatus.values, *ProvisionStatus.values):
        assert re.search(rf"\.status-{status}\b[^:]", css), status
    for status in JobStatus.values:
        assert f'<span class="status status-{status}">{status}</span>' in html


@pytest.mark.parametrize("status", ["pending", "provisioning"])
def test_what_waits_says_why_on_list_and_page(status: str) -> None:
    job = make_job(status=status)
    client = signed_in(job.owner)
    job.refresh_from_db()
    reason = planner.waiting_for_each([planner.get_job(job.owner, job.pk)])[job.pk].sentence
    assert reason
    assert reason in text_of(client.get("/jobs/"))
    assert planner.waiting_for(planner.get_job(job.owner, job.pk)).sentence in text_of(client.get(f"/jobs/{job.pk}"))


@pytest.mark.parametrize("status", ["pending", "provisioning", "in_progress", "failed"])
def test_the_list_costs_the_same_queries_for_1_and_20_rows(status: str) -> None:
    owner, pool = make_user("operator"), make_pool()
    client = signed_in(owner)
    make_job(owner, status=status, pool=pool)
    one = queries_of(lambda: client.get("/jobs/"))
    for _ in range(19):
        make_job(owner, status=status, pool=pool)
    assert queries_of(lambda: client.get("/jobs/")) == one


def test_the_page_of_a_job_costs_the_same_queries_for_1_and_20_events_and_provisions() -> None:
    job = make_job(status="provisioning")
    client = signed_in(job.owner)
    one = queries_of(lambda: client.get(f"/jobs/{job.pk}"))
    for n in range(2, 21):
        JobEvent.objects.create(job=job, sequence=n, reason="released")
        make_provision(job, status="released")
    assert queries_of(lambda: client.get(f"/jobs/{job.pk}")) == one


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
    assert html.count("data-since") == 1


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
    assert "No workers running" in text_of(client.get("/jobs/"))
    now = timezone.now()
    worker = Worker.objects.create(host="a", pid=1, pass_started_at=now, beat_at=now + timedelta(seconds=60))
    assert "No workers running" not in text_of(client.get("/jobs/"))
    Worker.objects.filter(pk=worker.pk).update(beat_at=now - timedelta(seconds=60))
    assert "No workers running" in text_of(client.get("/jobs/", {"part": "1"}))
    assert "metadata service does not answer" not in text_of(client.get("/jobs/"))
    BatchScan.objects.update_or_create(pk=1, defaults={"last_error": "timed out"})
    assert "metadata service does not answer" in text_of(client.get("/jobs/"))


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


# A new job


def form(**fields: Any) -> dict[str, Any]:
    """What a browser sends."""
    return {
        "name": "nightly",
        "template": "",
        "input_file": "",
        "endpoint": "/v1/chat/completions",
        "completion_window": "12h",
        "replicas": "2",
        "request_key": "key-1",
        **fields,
    }


def jsonl(content: bytes = line(), name: str = "requests.jsonl") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content, "application/octet-stream")


@pytest.mark.mds
def test_a_new_job_is_uploaded_and_enqueued(mds: str, settings: Any) -> None:
    settings.PLANNER_MDS_URL = mds
    user, template = make_user(), make_template()
    response = signed_in(user).post("/jobs/new", form(template=template.pk, upload=jsonl()))
    job = Job.objects.get()
    assert response.status_code == 302
    assert response["Location"] == f"/jobs/{job.pk}"
    uploaded = InputFile.objects.get()
    assert (uploaded.owner, uploaded.filename, uploaded.request_count) == (user, "requests.jsonl", 1)
    assert job.input_file_id == uploaded.pk
    assert (job.owner, job.name, job.replicas, job.completion_window) == (user, "nightly", 2, "12h")
    assert (job.model_id, job.template_name, job.accelerator_type) == (template.model_id, template.name, "H100")


def test_the_form_offers_active_templates_with_their_accelerators_and_own_files() -> None:
    user = make_user()
    model = make_model(name="Small")
    make_template(model, name="fast", spec={"accelerator": {"type": "A100", "count": 4}})
    make_template(model, name="old", status="deprecated")
    make_file(user, filename="mine.jsonl")
    make_file(make_user(), filename="theirs.jsonl")
    html = signed_in(user).get("/jobs/new").content.decode()
    assert "fast @ v1.0.0 (4 \N{MULTIPLICATION SIGN} A100)" in html
    assert "old @" not in html
    assert "mine.jsonl" in html
    assert "theirs.jsonl" not in html
    labels = set(re.findall(r'<label for="([^"]+)"', html))
    inputs = set(re.findall(r'<(?:input|select)[^>]* id="(id_[^"]+)"', html)) - {"id_request_key"}
    assert inputs == labels
    assert len(inputs) == 7


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"completion_window": "0h"}, "completion_window", "is not between"),
        ({"completion_window": "soon"}, "completion_window", "is not a window"),
        ({"replicas": "0"}, "replicas", "greater than or equal to 1"),
        ({"replicas": "2000"}, "replicas", "less than or equal to 1024"),
        ({"endpoint": "/v1/embeddings"}, "endpoint", "supports only"),
        ({"input_file": ""}, "upload", "Choose a file"),
        ({"template": "tmpl_gone"}, "template", "Select a valid choice"),
        ({"name": "x" * 300}, "name", "at most 255"),
    ],
)
def test_each_mistake_is_told_beside_its_field(fields: dict[str, str], field: str, message: str) -> None:
    user, template = make_user(), make_template()
    given = form(template=template.pk, input_file=make_file(user).pk) | fields
    response = signed_in(user).post("/jobs/new", given)
    assert response.status_code == 400
    error = re.search(rf'id="error_{field}"[^>]*>([^<]+)<', response.content.decode())
    assert error
    assert message in error[1]
    assert not Job.objects.exists()


def test_a_file_of_somebody_else_cannot_be_chosen() -> None:
    response = signed_in(make_user()).post("/jobs/new", form(input_file=make_file().pk))
    assert response.status_code == 400
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("refusal", "status"),
    [(QueueFull("the queue is full", retry_after_seconds=30), 429), (Unavailable("does not answer"), 503)],
)
def test_what_was_chosen_stays_and_a_file_that_got_through_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception, status: int
) -> None:
    user, template = make_user(), make_template()
    uploads: list[str] = []

    def upload(user: User, file: Any) -> InputFile:
        uploads.append(file.name)
        return make_file(user, filename=file.name)

    def refuse(*args: Any, **kwargs: Any) -> Job:
        raise refusal

    monkeypatch.setattr(files, "upload", upload)
    client = signed_in(user)
    with monkeypatch.context() as patched:
        patched.setattr(planner, "enqueue", refuse)
        response = client.post("/jobs/new", form(template=template.pk, upload=jsonl()))
    assert response.status_code == status
    assert response.headers.get("Retry-After") == ("30" if status == 429 else None)
    html = response.content.decode()
    kept = InputFile.objects.get()
    assert str(refusal) in html
    assert f'<option value="{kept.pk}" selected>' in html
    assert f'<option value="{template.pk}" selected>' in html
    assert 'value="12h"' in html
    assert "need not be sent again" in html
    again = client.post("/jobs/new", form(template=template.pk, input_file=kept.pk))
    assert again.status_code == 302
    assert uploads == ["requests.jsonl"]


def test_a_bad_line_is_told_beside_the_file() -> None:
    response = signed_in(make_user()).post("/jobs/new", form(upload=jsonl(line() + b"{broken\n")))
    assert response.status_code == 400
    assert re.search(r'id="error_upload"[^>]*>Line 2', response.content.decode())
    assert not InputFile.objects.exists()


def test_a_file_that_is_too_large_is_413(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.conf.MAX_FILE_BYTES", 10)
    response = signed_in(make_user()).post("/jobs/new", form(upload=jsonl()))
    assert response.status_code == 413
    assert 'id="error_upload"' in response.content.decode()


def test_sending_the_form_twice_makes_one_job() -> None:
    user = make_user()
    client = signed_in(user)
    given = form(input_file=make_file(user).pk)
    locations = {client.post("/jobs/new", given)["Location"] for _ in range(2)}
    assert locations == {f"/jobs/{Job.objects.get().pk}"}


def test_a_form_that_made_a_job_and_was_changed_since_asks_before_it_makes_another() -> None:
    user = make_user()
    client = signed_in(user)
    given = form(input_file=make_file(user).pk)
    client.post("/jobs/new", given)
    response = client.post("/jobs/new", given | {"name": "other"})
    assert response.status_code == 409
    assert "was sent before" in text_of(response)
    key = re.search(r'name="request_key" value="([^"]+)"', response.content.decode())
    assert key
    client.post("/jobs/new", given | {"name": "other", "request_key": key[1]})
    assert set(Job.objects.values_list("name", flat=True)) == {"nightly", "other"}


def test_each_form_has_a_key_of_its_own() -> None:
    client = signed_in(make_user())
    keys = {
        re.findall(r'name="request_key" value="([^"]+)"', client.get("/jobs/new").content.decode())[0] for _ in "ab"
    }
    assert len(keys) == 2


# The rest


@pytest.mark.parametrize("name", ["404.html", "403.html", "403_csrf.html", "500.html"])
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
