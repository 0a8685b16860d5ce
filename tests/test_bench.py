"""The bench, as small as it gets: that it runs, says figures, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest

from tests.checkouts import Checkout

pytestmark = [pytest.mark.processes, pytest.mark.mds]


def test_the_latency_is_measured_against_the_stub_and_the_real_metadata_service(checkout: Checkout) -> None:
    code, output, errors = checkout.run("-m", "planner_site.bench", "--only", "latency", "--jobs", "1")
    assert code == 0, errors
    figures = json.loads(output.splitlines()[-1])
    assert set(figures) == {
        f"idle_latency_{mds}_{percentile}_ms" for mds in ("stub", "mds") for percentile in ("p50", "p95")
    }
    for figure in figures.values():
        assert (figure["unit"], figure["jobs"]) == ("ms", 1)
        assert figure["value"] < 10_000
    assert output.startswith("idle_latency_stub_p50_ms")
    checkout.check_nothing_runs(timeout=0)
