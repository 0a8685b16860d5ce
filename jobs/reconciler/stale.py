"""What a worker that comes back too late has to take back: only what the row can no longer want (G7)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jobs.batch_client import Batch
from jobs.lifecycle.claims import Finished
from jobs.lifecycle.outcomes import NotSent
from jobs.lifecycle.steps import CallKind
from jobs.models import Job, Provision
from jobs.reconciler import calls, pacing
from jobs.statuses import PROVISION_LIVE, TERMINAL


def undo_of(stale: Finished) -> Callable[[], Any] | None:
    """The call that undoes a stale result, or None if there is nothing to undo.

    A batch that its job may still adopt is left to the scan; a resource whose provision is live, to observation.
    """
    claim, answer = stale.claim, stale.answer
    if claim.kind == CallKind.SUBMIT and isinstance(answer, Batch):
        job = Job.objects.get(pk=claim.job.id)
        may_adopt = job.status not in TERMINAL and job.attempt == claim.job.attempt and job.batch_id in {"", answer.id}
        return None if may_adopt else partial(calls.stop_batch, answer.id)
    # an error of whatever kind speaks of the last object tried: earlier ones may be there
    may_be_there = claim.kind == CallKind.CREATE and not isinstance(answer, NotSent)
    if may_be_there and claim.provision is not None:
        provision = Provision.objects.select_related("pool").get(pk=claim.provision.id)
        if provision.status not in PROVISION_LIVE:
            undo, replicas = partial(calls.undo_create, provision), provision.spec["replicas"]
            return pacing.in_turn(provision.pool, undo, requests=pacing.releasing(replicas))
    return None
