"""What has happened to the seeded jobs: a few lives, each by the table of transitions, about three events long."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from jobs.models import JobEvent
from jobs.statuses import RUNNING_ORDER, TERMINAL, FailureStage, JobStatus, ProvisionStatus

MOST_AT_WORK = 96
QUEUE_TIMEOUT_SECONDS = 3600
REQUESTS = 100  # of each job

J = JobStatus
P = ProvisionStatus
_PROVIDER, _MDS = JobEvent.Source.PROVIDER, JobEvent.Source.MDS


@dataclass(frozen=True)
class Line:
    """One event: so long after the accept (of what is at work: after its admission), and the status it led to."""

    seconds: int
    reason: str
    to: str = ""
    source: str = JobEvent.Source.PLANNER


@dataclass(frozen=True)
class Life:
    """What happened to a job, what its row tells beside that, and what became of its provision."""

    lines: tuple[Line, ...]
    columns: dict[str, Any] = field(default_factory=dict)
    provision: ProvisionStatus | None = None

    @property
    def status(self) -> str:
        """Where it has led to."""
        return [line.to for line in self.lines if line.to][-1]

    @property
    def is_at_work(self) -> bool:
        """Whether it is neither waiting nor over."""
        return self.status not in {J.PENDING, *TERMINAL}

    @property
    def is_submitted(self) -> bool:
        """Whether there is a batch."""
        return any(line.to == J.SUBMITTING for line in self.lines) and self.status != J.SUBMITTING


_ACCEPTED = (Line(0, "accepted", J.PENDING),)
_ADMITTED = (*_ACCEPTED, Line(0, "admitted", J.PROVISIONING))
_PREPARED = (*_ADMITTED, Line(120, "resource_ready", J.SUBMITTING, _PROVIDER))
CANCEL = Line(300, "cancel_requested")

_PENDING = Life(_ACCEPTED)
_AT_WORK = (
    Life(_ADMITTED, provision=P.REQUESTED),
    Life(_ADMITTED, provision=P.PROVISIONING),
    Life(_PREPARED, provision=P.READY),
    *(Life((*_PREPARED, Line(130, status.value, status, _MDS)), provision=P.READY) for status in RUNNING_ORDER),
    Life(
        (*_PREPARED, Line(130, "scheduling", J.SCHEDULING, _MDS), CANCEL, Line(301, "cancelling", J.CANCELLING)),
        {},
        P.READY,
    ),
)
_COMPLETED = Life(
    (*_PREPARED, Line(1500, "completed", J.COMPLETED, _MDS)),
    {"request_completed": REQUESTS, "usage": '{"input_tokens": 4200, "output_tokens": 9000, "total_tokens": 13200}'},
    P.RELEASED,
)
_FAILED = Life(
    (*_ADMITTED, Line(5, "invalid_request", J.FAILED, _PROVIDER)),
    {
        "failure_stage": FailureStage.PROVISION,
        "error_code": "invalid_request",
        "error_message": "The simulated provider: no such accelerator.",
    },
    P.RELEASED,
)
_EXPIRED = Life(
    (*_ACCEPTED, Line(QUEUE_TIMEOUT_SECONDS, "queue_timeout", J.EXPIRED)),
    {
        "queue_timeout_seconds": QUEUE_TIMEOUT_SECONDS,
        "error_code": "queue_timeout",
        "error_message": f"Not admitted within its queue timeout of {QUEUE_TIMEOUT_SECONDS} s.",
    },
)
_CANCELLED = Life((*_ACCEPTED, CANCEL, Line(301, "cancelled", J.CANCELLED)))

_OVER = (_COMPLETED, _EXPIRED, _FAILED, _CANCELLED)
_SHARES = (46, 22, 12, 10)  # with a tenth that is pending: 3.04 events a job


def life_of(number: int, rows: int, chance: random.Random) -> Life:
    """The life of a job by its number, oldest first, of so many.

    Of the newest fifth every other one is pending, and the first few of the rest are at work.
    """
    tenth = rows // 10
    place = number - (rows - 2 * tenth)
    if place >= 0 and place % 2 == 0:
        return _PENDING
    if 0 <= place < 2 * min(MOST_AT_WORK, tenth):
        return _AT_WORK[place // 2 % len(_AT_WORK)]
    return chance.choices(_OVER, _SHARES)[0]
