"""A process stopped inside a transaction: what it holds up, for how long, and what becomes of its own work.

It holds its locks until the server ends its session. Meanwhile other rows are worked on as ever, and what needs the
same row or lock gives up after the lock timeout; once the session is ended, one retry does it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from django.db import OperationalError, connection
from django.test import Client

from jobs import planner
from jobs.broker import HintBroker
from jobs.conf import MAX_CRASHES
from jobs.errors import is_database_away, is_lock_timeout
from jobs.lifecycle.claims import Finished, step
from jobs.lifecycle.observations import claim_observations, record_observation
from jobs.lifecycle.orphans import orphan_resources
from jobs.lifecycle.scans import ScanAnswer, claim_scan, record_scan
from jobs.models import BatchScan, Job, JobEvent, Pool, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler.admission import admission
from jobs.tasks import run_pass
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from jobs.wakeup import post_message, send_hint
from tests.answers import error, page, resource
from tests.api_client import ApiClient, assert_refused
from tests.engine import (
    claimed,
    long_ago,
    passes_until,
    places,
    provisioning_job,
    releasing,
    running_job,
    simulated_pool,
    submitting_job,
)
from tests.factories import make_file, make_job, make_provision, make_user
from tests.threads import elsewhere, limit_sessions, stopped

pytestmark = pytest.mark.django_db(transaction=True)

LOCK_SECONDS = 0.25


@pytest.fixture(autouse=True)
def quick_lock_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every connection opened from now on; the server ends no session unless a test says so."""
    limit_sessions(monkeypatch, lock_seconds=LOCK_SECONDS, idle_seconds=0)


@pytest.fixture
def pool(fake_mds: FakeMds, simulated_server: SimulatedServer, settings: Any) -> Pool:
    """Nobody has looked at it yet, since it holds nothing. A lease lasts as long as any test."""
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "lease": 60}
    return simulated_pool(simulated_server)


class Case(NamedTuple):
    """A transaction, and work on the same row or lock: true once it is done, false or a lock timeout if not."""

    call: Callable[[], Any]
    same: Callable[[], Any]


def enqueue(owner: Any, file_id: str, key: str) -> Job:
    request = planner.JobRequest(input_file_id=file_id, endpoint="/v1/chat/completions")
    return planner.enqueue(owner, request, idempotency_key=key)


def enqueueing(pool: Pool) -> Case:
    owner = make_user()
    file_id = make_file(owner).id
    return Case(lambda: enqueue(owner, file_id, "k"), lambda: enqueue(owner, file_id, "k"))


def cancelling(pool: Pool) -> Case:
    job = running_job(pool, due_at=None)
    return Case(lambda: planner.cancel(job.owner, job.id), lambda: planner.cancel(job.owner, job.id))


def cancelling_what_is_due(pool: Pool) -> Case:
    job = provisioning_job(pool)
    return Case(lambda: planner.cancel(job.owner, job.id), lambda: claimed().claims)


def releasing_by_hand(pool: Pool) -> Case:
    provision, operator = releasing(pool, due_at=None), make_user("operator")
    return Case(
        lambda: planner.release(operator, str(provision.id)), lambda: planner.release(operator, str(provision.id))
    )


def admitting(pool: Pool) -> Case:
    make_job()
    free = places()
    return Case(lambda: admission(free, send_hint).claims, lambda: admission(free, send_hint).claims)


def claiming(pool: Pool) -> Case:
    provisioning_job(pool)
    free = places()
    return Case(lambda: claimed(free).claims, lambda: claimed(free).claims)


def claiming_a_release(pool: Pool) -> Case:
    provision, operator = releasing(pool), make_user("operator")
    free = places()
    return Case(lambda: claimed(free).claims, lambda: planner.release(operator, str(provision.id)))


def recording(answer: Any, make: Callable[[Pool], Job] = provisioning_job) -> Callable[[Pool], Case]:
    def case(pool: Pool) -> Case:
        make(pool)
        (claim,) = claimed().claims
        result = Finished(claim, answer)

        def record() -> bool:
            taken = step([result], {})
            return not taken.left and not taken.stale

        return Case(record, record)

    return case


def to_be_observed(pool: Pool) -> Provision:
    """Its resource is being created; the pool is due to be looked at."""
    job = provisioning_job(pool, due_at=None)
    made = {"create_started_at": long_ago(), "create_ended_at": long_ago(), "observed_state": "pending"}
    Provision.objects.filter(job=job).update(status="provisioning", observed_at=long_ago(), **made)
    Pool.objects.filter(pk=pool.pk).update(observe_at=long_ago())
    return Provision.objects.get(job=job)


def claiming_an_observation(pool: Pool) -> Case:
    to_be_observed(pool)
    return Case(lambda: claim_observations([pool.pk]), lambda: claim_observations([pool.pk]))


def recording_an_observation(pool: Pool) -> Case:
    provision = to_be_observed(pool)
    (observation,) = claim_observations([pool.pk])
    listing = {provision.name: resource(provision.name)}
    return Case(lambda: record_observation(observation, listing), lambda: record_observation(observation, listing))


def claiming_the_scan(pool: Pool) -> Case:
    BatchScan.objects.create(due_at=long_ago())
    return Case(claim_scan, claim_scan)


def claiming_the_first_scan(pool: Pool) -> Case:
    return Case(claim_scan, claim_scan)


def recording_the_scan(pool: Pool) -> Case:
    call = claim_scan()
    assert call is not None

    def record() -> bool:
        record_scan(call, ScanAnswer(page=page()))
        return BatchScan.objects.get().covered_to is not None or BatchScan.objects.get().ended_at is not None

    return Case(record, record)


def sweeping(pool: Pool) -> Case:
    return Case(lambda: orphan_resources(pool, {"abp-x"}), lambda: orphan_resources(pool, {"abp-x"}))


CASES: dict[str, Callable[[Pool], Case]] = {
    "enqueue": enqueueing,
    "cancel": cancelling,
    "cancel of what is due": cancelling_what_is_due,
    "operator's release": releasing_by_hand,
    "admission": admitting,
    "claim": claiming,
    "claim of a release": claiming_a_release,
    "record of a create": recording(resource("r", "pending")),
    "record of a full pool": recording(error("capacity")),
    "record of a wrong credential": recording(error("invalid_credential")),
    "record of a lost answer": recording(error("ambiguous"), submitting_job),
    "claim of an observation": claiming_an_observation,
    "record of an observation": recording_an_observation,
    "claim of the scan": claiming_the_scan,
    "claim of the first scan": claiming_the_first_scan,
    "record of the scan": recording_the_scan,
    "orphan sweep": sweeping,
}


# Of what happens in every installation more than once.
RECURRING = [name for name in CASES if name != "claim of the first scan"]


def reasons(job: Job) -> set[str]:
    return set(JobEvent.objects.filter(job=job).values_list("reason", flat=True))


@pytest.mark.parametrize("case", RECURRING)
def test_one_stopped_in_a_transaction_holds_up_no_other_row(
    case: str, pool: Pool, simulated_server: SimulatedServer, fake_mds: FakeMds, caplog: pytest.LogCaptureFixture
) -> None:
    call, _ = CASES[case](pool)
    other_pool = simulated_pool(simulated_server)
    owner, operator = make_user(), make_user("operator")
    file_id = make_file(owner).id
    with stopped(call) as held:
        # in the same pool: what needs nothing of what is held
        created = provisioning_job(pool)
        refused = provisioning_job(pool, accelerator_type="A100")
        simulated_server.add_rule(Rule(on="create", accelerator_type="A100", status=409, code="out_of_capacity"))
        # in another pool: a job's whole way; and one whose submit is not answered
        whole = provisioning_job(other_pool)
        doubtful = submitting_job(other_pool)
        fake_mds.add_rule(Rule(on="create", name_prefix=f"default:{doubtful.id}", drop=True, is_applied=True))
        given_back = make_provision(make_job(status="completed"), pool, status="ready")
        unwanted = make_job(hold=True)

        def is_done() -> bool:
            return (
                "resource_created" in reasons(created)
                and "no_capacity" in reasons(refused)
                and Job.objects.get(pk=whole.pk).status == "completed"
                and not Provision.objects.filter(job=whole).exclude(status="released").exists()
                and "submit_unknown" in reasons(doubtful)
            )

        passes_until(is_done, what="all the other work")
        assert enqueue(owner, file_id, "other").status == "pending"
        assert planner.cancel(unwanted.owner, unwanted.id).shown_status == "cancelling"
        assert planner.release(operator, str(given_back.id)).release_requested_by
        assert ApiClient(operator).get("/jobs").status_code == 200
        assert held.has_session()
        assert "lock timeout" not in caplog.text
        held.result()


@pytest.mark.parametrize("case", CASES)
def test_what_needs_the_same_row_goes_on_once_the_session_is_ended(case: str, pool: Pool) -> None:
    call, same = CASES[case](pool)
    with stopped(call) as held:
        began = time.monotonic()
        assert not attempt(same), "it is held"
        assert time.monotonic() - began < LOCK_SECONDS + 5, "it is waited for no longer than the lock timeout"
        held.lose_session()
        assert attempt(same), "one retry does it"
        held.go_on()
        assert is_database_away(held.future.exception(30)), "nobody's fault, to be tried again"


def test_near_the_capacity_enqueues_take_turns_and_go_on_once_the_session_is_ended(pool: Pool, settings: Any) -> None:
    settings.PLANNER_QUEUE_CAPACITY = 3
    owner = make_user()
    file_id = make_file(owner).id
    with stopped(lambda: enqueue(owner, file_id, "first")) as held:
        assert not attempt(lambda: enqueue(owner, file_id, "second"))
        held.lose_session()
        assert attempt(lambda: enqueue(owner, file_id, "second"))
    assert Job.objects.get().idempotency_key == "second"


def attempt(work: Callable[[], Any]) -> Any:
    """What it did; None if it was refused the lock."""
    try:
        return elsewhere(work).result(30)
    except OperationalError as error:
        if not is_lock_timeout(error):
            raise
        return None


# --- what becomes of the one that was stopped ---


def test_a_pass_whose_session_was_ended_goes_on_with_what_it_has_in_hand(
    pool: Pool, simulated_server: SimulatedServer
) -> None:
    job = make_job()
    with stopped(run_pass, after='"observed_at", "observed_state"') as held:
        assert simulated_server.count("create") == 1, "it is recording what came of it"
        held.lose_session()
        assert held.result() > 0
    assert "resource_created" in reasons(job)
    assert (Job.objects.get().crashes, simulated_server.count("create")) == (0, 1)


def test_a_request_whose_session_was_ended_is_a_503_and_changes_nothing(pool: Pool) -> None:
    job = running_job(pool)
    client = ApiClient(job.owner)
    with stopped(lambda: client.post(f"/jobs/{job.id}/cancel")) as held:
        held.lose_session()
        response = held.result()
    assert_refused(response, 503, 14)
    assert response["Retry-After"]
    assert Job.objects.get().cancel_requested_at is None
    assert client.post(f"/jobs/{job.id}/cancel").status_code == 200


def test_an_operators_action_whose_session_was_ended_says_so(pool: Pool) -> None:
    job = running_job(pool)
    client = Client()
    client.force_login(make_user("operator"))
    with stopped(lambda: client.post("/admin/jobs/job/cancel/", {"id": job.id}, follow=True)) as held:
        held.lose_session()
        response = held.result()
    assert response.status_code == 200
    assert "please try again" in response.text


def test_a_suspect_that_cannot_be_given_up_yet_holds_up_no_pass(pool: Pool) -> None:
    """It ends by handing its batch to the scan, whose row is held by one who is stopped."""
    claim_scan()
    BatchScan.objects.update(due_at=long_ago(), lease_expires_at=None)
    suspect, other = running_job(pool, crashes=MAX_CRASHES), provisioning_job(pool)
    with stopped(claim_scan):
        passes_until(lambda: "resource_created" in reasons(other))
        assert Job.objects.get(pk=suspect.pk).status == "in_progress"
    claimed(lone=True)
    assert Job.objects.get(pk=suspect.pk).status == "failed"
    assert BatchScan.objects.get().unwanted == ["b1"]


def test_a_broker_stopped_after_its_take_holds_nothing() -> None:
    """Taking is one statement that commits itself; what was taken is lost with the taker, which is harmless."""
    post_message("first")
    with stopped(HintBroker()._take, after="DELETE FROM jobs_queuemessage") as held:
        post_message("second")
        assert [payload for _, payload in HintBroker()._take()] == ["second"]
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE pid = %s AND locktype <> 'virtualxid'", [held.backend])
            assert cursor.fetchone() == (0,)
