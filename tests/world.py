"""The outside world of the state machine: a provider and an MDS, their faults, and time, which moves for all of them.

What it can do has the limits that the engine relies on: a provider lists an object within `absence_confirm_seconds` and
misses it in one listing at most, a create without an answer takes effect within the lease, at the MDS within
`submit_settle`, and the MDS lists a batch within `scan_margin`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
import requests

from jobs.conf import times
from jobs.lifecycle.scans import parse_job_id
from jobs.models import Job, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.statuses import PROVISION_ENDED, TERMINAL
from jobs.testing.fake_mds import FakeMds
from jobs.testing.ledger import Held
from jobs.testing.mds_batches import ORDER, FakeBatch
from jobs.testing.script import Rule
from jobs.testing.scripted_server import Answer, Request
from tests.clock import pass_time
from tests.edge import Edge, Sent, Worker

_PAGE = "2"  # batches a page of the MDS's list, so that there are several


@dataclass(frozen=True)
class Fault:
    """What the next call of a verb meets with."""

    verb: str
    kind: str  # unreachable, unsent, lost, late, refused, spoilt, garbled
    status: int = 0


FAULTS = [
    Fault(verb, kind, int(status or 0))
    for verb, kinds in {
        "provider.create": "unreachable unsent lost late garbled refused:503 refused:429 refused:409 refused:400"
        " refused:401 spoilt:500",
        "provider.list": "unreachable garbled refused:503 refused:429 refused:401",
        "provider.delete": "unreachable lost refused:500 refused:429 spoilt:502",
        "mds.create": "unreachable unsent lost late garbled refused:429 refused:503 refused:422 spoilt:408 spoilt:500",
        "mds.get": "unreachable garbled refused:404 refused:500 refused:429",
        "mds.cancel": "unreachable lost refused:404 refused:409 refused:503 spoilt:500",
        "mds.list": "unreachable garbled refused:500",
    }.items()
    for kind, _, status in (kind.partition(":") for kind in kinds.split())
]


class World:
    """Everything outside, and the clock."""

    def __init__(self, provider: SimulatedServer, mds: FakeMds, database: psycopg.Connection[Any]) -> None:
        """`database` is our own view of what is committed."""
        self.provider, self.mds, self.database = provider, mds, database
        mds.run_seconds = 1e12  # nothing happens by itself, but for the end of its time
        mds.cancel_seconds = 2 * times().poll_max
        self.edge = Edge(self._handle)
        self.faults: list[Fault] = []
        self.late: list[tuple[float, float, Sent]] = []  # when it left, how long it may take at most, what
        self.flapped: set[str] = set()  # objects a listing has missed
        self.made_late: set[str] = set()  # names created by somebody who was late
        self.harm: dict[str, list[str]] = {}  # by job id: what was done to it that may fail it

    def __str__(self) -> str:
        held = [f"{each.name} {each.status(time.time())}" for each in self.provider.live()]
        batches = [f"{batch.id} {batch.job_id} {batch.status}" for batch in self.mds.batches()]
        return "\n".join(["held:", *held, "batches:", *batches, "made late:", *self.made_late])

    # --- time ---

    def pass_time(self, seconds: int) -> None:
        """It is so much later, for the rows, for the workers' clocks and out here."""
        for left_at, longest, _ in list(self.late):
            if time.time() + seconds > left_at + longest:
                self.land()
        pass_time(seconds)
        self.edge.passed += seconds
        self.provider.ledger.pass_time(seconds)
        open_before = {batch.id for batch in self.mds.running()}
        self.mds.pass_time(seconds)
        for batch in self.mds.batches():
            if batch.is_over and batch.id in open_before and not self._is_wanted(batch):
                self.mds.forget(batch.id)  # it came to its own end before anybody could stop it
        self.late = [(left_at - seconds, longest, sent) for left_at, longest, sent in self.late]

    def land(self) -> None:
        """The oldest create that was given up arrives after all."""
        self._apply(self.late.pop(0)[2])

    # --- calls ---

    def verb_of(self, sent: Sent) -> str:
        """Which of the upstreams' operations a request is."""
        if sent.url.startswith(self.provider.url):
            return "provider." + {"POST": "create", "GET": "list", "DELETE": "delete"}[sent.method]
        path = urlsplit(sent.url).path
        if sent.method == "POST":
            return "mds.cancel" if path.endswith("/cancel") else "mds.create"
        return "mds.list" if path == "/v1/batches" else "mds.get"

    def _handle(self, sent: Sent, worker: Worker) -> Answer:
        verb = self.verb_of(sent)
        if verb.endswith(".create"):
            self._check_intent(verb, sent, worker)
        fault = next((each for each in self.faults if each.verb == verb), None)
        if fault is None:
            return self._apply(sent)
        self.faults.remove(fault)
        return self._spoil(fault, sent)

    def _apply(self, sent: Sent) -> Answer:
        server = self.provider if sent.url.startswith(self.provider.url) else self.mds
        query = {name: str(value) for name, value in sent.params.items()}
        if "limit" in query:
            query["limit"] = _PAGE
        body = b"" if sent.body is None else json.dumps(sent.body).encode()
        answer = server.respond(Request(sent.method, urlsplit(sent.url).path, query, "application/json", body))
        assert answer is not None
        return answer

    def _spoil(self, fault: Fault, sent: Sent) -> Answer:
        if fault.kind == "unreachable":
            raise requests.ConnectTimeout("as scripted")
        if fault.kind == "unsent":
            raise requests.ReadTimeout("as scripted")
        if fault.kind == "refused":
            return self._refusal(fault, sent)
        if fault.kind == "late":
            longest = times().lease if fault.verb == "provider.create" else times().submit_settle
            self.late.append((time.time(), 0.9 * longest, sent))
            raise requests.ReadTimeout("as scripted")
        answer = self._apply(sent)
        if fault.kind == "lost":
            raise requests.ReadTimeout("as scripted")
        return answer._replace(body=b'{"object": "li') if fault.kind == "garbled" else self._refusal(fault, sent)

    def _refusal(self, fault: Fault, sent: Sent) -> Answer:
        if fault.status in {400, 422}:
            self.blame(_owner(sent), f"{fault.verb} refused")
        server = self.provider if fault.verb.startswith("provider") else self.mds
        return server.refusal(fault.status, "scripted", "as scripted", 1800 if fault.status == 429 else None)

    def _check_intent(self, verb: str, sent: Sent, worker: Worker) -> None:
        """A create leaves only while its intent is committed and its lease runs, or its worker was stopped then."""
        is_late = worker.was_stopped and worker.mishap is not None and worker.mishap.point == "call"
        if verb == "provider.create":
            if is_late:
                worker.made_late.add(sent.body["name"])
                self.made_late.add(sent.body["name"])
            row = self.database.execute(
                "SELECT p.create_started_at IS NOT NULL AND p.status = 'requested' AND j.lease_expires_at > now()"
                " FROM jobs_provision p JOIN jobs_job j ON j.id = p.job_id WHERE p.name = %s",
                [sent.body["name"]],
            ).fetchone()
        else:
            job_id, attempt = _attempt(sent.body["aibrix"]["job_id"])
            row = self.database.execute(
                "SELECT submit_started_at IS NOT NULL AND batch_id = '' AND attempt = %s AND lease_expires_at > now()"
                " FROM jobs_job WHERE id = %s",
                [attempt, job_id],
            ).fetchone()
        assert row is not None, f"{verb} without a committed row"
        assert row[0] or is_late, f"{verb} left without its intent, or after its lease"

    def blame(self, job_id: str, what: str) -> None:
        """Remember what may fail a job."""
        self.harm.setdefault(job_id, []).append(what)

    # --- the MDS ---

    def step(self, batch: FakeBatch) -> None:
        """One step on in its life, unless it is being cancelled."""
        batch = next(each for each in self.mds.batches() if each.id == batch.id)
        if batch.status in ORDER and not batch.is_taken_back:
            self.mds.set_status(batch.id, [*ORDER, "completed"][ORDER.index(batch.status) + 1])

    def go_on(self) -> None:
        """Every batch that its job follows goes on; one that nobody follows waits to be found."""
        followed = set(Job.objects.values_list("batch_id", flat=True))
        for batch in self.mds.running():
            if batch.id in followed:
                self.step(batch)
                self.step(batch)

    def end(self, batch: FakeBatch, how: str) -> None:
        """Its end, by itself or by somebody else's hand; but not while it waits to be stopped as a duplicate."""
        if batch.is_over or not self._is_wanted(batch):
            return
        job_id, _ = _attempt(batch.job_id)
        if how in {"failed", "incomplete", "cancelled", "expired"}:
            self.blame(job_id, f"batch {how}")
        if how == "incomplete":
            counts = {"total": batch.total, "completed": batch.total - 1, "failed": 0}
            self.mds.set_status(batch.id, "completed", request_counts=counts)
        else:
            self.mds.set_status(batch.id, how)

    def lose(self, batch: FakeBatch) -> None:
        """The MDS knows it no longer, though its job is not over."""
        job_id, _ = _attempt(batch.job_id)
        if Job.objects.get(pk=job_id).status not in TERMINAL:
            self.blame(job_id, "batch lost")
            self.mds.forget(batch.id)

    def _is_wanted(self, batch: FakeBatch) -> bool:
        """Whether its job follows the batch, or can still adopt it."""
        job_id, attempt = _attempt(batch.job_id)
        job = Job.objects.get(pk=job_id)
        is_open = job.status not in TERMINAL and job.attempt == attempt and not job.batch_id
        has_twin = any(each.job_id == batch.job_id and each.id != batch.id for each in self.mds.batches())
        return job.batch_id == batch.id or (is_open and not has_twin)

    def check_taken_back(self, worker: Worker, batches: Collection[str]) -> None:
        """A worker that came back undid what it then made, if nobody can want it; these batches were there before."""
        for held in self.live():
            if held.name in worker.made_late and held.visible_at <= time.time() and held.id not in self.flapped:
                # one that is being released has its own way out
                status = Provision.objects.get(name=held.name).status
                assert status not in PROVISION_ENDED, f"{held.name} is still there"
        for batch in self.mds.running():
            if batch.id not in batches and not batch.is_taken_back:
                job = Job.objects.get(pk=_attempt(batch.job_id)[0])
                is_unwanted = job.status in TERMINAL or job.attempt != _attempt(batch.job_id)[1]
                assert not is_unwanted, f"{batch.id} of {batch.job_id} still runs"

    # --- the provider ---

    def live(self) -> list[Held]:
        """What is held and not on its way out, oldest first."""
        return [held for held in self.provider.live() if held.gone_at is None]

    def check_held(self, provisions: list[dict[str, Any]]) -> None:
        """What is held belongs to a provision that is not over, or came late and is yet to be found."""
        ended = {row["name"]: row["status"] in PROVISION_ENDED for row in provisions}
        late = self.made_late | {sent.body.get("name") for _, _, sent in self.late}
        for held in self.provider.live():  # what is on its way out is still there, and on the bill
            assert held.name in ended, f"{held.name} is held without a row"
            assert not ended[held.name] or held.name in late, f"{held.name} is held after its release"

    def flap(self, held: Held) -> None:
        """The next listing misses it; once only, and not while it may never have been listed."""
        if held.id not in self.flapped and held.visible_at <= time.time():
            self.flapped.add(held.id)
            self.provider.add_rule(Rule(on="list", name_prefix=held.name, hides=True))

    def withdraw(self) -> None:
        """From now on everything goes well."""
        self.faults.clear()
        self.provider.capacity = None
        self.provider.clear()
        self.mds.clear()
        while self.late:
            self.land()
        for held in self.live():
            if held.ready_at is None and not held.failure:
                self.provider.make_ready(held.name)


def _owner(sent: Sent) -> str:
    return str(sent.body.get("job_id") or _attempt(sent.body["aibrix"]["job_id"])[0])


def _attempt(external: str) -> tuple[str, int]:
    name = parse_job_id(external)
    assert name is not None, f"{external} is no name of ours"
    return name
