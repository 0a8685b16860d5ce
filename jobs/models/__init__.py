"""The rows. Only `lifecycle` writes a status; nothing here calls anything outside."""

from __future__ import annotations

from jobs.models.access import ApiToken, Identity, InputFile, RateLimit
from jobs.models.catalogue import DeploymentTemplate, ServedModel
from jobs.models.engine import AccountPace, BatchScan, QueueMessage, Worker
from jobs.models.job import Job, JobEvent
from jobs.models.provision import Pool, Provision
from jobs.models.queue import OwnerQuota, Queue

__all__ = [
    "AccountPace",
    "ApiToken",
    "BatchScan",
    "DeploymentTemplate",
    "Identity",
    "InputFile",
    "Job",
    "JobEvent",
    "OwnerQuota",
    "Pool",
    "Provision",
    "Queue",
    "QueueMessage",
    "RateLimit",
    "ServedModel",
    "Worker",
]
