"""What the demo begins with: people, a model with its template, a pool, and one sample request."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.auth.models import Group, User

from jobs.models import ApiToken, DeploymentTemplate, InputFile, Pool, ServedModel
from planner_site.local_providers import LocalProvider

# name, group, what they can do
PEOPLE = (
    ("alice", "submitter", "submits jobs and sees her own"),
    ("viola", "viewer", "sees every job"),
    ("oscar", "operator", "works in the admin: cancel, release, watch"),
    ("admin", "", "superuser"),
)
# what alice has to look at from the start; the last but one is cancelled, the last one held
JOBS = ("nightly evaluation", "summaries", "translations", "judge run 12", "wrong model", "weekly digest")
HOLD_REASON = "The demo's own: resume it in the admin, or over REST."
MODEL = "sample-1b"
TEMPLATE = "sample-1b-h100"
ENDPOINT = "/v1/chat/completions"

SPEC: dict[str, Any] = {
    "engine": {"type": "vllm", "version": "0.8.5", "image": "", "invocation": "", "serveArgs": []},
    "modelSource": {"type": "huggingface", "uri": "example/sample-1b"},
    "accelerator": {"type": "H100", "count": 1},
    "parallelism": {"tp": 1, "pp": 1, "dp": 1},
    "engineArgs": {"max_model_len": "8192"},
    "quantization": {"weight": "bf16"},
    "supportedEndpoints": [ENDPOINT, "/v1/completions"],
    "deploymentMode": "dedicated",
}


def password(name: str) -> str:
    """A demo password: known to all, of use only on the demo's own loopback address."""
    return f"{name}-demo"


def token(name: str) -> str:
    """A new API token of one of them."""
    return ApiToken.issue(User.objects.get(username=name), "demo")[1]


def create(provider: LocalProvider, provider_url: str) -> None:
    """Fill a fresh database."""
    for name, role, _ in PEOPLE:
        is_superuser = not role
        user = User.objects.create_user(
            name, f"{name}@example.org", password(name), is_superuser=is_superuser, is_staff=name in {"oscar", "admin"}
        )
        if role:
            user.groups.add(Group.objects.get(name=role))
    model = ServedModel.objects.create(
        id=MODEL,
        name=MODEL,
        description="A model that exists only in the demo.",
        provider_name="example",
        context_length="8k",
        categories=["LLM"],
    )
    DeploymentTemplate.objects.create(model=model, name=TEMPLATE, spec=SPEC)
    Pool.objects.create(
        name=provider.name,
        provider=provider.name,
        options=provider.options(provider_url),
        accelerator_types=["H100"],
        absence_confirm_seconds=1,
        observe_interval_seconds=0.5,
        price_per_hour="2.50",
    )


def file_row() -> InputFile:
    """The row of an input file of alice's that is nowhere; a fake metadata service asks for no more."""
    alice = User.objects.get(username="alice")
    return InputFile.objects.create(
        id=str(uuid.uuid4()), owner=alice, filename="nowhere.jsonl", size_bytes=1, request_count=1
    )


def job_request(file_id: str) -> dict[str, Any]:
    """The body of the sample job's POST."""
    return {
        "input_dataset": file_id,
        "endpoint": ENDPOINT,
        "completion_window": "1h",
        "name": "sample",
        "model_id": MODEL,
        "model_template_name": TEMPLATE,
        "resource_request": {"replicas": 1},
    }
