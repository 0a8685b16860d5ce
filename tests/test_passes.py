"""How a pass winds down, so that what hangs keeps no worker from the others' work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.conf import times
from jobs.lifecycle.claims import Bulkhead
from jobs.lifecycle.steps import CallKind
from jobs.reconciler import calls, passes
from jobs.reconciler.bulkheads import Bulkheads
from jobs.statuses import MDS_FOLLOW, MDS_SUBMIT, NO_CALL
from tests.waiting import eventually

POOL: Bulkhead = ("job", 7)
OTHER_POOL: Bulkhead = ("job", 8)
SUBMIT: Bulkhead = ("job", MDS_SUBMIT)
FOLLOW: Bulkhead = ("job", MDS_FOLLOW)


@pytest.fixture
def hung() -> Iterator[threading.Event]:
    """Calls that wait for it go on at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


class Aged:
    """A pass at an age of the test's choice, in which every call under way counts as hanging."""

    def __init__(self, settings: Any) -> None:
        settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "hang": 0.0}
        self.hints = 0
        self.age = 0.0
        self.run = passes._Pass(self._hint, lambda: False)
        self.run.pools = [7, 8]
        self.run._age = lambda: self.age  # type: ignore[method-assign]

    def _hint(self) -> None:
        self.hints += 1

    def at(self, age: float) -> set[Bulkhead]:
        """The shares it offers at that age."""
        self.age = age
        self.run._wind_down()
        return {key for key, places in self.run._free().items() if places > 0}

    def hang(self, key: Bulkhead, until: threading.Event) -> None:
        """A call of that share that ends when it is told to."""
        self.run.bulkheads.start(key, until.wait, lambda _: None, seconds=60, late=None)
        eventually(lambda: key in self.run.bulkheads.slower_than(0))

    def drain(self) -> None:
        """Let what has ended be seen."""

        def is_idle() -> bool:
            self.run.bulkheads.wait(0.01)
            return not self.run.bulkheads.in_flight()

        eventually(is_idle)


def test_it_works(settings: Any) -> None:
    aged = Aged(settings)
    assert aged.at(0) >= {POOL, OTHER_POOL, SUBMIT, FOLLOW}
    assert aged.at(times().no_long_calls_after) == {("job", NO_CALL)}, "nothing is under way: it is over"
    assert (aged.run.is_ending, aged.hints) == (True, 1)


def test_what_hangs_ends_before_the_rest_does(settings: Any, hung: threading.Event) -> None:
    aged = Aged(settings)
    aged.hang(POOL, hung)
    offered = aged.at(times().no_long_calls_after)
    assert POOL not in offered
    assert offered >= {OTHER_POOL, FOLLOW, ("release", 7)}
    assert SUBMIT not in offered, "too late for a long call"
    assert not aged.run.is_ending
    hung.set()
    aged.drain()
    aged.at(times().no_long_calls_after + 1)
    assert (aged.run.is_ending, aged.hints) == (True, 1)


def test_a_submit_under_way_is_waited_for_with_everything_else_going_on(settings: Any, hung: threading.Event) -> None:
    aged = Aged(settings)
    aged.hang(SUBMIT, hung)
    late = times().no_calls_after - 2 * times().call_timeout
    assert late > times().no_long_calls_after
    assert aged.at(late - 0.001) >= {POOL, FOLLOW}
    other = threading.Event()
    aged.hang(FOLLOW, other)
    offered = aged.at(late)
    assert (POOL in offered, FOLLOW in offered, aged.run.is_ending) == (True, False, False)
    other.set()
    assert aged.at(times().no_calls_after) == {("job", NO_CALL)}
    assert aged.run.is_ending


def test_a_share_whose_last_call_hung_is_not_trusted_with_the_one_that_has_just_begun(
    settings: Any, hung: threading.Event
) -> None:
    """Calls that time out together are begun again together, perhaps in the very moment of winding down."""
    aged = Aged(settings)
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "hang": 0.05}
    first = threading.Event()
    aged.hang(FOLLOW, first)
    eventually(lambda: aged.run.bulkheads.slower_than(0.05))
    first.set()
    aged.drain()
    aged.run.bulkheads.start(FOLLOW, hung.wait, lambda _: None, seconds=60, late=None)
    offered = aged.at(times().no_long_calls_after)
    assert (FOLLOW in offered, POOL in offered, aged.run.is_ending) == (False, True, False)
    hung.set()
    aged.drain()
    aged.at(times().no_long_calls_after + 1)
    assert aged.run.is_ending


def test_a_share_that_takes_its_time_is_not_closed_for_it(settings: Any, hung: threading.Event) -> None:
    """A pool whose calls take a moment goes on while the pass waits for what hangs elsewhere."""
    aged = Aged(settings)
    aged.hang(FOLLOW, hung)
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "hang": 1.0}
    busy = threading.Event()
    aged.run.bulkheads.start(POOL, busy.wait, lambda _: None, seconds=60, late=None)
    eventually(lambda: aged.run.bulkheads.slower_than(0.2) == {FOLLOW, POOL})
    aged.run.bulkheads._took[FOLLOW] = 10
    offered = aged.at(times().no_long_calls_after)
    busy.set()
    assert (FOLLOW in offered, POOL in offered, aged.run.is_ending) == (False, True, False)


def test_a_call_that_outlasts_its_time_outs_is_recorded_and_the_pass_ends_without_it(hung: threading.Event) -> None:
    """Its place stays taken for as long as its thread is: nobody waits behind it."""
    bulkheads = Bulkheads()
    told: list[Any] = []
    bulkheads.start(FOLLOW, lambda: hung.wait() and "its answer", told.append, seconds=0.05, late="too late")
    assert bulkheads.in_flight() == 1
    eventually(lambda: bulkheads.wait(0.01) or told)
    assert (told, bulkheads.in_flight(), bulkheads.in_flight(FOLLOW)) == (["too late"], 0, 1)
    hung.set()
    eventually(lambda: bulkheads.wait(0.01) or not bulkheads.in_flight(FOLLOW))
    assert told == ["too late", "its answer"], "should it have come to something, that is taken back"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("create", "ambiguous"), ("submit", "ambiguous"), ("poll", "transient"), ("cancel", "transient")],
)
def test_what_creates_may_have_taken_effect_though_it_did_not_end(kind: str, expected: str) -> None:
    assert calls.too_late(CallKind(kind)).kind == expected
