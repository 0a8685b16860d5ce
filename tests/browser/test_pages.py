"""What people do on the pages, in a browser."""

from __future__ import annotations

import re

from django.contrib.sessions.models import Session
from playwright.sync_api import Locator, Page, expect

from jobs.models import ApiToken, Job, Provision
from jobs.testing.script import Rule
from tests.batch_file import lines
from tests.browser.site import Site
from tests.engine import simulated_pool
from tests.factories import make_job, make_user
from tests.flow import has_status


def status(page: Page) -> Locator:
    return page.get_by_role("heading", level=1).locator(".status")


def test_a_cancel_while_provisioning_is_confirmed_and_the_resource_is_seen_released(site: Site) -> None:
    pool = simulated_pool(site.provider)
    site.provider.add_rule(Rule("create", is_never_ready=True))
    job = make_job(name="wrong model")
    site.turn_until(has_status(job, "provisioning"))
    site.turn_until(site.provider.live)
    page = site.visit(job.owner, f"/jobs/{job.pk}")
    expect(status(page)).to_have_text("provisioning")
    expect(page.get_by_text(f"at pool {pool}")).to_be_visible()

    page.get_by_role("link", name="Cancel").click()
    page.get_by_label("Reason").fill("typo")
    page.get_by_role("button", name="Cancel the job").click()
    expect(status(page)).to_have_text("cancelling")
    page.evaluate("window.wasLoadedOnce = true")
    site.turn_until(lambda: Provision.objects.get().status == "released")
    expect(status(page)).to_have_text("cancelled")
    expect(page.locator(".provision .status")).to_have_text("released")
    expect(page.get_by_text("typo")).to_be_visible()
    assert page.evaluate("window.wasLoadedOnce")
    assert site.provider.live() == []


def test_bad_lines_of_a_dropped_file_are_told_and_the_rest_of_the_form_stays(site: Site) -> None:
    page = site.visit(make_user(), "/jobs/new")
    page.get_by_label("Name").fill("nightly")
    page.get_by_label("Input file").evaluate(
        """(input, text) => {
            const data = new DataTransfer();
            data.items.add(new File([text], "in.jsonl"));
            input.files = data.files;
            input.dispatchEvent(new Event("change", {bubbles: true}));
        }""",
        (lines(1) + b"{broken\n" + lines(1) + b"[]\n").decode(),
    )
    expect(page.get_by_text("in.jsonl (1 KiB)")).to_be_visible()
    page.get_by_role("button", name="Create job").click()
    told = page.get_by_role("alert")
    expect(told).to_contain_text("Line 2: not a JSON object")
    expect(told).to_contain_text("Line 4: not a JSON object")
    expect(page.get_by_label("Name")).to_have_value("nightly")
    expect(page.get_by_label("Input file")).to_have_accessible_description(re.compile("Line 2: not a JSON object"))
    assert not Job.objects.exists()


def test_a_token_is_made_shown_once_and_revoked(site: Site) -> None:
    page = site.visit(make_user())
    page.locator("summary", has_text="Account of").click()
    page.get_by_role("link", name="Profile and API tokens").click()
    page.get_by_label("What it is for").fill("nightly script")
    page.get_by_role("button", name="Make token").click()
    secret = page.locator("#secret")
    expect(secret).to_have_text(re.compile("^abp_"))
    page.reload()
    expect(page.get_by_role("cell", name="nightly script", exact=True)).to_be_visible()
    expect(secret).to_have_count(0)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke nightly script").click()
    expect(page.get_by_text("“nightly script” is revoked")).to_be_visible()
    expect(page.get_by_text("You have no token yet")).to_be_visible()
    assert ApiToken.objects.get().revoked_at


def test_a_viewer_sees_every_job_and_nothing_to_press(site: Site) -> None:
    job = make_job(name="nightly")
    page = site.visit(make_user("viewer"))
    page.get_by_role("link", name="nightly").click()
    expect(page.get_by_role("heading", name="nightly")).to_be_visible()
    expect(page.get_by_role("link", name="Cancel")).to_have_count(0)
    expect(page.get_by_role("link", name="New job")).to_have_count(0)
    refused = page.goto(f"/jobs/{job.pk}/cancel")
    assert refused
    assert refused.status == 403
    expect(page.get_by_role("heading", name="Not allowed")).to_be_visible()


def test_a_session_that_has_ended_leads_to_the_log_in_and_back(site: Site) -> None:
    job = make_job()
    page = site.visit(job.owner, f"/jobs/{job.pk}")
    Session.objects.all().delete()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert page.locator("input[name=return]").get_attribute("value") == f"/jobs/{job.pk}"


def test_what_is_typed_narrows_the_list_and_the_address(site: Site) -> None:
    job = make_job(name="nightly")
    make_job(job.owner, name="weekly")
    page = site.visit(job.owner)
    expect(page.get_by_role("link", name="weekly")).to_be_visible()
    page.get_by_label("Name, id or model begins with").fill("night")
    expect(page.get_by_role("link", name="weekly")).to_have_count(0)
    expect(page.get_by_role("link", name="nightly")).to_be_visible()
    assert page.url == f"{site.url}/jobs/?q=night"
    Job.objects.filter(pk=job.pk).update(name="night shift")
    expect(page.get_by_role("link", name="night shift")).to_be_visible()


def test_the_appearance_that_was_chosen_stays(site: Site) -> None:
    page = site.visit(make_user())
    page.locator("summary", has_text="Account of").click()
    page.get_by_label("Dark").check()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Dark")).to_be_hidden()
    page.goto("/jobs/queue")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("summary", has_text="Account of").click()
    page.get_by_label("Light").check()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_a_page_asks_only_while_something_can_change_and_somebody_looks(site: Site) -> None:
    job = make_job(status="in_progress")
    page = site.visit(job.owner, f"/jobs/{job.pk}")
    answers: list[int] = []
    page.on("response", lambda response: answers.append(response.status) if "part=1" in response.url else None)
    hide = """hidden => {
        Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.clock.install()
    page.evaluate(hide, True)
    page.clock.run_for(60_000)
    assert answers == []
    with page.expect_response(lambda response: "part=1" in response.url) as looked:
        page.evaluate(hide, False)
    assert looked.value.status == 304
    Job.objects.filter(pk=job.pk).update(status="completed", completed_at=job.accepted_at)
    page.clock.run_for(3_000)
    expect(status(page)).to_have_text("completed")
    answers.clear()
    page.clock.run_for(60_000)
    assert answers == []
