"""Debian's Chromium, driven by Playwright: headless, a profile of its own each time, and no network but loopback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, sync_playwright

PATH = shutil.which("chromium") or "/usr/bin/chromium"
# set to `required` where a skipped test would go unnoticed
REQUIRED = os.environ.get("PLANNER_BROWSER_TESTS") == "required"
_FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    "--proxy-server=http://127.0.0.1:9",  # nobody; what is on loopback goes by no proxy
]
# What the browser itself says of an answer that a test may well want.
_EXPECTED = "Failed to load resource: the server responded with a status of "


@contextmanager
def running() -> Iterator[Browser]:
    """A browser; skips the test, or fails it where browser tests are required, if there is none."""
    if not os.path.exists(PATH):
        (pytest.fail if REQUIRED else pytest.skip)(f"there is no {PATH}")
    # Playwright runs a loop in this thread, which Django takes for asynchronous code.
    with pytest.MonkeyPatch.context() as patches, sync_playwright() as playwright:
        patches.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=PATH, chromium_sandbox=False, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """What went wrong in the pages of a context: addresses elsewhere, errors of scripts, refusals of a policy."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.faults: list[str] = []
        self._url = url
        context.on("request", lambda request: self._check_address(request.url))
        context.on("console", self._check_message)
        context.on("weberror", lambda error: self.faults.append(f"script: {error.error}"))

    def _check_address(self, url: str) -> None:
        if not url.startswith((self._url, "data:", "blob:")):
            self.faults.append(f"asked for {url}")

    def _check_message(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith(_EXPECTED):
            self.faults.append(f"console: {message.text}")
