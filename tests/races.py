"""Building blocks of races: jobs brought to an exact point by hand, two hands on the same rows, and the end of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from jobs import planner
from jobs.batch_client import Batch
from jobs.conf import times
from jobs.errors import Conflict
from jobs.lifecycle.claims import Claim, Finished, Taken, step
from jobs.lifecycle.observations import Observation, claim_observations, record_observation
from jobs.lifecycle.steps import CallKind
from jobs.models import Job, JobEvent, Pool, Provision
from jobs.provisioners.base import Resource, ResourceState
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls
from jobs.reconciler.admission import admission
from jobs.testing.fake_mds import FakeMds
from jobs.wakeup import send_hint
from tests.answers import batch
from tests.clock import pass_time
from tests.engine import claimed, is_quiet, long_ago, places, recorded, ticking_until
from tests.factories import make_job, make_user
from tests.quiescence import check_quiescent
from tests.threads import elsewhere, stopped, until_waiting


def now(job: Job) -> Job:
    return Job.objects.select_related("provision").get(pk=job.pk)


def reasons(job: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=job).order_by("sequence").values_list("reason", flat=True))


def ends(server: SimulatedServer, mds: FakeMds, *jobs: Job) -> list[str]:
    """Let everything come to rest, with nothing left over; how each job ended."""
    ticking_until(is_quiet)
    check_quiescent(server, mds)
    return [now(job).status for job in jobs]


def only(taken: Taken, kind: CallKind) -> Claim:
    (claim,) = taken.claims
    assert claim.kind == kind
    return claim


def listed(pool: Pool) -> tuple[Observation, dict[str, Resource]]:
    """A listing made just now, not yet recorded."""
    pass_time(1)
    Pool.objects.filter(pk=pool.pk).update(observe_at=long_ago())
    (observation,) = claim_observations([pool.pk])
    return observation, calls.observe(observation)


def created(count: int = 1) -> list[Job]:
    """Jobs whose resources are there, and nobody knows yet that they are ready."""
    jobs = [make_job() for _ in range(count)]
    for claim in admission(places(), send_hint).claims:
        recorded(claim, replace(calls.perform(claim), state=ResourceState.PENDING))
    assert {now(job).status for job in jobs} == {"provisioning"}
    return jobs


def to_be_submitted(pool: Pool, count: int = 1) -> list[Job]:
    """Jobs that are due, and whose next step is to submit their batches."""
    jobs = created(count)
    assert record_observation(*listed(pool))
    pass_time(1)
    return jobs


def submitting(pool: Pool, count: int = 1) -> list[tuple[Job, Claim]]:
    """Jobs whose submits are about to be sent."""
    return _each(to_be_submitted(pool, count), CallKind.SUBMIT)


def running(pool: Pool, count: int = 1) -> list[tuple[Job, Claim]]:
    """Jobs whose batches run, and which are about to be looked at."""
    jobs = []
    for job, claim in submitting(pool, count):
        recorded(claim, calls.perform(claim))
        jobs.append(job)
    pass_time(times().poll_max)
    return _each(jobs, CallKind.POLL)


def _each(jobs: list[Job], kind: CallKind) -> list[tuple[Job, Claim]]:
    claims = {claim.job.id: claim for claim in claimed().claims if claim.kind == kind}
    return [(job, claims[job.id]) for job in jobs]


def cancel(job: Job) -> Callable[[], Any]:
    return lambda: planner.cancel(job.owner, job.pk)


def cancel_if_in_time(job: Job) -> Callable[[], Any]:
    def run() -> None:
        with suppress(Conflict):
            planner.cancel(job.owner, job.pk)

    return run


def record(claim: Claim, answer: Any) -> Callable[[], Taken]:
    """Its recording, by a pass that could go on with it at once."""
    free = places()
    return lambda: step([Finished(claim, answer)], free)


def carry_on(taken: Taken) -> None:
    """The calls that a transaction has decided on, made and recorded."""
    for claim in taken.claims:
        recorded(claim, calls.perform(claim))


def both_orders(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
    """`first` stands before its commit while `second`, which needs its rows, waits for it; what each gave or raised."""
    with stopped(first) as held:
        waiting = elsewhere(second)
        until_waiting()
        held.go_on()
        return _outcome(held.future), _outcome(waiting)


def _outcome(future: Any) -> Any:
    failure = future.exception(30)
    return failure if failure is not None else future.result()


def cancelled_beside(writing: Callable[[], Taken], job: Job, *, is_cancel_first: bool) -> Any:
    """A record and a cancel at the same time; what the cancel gave or raised."""
    if not is_cancel_first:
        taken, outcome = both_orders(writing, cancel(job))
        carry_on(taken)
        return outcome
    with stopped(cancel(job)) as held:
        taken = writing()
        assert [finished.claim.job.id for finished in taken.left] == [job.id], "kept: its row is in other hands"
        outcome = held.result()
    carry_on(taken)
    carry_on(step(taken.left, places()))
    return outcome


def become(mds: FakeMds, batch_id: str, status: str) -> Batch:
    """The MDS moves a batch on by itself; what it said of that to somebody who asked."""
    mds.set_status(batch_id, status)
    done: dict[str, Any] = {"total": 3, "completed": 3} if status in {"finalizing", "completed"} else {}
    return batch(status, batch_id, **done)


def release(provision: Provision) -> Callable[[], Any]:
    operator = make_user("operator")
    return lambda: planner.release(operator, str(provision.pk))
