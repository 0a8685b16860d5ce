"""The request body of a submission, field for field, and the real metadata service's opinion of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import requests

from jobs.batch_client import PlannerDecision, Submission, payload

FULL = Submission(
    input_file_id="file-1",
    endpoint="/v1/chat/completions",
    completion_window="24h",
    metadata={"team": "search", "note": "nightly"},
    decision=PlannerDecision(
        job_id="here:2f0f7a3e-8f64-4f0e-9a55-0d7a4f6c1b11:2",
        model="llama-3-8b",
        provision_id="6a0d2d5c-35a4-4b5e-8a1c-3e1b7f2f9c10",
        provision_resource_deadline=4_102_444_800,
        accelerator_type="H100",
        replicas=3,
        endpoint_cluster="us-east",
        runtime_target="External",
        runtime_options={"http_base_url": "https://engine.example"},
        template_name="llama",
        template_version="v1.2.0",
        template_spec={"engine": {"image": "vllm/vllm-openai:v0.9"}, "accelerator": {"type": "H100", "count": 2}},
        client={"max_concurrency": 64, "retry_policy": {"max_retries": 3}},
    ),
)

FULL_PAYLOAD: dict[str, Any] = {
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
    "metadata": {"team": "search", "note": "nightly"},
    "aibrix": {
        "job_id": "here:2f0f7a3e-8f64-4f0e-9a55-0d7a4f6c1b11:2",
        "model": "llama-3-8b",
        "model_template": {
            "name": "llama",
            "version": "v1.2.0",
            "spec": {"engine": {"image": "vllm/vllm-openai:v0.9"}, "accelerator": {"type": "H100", "count": 2}},
        },
        "resource_allocation": {
            "provision_id": "6a0d2d5c-35a4-4b5e-8a1c-3e1b7f2f9c10",
            "provision_resource_deadline": 4_102_444_800,
            "resource_details": [{"endpoint_cluster": "us-east", "gpu_type": "H100", "replica": 3}],
        },
        "runtime": {"target": "External", "options": {"http_base_url": "https://engine.example"}},
        "client": {"max_concurrency": 64, "retry_policy": {"max_retries": 3}},
    },
}

BARE = Submission(
    input_file_id="file-1",
    endpoint="/v1/embeddings",
    completion_window="1h",
    metadata={},
    decision=PlannerDecision(
        job_id="here:2f0f7a3e-8f64-4f0e-9a55-0d7a4f6c1b11:1",
        model="",
        provision_id="6a0d2d5c-35a4-4b5e-8a1c-3e1b7f2f9c10",
        provision_resource_deadline=0,
        accelerator_type="",
        replicas=1,
        endpoint_cluster="",
    ),
)

BARE_PAYLOAD: dict[str, Any] = {
    "input_file_id": "file-1",
    "endpoint": "/v1/embeddings",
    "completion_window": "1h",
    "metadata": {},
    "aibrix": {
        "job_id": "here:2f0f7a3e-8f64-4f0e-9a55-0d7a4f6c1b11:1",
        "resource_allocation": {
            "provision_id": "6a0d2d5c-35a4-4b5e-8a1c-3e1b7f2f9c10",
            "provision_resource_deadline": 0,
            "resource_details": [{"endpoint_cluster": "", "gpu_type": "", "replica": 1}],
        },
    },
}

# As the adapters tell them, field for field, in their own tests.
RUNTIMES: dict[str, dict[str, Any]] = {
    "Kubernetes": {},
    "RunPod": {
        "host": "203.0.113.7",
        "ssh_port": 10341,
        "ssh_user": "root",
        "http_base_url": "https://p1-8000.proxy.runpod.net",
        "model": "org/small-1b",
        "image": "vllm/vllm-openai:v0.9",
        "vllm_args": ["--max-model-len=8192"],
    },
    "LambdaCloud": {
        "host": "203.0.113.9",
        "ssh_port": 22,
        "ssh_user": "ubuntu",
        "http_base_url": "http://203.0.113.9:8000",
        "model": "org/small-1b",
    },
}

BOTH = pytest.mark.parametrize(
    ("submission", "expected"), [(FULL, FULL_PAYLOAD), (BARE, BARE_PAYLOAD)], ids=["full", "bare"]
)


@BOTH
def test_the_payload_is_exactly_this(submission: Submission, expected: dict[str, Any]) -> None:
    assert payload(submission) == expected


def test_every_field_of_the_decision_reaches_the_payload() -> None:
    """A field added to the decision and forgotten in the payload would be decided and never sent."""
    for decided in dataclasses.fields(PlannerDecision):
        values: dict[type, Any] = {str: "changed", int: 77, dict: {"changed": 1}}
        changed = values[type(getattr(FULL.decision, decided.name))]
        decision = dataclasses.replace(FULL.decision, **{decided.name: changed})
        assert payload(dataclasses.replace(FULL, decision=decision)) != FULL_PAYLOAD, decided.name


def test_a_template_without_version_and_spec_is_a_bare_name() -> None:
    decision = dataclasses.replace(FULL.decision, template_version="", template_spec={})
    aibrix = payload(dataclasses.replace(FULL, decision=decision))["aibrix"]
    assert aibrix["model_template"] == {"name": "llama"}


@pytest.mark.mds
@BOTH
def test_the_metadata_service_accepts_and_echoes_it(mds: str, submission: Submission, expected: dict[str, Any]) -> None:
    answer = requests.post(f"{mds}/v1/batches", json=payload(submission), timeout=30)
    assert answer.status_code == 200, answer.text
    echoed = answer.json()["aibrix"]
    assert echoed["job_id"] == submission.decision.job_id
    assert echoed == expected["aibrix"]


@pytest.mark.mds
@pytest.mark.parametrize("target", RUNTIMES)
def test_the_metadata_service_knows_the_runtime_of_each_cloud(mds: str, target: str) -> None:
    decision = dataclasses.replace(FULL.decision, runtime_target=target, runtime_options=RUNTIMES[target])
    body = payload(dataclasses.replace(FULL, decision=decision))
    assert body["aibrix"]["runtime"] == {"target": target, "options": RUNTIMES[target]}
    answer = requests.post(f"{mds}/v1/batches", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["aibrix"] == body["aibrix"]
    body["aibrix"]["runtime"]["target"] = f"{target}s"
    assert requests.post(f"{mds}/v1/batches", json=body, timeout=30).status_code == 400


@pytest.mark.mds
@pytest.mark.parametrize("where", [(), ("model_template",), ("client",)], ids=["aibrix", "model_template", "client"])
def test_the_metadata_service_refuses_keys_it_does_not_know(mds: str, where: tuple[str, ...]) -> None:
    """Why the payload sends nothing of its own there."""
    body = payload(FULL)
    target = body["aibrix"]
    for key in where:
        target[key] = target = dict(target[key])
    target["of_our_own"] = "x"
    answer = requests.post(f"{mds}/v1/batches", json=body, timeout=30)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][-1] == "of_our_own"
