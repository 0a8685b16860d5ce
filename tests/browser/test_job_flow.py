"""A job from its upload to its end, in a page that is opened once and never loaded again."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from jobs.models import Job
from jobs.testing.script import Rule
from tests.batch_file import lines
from tests.browser.site import Site
from tests.engine import is_quiet, simulated_pool
from tests.factories import make_template, make_user
from tests.flow import has_status

INPUT = {"name": "in.jsonl", "mimeType": "application/jsonl", "buffer": lines(3)}


def submit(page: Page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Input file").set_input_files(INPUT)
    page.get_by_role("button", name="Create job").click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()


def test_an_upload_becomes_a_job_that_is_watched_to_its_end_without_loading_the_page_again(site: Site) -> None:
    make_template()
    simulated_pool(site.provider)
    site.provider.add_rule(Rule("create", is_never_ready=True))
    site.mds.run_seconds = 1e9
    page = site.visit(make_user(), "/jobs/new")
    submit(page, "nightly")
    status = page.get_by_role("heading", level=1).locator(".status")
    expect(status).to_have_text("pending")
    page.evaluate("window.wasLoadedOnce = true")
    job = Job.objects.get()

    site.turn_until(has_status(job, "provisioning"))
    expect(status).to_have_text("provisioning")
    site.provider.make_ready(site.provider.live()[0].name)
    site.turn_until(has_status(job, "scheduling", "validating"))
    expect(status).to_have_text(job.status)
    site.mds.set_status(job.batch_id, "in_progress")
    site.turn_until(has_status(job, "in_progress"))
    expect(status).to_have_text("in_progress")
    site.mds.set_status(job.batch_id, "completed")
    site.turn_until(is_quiet)
    expect(status).to_have_text("completed")
    expect(page.get_by_role("link", name="Output")).to_be_visible()
    assert page.evaluate("window.wasLoadedOnce")
