"""Pools in Kubernetes under the engine: room that is given to a batch, room that is lost before, and many that wait."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from jobs.lifecycle.observations import claim_observations, record_observation
from jobs.models import Pool, Provision
from jobs.reconciler import calls
from jobs.testing.fake_kubernetes import FakeKubernetes
from jobs.testing.fake_mds import FakeMds
from tests.engine import long_ago, ticking_until
from tests.factories import make_job, make_pool, make_provision
from tests.flow import has_status, now
from tests.providers.kubernetes import KubernetesBench, kubernetes

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def bench() -> Iterator[KubernetesBench]:
    with kubernetes() as running:
        yield running


@pytest.fixture
def cluster(bench: KubernetesBench) -> FakeKubernetes:
    return bench.server


@pytest.fixture
def pool(cluster: FakeKubernetes, settings: Any) -> Pool:
    # the first call imports the client, which takes more than a thirtieth of the time
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "call_timeout": 3, "connect_timeout": 1, "lease": 9}
    quick = {"observe_interval_seconds": 0.05, "absence_confirm_seconds": 0.05}
    return make_pool(provider="kubernetes", options={"base_url": cluster.url}, **quick)


def test_a_batch_goes_on_when_the_engines_pods_have_taken_the_room(
    pool: Pool, cluster: FakeKubernetes, fake_mds: FakeMds
) -> None:
    fake_mds.run_seconds = 3600
    job = make_job()
    ticking_until(has_status(job, "in_progress", "validating", "scheduling"))
    provision = now(job).provision
    assert provision is not None
    cluster.vanish(provision.name)
    ticking_until(lambda: Provision.objects.filter(absence_confirmed_at__isnull=False).exists())
    fake_mds.run_seconds = 0
    (batch,) = fake_mds.batches()
    fake_mds.set_status(batch.id, "completed")
    ticking_until(lambda: Provision.objects.filter(status="released").exists())
    assert (now(job).status, now(job).attempt, Provision.objects.count()) == ("completed", 1, 1)
    assert cluster.live() == []


def test_room_that_is_taken_before_the_batch_is_sent_is_sought_again(
    pool: Pool, cluster: FakeKubernetes, fake_mds: FakeMds
) -> None:
    cluster.ready_seconds = 3600
    job = make_job()
    first = ticking_until(lambda: next(iter(cluster.live()), None))
    ticking_until(lambda: Provision.objects.filter(observed_state="pending").exists())
    cluster.vanish(first.name)
    cluster.ready_seconds = 0
    ticking_until(has_status(job, "completed"))
    assert Provision.objects.count() == 2
    assert now(job).attempt == 1


def copies(row: Any, fields: list[dict[str, Any]]) -> None:
    """As many more rows, each with some fields of its own."""
    made = []
    for own in fields:
        made.append(copy.copy(row))
        vars(made[-1]).update(own)
    type(row).objects.bulk_create(made)


def test_a_thousand_that_wait_cost_one_listing(pool: Pool, cluster: FakeKubernetes, bench: KubernetesBench) -> None:
    job, numbers = make_job(), range(1, 1000)
    waiting = {"status": "provisioning", "create_started_at": long_ago(), "create_ended_at": long_ago()}
    provision = make_provision(job, pool, name="abp-0", observed_state="pending", **waiting)
    copies(job, [{"id": f"{job.id}-{number}"} for number in numbers])
    copies(provision, [{"id": uuid4(), "name": f"abp-{n}", "job_id": f"{job.id}-{n}"} for n in numbers])
    cluster.capacity = 0
    for number in range(1000):
        bench.hold(f"abp-{number}", installation="default")
    (observation,) = claim_observations([pool.id])
    assert len(observation.names) == 1000
    assert record_observation(observation, calls.observe(observation))
    assert (cluster.count("list"), cluster.count("get")) == (1, 0)
    assert Provision.objects.filter(detail__status="Unschedulable").count() == 1000
