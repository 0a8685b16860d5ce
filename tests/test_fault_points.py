"""Each fault at each commit and each outside call: every job ends as without it, nothing is doubled or left (G7)."""

from __future__ import annotations

import fnmatch
import gc
import re
from collections.abc import Iterator

import pytest

from tests.documentation import DOCS
from tests.fault_points import CASES, POINTS, RARE_CASES, SAMPLE
from tests.fault_scenarios_lost import ALL_SCENARIOS
from tests.fault_world import World
from tests.quiescence import check_quiescent

# Who dies or stands still in a call leaves its socket to the garbage collector, which tells whatever test runs then.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True, scope="module")
def _no_sockets_for_others() -> Iterator[None]:
    """What is left of these tests is collected while they are the ones to be told."""
    yield
    gc.collect()


@pytest.mark.parametrize("scenario", ALL_SCENARIOS)
def test_nobody_comes_by_a_point_that_is_not_listed(scenario: str, world: World) -> None:
    ALL_SCENARIOS[scenario](world)
    check_quiescent(world.provider, world.mds)
    assert set(world.points) <= {point for points in POINTS.values() for point in points}
    assert set(POINTS[scenario]) <= set(world.points)


@pytest.mark.parametrize(
    ("scenario", "point", "fault"),
    [*CASES, *(case if case in SAMPLE else pytest.param(*case, marks=pytest.mark.crash_points) for case in RARE_CASES)],
)
def test_a_fault_changes_no_outcome(scenario: str, point: str, fault: str, world: World) -> None:
    world.plan(point, fault)
    ALL_SCENARIOS[scenario](world)
    assert world.planned == []
    check_quiescent(world.provider, world.mds)


def test_the_page_tells_of_every_part_of_a_jobs_life_and_of_no_point_there_is_not() -> None:
    page = (DOCS / "fault_points.md").read_text()
    parts = dict(re.findall(r"^\| (\w+) \| (`.*) \|$", page, flags=re.MULTILINE))
    listed = [point for points in POINTS.values() for point in points]
    assert list(parts) == ["enqueue", "admit", "provision", "observe", "submit", "poll", "cancel", "release"]
    named = re.findall(r"`([^`]+)`", " ".join(parts.values()))
    assert [name for name in named if not fnmatch.filter(listed, name.replace("...", "*"))] == []
    assert f"There are {len(listed)} points" in page
