"""A job's work done plainly: the two outside calls and three updates of its row, each committed by itself.

This is what the references do, and all they do: no look before a create, no lease, no timeline, no observation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import requests
from psycopg.types.json import Jsonb

COLUMNS = (
    "id",
    "endpoint",
    "input_file_id",
    "completion_window",
    "completion_window_seconds",
    "metadata",
    "model",
    "template_name",
    "template_version",
    "template_spec",
    "accelerator_type",
    "accelerator_count",
    "replicas",
)
_TIMEOUT_SECONDS = 40

_CREATE_SENT = "UPDATE jobs_job SET provisioning_at = now() WHERE id = %s"
_SUBMIT_SENT = """
    UPDATE jobs_job SET status = 'submitting', submitting_at = now(), submit_started_at = now() WHERE id = %s
"""
_SUBMITTED = """
    UPDATE jobs_job SET status = 'scheduling', scheduling_at = now(), submit_ended_at = now(),
                        batch_seen_at = now(), batch_id = %s, batch_view = %s
    WHERE id = %s
"""


def run(
    job: Mapping[str, Any], url: str, session: requests.Session, execute: Callable[[str, list[Any]], object]
) -> None:
    """One job, from its row to its batch. `execute` runs one statement and commits it."""
    execute(_CREATE_SENT, [job["id"]])
    resource = _post(session, f"{url}/resources", _resource(job))
    execute(_SUBMIT_SENT, [job["id"]])
    batch = _post(session, f"{url}/v1/batches", _batch(job, resource))
    execute(_SUBMITTED, [batch["id"], Jsonb(batch), job["id"]])


def new_session() -> requests.Session:
    """One per thread: it keeps its connections."""
    session = requests.Session()
    session.trust_env = False  # a proxy of the environment has no business on loopback
    return session


def _post(session: requests.Session, url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = session.post(url, json=body, timeout=_TIMEOUT_SECONDS)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _resource(job: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": f"plain-{job['id']}",
        "installation": "bench",
        "provision_id": job["id"],
        "job_id": job["id"],
        "accelerator_type": job["accelerator_type"],
        "accelerator_count": job["accelerator_count"],
        "replicas": job["replicas"],
        "expires_at": 0,
    }


def _batch(job: Mapping[str, Any], resource: Mapping[str, Any]) -> dict[str, Any]:
    details = {
        "endpoint_cluster": resource["region"],
        "gpu_type": job["accelerator_type"],
        "replica": job["replicas"],
    }
    return {
        "input_file_id": job["input_file_id"],
        "endpoint": job["endpoint"],
        "completion_window": job["completion_window"],
        "metadata": job["metadata"],
        "aibrix": {
            "job_id": f"bench:{job['id']}:1",
            "model": job["model"],
            "resource_allocation": {
                "provision_id": resource["id"],
                "provision_resource_deadline": 0,
                "resource_details": [details],
            },
            "model_template": {
                "name": job["template_name"],
                "version": job["template_version"],
                "spec": job["template_spec"],
            },
        },
    }
