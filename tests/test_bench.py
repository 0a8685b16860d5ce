"""The bench, as small as it gets: that it runs, says figures, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest

from planner_site.bench.figures import Figure, table
from tests.checkouts import Checkout

FIGURES = {
    "pipeline": {"pipeline_vs_queue", "pipeline_vs_limit"},
    "latency": {"idle_latency_p50_ms", "idle_latency_p99_ms", "idle_latency_mds_p50_ms", "ready_to_submit_p95_ms"},
    "mds": {"mds_submit_ratio"},
    "size": {"size_ratio_max", "size_queries_max"},
    "waiting": {"waiting_cpu_share"},
    "memory": {"host_pss_mb", "host_pss_growth"},
    "accept": {"accept_ratio"},
    "scale_out": {"scale_out_4x"},
    "cleanup": {"cleanup_api_p99_ms"},
    "backfill": {"backfill_memory_growth", "backfill_per_second"},
    "hanging_mds": {f"hanging_mds_{what}_{n}_workers_p95_ms" for what in ("create", "cancel") for n in (1, 4)},
}


@pytest.mark.processes
@pytest.mark.mds
@pytest.mark.parametrize("measurement", FIGURES)
def test_a_measurement_runs_tells_its_figures_and_leaves_nothing(measurement: str, checkout: Checkout) -> None:
    code, output, errors = checkout.run("-m", "planner_site.bench", "--only", measurement, "--scale", "0.001")
    assert code == 0, errors
    figures = json.loads(output.splitlines()[-1])
    assert set(figures) == FIGURES[measurement]
    for name, figure in figures.items():
        assert {"value", "unit", "reference", "ratio", "target", "ok"} <= set(figure)
        assert any(line.startswith(name) for line in output.splitlines())
    checkout.check_nothing_runs(timeout=0)


@pytest.mark.processes
def test_a_measurement_there_is_not_is_refused_with_the_names_there_are(checkout: Checkout) -> None:
    code, _, errors = checkout.run("-m", "planner_site.bench", "--only", "latency,speed")
    assert code == 2
    assert "speed: there are" in errors
    assert all(name in errors for name in FIGURES)


def test_what_else_was_seen_stands_below_its_figure() -> None:
    lines = table({"speed": Figure(5, "ms", detail={"rounds": [4, 5, 6]}), "size": Figure(7, "MB")}).splitlines()
    assert [line.split()[0] for line in lines] == ["figure", "speed", "rounds:", "size"]
    assert lines[2] == "  rounds: [4, 5, 6]"


@pytest.mark.parametrize(
    ("figure", "is_ok", "target"),
    [
        (Figure(5, "ms"), True, ""),
        (Figure(5, "ms", at_most=5), True, "value at most 5"),
        (Figure(5, "ms", at_most=4), False, "value at most 4"),
        (Figure(6, "1/s", reference=2, at_least=3), True, "ratio at least 3"),
        (Figure(6, "1/s", reference=2.1, at_least=3), False, "ratio at least 3"),
        (Figure(6, "ms", reference=2, at_most=3), True, "ratio at most 3"),
    ],
)
def test_a_figure_is_judged_by_its_ratio_if_it_has_one(figure: Figure, is_ok: bool, target: str) -> None:
    assert (figure.is_ok, figure.target) == (is_ok, target)
    verdict = table({"speed": figure}).splitlines()[1].split()[-1]
    assert verdict == (("ok" if is_ok else "MISSED") if target else figure.unit)
