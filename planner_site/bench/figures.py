"""A measured figure, what it is measured against, and whether it is good enough."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One figure of one run. What has a target is judged by its ratio to the reference, else by its value."""

    value: float
    unit: str
    reference: float | None = None  # the same unit, measured in the same run
    at_least: float | None = None
    at_most: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)  # what else was seen, for the reader

    @property
    def ratio(self) -> float | None:
        """How many times the reference it is."""
        return self.value / self.reference if self.reference else None

    @property
    def is_ok(self) -> bool:
        """Whether the target is met; true without one."""
        judged = self.value if self.ratio is None else self.ratio
        return (self.at_least is None or judged >= self.at_least) and (self.at_most is None or judged <= self.at_most)

    @property
    def target(self) -> str:
        """The target in words; "" without one."""
        what = "value" if self.ratio is None else "ratio"
        bounds = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{what} {word} {bound:g}" for word, bound in bounds if bound is not None)

    def as_json(self) -> dict[str, Any]:
        """The members that scripts read."""
        return {
            "value": _rounded(self.value),
            "unit": self.unit,
            "reference": _rounded(self.reference),
            "ratio": _rounded(self.ratio),
            "target": self.target,
            "ok": self.is_ok,
            **({"detail": dict(self.detail)} if self.detail else {}),
        }


Figures = dict[str, Figure]


def table(figures: Figures) -> str:
    """One line per figure, for people, with what else was seen below it."""
    rows = [("figure", "value", "unit", "reference", "ratio", "target", "")]
    for name, figure in figures.items():
        cells = [_rounded(number) for number in (figure.value, figure.reference, figure.ratio)]
        value, reference, ratio = ("" if cell is None else f"{cell:g}" for cell in cells)
        verdict = ("ok" if figure.is_ok else "MISSED") if figure.target else ""
        rows.append((name, value, figure.unit, reference, ratio, figure.target, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row, detail in zip(rows, [{}, *(figure.detail for figure in figures.values())], strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [f"  {key}: {seen}" for key, seen in detail.items()]
    return "\n".join(lines)


def percentile(found: Sequence[float], percent: int) -> float:
    """The value below which so many percent of these lie, interpolated."""
    return statistics.quantiles(found, n=100, method="inclusive")[percent - 1] if len(found) > 1 else found[0]


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")
