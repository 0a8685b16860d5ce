"""The browser that the other tests here stand on: what it must not do, and what it must not overlook."""

from __future__ import annotations

import pytest

from tests.browser import chromium
from tests.browser.chromium import Watch
from tests.browser.site import Site


def test_nothing_outside_can_be_reached_and_whatever_is_asked_for_there_is_a_fault(site: Site) -> None:
    context = site.chromium.new_context()
    watch = Watch(context, site.url)
    page = context.new_page()
    page.goto(f"{site.url}/healthz")  # the pages' own policy would be in the way
    assert watch.faults == []
    for address in ("http://192.0.2.1/", "http://example.org/"):
        reached = page.evaluate(
            "url => fetch(url, {mode: 'no-cors'}).then(() => 'reached', error => error.name)", address
        )
        assert reached == "TypeError"
        assert f"asked for {address}" in watch.faults
    context.close()


def test_an_error_of_a_script_is_a_fault(site: Site) -> None:
    context = site.chromium.new_context()
    watch = Watch(context, site.url)
    page = context.new_page()
    page.goto(f"{site.url}/jobs/signed-out")
    page.evaluate("setTimeout(() => { throw new Error('as scripted') })")
    page.evaluate("console.error('said')")
    page.wait_for_timeout(0)
    context.close()
    assert [fault for fault in watch.faults if "as scripted" in fault]
    assert [fault for fault in watch.faults if "said" in fault]


@pytest.mark.parametrize("is_required", [False, True])
def test_without_a_browser_tests_are_skipped_unless_they_are_required(
    monkeypatch: pytest.MonkeyPatch, is_required: bool
) -> None:
    monkeypatch.setattr(chromium, "PATH", "/nowhere/chromium")
    monkeypatch.setattr(chromium, "REQUIRED", is_required)
    expected = pytest.fail.Exception if is_required else pytest.skip.Exception
    with pytest.raises(expected, match="no /nowhere/chromium"), chromium.running():
        pass
