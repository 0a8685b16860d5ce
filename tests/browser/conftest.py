"""What tests in a browser run on: one Chromium a module, and a planner of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from jobs.conf import Times
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.fake_mds import FakeMds
from tests.browser import chromium as browsers
from tests.browser.site import Site

expect.set_options(timeout=20_000)  # a busy machine's patience


def pytest_itemcollected(item: pytest.Item) -> None:
    """Everything here is a test in a browser."""
    item.add_marker("browser")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a module; every visit has a session of its own in it."""
    with browsers.running() as browser:
        yield browser


@pytest.fixture
def site(
    chromium: Browser, live_server: Any, simulated_server: SimulatedServer, fake_mds: FakeMds, settings: Any
) -> Iterator[Site]:
    """A planner without pools, jobs or users; its upstreams answer at once."""
    # a worker is as long ago as people have patience: passes run only when a test says so
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "unready": Times().unready}
    site = Site(live_server.url, chromium, simulated_server, fake_mds)
    try:
        yield site
    finally:
        faults = site.close()
    assert faults == []
