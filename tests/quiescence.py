"""What must be true once nothing is left to do, whatever happened before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from jobs.lifecycle.scans import external_job_id, parse_job_id
from jobs.models import Job, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.statuses import PROVISION_ENDED, TERMINAL, JobStatus
from jobs.testing.fake_mds import FakeMds
from planner_site.soak.evidence import events_found, jobs_found
from planner_site.soak.verdict import illegal_histories


def check_quiescent(provider: SimulatedServer, mds: FakeMds) -> None:
    """Every job is over, nothing is held or billed, one batch counts for each attempt that does, histories are legal.

    Fails with all that is wrong (G1 to G4). Jobs are expected to have begun as `pending`.
    """
    wrong = problems(provider, mds)
    assert not wrong, "\n".join(wrong)


def problems(provider: SimulatedServer, mds: FakeMds) -> list[str]:
    """All that is wrong."""
    wrong = [*_unfinished(), *_held(provider), *_miscounted(mds)]
    return wrong + list(illegal_histories(jobs_found().values(), events_found()))


def _unfinished() -> Iterator[str]:
    for job in Job.objects.exclude(status__in=sorted(TERMINAL)):
        yield f"{job.id} is still {job.status}: {job.last_error}"
    for provision in Provision.objects.exclude(status__in=sorted(PROVISION_ENDED)):
        yield f"provision {provision.name} is still {provision.status}: {provision.last_error}"


def _held(provider: SimulatedServer) -> Iterator[str]:
    for held in provider.live():
        yield f"the provider still holds {held.id} ({held.name})"
    if cost_per_hour := provider.ledger.bill().cost_per_hour:
        yield f"the bill goes on: {cost_per_hour} an hour"


def _miscounted(mds: FakeMds) -> Iterator[str]:
    jobs = Job.objects.in_bulk()
    current = {external_job_id(job): job for job in jobs.values()}
    uncancelled: dict[str, list[str]] = defaultdict(list, mds.uncancelled_by_attempt())
    for attempt in sorted(uncancelled.keys() - current.keys()):
        if (name := parse_job_id(attempt)) is not None and name[0] in jobs:
            yield f"{attempt}, which is no job's current attempt, has uncancelled batches {uncancelled[attempt]}"
    for batch in mds.batches():
        parsed = parse_job_id(batch.job_id)
        if parsed is None or parsed[0] not in jobs:
            yield f"batch {batch.id} has no job: {batch.job_id!r}"
        elif not batch.is_over and not batch.is_taken_back:
            yield f"batch {batch.id} of {batch.job_id} still runs ({batch.status})"
    for attempt, job in current.items():
        found, wanted = uncancelled[attempt], [job.batch_id] if job.batch_id else []
        # whoever stopped an attempt has cancelled its batch; only a completed job needs the one it completed with
        is_right = found == wanted or (not found and job.status != JobStatus.COMPLETED)
        if not is_right and job.status != JobStatus.CANCELLED:
            yield f"{attempt}, {job.status}, has uncancelled batches {found} instead of {wanted}"
