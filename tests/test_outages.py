"""Upstreams that fail for hours, refuse, or hang: they delay what needs them, end no job, and hold nobody else up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs import planner
from jobs.models import Job, JobEvent, Pool, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.statuses import TERMINAL
from jobs.tasks import run_pass
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.clock import pass_time
from tests.engine import is_quiet, simulated_pool, ticking_until
from tests.factories import make_job, make_pool, make_user
from tests.quiescence import check_quiescent
from tests.threads import elsewhere
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)

# upstream and verb that fail, where the job is then, and what it waits in meanwhile
OUTAGES = [
    ("provider", "create", "provisioning", ["provisioning", "pending"]),
    ("provider", "list", "provisioning", ["provisioning", "pending"]),
    ("provider", "list", "scheduling", ["scheduling"]),
    ("mds", "create", "submitting", ["submitting"]),
    ("mds", "list", "submitting", ["submitting"]),
    ("mds", "get", "scheduling", ["scheduling"]),
    ("mds", "get", "in_progress", ["in_progress"]),
]
# Less than `release_retry_max` by far: a delete that is repeated at each turn is never seen to have succeeded.
A_BIT = 4
REFUSALS: dict[str, dict[str, Any]] = {
    "500": {"status": 500},
    "503": {"status": 503},
    "429": {"status": 429, "retry_after_seconds": 5},
    "broken off": {"drop": True},
}


@pytest.mark.parametrize(
    ("upstream", "verb", "status", "allowed", "how"),
    [(*outage, how) for outage in OUTAGES for how in (REFUSALS if outage[:2] == ("mds", "create") else ["503"])],
    ids=lambda value: str(value)[:12],
)
def test_an_outage_of_an_hour_ends_no_job(
    upstream: str,
    verb: str,
    status: str,
    allowed: list[str],
    how: str,
    fake_mds: FakeMds,
    simulated_server: SimulatedServer,
) -> None:
    simulated_pool(simulated_server)
    fake_mds.run_seconds = 1e6  # the batch stays where it is put
    job = make_job()
    server = fake_mds if upstream == "mds" else simulated_server
    if verb == "list" and status == "submitting":
        fake_mds.add_rule(Rule("create", drop=True))  # what only the list can clear up
    brought_to(status, verb, job, fake_mds)
    outage = server.add_rule(Rule(verb, times=None, **REFUSALS[how]))
    began = job.accepted_at
    for _ in range(6):
        run_pass()
        pass_time(600)
        job.refresh_from_db()
        assert job.status not in TERMINAL
    assert job.accepted_at < began - timedelta(hours=1) + timedelta(seconds=1)
    assert job.status in allowed
    assert planner.waiting_for(job).sentence
    server.withdraw(outage)
    fake_mds.run_seconds = 0
    for batch in fake_mds.running():
        fake_mds.set_status(batch.id, "completed")
    Job.objects.filter(pk=job.pk).update(due_at=timezone.now())
    ticking_until(is_quiet, seconds=A_BIT)
    job.refresh_from_db()
    assert (job.status, job.lost_attempts, job.crashes) == ("completed", 0, 0)
    check_quiescent(simulated_server, fake_mds)


def brought_to(status: str, verb: str, job: Job, mds: FakeMds) -> None:
    """As far as the job gets before the outage begins."""
    if status == "provisioning" or (status, verb) == ("submitting", "create"):
        return
    if status == "submitting":
        ticking_until(lambda: Job.objects.get(pk=job.pk).submit_started_at)
        return
    ticking_until(lambda: Job.objects.get(pk=job.pk).batch_id)
    if status == "in_progress":
        mds.set_status(Job.objects.get(pk=job.pk).batch_id, status)
        ticking_until(lambda: Job.objects.get(pk=job.pk).status == status)


def test_an_outage_is_told_once_and_seen_until_it_is_over(fake_mds: FakeMds, simulated_server: SimulatedServer) -> None:
    simulated_pool(simulated_server)
    fake_mds.run_seconds = 1e6
    job = make_job()
    ticking_until(lambda: Job.objects.get().batch_id)
    outage = fake_mds.add_rule(Rule("get", times=None, status=503))
    for _ in range(5):
        run_pass()
        pass_time(60)
    job.refresh_from_db()
    assert JobEvent.objects.filter(reason="mds_delayed").count() == 1
    sentence = planner.waiting_for(job).sentence
    assert "Last error: " in sentence
    assert " seen " in sentence, "how old the news is"
    fake_mds.withdraw(outage)
    ticking_until(lambda: Job.objects.get().last_error == "")
    assert "Last error" not in planner.waiting_for(Job.objects.get()).sentence


@pytest.mark.parametrize("verb", ["cancel", "get"])
def test_a_cancel_that_cannot_be_confirmed_is_neither_told_as_done_nor_forgotten(
    verb: str, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    simulated_pool(simulated_server)
    fake_mds.run_seconds = 1e6
    job = make_job()
    ticking_until(lambda: Job.objects.get().batch_id)
    outage = fake_mds.add_rule(Rule(verb, times=None, status=503))
    planner.cancel(job.owner, job.id)
    for _ in range(6):
        run_pass()
        pass_time(600)
        assert Job.objects.get().shown_status == "cancelling"
        assert simulated_server.live(), "what runs needs its resource"
    fake_mds.withdraw(outage)
    ticking_until(is_quiet, seconds=A_BIT)
    assert Job.objects.get().status == "cancelled"
    check_quiescent(simulated_server, fake_mds)


def test_a_release_that_fails_for_an_hour_is_visible_and_done_in_the_end(
    fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    simulated_pool(simulated_server)
    outage = simulated_server.add_rule(Rule("delete", times=None, status=503))
    make_job()
    ticking_until(lambda: Job.objects.get().status == "completed")
    for _ in range(6):
        run_pass()
        pass_time(600)
    provision = Provision.objects.get()
    assert (provision.status, provision.is_release_failing) == ("releasing", True)
    assert simulated_server.ledger.bill().cost_per_hour > 0
    simulated_server.withdraw(outage)
    ticking_until(is_quiet, seconds=A_BIT)
    check_quiescent(simulated_server, fake_mds)


def test_a_cancelled_job_gives_its_resource_back_exactly_once(
    fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    simulated_pool(simulated_server)
    fake_mds.run_seconds = 1e6
    job = make_job()
    ticking_until(lambda: Job.objects.get().batch_id)
    provision = Provision.objects.get()
    planner.cancel(job.owner, job.id)
    planner.release(make_user("operator"), str(provision.pk))
    ticking_until(is_quiet, seconds=A_BIT)
    taken = [call for call in simulated_server.calls if call.verb == "delete" and call.status == 204]
    assert len(taken) == 1
    assert JobEvent.objects.filter(reason="released").count() == 1
    assert Job.objects.get().status == "cancelled"


def test_a_resource_that_broke_leaves_its_evidence(fake_mds: FakeMds, simulated_server: SimulatedServer) -> None:
    """The job goes on elsewhere and ends well; why it had to is still there."""
    simulated_pool(simulated_server)
    simulated_server.add_rule(Rule("create", is_never_ready=True))
    make_job()
    (held,) = ticking_until(simulated_server.live)
    simulated_server.fail(held.name)
    ticking_until(is_quiet, seconds=A_BIT)
    assert Job.objects.get().status == "completed"
    broken = Provision.objects.get(name=held.name)
    assert (broken.status, broken.last_error_code, broken.last_error) == (
        "released",
        "resource_failed",
        "simulated failure",
    )
    assert (broken.external_ids, broken.detail["status"]) == ([held.id], "failed")
    assert JobEvent.objects.filter(reason="resource_failed", message="simulated failure").exists()


# --- what hangs holds up nobody else ---


@pytest.fixture
def patient(settings: Any) -> None:
    """A hung call lasts as long as the test wants, within one pass."""
    spans = {"call_timeout": 20.0, "create_batch_timeout": 20.0, "lease": 90.0, "submit_settle": 20.0}
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, **spans, "no_long_calls_after": 60.0, "no_calls_after": 70.0}


def during_one_pass(what: Callable[[], Any]) -> Any:
    """Run this while a pass is at work; the pass ends when what hangs has been let go."""
    running = elsewhere(run_pass)
    try:
        return what()
    finally:
        assert not running.done(), "the hung call was under way all the time"


def test_one_hung_create_holds_up_no_other_job(
    patient: None, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    hung = simulated_server.add_rule(Rule("create", times=None, accelerator_type="A100", delay_seconds=600))
    simulated_pool(simulated_server, accelerator_types=["A100"])
    simulated_pool(simulated_server, accelerator_types=["H100"], max_live=100, max_provisioning=100)
    stuck = make_job(accelerator_type="A100")
    owner = make_user()
    for _ in range(50):
        make_job(owner)
    over = Job.objects.filter(status="completed")
    during_one_pass(lambda: eventually(lambda: over.count() == 50, 60, what="the end of the other fifty"))
    assert Job.objects.get(pk=stuck.pk).status == "provisioning"
    simulated_server.withdraw(hung)
    ticking_until(is_quiet, seconds=A_BIT)
    check_quiescent(simulated_server, fake_mds)


def test_cancels_creates_and_releases_overtake_an_mds_that_hangs(
    patient: None, fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    """Its calls fill their own shares of the threads: those of the provider are other ones."""
    make_pool(provider="passthrough", accelerator_types=["L4"], max_live=100)
    simulated_pool(simulated_server, accelerator_types=["H100"])
    rules = [fake_mds.add_rule(Rule(verb, times=None, delay_seconds=600)) for verb in ("create", "get", "list")]
    owner = make_user()
    for _ in range(30):
        make_job(owner, accelerator_type="L4")
    simulated_server.ready_seconds = 600
    job = make_job()

    def create_and_cancel() -> None:
        eventually(lambda: fake_mds.in_flight["create"] and simulated_server.live(), 20, what="a create")
        planner.cancel(job.owner, job.id)
        eventually(lambda: Job.objects.filter(pk=job.pk, status="cancelled").exists(), 20, what="the cancel")
        eventually(lambda: not simulated_server.live(), 20, what="the release")

    during_one_pass(create_and_cancel)
    for rule in rules:
        fake_mds.withdraw(rule)
    ticking_until(is_quiet, seconds=A_BIT)
    check_quiescent(simulated_server, fake_mds)


def test_a_pool_that_refuses_is_left_alone_for_as_long_as_it_asks(
    fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    simulated_pool(simulated_server)
    simulated_server.add_rule(Rule("create", status=429, retry_after_seconds=1))
    make_job()
    run_pass()
    provision = Provision.objects.get()
    assert provision.retry_at is not None
    assert provision.last_error_at is not None
    assert provision.retry_at - provision.last_error_at >= timedelta(seconds=1)
    assert Job.objects.get().due_at == provision.retry_at
    ticking_until(is_quiet, seconds=A_BIT)
    assert (Job.objects.get().status, Pool.objects.get().capacity_retry_at) == ("completed", {})
