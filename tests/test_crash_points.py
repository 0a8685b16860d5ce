"""The fault points once more, with real processes that are really killed and stopped (G7).

`make crash-points` does them all; `make test` does one for each kind of fault.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection

from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.fake_mds import FakeMds
from tests.fault_points import CASES, POINTS, RARE_CASES
from tests.fault_scenarios_lost import ALL_SCENARIOS
from tests.process_world import Processes, ProcessWorld
from tests.quiescence import check_quiescent, problems

SAMPLES = {
    "error before": "claims.step: create ended, resource_created, resource_ready, intent submit",
    "error after": "submit: mds.create",
    "slow": "create: provider.create",
    "death before": "claims.step: submit ended, batch seen, batch_created, scheduling",
    "death after": "planner.enqueue: job, jobevent, queuemessage",
    "stop before": "submit: mds.create",
    "stop after": "release: provider.delete",
}


@pytest.fixture(scope="module")
def processes(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Processes]:
    """One installation for all cases: whatever is done to its processes, others take their place."""
    url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
    with SimulatedServer() as provider, FakeMds(run_seconds=0.001) as mds, django_db_blocker.unblock():
        running = Processes({**os.environ, "DATABASE_URL": url}, provider, mds, tmp_path_factory.mktemp("processes"))
        try:
            running.start()
            yield running
        finally:
            running.stop()


@pytest.fixture
def world(processes: Processes, transactional_db: None) -> Iterator[ProcessWorld]:
    """A world of real processes."""
    made = ProcessWorld(processes)
    try:
        yield made
    finally:
        made.clean_up()


def check_outcome(world: ProcessWorld, scenario: str, point: str, fault: str) -> bool:
    """Whether the fault happened; whatever happened, nothing came of it."""
    world.plan(point, fault)
    ALL_SCENARIOS[scenario](world)
    with suppress(AssertionError):  # what came back too late may just have sent it
        world.until(lambda: not problems(world.provider, world.mds))
    check_quiescent(world.provider, world.mds)
    return world.is_met()


@pytest.mark.processes
@pytest.mark.parametrize("fault", SAMPLES)
def test_a_fault_of_a_real_process_changes_no_outcome(fault: str, world: ProcessWorld) -> None:
    point = SAMPLES[fault]
    scenario = next(name for name, points in POINTS.items() if point in points)
    assert check_outcome(world, scenario, point, fault), "nobody came by"


@pytest.mark.crash_points
@pytest.mark.parametrize(("scenario", "point", "fault"), [*CASES, *RARE_CASES])
def test_every_fault_at_every_point(scenario: str, point: str, fault: str, world: ProcessWorld) -> None:
    if not check_outcome(world, scenario, point, fault):
        # where real time decides who is first, another may have done what the case is about
        pytest.xfail("nobody came by")
