"""The admin in a browser: what an operator presses, what a viewer cannot, and how it looks."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.admin.models import LogEntry
from django.utils import timezone
from playwright.sync_api import Page, expect

from jobs.models import BatchScan, Job, Pool, Provision, Worker
from tests.admin_client import url
from tests.browser.site import Site, screenshot
from tests.engine import simulated_pool
from tests.factories import make_job, make_pool, make_provision, make_user, refused
from tests.flow import has_status


def select(page: Page, *names: str) -> None:
    """Tick these rows of a list."""
    for name in names:
        page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True)).get_by_role(
            "checkbox"
        ).check()


def run(page: Page, action: str) -> None:
    """Choose what is to be done with the rows that are ticked."""
    page.locator("select[name=action]").select_option(label=f"{action}…")
    page.get_by_role("button", name="Run").click()


def test_an_operator_cancels_five_jobs_and_is_told_of_each(site: Site) -> None:
    operator = make_user("operator")
    jobs = [make_job(name=f"nightly-{number}") for number in range(6)]
    page = site.visit(operator, "/admin/jobs/job/")
    select(page, *(job.name for job in jobs[:5]))
    run(page, "Cancel")
    expect(page.get_by_role("heading", name="Cancel 5 jobs?")).to_be_visible()
    expect(page.get_by_text("It ends before anything is reserved")).to_have_count(5)
    assert not Job.objects.filter(cancel_requested_at__isnull=False).exists()
    page.get_by_label("Reason").fill("wrong model")
    screenshot(page, "admin-confirm")
    page.get_by_role("button", name="Cancel").click()
    for job in jobs[:5]:
        expect(page.get_by_text(f"“{job.name}”: cancel requested")).to_be_visible()
    assert Job.objects.get(cancel_requested_at=None) == jobs[5]
    assert LogEntry.objects.filter(user=operator, change_message__endswith="wrong model").count() == 5


def test_an_operator_releases_what_a_job_holds_and_pauses_its_pool(site: Site) -> None:
    pool = simulated_pool(site.provider)
    job = make_job(name="nightly")
    site.turn_until(has_status(job, "submitting", "scheduling", "validating", "in_progress"))
    page = site.visit(make_user("operator"), url(Pool, "change", pool.pk))
    page.get_by_role("link", name="Pause…").click()
    page.get_by_label("Reason").fill("firmware")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text(f"“{pool}”: paused")).to_be_visible()
    page.goto(url(Provision, "change", job.provision_id))
    page.get_by_role("link", name="Release…").click()
    expect(page.get_by_text("The job loses it")).to_be_visible()
    page.get_by_role("button", name="Release").click()
    expect(page.get_by_text(re.compile("”: release requested"))).to_be_visible()
    site.turn_until(lambda: Provision.objects.get().status == "released")
    assert site.provider.live() == []
    job.refresh_from_db()
    assert job.status == "pending"  # and nowhere to go
    page.goto(url(Job, "change", job.pk))
    expect(page.get_by_text("is held: pool")).to_be_visible()
    expect(page.get_by_text("firmware")).to_be_visible()


def test_a_viewer_finds_nothing_to_press(site: Site) -> None:
    job = make_job(name="nightly", status="provisioning")
    page = site.visit(make_user("viewer", is_staff=True), "/admin/jobs/job/")
    expect(page.get_by_role("link", name="nightly", exact=True)).to_be_visible()
    expect(page.locator("select[name=action]")).to_have_count(0)
    for model, pk in ((Job, job.pk), (Provision, job.provision_id), (Pool, job.pool_id)):
        page.goto(url(model, "change", pk))
        expect(page.get_by_role("link", name="History")).to_be_visible()
        expect(page.get_by_role("link", name="…")).to_have_count(0)


def serious(page: Page) -> list[str]:
    """What axe-core finds that keeps somebody from using what is ours on the page; Unfold's frame is Unfold's."""
    found = Axe().run(page, context="#content", options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{each['id']}: {node['html']}"
        for each in found
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


def busy_installation() -> Job:
    """Some of everything, as an operator might find it; the job with most to tell."""
    now = timezone.now()
    pools = [
        make_pool(name="us-east-h100", price_per_hour="2.49", max_live=40, observed_at=now, priority=2),
        make_pool(name="eu-west-a100", price_per_hour="1.10", max_live=20, observed_at=now, priority=1),
    ]
    Pool.objects.filter(pk=pools[1].pk).update(
        observe_error="401 Unauthorized: the API key has been revoked", is_enabled=False, disabled_reason="invalid key"
    )
    for number in range(18):
        took = timedelta(seconds=40 + 17 * (number % 7) + (1200 if number == 3 else 0))
        at = now - timedelta(minutes=50 + number)
        times = {"accepted_at": at - timedelta(minutes=number % 5), "submitting_at": at + took}
        job = make_job(name=f"embeddings {number}", status=("completed", "failed")[number % 9 == 4], **times)
        make_provision(job, pools[number % 2], status="released", requested_at=at, ready_at=at + took)
    for number, status in enumerate(("provisioning", "in_progress", "in_progress", "submitting", "finalizing")):
        fields = {} if status == "provisioning" else {f"{status}_at": now - timedelta(minutes=3)}
        job = make_job(name=f"nightly {number}", status=status, pool=pools[0], **fields)
        if status != "provisioning":
            make_provision(job, pools[0], status="ready")
    for number in range(12):
        make_job(name=f"evaluation {number}", accepted_at=now - timedelta(minutes=9 * number), hold=number == 3)
    stuck = refused(9) | {"last_error": "500 Internal Server Error", "releasing_at": now - timedelta(hours=2)}
    due = now + timedelta(minutes=8)
    make_provision(make_job(name="summaries", status="failed"), pools[1], status="releasing", due_at=due, **stuck)
    for pid in (411, 412):
        Worker.objects.create(host="planner-1", pid=pid, pass_started_at=now, beat_at=now, passes=1207, steps=5411)
    BatchScan.objects.update_or_create(pk=1, defaults={"ended_at": now - timedelta(seconds=12)})
    return Job.objects.filter(status="in_progress").earliest("accepted_at")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dashboard_list_and_page_look_as_they_should(site: Site, scheme: str) -> None:
    job = busy_installation()
    # high enough that little is covered by what sticks to the window's edges
    page = site.visit(make_user("operator"), "/admin/", scheme=scheme, size=(1280, 1200))
    expect(page.get_by_role("heading", name="Releases that keep failing")).to_be_visible()
    expect(page.get_by_role("img", name="spans: half within")).to_have_count(4)
    screenshot(page, f"admin-dashboard-{scheme}")
    assert serious(page) == []
    page.goto("/admin/jobs/job/")
    expect(page.get_by_text("Longest in status")).to_be_visible()
    screenshot(page, f"admin-jobs-{scheme}")
    assert serious(page) == []
    page.goto(url(Job, "change", job.pk))
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    screenshot(page, f"admin-job-{scheme}")
    assert serious(page) == []
