"""Jobs brought to a status by the engine itself, and kept there by what the doubles of provider and MDS do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jobs.models import Job, Pool
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.statuses import RUNNING
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.engine import ticking_until


@contextmanager
def held_back(status: str, server: SimulatedServer, mds: FakeMds, job_id: str) -> Iterator[None]:
    """The job gets to this status and no further."""
    mds.run_seconds = 1e6
    refused = Rule("create", times=None, status=429)
    if status == "pending":
        Pool.objects.update(is_enabled=False)
    elif status == "provisioning":
        server.add_rule(Rule("create", is_never_ready=True))
    elif status == "submitting":
        mds.add_rule(refused)
    if status in RUNNING:
        ticking_until(lambda: Job.objects.get(pk=job_id).batch_id)
        mds.set_status(Job.objects.get(pk=job_id).batch_id, status)
    ticking_until(lambda: Job.objects.get(pk=job_id).status == status)
    yield
    Pool.objects.update(is_enabled=True)
    for held in server.live():
        server.make_ready(held.name)
    mds.withdraw(refused)
    mds.run_seconds = 0
    for batch in mds.running():
        mds.set_status(batch.id, "completed", request_counts={"total": 3, "completed": 3, "failed": 0})
