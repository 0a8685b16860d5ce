"""Every page, light and dark: no serious or critical finding of axe-core, and a picture of each to look at."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser.scene import Scene
from tests.browser.site import PHONE, Site, screenshot
from tests.factories import make_user

SCHEMES = ("light", "dark")


def look_at(page: Page, name: str) -> list[str]:
    """What is seriously wrong with it in either scheme."""
    found = []
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        screenshot(page, f"{name}-{scheme}")
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in {"serious", "critical"}:
                where = "; ".join(node["html"][:160] for node in violation["nodes"][:3])
                found.append(f"{name}, {scheme}: {violation['id']}: {where}")
    return found


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_pages_of_somebody_who_has_jobs(site: Site, size: str) -> None:
    scene = Scene()
    page = site.visit(scene.alice, size=PHONE) if size == "phone" else site.visit(scene.alice)
    paths = {
        "list": "",
        "detail": scene.running.pk,
        "failed": scene.failed.pk,
        "cancel": f"{scene.running.pk}/cancel",
        "queue": "queue",
        "new": "new",
        "profile": "profile",
    }
    if size == "phone":
        paths = {name: path for name, path in paths.items() if name not in {"failed", "cancel", "profile"}}
    found = []
    for name, path in paths.items():
        page.goto(f"/jobs/{path}")
        found += look_at(page, f"{name}-{size}")
    assert found == []


def test_pages_that_have_nothing_to_show_or_bad_news(site: Site) -> None:
    found = []
    page = site.visit(None, "/jobs/")
    found += look_at(page, "sign-in")
    page = site.visit(make_user())
    found += look_at(page, "empty")
    page.locator("summary", has_text="Account of").click()
    found += look_at(page, "menu")
    page.goto("/jobs/?status=failed&q=x")
    found += look_at(page, "no-match")
    page.goto("/jobs/queue")
    found += look_at(page, "queue-empty")
    page.goto("/jobs/job_nope")
    found += look_at(page, "not-found")
    scene = Scene()
    scene.upset()
    page = site.visit(make_user("viewer"), "/jobs/new")
    found += look_at(page, "forbidden")
    page.goto("/jobs/")
    page.get_by_text("More filters").click()
    page.get_by_text("What the statuses mean").click()
    found += look_at(page, "list-upset")
    assert found == []
