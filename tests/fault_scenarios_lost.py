"""What happens in the lives of jobs that pools refuse, or that lose what they had, while nothing else goes wrong."""

from __future__ import annotations

from collections.abc import Callable

from django.utils import timezone

from jobs.models import Provision
from jobs.testing.script import Rule
from tests.fault_scenarios import SCENARIOS, check, enqueue, held_name, run, the_job
from tests.fault_world import AT_ONCE, World


def never_ready_in_time(world: World) -> None:
    """The first pool takes the request and makes nothing of it; the second is as good as its word."""
    world.provider.add_rule(Rule("create", is_never_ready=True))
    enqueue(world, pools=2, ready_timeout_seconds=max(1, int(4 * world.pace)))
    world.settle()
    check("completed")


def passed_on_from_pool_to_pool(world: World) -> None:
    """One refuses the credential, one is at its quota, one is full, and the fourth takes it."""
    for status, code in ((401, "invalid_credential"), (409, "quota"), (409, "capacity")):
        world.provider.add_rule(Rule("create", status=status, code=code))
    enqueue(world, pools=4)
    world.settle()
    check("completed")


def told_to_wait(world: World) -> None:
    """The provider has too many requests for a moment."""
    world.provider.add_rule(Rule("create", status=429))
    enqueue(world)
    world.settle()
    check("completed")


def expired_in_the_queue(world: World) -> None:
    """No pool has room before its queue timeout."""
    enqueue(world, queue_timeout_seconds=1, max_live=0)
    world.settle()
    check("expired")


def broken_before_it_was_ready(world: World) -> None:
    """The resource breaks while it boots."""
    world.provider.add_rule(Rule("create", is_never_ready=True))
    enqueue(world)
    world.until(world.provider.live)
    world.provider.fail(world.provider.live()[0].name)
    world.settle()
    check("completed", lost=1)


def broken_while_it_ran(world: World) -> None:
    """The resource is there and of no use any more."""
    enqueue(world)
    run(world)
    world.mds.run_seconds = AT_ONCE
    world.provider.fail(held_name())
    world.settle()
    check("completed", lost=1)


def past_its_lifetime(world: World) -> None:
    """The resource is as old as its pool lets any become."""
    enqueue(world)
    run(world)
    world.mds.run_seconds = AT_ONCE
    Provision.objects.filter(name=held_name()).update(lifetime_ends_at=timezone.now())
    world.settle()
    check("completed", lost=1)


def batch_failed(world: World) -> None:
    """The MDS ends it."""
    enqueue(world)
    run(world)
    world.mds.set_status(the_job().batch_id, "failed")
    world.settle()
    check("failed")


def batch_lost(world: World) -> None:
    """The MDS forgets it."""
    enqueue(world)
    run(world)
    world.mds.run_seconds = AT_ONCE
    world.mds.forget(the_job().batch_id)
    world.settle()
    check("completed", lost=1)


def batch_expired(world: World) -> None:
    """Its time is over."""
    enqueue(world)
    run(world)
    world.mds.set_status(the_job().batch_id, "expired")
    world.settle()
    check("expired")


ALL_SCENARIOS: dict[str, Callable[[World], None]] = SCENARIOS | {
    scenario.__name__: scenario
    for scenario in (
        never_ready_in_time,
        passed_on_from_pool_to_pool,
        told_to_wait,
        expired_in_the_queue,
        broken_before_it_was_ready,
        broken_while_it_ran,
        past_its_lifetime,
        batch_failed,
        batch_lost,
        batch_expired,
    )
}
