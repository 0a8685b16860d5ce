"""Getting in, in a browser."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.browser.site import Site
from tests.factories import make_user


def test_signing_in_leads_to_where_one_wanted_to_go(site: Site) -> None:
    make_user(username="alice", password="right")
    page = site.visit(None, "/jobs/new")
    page.get_by_label("User name").fill("alice")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("wrong user name or password")
    page.get_by_label("User name").fill("alice")
    page.get_by_label("Password").fill("right")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="New job")).to_be_visible()
    assert page.url == f"{site.url}/jobs/new"
