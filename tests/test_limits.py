"""How much more pools and owners may have: limits less what is in use, from live rows."""

from __future__ import annotations

from datetime import timedelta
from math import inf
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs.limits import Limits, PoolRoom, Room, Rooms, Use, accelerators_of
from jobs.models import OwnerQuota, Queue
from jobs.statuses import PROVISION_ENDED, ProvisionStatus
from tests.factories import make_job, make_pool, make_provision, make_user

pytestmark = pytest.mark.django_db

STARTING = {ProvisionStatus.REQUESTED, ProvisionStatus.PROVISIONING}


@pytest.mark.parametrize("status", list(ProvisionStatus))
def test_room_is_what_a_pool_does_not_hold(status: ProvisionStatus) -> None:
    pool = make_pool(max_live=5, max_provisioning=3, max_live_accelerators=50, max_provisioning_accelerators=30)
    make_provision(make_job(accelerator_count=4, replicas=2), pool, status=status)
    (found,) = Rooms().pools
    assert (found.room.jobs, found.room.accelerators) == ((2, 22) if status in STARTING else (3, 30))
    pool.max_provisioning = pool.max_provisioning_accelerators = 90
    pool.save()
    (found,) = Rooms().pools
    assert (found.room.jobs, found.room.accelerators) == ((5, 50) if status in PROVISION_ENDED else (4, 42))
    assert found.room.most_accelerators == 50


@pytest.mark.parametrize("status", list(ProvisionStatus))
def test_an_owners_room_is_what_the_queue_or_his_own_quota_leaves(status: ProvisionStatus) -> None:
    owner, other = make_user(), make_user()
    for pool in (make_pool(), make_pool()):
        make_provision(make_job(owner, accelerator_count=4), pool, status=status)
    Queue.objects.update_or_create(pk=1, defaults={"max_live": 5, "max_provisioning_accelerators": 30})
    used = 0 if status in PROVISION_ENDED else 2
    starting = 8 if status in STARTING else 0
    rooms = Rooms()
    assert (rooms.of_owner(owner.pk).jobs, rooms.of_owner(owner.pk).accelerators) == (5 - used, 30 - starting)
    assert (rooms.of_owner(other.pk).jobs, rooms.of_owner(other.pk).accelerators) == (5, 30)
    OwnerQuota.objects.create(owner=owner, max_live=2, max_live_accelerators=20)
    rooms = Rooms()
    assert rooms.of_owner(owner.pk).jobs == 2 - used
    assert rooms.of_owner(owner.pk).accelerators == min(20 - 4 * used, 30 - starting)


def test_without_limits_there_is_room_without_end() -> None:
    room = Rooms().of_owner(make_user().pk)
    assert (room.jobs, room.accelerators, str(room.limits)) == (inf, inf, "")


def test_pools_come_best_first_and_those_held_apart() -> None:
    pools = [make_pool(name=name, priority=priority) for name, priority in (("c", 0), ("b", 0), ("a", 0), ("z", 9))]
    held = make_pool(is_enabled=False)
    rooms = Rooms()
    assert [found.pool for found in rooms.pools] == [pools[3], pools[2], pools[1], pools[0]]
    assert [found.pool for found in rooms.held_pools] == [held]


def test_a_pool_that_is_out_of_one_type_still_offers_another() -> None:
    now = timezone.now()
    out = {"H100": {"at": now.timestamp() + 5, "delay": 30}}
    found = PoolRoom(make_pool(capacity_retry_at=out), Room(Limits(1, 1, 1, 1), Use()))
    assert (found.offers("H100", now), found.offers("A100", now)) == (False, True)
    assert found.offers("H100", now + timedelta(seconds=6))


def test_a_job_needs_its_accelerators_once_for_each_replica() -> None:
    assert accelerators_of(make_job(accelerator_count=8, replicas=3)) == 24


@pytest.mark.parametrize("count", [1, 12])
def test_the_cost_is_the_same_however_much_there_is(count: int) -> None:
    pool = make_pool()
    for _ in range(count):
        make_provision(make_job(), pool)
        OwnerQuota.objects.create(owner=make_user(), max_live=1)
    with CaptureQueriesContext(connection) as queries:
        rooms = Rooms()
        for _ in range(count):
            rooms.of_owner(make_user().pk)
    assert len([query for query in queries if "auth_" not in query["sql"]]) == 4


def test_limits_are_told_in_words() -> None:
    make_pool(max_live=3, max_provisioning=2, max_live_accelerators=16)
    (found,) = Rooms().pools
    assert str(found.room.limits) == "3 held, 2 starting, 16 accelerators held"


def test_a_hold_on_an_owner_is_known() -> None:
    owner: Any = make_user()
    assert Rooms().hold_on(owner.pk) is None
    OwnerQuota.objects.create(owner=owner, hold=True, hold_reason="over budget")
    quota = Rooms().hold_on(owner.pk)
    assert quota is not None
    assert quota.hold_reason == "over budget"
