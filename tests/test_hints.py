"""Hints may be lost, doubled, delayed and reordered: the outcome is the same, only later."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection

from jobs import planner, wakeup
from jobs.broker import HintBroker
from jobs.models import Job, Pool, QueueMessage
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.tasks import run_pass
from jobs.testing.fake_mds import FakeMds
from tests.engine import is_quiet, simulated_pool
from tests.factories import make_file, make_user
from tests.quiescence import check_quiescent
from tests.threads import at_once
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)

JOBS = 4


@pytest.fixture
def pool(fake_mds: FakeMds, simulated_server: SimulatedServer) -> Pool:
    return simulated_pool(simulated_server, max_live=2)


@pytest.fixture
def broker() -> Iterator[HintBroker]:
    """In this process, on this thread's connection, as the pusher has it on its own."""
    yield HintBroker()
    connection.close()  # and with it its LISTEN


class Deliveries:
    """What lies between the broker and the workers."""

    def __init__(self) -> None:
        self.withheld = 0
        self.turns = itertools.count()

    def honest(self, passes: int) -> int:
        """Each once."""
        return passes

    def lossy(self, passes: int) -> int:
        """Every other one is lost, and so is whatever hint is posted."""
        QueueMessage.objects.all().delete()
        return passes * (next(self.turns) % 2)

    def doubling(self, passes: int) -> int:
        """Each three times, at once."""
        return 3 * passes

    def late(self, passes: int) -> int:
        """Withheld, and then several together; what comes later may come first."""
        self.withheld += passes
        if next(self.turns) % 3 < 2:
            return 0
        passes, self.withheld = self.withheld, 0
        return passes


@pytest.mark.parametrize("how", ["honest", "lossy", "doubling", "late"])
def test_whatever_becomes_of_hints_every_job_comes_to_its_end(
    how: str, pool: Pool, broker: HintBroker, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    """Twice as many jobs as there is room for; one is cancelled, one loses its resource to an operator."""
    user, operator = make_user(), make_user("operator")
    request = planner.JobRequest(input_file_id=make_file(user).id, endpoint="/v1/chat/completions")
    jobs = [planner.enqueue(user, request) for _ in range(JOBS)]
    deliver: Callable[[int], int] = getattr(Deliveries(), how)

    def turn() -> Any:
        passes = deliver(len(broker.dequeue() or []))
        if passes:
            at_once(*[run_pass] * min(passes, 4))
        return is_quiet()

    eventually(lambda: turn() or Job.objects.filter(provision__status="ready").exists(), 60)
    planner.cancel(user, jobs[-1].id)
    chosen = Job.objects.filter(provision__status="ready").first()
    if chosen is not None and chosen.provision is not None:
        planner.release(operator, str(chosen.provision.id))
    eventually(turn, 60)
    check_quiescent(simulated_server, fake_mds)
    statuses = {job.id: job.status for job in Job.objects.all()}
    assert statuses.pop(jobs[-1].id) in {"cancelled", "completed"}
    assert set(statuses.values()) == {"completed"}


def test_without_any_hint_the_timers_and_the_safety_net_do_it_all(
    pool: Pool,
    broker: HintBroker,
    fake_mds: FakeMds,
    simulated_server: SimulatedServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wakeup, "post_message", lambda payload: None)
    user = make_user()
    request = planner.JobRequest(input_file_id=make_file(user).id, endpoint="/v1/chat/completions")
    job = planner.enqueue(user, request)

    def turn() -> bool:
        for _ in broker.dequeue() or []:
            run_pass()
        return is_quiet()

    eventually(turn, 60)
    assert not QueueMessage.objects.exists()
    job.refresh_from_db()
    assert job.status == "completed"
    check_quiescent(simulated_server, fake_mds)
