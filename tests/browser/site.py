"""The whole planner as a browser meets it: a live server, upstreams of its own, and an engine that moves when told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page

from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.fake_mds import FakeMds
from tests.browser.chromium import Watch
from tests.engine import passes_until

T = TypeVar("T")

SCREENSHOTS = Path(settings.BASE_DIR) / ".data" / "screenshots"
DESKTOP = (1280, 800)
PHONE = (390, 844)


@dataclass
class Site:
    """Open pages in it, and move its engine; at the end of a test no page may have met with a fault."""

    url: str
    chromium: Browser
    provider: SimulatedServer
    mds: FakeMds

    def __post_init__(self) -> None:
        self._opened: list[tuple[BrowserContext, Watch]] = []

    def visit(
        self, user: User | None, path: str = "/jobs/", *, scheme: str = "light", size: tuple[int, int] = DESKTOP
    ) -> Page:
        """A page of somebody who is signed in (None: of nobody), in a browser session of its own."""
        given: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": size[0], "height": size[1]}}
        context = self.chromium.new_context(base_url=self.url, locale="en-GB", timezone_id="UTC", **given)
        context.set_default_timeout(20_000)  # a busy machine's patience
        self._opened.append((context, Watch(context, self.url)))
        if user is not None:
            context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": _session(user), "url": self.url}])
        page = context.new_page()
        page.goto(path)
        return page

    def turn_until(self, condition: Callable[[], T]) -> T:
        """Let the workers' passes run, one after another, until the condition holds; otherwise nothing moves."""
        return passes_until(condition)

    def close(self) -> list[str]:
        """Close all pages; returns what went wrong in them."""
        for context, _ in self._opened:
            context.close()
        return [fault for _, watch in self._opened for fault in watch.faults]


def _session(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def screenshot(page: Page, name: str) -> Path:
    """A picture of the whole page; the folder is not under version control."""
    path = SCREENSHOTS / f"{name}.png"
    page.screenshot(path=path, full_page=True, animations="disabled")
    return path
