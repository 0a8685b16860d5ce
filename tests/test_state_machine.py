"""The whole planner against a hostile world, at random: what must hold after every step, and at the end of everything.

Hypothesis chooses the steps. `STATE_MACHINE_EXAMPLES=5000 python -m pytest tests/test_state_machine.py` hunts for as
long as that takes; a failure prints the shortest steps that lead to it, and the line that repeats them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from jobs import planner
from jobs.batch_client import BatchClient
from jobs.conf import MAX_CRASHES, MAX_LOST_ATTEMPTS, Times
from jobs.errors import Conflict
from jobs.lifecycle import scans
from jobs.lifecycle.due import seconds_to_next_timer
from jobs.models import BatchScan, InputFile, Job, Pool, Provision, QueueMessage
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import calls, orphans
from jobs.statuses import PROVISION_ENDED, TERMINAL, JobStatus
from jobs.tasks import release_orphans
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.api_client import ApiClient
from tests.edge import Mishap, Worker, installed
from tests.engine import describe
from tests.factories import make_file, make_pool, make_user
from tests.invariants import Witness, empty_tables, row_versions, rows
from tests.quiescence import check_quiescent
from tests.world import FAULTS, Fault, World

pytestmark = pytest.mark.django_db(transaction=True)

# Minutes for seconds, so that what a test takes makes nothing due; only `beat` is waited for in earnest.
SPANS = replace(Times().scaled(60), beat=0.02)
ABSENCE_CONFIRM = 600
READY_TIMEOUT = 6 * 3600
JUMPS = {
    "no time": 0,
    "a retry": SPANS.retry_min + 1,
    "a poll": SPANS.poll_max * 1.2,
    "a confirmation": ABSENCE_CONFIRM + 1,
    "a scan": SPANS.scan_interval + 1,
    "a lease": SPANS.lease + 1,
    "the longest create": SPANS.create_batch_timeout + SPANS.submit_settle + 1,
    "a ready timeout": READY_TIMEOUT + 1,
    "a release retry": SPANS.release_retry_max + 1,
    "a window": 5 * 86_400,
}
MOST_JOBS, MOST_STOPPED, MOST_TURNS = 6, 2, 150

jumps = st.sampled_from([*JUMPS, "a lease", "a poll", "a scan"])
faults = st.lists(st.sampled_from(FAULTS), max_size=3)
points = {"call": 5, "commit": 15, "statement": 60}  # about how many of each a pass comes by
mishaps = st.sampled_from(list(points)).flatmap(
    lambda point: st.builds(
        Mishap,
        st.sampled_from(["kill", "disconnect"]),
        st.just(point),
        st.integers(1, points[point]),
        st.booleans(),
    )
)
stops = st.sampled_from(["call", "call", "commit"]).flatmap(
    lambda point: st.builds(Mishap, st.just("stop"), st.just(point), st.integers(1, points[point]), st.booleans())
)
some = st.integers(0, 5)  # one of those there are
shares = st.sampled_from([0.1, 0.5, 0.9])


class HostileWorld(RuleBasedStateMachine):
    """What may happen, in any order."""

    # set by the test that runs it
    database: psycopg.Connection[Any]
    submitter: User
    operator: User
    file: InputFile
    browser: ApiClient
    settled = 0  # examples that came to a good end

    accepted = Bundle("accepted")

    def __init__(self) -> None:
        super().__init__()
        self.stopped: list[Worker] = []
        self.requests: dict[str, planner.JobRequest] = {}  # by job id, which also is their key
        self.keys: dict[str, str] = {}
        self.crashes = 0
        self.witness = Witness(self.database, self.operator)
        self.complaints = Complaints()
        self.exits = ExitStack()
        self.exits.enter_context(self.complaints)
        empty_tables(self.database)
        provider, mds = (self.exits.enter_context(server) for server in (SimulatedServer(), FakeMds()))
        self.world = World(provider, mds, self.database)
        self.exits.enter_context(installed(self.world.edge))
        client = BatchClient(
            mds.url,
            connect_timeout=SPANS.connect_timeout,
            call_timeout=SPANS.call_timeout,
            create_timeout=SPANS.create_batch_timeout,
        )
        patches = self.exits.enter_context(pytest.MonkeyPatch.context())
        for module in (calls, orphans):
            patches.setattr(module, "batch_client", lambda: client)

    @initialize(target=accepted, number=st.integers(1, 3), is_list_stale=st.booleans())
    def begin(self, number: int, is_list_stale: bool) -> Any:
        if is_list_stale:
            self.world.mds.add_rule(Rule(on="list", shows="scheduling", times=None))
        fields = {
            "options": {"base_url": self.world.provider.url},
            "absence_confirm_seconds": ABSENCE_CONFIRM,
            "observe_interval_seconds": SPANS.poll_max,
            "ready_timeout_seconds": READY_TIMEOUT,
        }
        make_pool(name="first", max_live=3, max_provisioning=2, priority=1, **fields)
        make_pool(name="second", max_live=2, max_provisioning=2, **fields)
        return multiple(*[self.submitted("25d", None) for _ in range(number)])

    # --- people ---

    @precondition(lambda self: len(self.requests) < MOST_JOBS)
    @rule(target=accepted, window=st.sampled_from(["25d", "5d"]), queue_timeout=st.sampled_from([None, 18_000]))
    def submit(self, window: str, queue_timeout: int | None) -> str:
        return self.submitted(window, queue_timeout)

    def submitted(self, window: str, queue_timeout: int | None) -> str:
        request = planner.JobRequest(
            endpoint="/v1/chat/completions",
            input_file_id=self.file.pk,
            completion_window=window,
            queue_timeout_seconds=queue_timeout,
        )
        key = f"key {len(self.keys)}"
        job = planner.enqueue(self.submitter, request, idempotency_key=key)
        self.requests[job.id], self.keys[job.id] = request, key
        return job.id

    @rule(job_id=accepted)
    def submit_again(self, job_id: str) -> None:
        key, request = self.keys[job_id], self.requests[job_id]
        assert planner.enqueue(self.submitter, request, idempotency_key=key).id == job_id
        with pytest.raises(Conflict):
            planner.enqueue(self.submitter, replace(request, name="another"), idempotency_key=key)

    @rule(job_id=accepted)
    def cancel(self, job_id: str) -> None:
        was_over = Job.objects.get(pk=job_id).is_terminal
        try:
            job = planner.cancel(self.operator, job_id)
        except Conflict:
            assert was_over
        else:
            assert not was_over
            assert job.shown_status == JobStatus.CANCELLING

    @rule(number=some)
    def release(self, number: int) -> None:
        held = Provision.objects.exclude(status__in=sorted(PROVISION_ENDED)).order_by("requested_at", "id")
        if provision := chosen(list(held), number):
            planner.release(self.operator, str(provision.id))

    @rule(number=some, is_enabled=st.booleans())
    def steer_pool(self, number: int, is_enabled: bool) -> None:
        pool = chosen(list(Pool.objects.order_by("id")), number)
        Pool.objects.filter(pk=pool.pk).update(is_enabled=is_enabled, disabled_reason="")

    @rule(job_id=accepted)
    def look(self, job_id: str) -> None:
        """Reads never write, and call nobody (G10): a call outside a pass is refused by the edge."""
        before = row_versions(self.database)
        for path in ("/jobs", f"/jobs/{job_id}", "/provisions"):
            response = self.browser.get(path)
            assert response.status_code == 200, (path, response.content)
        assert row_versions(self.database) == before

    # --- workers ---

    @rule(is_lost=st.booleans())
    def hints_go_astray(self, is_lost: bool) -> None:
        """All of them are lost, or come twice; their order is nothing, since a pass never asks which came."""
        if is_lost:
            QueueMessage.objects.all().delete()
        else:
            QueueMessage.objects.bulk_create([QueueMessage() for _ in QueueMessage.objects.all()])

    @rule()
    def work_when_it_is_due(self) -> None:
        self.pass_time(self.until_due(SPANS.poll_max))
        Worker().work()

    @rule(jump=jumps, faults=faults)
    def work(self, jump: str, faults: list[Fault]) -> None:
        self.pass_time(JUMPS[jump])
        self.world.faults += faults
        Worker().work()

    @rule(jump=jumps, faults=faults, mishap=mishaps)
    def work_with_a_mishap(self, jump: str, faults: list[Fault], mishap: Mishap) -> None:
        self.pass_time(JUMPS[jump])
        self.world.faults += faults
        worker = Worker(mishap)
        worker.work()
        self.crashes += worker.has_met

    @precondition(lambda self: len(self.stopped) < MOST_STOPPED)
    @rule(jump=jumps, mishap=stops)
    def work_and_stop(self, jump: str, mishap: Mishap) -> None:
        self.pass_time(JUMPS[jump])
        worker = Worker(mishap)
        worker.start()
        if worker.is_stopped:
            self.stopped.append(worker)
            self.crashes += 1

    @precondition(lambda self: self.stopped)
    @rule(number=some, passes=st.integers(0, 3))
    def come_back(self, number: int, passes: int) -> None:
        """Others may have done its work since: a stale worker changes no row, and takes back what it then made (G7)."""
        for _ in range(passes):
            self.pass_time(JUMPS["a lease"])
            Worker().work()
        worker = chosen(self.stopped, number)
        self.stopped.remove(worker)
        batches = {batch.id for batch in self.world.mds.batches()}
        is_disturbed = bool(self.world.faults)
        worker.go_on()
        if not is_disturbed:
            self.world.check_taken_back(worker, batches)

    @rule(mishap=st.none() | mishaps)
    def sweep(self, mishap: Mishap | None) -> None:
        try:
            Worker(mishap, release_orphans).work()
        except (OperationalError, InterfaceError):
            assert mishap is not None  # a chore may fail: its schedule starts it again

    def pass_time(self, seconds: float) -> None:
        if seconds:
            self.world.pass_time(int(seconds))
            self.witness.passed += timedelta(seconds=int(seconds))

    def until_due(self, at_least: float) -> float:
        """As long as a broker sleeps, for want of hints."""
        return min(max(seconds_to_next_timer() or 0.0, at_least), 6000.0)

    # --- upstreams ---

    @precondition(lambda self: self.world.faults)
    @rule()
    def upstreams_recover(self) -> None:
        self.world.faults.clear()

    @precondition(lambda self: self.world.late)
    @rule()
    def late_create_lands(self) -> None:
        self.world.land()

    @rule(how=st.sampled_from(["never ready", "slow", "unlisted", "lingering"]), share=shares)
    def provider_dawdles(self, how: str, share: float) -> None:
        rule: dict[str, Any] = {
            "slow": {"on": "create", "ready_seconds": share * READY_TIMEOUT},
            "never ready": {"on": "create", "is_never_ready": True},
            "unlisted": {"on": "create", "visible_after_seconds": share * ABSENCE_CONFIRM},
            "lingering": {"on": "delete", "linger_seconds": share * READY_TIMEOUT},
        }[how]
        self.world.provider.add_rule(Rule(**rule))

    @rule(capacity=st.sampled_from([0, 1, 2, None]))
    def provider_has_room(self, capacity: int | None) -> None:
        """For so many objects, or any number: whoever asks for more is told so, in both pools."""
        self.world.provider.capacity = capacity

    @precondition(lambda self: self.world.live())
    @rule(number=some, how=st.sampled_from(["vanish", "fail", "make_ready", "flap"]))
    def resource_changes(self, number: int, how: str) -> None:
        held = chosen(self.world.live(), number)
        if how == "flap":
            self.world.flap(held)
            return
        getattr(self.world.provider, how)(held.name)
        if how in {"fail", "vanish"}:
            self.world.blame(held.facts["job_id"], "resource lost")

    @precondition(lambda self: self.world.mds.batches())
    @rule(number=some)
    def batch_goes_on(self, number: int) -> None:
        batch = chosen(self.world.mds.batches(), number)
        if batch.status != "finalizing":  # its end is a rule of its own
            self.world.step(batch)

    @precondition(lambda self: self.world.mds.batches())
    @rule(number=some, how=st.sampled_from(["completed", "incomplete", "failed", "cancelled", "expired"]))
    def batch_ends(self, number: int, how: str) -> None:
        self.world.end(chosen(self.world.mds.batches(), number), how)

    @precondition(lambda self: self.world.mds.batches())
    @rule(number=some, status=st.sampled_from(["a_new_status", "scheduling", "in_progress", "cancelling"]))
    def batch_is_shown_wrong(self, number: int, status: str) -> None:
        batch = chosen(self.world.mds.batches(), number)
        self.world.mds.add_rule(Rule(on="get", name_prefix=batch.job_id, shows=status))

    @precondition(lambda self: self.world.mds.batches())
    @rule(number=some, verb=st.sampled_from(["get", "list", "always"]))
    def batch_is_missed(self, number: int, verb: str) -> None:
        batch = chosen(self.world.mds.batches(), number)
        if verb == "always":
            self.world.lose(batch)
        else:
            self.world.mds.add_rule(Rule(on=verb, name_prefix=batch.job_id, hides=True))

    @rule(share=shares)
    def next_batch_is_listed_late(self, share: float) -> None:
        self.world.mds.add_rule(Rule(on="create", visible_after_seconds=share * SPANS.scan_margin))

    # --- what always holds ---

    @invariant()
    def all_is_well(self) -> None:
        self.witness.check(set(self.requests))
        assert not self.complaints.records, self.complaints.text()
        self.world.check_held(rows(self.database, Provision))

    # --- the end ---

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.settle()
                check_quiescent(self.world.provider, self.world.mds)
                for job in Job.objects.all():
                    self.check_reason(job)
                HostileWorld.settled += 1
        finally:
            while self.stopped:
                self.stopped.pop().go_on()
            self.exits.close()

    def settle(self) -> None:
        """Nothing goes wrong any more: a bounded number of passes ends everything."""
        self.world.withdraw()
        while self.stopped:
            self.stopped.pop().go_on()
        Pool.objects.update(is_enabled=True, disabled_reason="")
        for turn in range(MOST_TURNS):
            if self.is_quiet():
                note(f"quiet after {turn} turns")
                return
            self.pass_time(self.until_due(ABSENCE_CONFIRM + 1))
            Worker().work()
            if turn % 10 == 9:
                Worker(task=release_orphans).work()
            self.all_is_well()
            self.world.go_on()
        state = [str(self.world), f"scan: {BatchScan.objects.values().first()}", *map(describe, Job.objects.all())]
        raise AssertionError("not quiet in time:\n" + "\n".join(state))

    def is_quiet(self) -> bool:
        """Whether nothing is left to be done, but for the looks that never end."""
        is_any_open = Job.objects.exclude(status__in=sorted(TERMINAL)).exists()
        is_any_held = Provision.objects.exclude(status__in=sorted(PROVISION_ENDED)).exists()
        return not (is_any_open or is_any_held or self.world.provider.live() or self.world.mds.running())

    def check_reason(self, job: Job) -> None:
        """Each end has a cause in what happened; an outage, of whomever, is none (G8)."""
        harm = self.world.harm.get(job.id, [])
        if job.status == JobStatus.CANCELLED:
            assert job.cancel_requested_at is not None, describe(job)
        elif job.error_code == "queue_timeout":
            end = job.accepted_at + timedelta(seconds=job.queue_timeout_seconds or 0)
            assert job.expired_at is not None and job.expired_at >= end, describe(job)  # noqa: PT018 - one fact
        elif job.status == JobStatus.EXPIRED and "batch expired" not in harm:
            near = (job.deadline_at or timezone.now()) - timedelta(seconds=SPANS.partial_expiry_margin)
            assert job.expired_at is not None and job.expired_at >= near, describe(job)  # noqa: PT018 - one fact
        elif job.error_code == "wind_up_timeout":
            wound_up = timedelta(seconds=SPANS.wind_up_timeout)
            assert job.failed_at - job.finalizing_at >= wound_up, describe(job)  # type: ignore[operator] # both are told
        elif job.error_code == "internal_error":
            assert self.crashes >= MAX_CRASHES, describe(job)
        elif job.status == JobStatus.FAILED and job.lost_attempts >= MAX_LOST_ATTEMPTS:
            assert len(harm) > MAX_LOST_ATTEMPTS, describe(job)
        elif job.status == JobStatus.FAILED:
            assert harm, describe(job)


class Complaints(logging.Handler):
    """What the planner's own code logs as an error: a defect, whatever became of the rows."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        told = record.getMessage()
        if "could not take back a late" not in told and "is disabled: " not in told:
            self.records.append(record)

    def text(self) -> str:
        return "\n".join(logging.Formatter().format(record) for record in self.records)

    def __enter__(self) -> Complaints:
        logging.getLogger("jobs").addHandler(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        logging.getLogger("jobs").removeHandler(self)


def chosen(those: list[Any], number: int) -> Any:
    """One of those there are; None if there are none."""
    return those[number % len(those)] if those else None


@pytest.fixture
def hostile_world(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[HostileWorld]]:
    """The machine, with the people and the spans of its world."""
    settings.PLANNER_TIMES = asdict(SPANS)
    monkeypatch.setattr(orphans, "REACH", timedelta(days=60))
    monkeypatch.setattr(scans, "_FIRST_REACH", timedelta(days=60))
    connection.ensure_connection()
    session = connection.connection.info
    with psycopg.connect(session.dsn, password=session.password, autocommit=True) as database:
        HostileWorld.database = database
        HostileWorld.submitter = make_user()
        HostileWorld.operator = make_user("operator")
        HostileWorld.file = make_file(HostileWorld.submitter)
        HostileWorld.browser = ApiClient(HostileWorld.operator)
        yield HostileWorld
        empty_tables(database)


def test_nothing_is_lost_and_nothing_leaks_whatever_happens(hostile_world: type[HostileWorld]) -> None:
    """The same examples each time, so that a red run says something about a change; a hunt draws its own."""
    hunt = os.environ.get("STATE_MACHINE_EXAMPLES", "")
    examples = int(hunt or 25)
    run_state_machine_as_test(
        hostile_world,
        settings=settings(
            max_examples=examples,
            stateful_step_count=int(os.environ.get("STATE_MACHINE_STEPS", "30")),
            derandomize=not hunt,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert hostile_world.settled >= examples
