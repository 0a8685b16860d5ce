"""What is told of a transition once it is committed: one line in the log, and the figures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from jobs import metrics
from jobs.models import Job, Provision
from jobs.statuses import JobStatus, ProvisionStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Move:
    """One transition of a job, or of a provision."""

    what: str
    job_id: str
    request_id: str
    provision: str
    pool: str
    from_status: str
    to_status: str
    reason: str
    seconds: float | None  # in the status it left
    age_seconds: float  # since the accept of the job, or the request of the provision
    is_first_submit: bool = False


def job_move(
    job: Job, provision: Provision | None, from_status: str, since: datetime | None, reason: str, now: datetime
) -> Move:
    """The move that the job has just made."""
    return Move(
        what="job",
        job_id=job.id,
        request_id=job.request_id,
        provision=provision.name if provision else "",
        pool=provision.pool.name if provision else "",
        from_status=from_status,
        to_status=str(job.status),
        reason=reason,
        seconds=None if since is None else (now - since).total_seconds(),
        age_seconds=(now - job.accepted_at).total_seconds(),
        is_first_submit=from_status == JobStatus.SUBMITTING and bool(job.batch_id) and job.attempt == 1,
    )


def provision_move(
    job: Job, provision: Provision, from_status: str, since: datetime | None, reason: str, now: datetime
) -> Move:
    """The move that the provision has just made."""
    return Move(
        what="provision",
        job_id=job.id,
        request_id=job.request_id,
        provision=provision.name,
        pool=provision.pool.name,
        from_status=from_status,
        to_status=str(provision.status),
        reason=reason,
        seconds=None if since is None else (now - since).total_seconds(),
        age_seconds=(now - provision.requested_at).total_seconds(),
    )


def tell(moves: Sequence[Move]) -> None:
    """Log and count them."""
    for move in moves:
        _count(move)
        took = "" if move.seconds is None else f" after {move.seconds:.1f} s"
        where = f" ({move.provision} at {move.pool})" if move.provision else ""
        name = move.job_id if move.what == "job" else f"of {move.job_id}"
        logger.info(
            "%s %s: %s -> %s%s, %s%s",
            *(move.what, name, move.from_status, move.to_status, took, move.reason, where),
            extra={
                "request_id": move.request_id,
                "what": move.what,
                "job": move.job_id,
                "provision": move.provision,
                "pool": move.pool,
                "from_status": move.from_status,
                "to_status": move.to_status,
                "reason": move.reason,
                "duration_seconds": move.seconds,
            },
        )


def _count(move: Move) -> None:
    if move.what == "job":
        metrics.JOB_TRANSITIONS.labels(move.from_status, move.to_status).inc()
        if move.is_first_submit:
            metrics.ACCEPT_TO_SUBMIT.labels(move.pool).observe(move.age_seconds)
        return
    metrics.PROVISION_TRANSITIONS.labels(move.pool, move.to_status).inc()
    if move.to_status == ProvisionStatus.READY:
        metrics.REQUEST_TO_READY.labels(move.pool).observe(move.age_seconds)
