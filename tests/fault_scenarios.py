"""What happens in the lives of jobs while nothing goes wrong; each ends the same way if something does."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import requests

from jobs.batch_client import payload
from jobs.models import BatchScan, Job
from jobs.reconciler.submission import submission
from jobs.testing.script import Rule
from tests.engine import is_quiet, simulated_pool
from tests.factories import make_file, make_template, make_user
from tests.fault_world import AT_ONCE, UNTIL_STOPPED, World


def completed(world: World) -> None:
    """One job, from its input file to its end."""
    enqueue(world, with_file=True)
    world.settle()
    check("completed")


def cancelled_while_pending(world: World) -> None:
    """No pool has room."""
    enqueue(world, max_live=0)
    world.turn()
    _cancel(world)
    world.settle()
    check("cancelled")


def cancelled_while_provisioning(world: World) -> None:
    """Its resource is being made."""
    world.provider.add_rule(Rule("create", times=None, is_never_ready=True))
    enqueue(world)
    world.until(lambda: (held := the_job().provision) and held.status == "provisioning")
    _cancel(world)
    world.settle()
    check("cancelled")


def cancelled_while_running(world: World) -> None:
    """Its batch runs."""
    enqueue(world)
    run(world)
    _cancel(world)
    world.settle()
    check("cancelled")


def released_by_an_operator(world: World) -> None:
    """It loses its resource while its batch runs, and completes on another."""
    enqueue(world)
    run(world)
    lost = the_job().provision_id
    world.mds.run_seconds = AT_ONCE
    world.post(make_user("operator"), f"/provisions/{lost}/release", {})
    world.settle()
    check("completed")


def resource_vanished(world: World) -> None:
    """The provider loses it while the batch runs."""
    enqueue(world)
    run(world)
    world.mds.run_seconds = AT_ONCE
    world.provider.vanish(held_name())
    world.settle()
    check("completed", lost=1)


def refused_for_lack_of_room(world: World) -> None:
    """The provider is full for a while."""
    world.provider.add_rule(Rule("create", status=409, code="capacity"))
    enqueue(world)
    world.settle()
    check("completed")


def submit_answered_by_nobody(world: World) -> None:
    """The batch is there, and the scan finds it."""
    world.mds.add_rule(Rule("create", drop=True, is_applied=True))
    enqueue(world)
    world.settle()
    check("completed")


def submit_lost_on_its_way(world: World) -> None:
    """There is no batch, and another attempt makes one."""
    world.mds.add_rule(Rule("create", drop=True))
    enqueue(world)
    world.settle()
    check("completed")


def a_second_batch(world: World) -> None:
    """It appears from somewhere, and the scan finds it."""
    enqueue(world)
    run(world)
    first = the_job().batch_id
    _submit_once_more(world)
    world.until(lambda: [batch.id for batch in world.mds.running()] == [first])
    world.mds.set_status(first, "completed")
    world.settle()
    check("completed")


def a_second_resource(world: World) -> None:
    """It appears under the same name, and the next listing finds it."""
    enqueue(world)
    run(world)
    world.provider.create({"name": held_name()})
    world.until(lambda: len(world.provider.live()) == 1)
    world.mds.set_status(the_job().batch_id, "completed")
    world.settle()
    check("completed")


def orphans_of_a_job_that_is_over(world: World) -> None:
    """They appear long after it has ended, and the sweep finds them."""
    enqueue(world)
    world.settle()
    world.sweeps = True
    BatchScan.objects.update(due_at=None)  # the scan would be the first to find it
    job = the_job()
    assert job.provision is not None
    world.provider.create({"name": job.provision.name, "installation": "default"})
    world.mds.run_seconds = UNTIL_STOPPED
    _submit_once_more(world)
    world.settle()
    check("completed")


def a_create_that_came_too_late(world: World) -> None:
    """Its worker stands still just before it leaves, and comes back when the job is long cancelled."""
    world.sweeps = True  # the worker's own undo is tried once
    world.plan("create: provider.create", "stop before")
    world.mds.run_seconds = UNTIL_STOPPED
    enqueue(world)
    world.until(world.is_somebody_standing)
    _cancel(world)
    world.settle()
    check("cancelled")


def a_submit_that_came_too_late(world: World) -> None:
    """Its worker stands still just before it leaves, and comes back when the job is long cancelled."""
    world.plan("submit: mds.create", "stop before")
    world.mds.run_seconds = UNTIL_STOPPED
    enqueue(world)
    world.until(world.is_somebody_standing)
    _cancel(world)
    world.settle()
    check("cancelled")


def a_batch_recorded_too_late(world: World) -> None:
    """Its worker stands still before it records a batch that is not listed yet; meanwhile the job is cancelled."""
    hidden = world.mds.add_rule(Rule("list", times=None, hides=True))
    world.plan("claims.step: submit ended, batch seen, batch_created, scheduling", "stop before")
    world.mds.run_seconds = UNTIL_STOPPED
    enqueue(world)
    world.until(world.is_somebody_standing)
    _cancel(world)
    world.until(is_quiet)
    world.mds.withdraw(hidden)
    world.settle()
    check("cancelled")


SCENARIOS: dict[str, Callable[[World], None]] = {
    scenario.__name__: scenario
    for scenario in (
        cancelled_while_pending,
        completed,
        cancelled_while_provisioning,
        cancelled_while_running,
        submit_answered_by_nobody,
        submit_lost_on_its_way,
        refused_for_lack_of_room,
        released_by_an_operator,
        resource_vanished,
        a_second_batch,
        a_second_resource,
        orphans_of_a_job_that_is_over,
        a_create_that_came_too_late,
        a_submit_that_came_too_late,
        a_batch_recorded_too_late,
    )
}


def the_job() -> Job:
    """The one there is."""
    return Job.objects.select_related("provision", "owner").get()


def held_name() -> str:
    """What its resource is called."""
    provision = the_job().provision
    assert provision is not None
    return provision.name


def enqueue(
    world: World, *, with_file: bool = False, pools: int = 1, queue_timeout_seconds: int | None = None, **of_pools: Any
) -> None:
    """One job, however often it must be asked for, and pools for it."""
    pace = {"observe_interval_seconds": world.pace, "absence_confirm_seconds": world.pace}
    for _ in range(pools):
        simulated_pool(world.provider, **pace, **of_pools)
    user, template = make_user(), make_template()
    body = {
        "input_dataset": world.upload(user) if with_file else make_file(user).id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "model_id": template.model_id,
        "model_template_name": template.name,
        "queue_timeout_seconds": queue_timeout_seconds,
    }
    world.post(user, "/jobs", body, Idempotency_Key=uuid.uuid4().hex)


def _cancel(world: World) -> None:
    job = the_job()
    world.post(job.owner, f"/jobs/{job.id}/cancel", {})


def run(world: World) -> None:
    """Turns until its batch runs; it does not end by itself."""
    world.mds.run_seconds = UNTIL_STOPPED
    world.until(lambda: the_job().batch_id)
    world.mds.set_status(the_job().batch_id, "in_progress")
    world.until(lambda: the_job().status == "in_progress")


def _submit_once_more(world: World) -> None:
    """As a worker would that nobody knows of; no planner has this call in hand."""
    job = the_job()
    assert job.provision is not None
    requests.post(f"{world.mds.url}/v1/batches", json=payload(submission(job, job.provision, None)), timeout=10)


def check(status: str, *, lost: int = 0) -> None:
    """How it ended, and how many attempts somebody else ended."""
    job = the_job()
    assert (job.status, job.lost_attempts) == (status, lost)
