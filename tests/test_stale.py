"""What a worker that comes back too late takes back: only what its row can no longer want."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.utils import timezone

from jobs.lifecycle.claims import Claim, Finished
from jobs.lifecycle.observations import Observation
from jobs.lifecycle.outcomes import NotSent
from jobs.lifecycle.steps import CallKind
from jobs.models import Job, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls
from jobs.reconciler.stale import undo_of
from jobs.statuses import PROVISION_LIVE, ProvisionStatus
from tests.answers import batch, error, resource
from tests.engine import provisioning_job, simulated_pool, submitting_job
from tests.factories import make_pool, make_provision
from tests.providers.bench import wanted
from tests.providers.runpod import runpod

pytestmark = pytest.mark.django_db


def late(kind: CallKind, job: Job, answer: Any) -> Finished:
    """The result of a call made for the row as it was."""
    claim = Claim(kind, job, job.provision, job.version, time.monotonic() + 60, ("job", 0))
    return Finished(claim, answer)


@pytest.mark.parametrize(
    ("since", "is_undone"),
    [
        ({}, False),
        ({"batch_id": "b1", "status": "in_progress"}, False),
        ({"status": "cancelling", "cancel_requested_at": timezone.now()}, False),
        ({"batch_id": "b2", "status": "in_progress"}, True),
        ({"attempt": 2}, True),
        ({"attempt": 2, "status": "pending"}, True),
        ({"status": "cancelled", "cancelled_at": timezone.now()}, True),
        ({"status": "failed", "failed_at": timezone.now(), "batch_id": "b1"}, True),
    ],
)
def test_a_late_batch_is_stopped_if_its_job_can_no_longer_want_it(
    since: dict[str, Any], is_undone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitting_job(submit_started_at=timezone.now())
    result = late(CallKind.SUBMIT, job, batch("scheduling"))
    Job.objects.filter(pk=job.pk).update(**since)
    stopped: list[str] = []
    monkeypatch.setattr(calls, "stop_batch", stopped.append)
    undo = undo_of(result)
    assert (undo is not None) == is_undone
    if undo is not None:
        undo()
        assert stopped == ["b1"]


@pytest.mark.parametrize("status", list(ProvisionStatus))
@pytest.mark.parametrize(
    "answer",
    [resource("r"), *map(error, ("ambiguous", "permanent", "capacity", "transient")), RuntimeError("of our own code")],
)
def test_a_late_resource_is_deleted_unless_its_provision_is_live(
    status: ProvisionStatus, answer: Any, simulated_server: SimulatedServer
) -> None:
    pool = simulated_pool(simulated_server)
    job = provisioning_job(pool)
    assert job.provision is not None
    simulated_server.create({"name": job.provision.name})
    simulated_server.create({"name": "somebody else's"})
    result = late(CallKind.CREATE, job, answer)
    now = timezone.now()
    Provision.objects.update(status=status, ready_at=now, released_at=now)
    undo = undo_of(result)
    assert (undo is None) == (status in PROVISION_LIVE)
    if undo is not None:
        undo()
        assert [held.name for held in simulated_server.live()] == ["somebody else's"]


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (kind, answer)
        for kind in CallKind
        for answer in (NotSent(), error("transient"), error("permanent"), None)
        # who was refused one object may have made others before
        if kind != CallKind.CREATE or isinstance(answer, NotSent)
    ],
)
def test_what_had_no_effect_is_not_undone(kind: CallKind, answer: Any) -> None:
    job = submitting_job()
    Job.objects.update(status="failed", failed_at=timezone.now())
    Provision.objects.update(status="releasing")
    assert undo_of(late(kind, job, answer)) is None


def test_a_late_look_is_not_undone() -> None:
    job = submitting_job(batch_id="b1")
    Job.objects.update(status="failed", failed_at=timezone.now())
    assert undo_of(late(CallKind.POLL, job, batch())) is None
    assert undo_of(late(CallKind.CANCEL, job, batch("cancelled"))) is None


def test_a_newer_provision_of_the_same_job_is_not_touched(simulated_server: SimulatedServer) -> None:
    pool = simulated_pool(simulated_server)
    job = provisioning_job(pool)
    old = job.provision
    assert old is not None
    result = late(CallKind.CREATE, job, resource(old.name))
    Provision.objects.update(status="releasing")
    new = make_provision(Job.objects.get(), pool)
    for provision in (old, new):
        simulated_server.create({"name": provision.name})
    undo = undo_of(result)
    assert undo is not None
    undo()
    assert [held.name for held in simulated_server.live()] == [new.name]


def test_too_late_to_send_is_not_sent(simulated_server: SimulatedServer) -> None:
    pool = simulated_pool(simulated_server)
    job = provisioning_job(pool)
    claim = Claim(CallKind.CREATE, job, job.provision, 0, time.monotonic() - 0.001, ("job", pool.id))
    assert calls.perform(claim) == NotSent()
    assert (simulated_server.live(), simulated_server.count("list")) == ([], 0)


@pytest.mark.parametrize("is_late", [False, True])
def test_surplus_is_what_the_listing_showed_and_is_left_alone_once_that_is_old(is_late: bool, settings: Any) -> None:
    settings.PLANNER_INSTALLATION = "here"
    with runpod() as bench:
        pool = make_pool(provider="runpod", options={"base_url": f"{bench.server.url}/v1"})
        provider = calls.provisioner_of(pool)
        for _ in range(2):
            bench.duplicate("one")
        first, second = bench.held("one")
        listed = provider.observe(["one"])["one"]
        assert listed.surplus_ids == (second,)
        _, since = provider.ensure(wanted(replicas=2)).external_ids
        send_by = time.monotonic() + (-0.001 if is_late else 60)
        calls.remove_surplus(Observation(pool, 0, ("one",), timezone.now(), send_by), listed)
        assert bench.held("one") == ([first, second, since] if is_late else [first, since])


@pytest.mark.parametrize("refusal", ["conflict", "not_found"])
def test_a_refused_stop_is_no_proof_but_the_look_after_it_is(refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mds:
        def cancel(self, batch_id: str) -> Any:
            raise error(refusal)

        def get(self, batch_id: str) -> Any:
            return batch("completed", batch_id)

    monkeypatch.setattr(calls, "batch_client", lambda: Mds())
    assert calls.stop_batch("b1").status == "completed"
    assert make_pool().is_enabled
