"""Rows for tests, one plain function each: every argument is optional, every name is unique by itself.

They use the ORM directly, so a test can start in any state; what a caller could not have made (a completed job
without a batch) is the test's own choice.
"""

from __future__ import annotations

import itertools
import uuid
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import Group, User
from django.utils import timezone

from jobs.models import DeploymentTemplate, InputFile, Job, JobEvent, Pool, Provision, ServedModel
from jobs.placement import queue_class
from jobs.statuses import PROVISION_LIVE, TERMINAL, JobStatus, ProvisionStatus

_numbers = itertools.count(1)

TEMPLATE_SPEC: dict[str, Any] = {
    "engine": {"type": "vllm", "version": "0.8.5"},
    "modelSource": {"type": "huggingface", "uri": "org/small-1b"},
    "accelerator": {"type": "H100", "count": 1},
    "parallelism": {"tp": 1, "pp": 1, "dp": 1},
    "engineArgs": {},
    "quantization": {"weight": "bf16"},
    "supportedEndpoints": ["/v1/chat/completions", "/v1/completions"],
    "deploymentMode": "dedicated",
}

_OVER: dict[str, Any] = {
    "batch_id": "batch-1",
    "output_file_id": "file-out",
    "error_file_id": "file-err",
    "request_completed": 2,
    "request_failed": 1,
    "usage": {"input_tokens": 30, "output_tokens": 5, "total_tokens": 35},
    "batch_view": {"status": "completed"},
}


def make_user(role: str = "submitter", **fields: Any) -> User:
    """A user of one role: submitter, viewer, operator, superuser, or "" for none."""
    fields.setdefault("username", f"user{next(_numbers)}")
    fields.setdefault("email", f"{fields['username']}@example.org")
    fields.setdefault("is_staff", role in {"operator", "superuser"})
    user = User.objects.create_user(is_superuser=role == "superuser", **fields)
    if role and role != "superuser":
        user.groups.add(Group.objects.get(name=role))
    return user


def make_model(**fields: Any) -> ServedModel:
    """A model in the catalogue; its serving name differs from its name."""
    number = next(_numbers)
    return ServedModel.objects.create(
        **{"id": f"model-{number}", "name": f"Model {number}", "serving_name": f"org/small-{number}", **fields}
    )


def make_template(model: ServedModel | None = None, **fields: Any) -> DeploymentTemplate:
    """An active template: one H100 per replica, chat and plain completions."""
    return DeploymentTemplate.objects.create(
        **{"model": model or make_model(), "name": f"template{next(_numbers)}", "spec": TEMPLATE_SPEC, **fields}
    )


def make_pool(**fields: Any) -> Pool:
    """An enabled simulated pool that offers every accelerator."""
    return Pool.objects.create(**{"name": f"pool{next(_numbers)}", "provider": "simulated", **fields})


def make_file(owner: User | None = None, **fields: Any) -> InputFile:
    """The row of an uploaded file; nothing is at the MDS."""
    return InputFile.objects.create(
        **{
            "id": str(uuid.uuid4()),
            "owner": owner or make_user(),
            "filename": "requests.jsonl",
            "size_bytes": 300,
            "request_count": 3,
            **fields,
        }
    )


def make_job(owner: User | None = None, **fields: Any) -> Job:
    """An accepted job with its first event; pending unless told otherwise.

    A terminal status gets its time, `provisioning` a pool and a requested provision.
    """
    owner = owner or make_user()
    status = JobStatus(fields.pop("status", JobStatus.PENDING))
    if status in TERMINAL:
        fields.setdefault(f"{status.value}_at", timezone.now())
    needs_provision = status == JobStatus.PROVISIONING and "provision" not in fields
    accelerator_type = fields.setdefault("accelerator_type", "H100")
    job = Job.objects.create(
        **{
            "owner": owner,
            "created_by": owner.email or owner.username,
            "endpoint": "/v1/chat/completions",
            "input_file_id": str(uuid.uuid4()),
            "completion_window": "24h",
            "completion_window_seconds": 86_400,
            "accelerator_count": 1 if accelerator_type else 0,
            "queue_class": queue_class(accelerator_type, fields.get("accepts")),
            "request_total": 3,
            "event_count": 1,
            "status": JobStatus.PENDING if needs_provision else status,
            **fields,
        }
    )
    JobEvent.objects.create(job=job, sequence=1, reason="accepted", to_status="pending", actor=job.created_by)
    if needs_provision:
        make_provision(job, **({"pool": fields["pool"]} if "pool" in fields else {}))
        Job.objects.filter(pk=job.pk).update(status=status, provisioning_at=timezone.now())
    job.refresh_from_db()
    return job


def refused(tries: int = 1) -> dict[str, Any]:
    """What the row of a release tells whose deletes the provider refused, so many times."""
    now = timezone.now()
    return {"releasing_at": now, "retry_count": tries, "last_error_code": "http_500", "last_error_at": now}


def make_provision(job: Job | None = None, pool: Pool | None = None, **fields: Any) -> Provision:
    """A provision, requested unless told otherwise; becomes its job's newest one, unless the job has a live one."""
    job, pool = job or make_job(), pool or make_pool()
    now = timezone.now()
    status = ProvisionStatus(fields.get("status", ProvisionStatus.REQUESTED))
    if status in {ProvisionStatus.READY, ProvisionStatus.RELEASED}:
        fields.setdefault(f"{status.value}_at", now)
    newest = job.provision is None or status in PROVISION_LIVE or job.provision.status not in PROVISION_LIVE
    provision = Provision.objects.create(
        **{
            "job": job,
            "pool": pool,
            "attempt": job.attempt,
            "name": f"bp-{uuid.uuid4()}",
            "spec": {
                "accelerator_type": job.accelerator_type,
                "accelerator_count": job.accelerator_count,
                "replicas": job.replicas,
                "options": job.provider_config,
            },
            "deadline_at": now + timedelta(seconds=pool.ready_timeout_seconds),
            "expires_at": now + timedelta(days=2),
            **fields,
        }
    )
    if newest:
        Job.objects.filter(pk=job.pk).update(pool=pool, provision=provision)
        job.refresh_from_db()
    provision.refresh_from_db()
    return provision


def jobs_everywhere() -> list[Job]:
    """A job in every status, each with a provision where it can have one."""
    pool = make_pool()
    found = []
    for status in JobStatus:
        job = make_job(status=status, **(_OVER if status == JobStatus.COMPLETED else {}))
        if status not in {JobStatus.PENDING, JobStatus.PROVISIONING}:
            make_provision(job, pool, status="released" if job.is_terminal else "ready", region="west")
        found.append(job)
    return found
