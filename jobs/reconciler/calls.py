"""The outside calls themselves, made on bulkhead threads: no database here."""

from __future__ import annotations

import logging
import time
from functools import cache

from django.conf import settings

from jobs import request_ids
from jobs.batch_client import Batch, BatchClient
from jobs.conf import times
from jobs.errors import UpstreamError, UpstreamKind
from jobs.lifecycle.claims import Claim
from jobs.lifecycle.observations import Observation
from jobs.lifecycle.outcomes import Answer, NotSent
from jobs.lifecycle.scans import ScanAnswer, ScanCall, is_over
from jobs.lifecycle.steps import CallKind
from jobs.metrics import MDS, outside_call
from jobs.models import Pool, Provision
from jobs.provisioners import get_provisioner
from jobs.provisioners.base import Provisioner, Resource
from jobs.reconciler.submission import ready_resource, resource_request, submission

logger = logging.getLogger(__name__)


def batch_client() -> BatchClient:
    """The client of this installation's MDS; the one client of its settings."""
    t = times()
    return _client(settings.PLANNER_MDS_URL, t.connect_timeout, t.call_timeout, t.create_batch_timeout)


@cache
def _client(url: str, connect_timeout: float, call_timeout: float, create_timeout: float) -> BatchClient:
    return BatchClient(url, connect_timeout=connect_timeout, call_timeout=call_timeout, create_timeout=create_timeout)


def provisioner_of(pool: Pool) -> Provisioner:
    """The provider behind a pool."""
    return get_provisioner(pool.provider, pool.options)


def perform(claim: Claim) -> Answer:
    """Make the claimed call, unless it is too late for it. Raises `UpstreamError`."""
    if time.monotonic() > claim.send_by:
        return NotSent()
    is_at_pool = claim.kind in {CallKind.CREATE, CallKind.RELEASE}
    target = claim.provision.pool.name if is_at_pool and claim.provision is not None else MDS
    with request_ids.bound(claim.job.request_id or claim.job.id), outside_call(target, claim.kind):
        return _perform(claim)


def _perform(claim: Claim) -> Answer:
    job, provision = claim.job, claim.provision
    if claim.kind == CallKind.CREATE and provision is not None:
        return provisioner_of(provision.pool).ensure(resource_request(job, provision))
    if claim.kind == CallKind.RELEASE and provision is not None:
        provisioner_of(provision.pool).release(provision.name)
        return None
    if claim.kind == CallKind.SUBMIT and provision is not None:
        runtime = provisioner_of(provision.pool).runtime(resource_request(job, provision), ready_resource(provision))
        return batch_client().create(submission(job, provision, runtime))
    if claim.kind == CallKind.CANCEL:
        return stop_batch(job.batch_id)
    return batch_client().get(job.batch_id)


def too_late(kind: CallKind | None = None) -> UpstreamError:
    """What is recorded of a call that outlasts all its time-outs: an upstream can drip an answer's head for ever."""
    creates = kind in {CallKind.CREATE, CallKind.SUBMIT}
    error = UpstreamKind.AMBIGUOUS if creates else UpstreamKind.TRANSIENT
    return UpstreamError(error, "The call did not end in time.", code="timeout")


def stop_batch(batch_id: str) -> Batch:
    """Ask for the cancel, then look: what the cancel's own answer says proves nothing, nor does its refusal."""
    try:
        batch_client().cancel(batch_id)
    except UpstreamError as error:
        if error.kind not in {UpstreamKind.CONFLICT, UpstreamKind.NOT_FOUND}:
            raise
    return batch_client().get(batch_id)


def observe(observation: Observation) -> dict[str, Resource]:
    """One listing."""
    with outside_call(observation.pool.name, "observe"):
        return provisioner_of(observation.pool).observe(observation.names)


def remove_surplus(observation: Observation, resource: Resource) -> None:
    """Delete, singly, the objects of a name that the listing showed beyond what was asked for: here and nowhere else.

    Unless it is too late for it: of two equal ones the other may be gone by then, and a surplus one be needed.
    """
    if time.monotonic() > observation.send_by:
        return
    pool = observation.pool
    logger.warning("pool %s: %s has surplus objects", pool.name, resource.name)
    with outside_call(pool.name, CallKind.RELEASE):
        provisioner_of(pool).release(resource.name, only=resource.surplus_ids)


def scan(call: ScanCall) -> ScanAnswer:
    """Stop the batches nobody wants, or read one page."""
    with outside_call(MDS, "scan"):
        return _scan(call)


def _scan(call: ScanCall) -> ScanAnswer:
    if not call.stop:
        return ScanAnswer(page=batch_client().list_page(call.after))
    until = time.monotonic() + times().call_timeout
    stopped: list[str] = []
    failure: UpstreamError | None = None
    for batch_id in call.stop:
        if time.monotonic() > until:
            break  # a slow MDS: the rest is for another call, within another lease
        try:
            # the list's word on a status is not to be trusted: GET first
            if is_over(batch_client().get(batch_id)) or is_over(stop_batch(batch_id)):
                stopped.append(batch_id)
        except UpstreamError as error:
            if error.kind == UpstreamKind.NOT_FOUND:
                stopped.append(batch_id)
            else:
                failure = error
    if failure is not None and not stopped:
        raise failure
    return ScanAnswer(stopped=tuple(stopped))


def undo_create(provision: Provision) -> None:
    """Delete what a stale create made. Tried once: should it fail, the orphan sweep finds it."""
    provisioner_of(provision.pool).release(provision.name)
