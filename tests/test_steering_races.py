"""Races of what operators do with what the engine has in hand: either order, and then nothing is left or doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jobs import planner
from jobs.errors import Conflict
from jobs.lifecycle.claims import step
from jobs.lifecycle.steps import CallKind
from jobs.models import OwnerQuota, Pool, Provision, Queue
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls
from jobs.reconciler.admission import admission
from jobs.wakeup import send_hint
from tests.admin_client import signed_in, url
from tests.clock import pass_time
from tests.engine import claimed, long_ago, places, releasing, simulated_pool, ticking_until
from tests.factories import make_job, make_pool, make_user
from tests.races import both_orders, created, only, reasons, record
from tests.test_admin_pools import pool_form
from tests.threads import elsewhere, stopped, until_waiting

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def pool(simulated_server: SimulatedServer, settings: Any) -> Pool:
    """One pool on a server of its own. A lease lasts as long as any test."""
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "lease": 60}
    return simulated_pool(simulated_server)


# --- a hold against an admission ---


@pytest.mark.parametrize("is_hold_first", [True, False], ids=["hold first", "admission first"])
@pytest.mark.parametrize("what", ["pool", "owner", "queue"])
def test_once_a_hold_is_told_nobody_is_admitted_any_more(what: str, is_hold_first: bool) -> None:
    """A pause is for whoever goes on to the rack: what slipped in before it is seen, and nothing comes behind it."""
    pool, job, operator = make_pool(), make_job(), make_user("operator")
    holds: dict[str, Callable[[], Any]] = {
        "pool": lambda: planner.hold_pool(operator, pool.name),
        "owner": lambda: planner.hold_owner(operator, job.owner.username),
        "queue": lambda: planner.hold_queue(operator),
    }
    free = places()

    def admit() -> int:
        return len(admission(free, send_hint).claims)

    def hold() -> int:
        holds[what]()
        return Provision.objects.count()

    if is_hold_first:
        assert both_orders(hold, admit) == (0, 0)
    else:
        assert both_orders(admit, hold) == (1, 1)
    assert admit() == 0
    assert Provision.objects.count() == (0 if is_hold_first else 1)


# --- a hold against an edit in the admin ---


@pytest.mark.parametrize("is_edit_a_hold", [True, False], ids=["edit of the hold", "edit of a limit"])
@pytest.mark.parametrize("what", ["pool", "owner", "queue"])
def test_a_hold_and_an_edit_of_the_same_row_are_both_done(what: str, is_edit_a_hold: bool) -> None:
    pool, operator = make_pool(), make_user("operator")
    quota = OwnerQuota.objects.create(owner=make_user())
    row = {"pool": pool, "owner": quota, "queue": Queue.objects.get_or_create(pk=1)[0]}[what]
    holds: dict[str, Callable[[], Any]] = {
        "pool": lambda: planner.hold_pool(operator, pool.name),
        "owner": lambda: planner.hold_owner(operator, quota.owner.username),
        "queue": lambda: planner.hold_queue(operator),
    }
    reason = "upgrade" if is_edit_a_hold else ""
    given = {"max_live": 3, **({"hold": "on", "hold_reason": reason} if is_edit_a_hold else {})}
    if what == "pool":
        given = pool_form(pool, max_live=3, disabled_reason=reason, is_enabled=None if is_edit_a_hold else "on")
    elif what == "owner":
        given["owner"] = quota.owner_id
    client = signed_in(make_user("superuser"))
    with stopped(holds[what], after="UPDATE") as held:  # the row is locked, and the admission not yet
        edit = elsewhere(lambda: client.post(url(type(row), "change", row.pk), given).status_code)
        until_waiting()
        held.result()
        assert edit.result(30) == 302
    row.refresh_from_db()
    told = row.disabled_reason if isinstance(row, Pool) else row.hold_reason
    assert (row.hold, told, row.max_live) == (True, reason, 3)


# --- a write-off against a release ---


def write_off(provision: Provision) -> Callable[[], Any]:
    operator = make_user("superuser")
    return lambda: planner.write_off(operator, str(provision.pk), reason="seen to be gone")


@pytest.mark.parametrize("is_write_off_first", [True, False], ids=["write-off first", "answer first"])
def test_a_write_off_stands_whatever_becomes_of_the_delete_that_is_under_way(
    is_write_off_first: bool, pool: Pool, simulated_server: SimulatedServer
) -> None:
    (job,) = created()
    planner.cancel(job.owner, job.pk)
    pass_time(1)
    claimed()  # cancelled: from here on the release is due
    pass_time(1)
    provision = Provision.objects.get()
    claim = only(claimed(), CallKind.RELEASE)
    writing = record(claim, calls.perform(claim))
    if is_write_off_first:
        with stopped(write_off(provision)) as held:
            left = writing().left
            assert [finished.claim for finished in left] == [claim], "kept: its row is in other hands"
            held.result()
        assert [finished.claim for finished in step(left, places()).stale] == [claim]
    else:
        both_orders(writing, write_off(provision))
    ticking_until(lambda: not Provision.objects.exclude(due_at=None, lease_expires_at=None).exists())
    provision.refresh_from_db()
    assert (provision.status, provision.released_at) == ("written_off", None)
    assert reasons(job)[-1] == "written_off"
    assert simulated_server.stats()["bill"]["objects_live"] == 0


@pytest.mark.parametrize("is_write_off_first", [True, False], ids=["write-off first", "release first"])
def test_a_resource_is_either_written_off_or_released(is_write_off_first: bool, pool: Pool) -> None:
    provision = releasing(pool, release_sent_at=long_ago(), absence_confirmed_at=long_ago())
    free = places()
    if is_write_off_first:
        with stopped(write_off(provision)) as held:
            assert not claimed(free).is_moved
            held.result()
        assert not claimed(free).is_moved
    else:
        taken, answer = both_orders(lambda: claimed(free), write_off(provision))
        assert taken.is_moved
        assert isinstance(answer, Conflict)
    provision.refresh_from_db()
    times = (provision.written_off_at is not None, provision.released_at is not None)
    assert (provision.status, times) == (
        ("written_off", (True, False)) if is_write_off_first else ("released", (False, True))
    )
    assert {"written_off", "released"} & set(reasons(provision.job)) == {provision.status}
