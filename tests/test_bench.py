"""The bench, as small as it gets: that it runs, says figures, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest

from tests.checkouts import Checkout

pytestmark = [pytest.mark.processes, pytest.mark.mds]


FIGURES = {
    "latency": {f"idle_latency_{mds}" for mds in ("stub", "mds")},
    "hanging_mds": {f"hanging_mds_{what}_{n}_workers" for what in ("create", "cancel") for n in (1, 4)},
}


@pytest.mark.parametrize("measurement", FIGURES)
def test_a_measurement_runs_tells_its_figures_and_leaves_nothing(measurement: str, checkout: Checkout) -> None:
    code, output, errors = checkout.run("-m", "planner_site.bench", "--only", measurement, "--jobs", "1")
    assert code == 0, errors
    figures = json.loads(output.splitlines()[-1])
    names = {f"{name}_{cut}_ms" for name in FIGURES[measurement] for cut in ("p50", "p95", "max")}
    assert set(figures) == names
    for figure in figures.values():
        assert (figure["unit"], figure["jobs"]) == ("ms", 1)
    assert output.split()[0] in names
    checkout.check_nothing_runs(timeout=0)
