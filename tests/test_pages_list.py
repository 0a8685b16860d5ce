"""The list of jobs: what it finds, how it is paged, and what it costs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from jobs import planner
from jobs.models import Job, JobEvent
from jobs.pages.show import PAGE_SIZE
from jobs.statuses import SHOWN_STATUS, JobStatus, ProvisionStatus, shown_as
from tests.factories import make_job, make_pool, make_provision, make_user
from tests.page_client import queries_of, signed_in, text_of

pytestmark = pytest.mark.django_db


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


def test_more_filters_find_by_owner_model_and_days_that_both_count() -> None:
    alice = make_user(username="alice")
    noon = datetime(2026, 5, 4, 12, tzinfo=UTC)
    job = make_job(alice, model="org/small", accepted_at=noon)
    make_job(make_user(), model="org/other", accepted_at=noon + timedelta(days=1))
    client = signed_in(make_user("viewer"))
    for query in ({"owner": "alice"}, {"model": "ORG/small"}, {"since": "2026-05-04", "until": "2026-05-04"}):
        listed = client.get("/jobs/", query).content.decode()
        assert re.findall(r'href="/jobs/(job_[^"/]+)"', listed) == [job.pk], query


@pytest.mark.parametrize("query", [{"since": "tomorrow"}, {"until": "2026-02-30"}, {"q": "x" * 256}])
def test_a_filter_that_cannot_be_read_is_told_and_shows_no_job(query: dict[str, str]) -> None:
    job = make_job()
    answer = signed_in(job.owner).get("/jobs/", query)
    assert "This filter cannot be read" in text_of(answer)
    assert job.pk not in answer.content.decode()


@pytest.mark.parametrize("name", ["q", "status", "older_than", "newer_than", "since", "owner"])
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
    assert re.search(r'href="\?status=pending&amp;q=a%26b&amp;older_than=job_[^"&]+"', html)


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
