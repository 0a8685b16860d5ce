"""From rows to requests: what is asked of a provider, and what is sent to the MDS. Pure."""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings

from jobs.batch_client import PlannerDecision, Submission
from jobs.lifecycle.scans import external_job_id
from jobs.models import Job, Provision
from jobs.provisioners.base import Resource, ResourceRequest, ResourceState, Runtime

# Their keys belong to the engine, not to us.
_VERBATIM = frozenset({"engineArgs", "engine_args"})


def resource_request(job: Job, provision: Provision) -> ResourceRequest:
    """What `ensure` is asked for: frozen at accept and admission, the same after any restart (G9)."""
    intended_at = provision.create_started_at or provision.expires_at  # both by the database's clock
    return ResourceRequest(
        name=provision.name,
        installation=settings.PLANNER_INSTALLATION,
        provision_id=str(provision.id),
        job_id=job.id,
        accelerator_type=provision.spec["accelerator_type"],
        accelerator_count=provision.spec["accelerator_count"],
        replicas=provision.spec["replicas"],
        expires_at=provision.expires_at,
        lifetime_seconds=(provision.expires_at - intended_at).total_seconds(),
        model=job.model,
        template_spec=job.template_spec,
        options=provision.spec["options"],
    )


def ready_resource(provision: Provision) -> Resource:
    """The resource as last observed: connection data comes from there, never from the answer to the create."""
    return Resource(
        name=provision.name,
        state=ResourceState.READY,
        external_ids=tuple(provision.external_ids),
        region=provision.region,
        detail=provision.detail,
    )


def submission(job: Job, provision: Provision, runtime: Runtime | None) -> Submission:
    """The batch of this attempt."""
    decision = PlannerDecision(
        job_id=external_job_id(job),
        model=job.model,
        provision_id=str(provision.id),
        provision_resource_deadline=int(job.deadline_at.timestamp()) if job.deadline_at else 0,
        accelerator_type=provision.spec["accelerator_type"],
        replicas=provision.spec["replicas"],
        endpoint_cluster=provision.region,
        runtime_target=runtime.target if runtime else "",
        runtime_options=runtime.options if runtime else {},
        template_name=job.template_name,
        template_version=job.template_version,
        template_spec=snake_case(job.template_spec),
        client=job.client,
    )
    return Submission(
        input_file_id=job.input_file_id,
        endpoint=job.endpoint,
        completion_window=job.completion_window,
        metadata=job.metadata,
        decision=decision,
    )


def snake_case(value: Any) -> Any:
    """Keys as the MDS spells them; the catalogue keeps the console's spelling."""
    if isinstance(value, list):
        return [snake_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {_snake(key): item if key in _VERBATIM else snake_case(item) for key, item in value.items()}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()
