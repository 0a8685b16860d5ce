"""The one list of job and provision statuses, with the one transition table."""

from __future__ import annotations

from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Coalesce


class JobStatus(models.TextChoices):
    """Where a job is; the field's stored value and the planner's wire name are the same word."""

    PENDING = "pending"
    PROVISIONING = "provisioning"
    SUBMITTING = "submitting"
    SCHEDULING = "scheduling"
    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class ProvisionStatus(models.TextChoices):
    """Where one reservation of resources is."""

    REQUESTED = "requested"
    PROVISIONING = "provisioning"
    READY = "ready"
    FAILED = "failed"
    LOST = "lost"
    RELEASING = "releasing"
    RELEASED = "released"
    WRITTEN_OFF = "written_off"


class FailureStage(models.TextChoices):
    """Which step of a job failed."""

    PROVISION = "provision"
    SUBMIT = "submit"
    BATCH = "batch"


J = JobStatus
P = ProvisionStatus

TERMINAL = frozenset({J.COMPLETED, J.FAILED, J.EXPIRED, J.CANCELLED})
LIVE = frozenset(JobStatus) - TERMINAL
# The MDS's own order; a job only ever moves forward in it, whatever a lagging MDS answers.
RUNNING_ORDER = (J.SCHEDULING, J.VALIDATING, J.IN_PROGRESS, J.FINALIZING)
RUNNING = frozenset(RUNNING_ORDER)

PROVISION_LIVE = frozenset({P.REQUESTED, P.PROVISIONING, P.READY})
PROVISION_ENDED = frozenset({P.RELEASED, P.WRITTEN_OFF})
# What still occupies room in its pool: everything that may cost money.
PROVISION_HELD = frozenset(ProvisionStatus) - PROVISION_ENDED

_ENDED_BY_BATCH = {J.COMPLETED, J.FAILED, J.EXPIRED, J.CANCELLED}

JOB_TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    J.PENDING: frozenset({J.PROVISIONING, J.CANCELLED, J.EXPIRED, J.FAILED}),
    J.PROVISIONING: frozenset({J.PENDING, J.SUBMITTING, J.CANCELLED, J.EXPIRED, J.FAILED}),
    J.SUBMITTING: frozenset({J.PENDING, *RUNNING_ORDER, J.CANCELLING, *_ENDED_BY_BATCH}),
    **{
        status: frozenset(
            {J.PENDING, *RUNNING_ORDER[rank + 1 :], J.CANCELLING, *_ENDED_BY_BATCH},
        )
        for rank, status in enumerate(RUNNING_ORDER)
    },
    J.CANCELLING: frozenset(_ENDED_BY_BATCH),
    **{status: frozenset() for status in TERMINAL},
}

PROVISION_TRANSITIONS: dict[ProvisionStatus, frozenset[ProvisionStatus]] = {
    P.REQUESTED: frozenset({P.PROVISIONING, P.READY, P.FAILED, P.LOST, P.RELEASING}),
    P.PROVISIONING: frozenset({P.READY, P.FAILED, P.LOST, P.RELEASING}),
    P.READY: frozenset({P.FAILED, P.LOST, P.RELEASING}),
    P.FAILED: frozenset({P.RELEASING}),
    P.LOST: frozenset({P.RELEASING}),
    P.RELEASING: frozenset({P.RELEASED, P.WRITTEN_OFF}),
    P.RELEASED: frozenset(),
    P.WRITTEN_OFF: frozenset(),
}

# What people are shown: a cancel that was asked for reads `cancelling` until it is true.
SHOWN_STATUS = Case(
    When(Q(cancel_requested_at__isnull=False) & Q(status__in=sorted(LIVE)), then=Value(J.CANCELLING.value)),
    default=F("status"),
    output_field=models.CharField(),
)


def shown_status(status: str, *, cancel_requested: bool) -> str:
    """The same answer as `SHOWN_STATUS`, for a row already in memory."""
    return J.CANCELLING.value if cancel_requested and status in LIVE else status


# The same for this one word, as an index of such jobs has it.
IS_CANCELLING = Q(status=J.CANCELLING.value) | Q(cancel_requested_at__isnull=False, status__in=sorted(LIVE))


def shown_as(status: str) -> Q:
    """The jobs shown with this status, in words that an index serves."""
    if status == J.CANCELLING:
        return IS_CANCELLING
    # not by `SHOWN_STATUS`: of an expression the database does not know how many rows have it, and reads them all
    return Q(status=status, cancel_requested_at__isnull=True) if status in LIVE else Q(status=status)


# Since when a job is in its status: one time per status, but for the queue's, which begins when the job is accepted.
IN_STATUS_SINCE = Case(
    *(When(status=status.value, then=F(f"{status.value}_at")) for status in JobStatus if status != J.PENDING),
    default=Coalesce("pending_at", "accepted_at"),
    output_field=models.DateTimeField(),
)

# Bulkheads: which share of the outside calls a claimable row needs next. Pools use their own id (> 0).
NO_CALL = 0
MDS_SUBMIT = -1
MDS_FOLLOW = -2
MDS_CANCEL = -3

# `lifecycle.decide` must agree with this expression; a property test holds them together. An expression
# over one row's own columns, so that PostgreSQL can keep it as a generated, indexed column.
JOB_BULKHEAD = Case(
    When(status__in=[J.PENDING.value, *sorted(TERMINAL)], then=Value(NO_CALL)),
    When(status=J.PROVISIONING.value, cancel_requested_at__isnull=False, then=Value(NO_CALL)),
    When(status=J.PROVISIONING.value, then=F("pool_id")),
    # an attempt that may have been sent waits for the scan; a cancel before it was sent needs nobody
    When(batch_id="", submit_started_at__isnull=False, then=Value(NO_CALL)),
    When(batch_id="", cancel_requested_at__isnull=False, then=Value(NO_CALL)),
    When(batch_id="", then=Value(MDS_SUBMIT)),
    When(Q(status=J.CANCELLING.value) | Q(cancel_requested_at__isnull=False), then=Value(MDS_CANCEL)),
    default=Value(MDS_FOLLOW),
    output_field=models.BigIntegerField(),
)
