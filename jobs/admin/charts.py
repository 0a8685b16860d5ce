"""Bars for the dashboard, worked out here and drawn as SVG by its templates: no script, no request elsewhere."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobs.figures import Spread

# Upper ends of a histogram's bars, in seconds: from what is at once to what takes a day.
_EDGES = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21_600, 43_200, 86_400)
_HEIGHT = 60.0
_WIDTH = 14.0
_GAP = 2.0


@dataclass(frozen=True)
class Bar:
    """One bar: where it stands, how high it is, and what it says."""

    x: float
    y: float
    height: float
    words: str
    css: str = ""


@dataclass(frozen=True)
class Histogram:
    """How often a span lasted how long, beside how long it may."""

    bars: Sequence[Bar]
    width: float
    first: str
    last: str
    spread: Spread
    limit_x: float | None = None

    @property
    def words(self) -> str:
        """The same for those who do not see it."""
        return f"{len(self.spread.seconds)} spans: half within {short(self.spread.p50)}, 95 % {short(self.spread.p95)}"


def histogram(spread: Spread, limit: float | None = None) -> Histogram:
    """Bars from the shortest to the longest, and to the limit if there is one."""
    counts = [0] * (len(_EDGES) + 1)
    for seconds in spread.seconds:
        counts[bisect_left(_EDGES, seconds)] += 1
    used = [place for place, count in enumerate(counts) if count]
    limit_place = None if limit is None else bisect_left(_EDGES, limit)
    first = min(used)
    last = min(max(*used, limit_place or 0, first + 3), len(_EDGES))
    bars = []
    for place in range(first, last + 1):
        height = _HEIGHT * counts[place] / max(counts)
        x = (place - first) * (_WIDTH + _GAP)
        words = f"{_range(place)}: {counts[place]}"
        css = "over" if limit_place is not None and place > limit_place else ""
        bars.append(Bar(x, _HEIGHT - height, height, words, css))
    return Histogram(
        bars,
        width=(last - first + 1) * (_WIDTH + _GAP),
        first="0 s" if first == 0 else short(_EDGES[first - 1]),
        last=f"> {short(_EDGES[-1])}" if last >= len(_EDGES) else short(_EDGES[last]),
        spread=spread,
        limit_x=None if limit_place is None else (limit_place - first + 1) * (_WIDTH + _GAP) - _GAP / 2,
    )


def _range(place: int) -> str:
    if place == 0:
        return f"up to {short(_EDGES[0])}"
    if place == len(_EDGES):
        return f"more than {short(_EDGES[-1])}"
    return f"{short(_EDGES[place - 1])} to {short(_EDGES[place])}"


def short(seconds: float) -> str:
    """A span in its largest unit, as an axis has room for."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or seconds == size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


@dataclass(frozen=True)
class Share:
    """One line of a chart of shares: a status and how many there are, in percent of the most frequent."""

    status: str
    count: int
    words: str
    percent: float


def shares(counts: Mapping[str, int], most: int) -> list[Share]:
    """A line each, in the order given; what was counted no further says so."""
    top = max([*counts.values(), 1])
    return [
        Share(status, count, f"more than {most:,}" if count > most else f"{count:,}", 100 * count / top)
        for status, count in counts.items()
    ]
