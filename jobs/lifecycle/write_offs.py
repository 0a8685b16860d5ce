"""Giving a resource up without proof that it is gone: an operator's word in the place of the provider's."""

from __future__ import annotations

from datetime import datetime

from jobs.lifecycle.changes import written_off
from jobs.lifecycle.steps import Event
from jobs.lifecycle.writing import Row, write
from jobs.models import Job, JobEvent, Provision


def write_off(job: Job, provision: Provision, actor: str, reason: str, now: datetime) -> None:
    """Write it, in the caller's transaction, which holds both rows and knows the provision to be `releasing`.

    Whoever has the release in hand has it no longer: what he learns is of an older version.
    """
    row = Row(job, provision, is_release=True)
    told = {"provision_id": str(provision.pk), "last_error": provision.last_error}
    row.apply(written_off(now, Event("written_off", reason, JobEvent.Source.OPERATOR, actor, told)), now)
    row.control(version=provision.version + 1, lease_expires_at=None)
    write([row], now)
