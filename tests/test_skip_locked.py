"""A row in somebody else's hands is passed over: whoever claims or records beside it takes the others at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from django.utils import timezone

from jobs.broker import HintBroker
from jobs.conf import LONE_CRASHES
from jobs.lifecycle.claims import Finished, step
from jobs.lifecycle.observations import claim_observations, record_observation
from jobs.lifecycle.scans import ScanAnswer, claim_scan, external_job_id, record_scan
from jobs.models import BatchScan, Job, Pool, Provision, QueueMessage
from jobs.reconciler.admission import admission
from jobs.wakeup import post_message, send_hint
from tests.answers import batch, page, resource
from tests.engine import claimed, locked, long_ago, places, provisioning_job, releasing, running_job, submitting_job
from tests.factories import make_job, make_pool
from tests.threads import limit_sessions

pytestmark = pytest.mark.django_db(transaction=True)


class Case(NamedTuple):
    """Work on two rows of a table; which of them it took."""

    table: str
    held: Any
    free: Any
    take: Callable[[], Any]


def jobs_due() -> Case:
    held, free = provisioning_job(), provisioning_job()
    where = places()
    return Case("jobs_job", held.id, free.id, lambda: [claim.job.id for claim in claimed(where).claims])


def suspects() -> Case:
    held, free = (provisioning_job(crashes=LONE_CRASHES, due_at=long_ago(age)) for age in (60, 30))
    where = places()
    return Case("jobs_job", held.id, free.id, lambda: [claim.job.id for claim in claimed(where, lone=True).claims])


def releases(table: str) -> Callable[[], Case]:
    def case() -> Case:
        pool = make_pool()
        held, free = releasing(pool), releasing(pool)
        where = places()
        pk = held.id if table == "jobs_provision" else held.job_id
        return Case(table, pk, free.name, lambda: [c.provision and c.provision.name for c in claimed(where).claims])

    return case


def results() -> Case:
    held, free = provisioning_job(), provisioning_job()
    finished = [Finished(claim, resource("r", "pending")) for claim in claimed().claims]

    def record() -> list[str]:
        step(finished, {})
        return list(Provision.objects.filter(status="provisioning").values_list("job", flat=True))

    return Case("jobs_job", held.id, free.id, record)


def results_of_releases() -> Case:
    pool = make_pool()
    held, free = releasing(pool), releasing(pool)
    finished = [Finished(claim, None) for claim in claimed().claims]

    def record() -> list[Any]:
        step(finished, {})
        return list(Provision.objects.filter(release_sent_at__isnull=False).values_list("pk", flat=True))

    return Case("jobs_provision", held.pk, free.pk, record)


def pools_due() -> Case:
    held, free = make_pool(), make_pool()
    for pool in (held, free):
        awaited(pool)
    return Case(
        "jobs_pool", held.pk, free.pk, lambda: [look.pool.pk for look in claim_observations([held.pk, free.pk])]
    )


def awaited(pool: Pool) -> Job:
    job = provisioning_job(pool, due_at=None)
    made = {"create_started_at": long_ago(), "create_ended_at": long_ago(), "observed_at": long_ago()}
    Provision.objects.filter(job=job).update(status="provisioning", observed_state="pending", **made)
    return job


def facts() -> Case:
    pool = make_pool()
    held, free = awaited(pool), awaited(pool)
    (observation,) = claim_observations([pool.pk])
    listing = {name: resource(name) for name in observation.names}

    def record() -> list[str]:
        record_observation(observation, listing)
        return list(Provision.objects.filter(observed_state="ready").values_list("job", flat=True))

    return Case("jobs_job", held.id, free.id, record)


def doubts() -> Case:
    sent = {"submit_started_at": long_ago(1), "submit_ended_at": timezone.now(), "due_at": None}
    held, free = submitting_job(**sent), submitting_job(**sent)
    call = claim_scan()
    assert call is not None
    batches = [batch("in_progress", f"b{job.id}", job_id=external_job_id(job)) for job in (held, free)]

    def record() -> list[str]:
        record_scan(call, ScanAnswer(page=page(*batches)))
        return list(Job.objects.exclude(batch_id="").values_list("id", flat=True))

    return Case("jobs_job", held.id, free.id, record)


def pending() -> Case:
    make_pool()
    held, free = make_job(), make_job()
    where = places()
    return Case("jobs_job", held.id, free.id, lambda: [c.job.id for c in admission(where, send_hint).claims])


def messages() -> Case:
    post_message("held")
    post_message("free")
    pk = QueueMessage.objects.get(payload="held").pk
    return Case("jobs_queuemessage", pk, "free", lambda: [payload for _, payload in HintBroker()._take()])


CASES: dict[str, Callable[[], Case]] = {
    "jobs that are due": jobs_due,
    "suspects": suspects,
    "releases whose job is held": releases("jobs_job"),
    "releases held themselves": releases("jobs_provision"),
    "results": results,
    "results of releases": results_of_releases,
    "pools that are due": pools_due,
    "facts of a listing": facts,
    "doubts settled by the scan": doubts,
    "pending jobs": pending,
    "messages": messages,
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_beside_a_held_row_is_taken_without_waiting(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, held, free, take = CASES[case]()
    limit_sessions(monkeypatch, lock_seconds=0.001, idle_seconds=0)  # any wait for a lock is an error
    with locked(table, held):
        assert take() == [free]


def test_a_claim_beside_a_held_row_is_quick() -> None:
    """Within 200 ms, but for what a busy machine adds: the best of some turns."""
    pool = make_pool(max_live=100)
    held = running_job(pool)
    turns = []
    with locked("jobs_job", held.pk):
        for _ in range(5):
            free, where = running_job(pool), places()
            began = time.monotonic()
            assert [claim.job.id for claim in claimed(where).claims] == [free.id]
            turns.append(time.monotonic() - began)
    assert min(turns) < 0.2


def test_a_scan_in_somebody_elses_hands_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = BatchScan.objects.create(due_at=long_ago())
    limit_sessions(monkeypatch, lock_seconds=0.001, idle_seconds=0)
    with locked("jobs_batchscan", scan.pk):
        assert claim_scan() is None
    assert claim_scan() is not None
