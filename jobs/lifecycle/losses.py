"""When a job has lost its resource. Pure."""

from __future__ import annotations

from datetime import datetime

from jobs.lifecycle.steps import Event
from jobs.models import Job, JobEvent, Provision
from jobs.provisioners.base import ResourceState
from jobs.statuses import PROVISION_LIVE


def resource_gone(job: Job, provision: Provision | None, now: datetime) -> Event | None:
    """Why the job has no resource any more, or None if it has, or its batch was given the room that was held for it."""
    if provision is None:
        return Event("resource_lost", "There is no provision.")
    if provision.release_requested_at is not None and provision.release_requested_by:
        message = f"{provision.release_requested_by} asked for the release of its resource."
        return Event("resource_released", message, JobEvent.Source.OPERATOR, provision.release_requested_by)
    if provision.lifetime_ends_at is not None and provision.lifetime_ends_at <= now:
        return Event("resource_expired", "The resource is as old as its pool lets any become.")
    if provision.hands_over and job.batch_id and provision.status in PROVISION_LIVE:
        return None
    if provision.observed_state == ResourceState.FAILED:
        # room is taken by others; anything else may have been broken by the job itself
        reason = "resource_lost" if provision.hands_over else "resource_failed"
        return Event(reason, provision.last_error, JobEvent.Source.PROVIDER)
    if provision.status not in PROVISION_LIVE or provision.absence_confirmed_at is not None:
        return Event("resource_lost", "The provider no longer has the resource.", JobEvent.Source.PROVIDER)
    return None
