"""What was accepted is what is stored, shown, asked of the provider and sent to the MDS; also after any restart."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.lifecycle.claims import step
from jobs.lifecycle.scans import external_job_id
from jobs.models import DeploymentTemplate, Job, Provision, ServedModel
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.statuses import LIVE, JobStatus
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from jobs.validation import JobRequest
from tests.api_client import ApiClient, api, job_body
from tests.clock import pass_time
from tests.engine import is_quiet, places, simulated_pool, ticking_until
from tests.factories import TEMPLATE_SPEC
from tests.states import held_back

pytestmark = pytest.mark.django_db(transaction=True)

CLIENT = {
    "max_concurrency": 16,
    "request_timeout_seconds": 30,
    "adaptive_concurrency": False,
    "adaptive_max_factor": 1.5,
    "adaptive_healthy_window": 3,
    "adaptive_additive_increase": 2,
    "retry_policy": {
        "max_retries": 4,
        "base_delay_seconds": 0.5,
        "max_delay_seconds": 3,
        "no_endpoint_max_retries": 2,
    },
}
# keys of our own kind, an order of its own, and what JSON could spoil
METADATA = {"zeta": "1", "aibrix.job_id": "mine", "planner": "", "alpha": ' grüße \\ " 0.1 '}
ACCEPTS = {"providers": ["simulated"], "pools": ["west"], "regions": ["us-west"]}
POOL = {"name": "west", "region": "us-west"}
PROVIDER_CONFIG = {"duration": "2h", "deep": [{"x": None}], "Price": 0.1}


def full_body(client: ApiClient) -> dict[str, Any]:
    """A create body with every field there is."""
    resources = {"replicas": 3, "provider_config": PROVIDER_CONFIG, **ACCEPTS}
    optional = {"client": CLIENT, "metadata": METADATA, "queue_timeout_seconds": 600, "priority": 7}
    return job_body(client.user, completion_window="90m", resource_request=resources, **optional)


def accepted(client: ApiClient) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body of a create with every field, and the answer to it."""
    body = full_body(client)
    response = client.post("/jobs", body)
    assert response.status_code == 200, response.content
    return body, response.json()


# Of each field of a request: where the row, the API, the batch and the resource have it. None: not there.
FIELDS: dict[str, tuple[Any, Any, Any, Any]] = {
    "input_file_id": ("input_file_id", "inputDataset", "input_file_id", None),
    "endpoint": ("endpoint", "endpoint", "endpoint", None),
    "completion_window": ("completion_window", "completionWindow", "completion_window", None),
    "name": ("name", "name", None, None),
    "metadata": ("metadata", "metadata", "metadata", None),
    "model_id": ("model_id", None, None, None),
    "template_name": ("template_name", "modelTemplateName", "aibrix.model_template.name", None),
    "template_version": ("template_version", "modelTemplateVersion", "aibrix.model_template.version", None),
    "replicas": (
        "replicas",
        "resourceAllocation.resourceDetails.0.replica",
        "aibrix.resource_allocation.resource_details.0.replica",
        "replicas",
    ),
    "provider_config": ("provider_config", None, None, None),
    "client": ("client", None, "aibrix.client", None),
    "queue_timeout_seconds": ("queue_timeout_seconds", None, None, None),
    "priority": ("priority", "priority", None, None),
    **{kind: (f"accepts.{kind}", f"accepts.{kind}", None, None) for kind in ACCEPTS},
}


def ever_held(folder: Path) -> list[dict[str, Any]]:
    """Everything the provider was ever asked for, by its ledger."""
    entries = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    return [entry["fields"] | entry["fields"]["facts"] for entry in entries if entry["event"] == "created"]


def at(path: str, document: Any) -> Any:
    """What a document has at a dotted path; "absent" if nothing."""
    for part in path.split("."):
        try:
            document = document[int(part)] if isinstance(document, list) else document[part]
        except (KeyError, IndexError):
            return "absent"
    return document


def test_no_accepted_field_is_lost_on_its_way(
    fake_mds: FakeMds, simulated_server: SimulatedServer, tmp_path: Path
) -> None:
    assert set(FIELDS) == {field.name for field in dataclasses.fields(JobRequest)}, "a new field needs a line here"
    simulated_pool(simulated_server, **POOL)
    client = api("operator")
    body, answer = accepted(client)
    ticking_until(is_quiet)
    job = Job.objects.get()
    assert job.status == "completed", job.error_message
    shown = client.get(f"/jobs/{answer['id']}").json()
    (batch,) = fake_mds.batches()
    (held,) = ever_held(tmp_path)
    given = {
        **{name: body.get(name) for name in FIELDS},
        "input_file_id": body["input_dataset"],
        "template_name": body["model_template_name"],
        "template_version": body["model_template_version"],
        "replicas": 3,
        "provider_config": PROVIDER_CONFIG,
        **ACCEPTS,
    }
    for name, (column, key, sent, asked) in FIELDS.items():
        assert at(column, vars(job)) == given[name], name
        for document, path in ((shown, key), (batch.request, sent), (held, asked)):
            assert path is None or at(path, document) == given[name], (name, path)


def test_what_was_made_of_the_request_is_everywhere_the_same(
    fake_mds: FakeMds, simulated_server: SimulatedServer, tmp_path: Path
) -> None:
    """Identity, model, accelerator, counts and times: what the caller did not say but must find again."""
    simulated_pool(simulated_server, **POOL)
    client = api("operator")
    _, answer = accepted(client)
    ticking_until(is_quiet)
    job, provision = Job.objects.get(), Provision.objects.get()
    shown = client.get(f"/jobs/{job.id}").json()
    (batch,) = fake_mds.batches()
    (held,) = ever_held(tmp_path)
    assert (shown["id"], shown["batchId"], shown["provisionId"]) == (answer["id"], batch.id, str(provision.id))
    assert (batch.job_id, held["job_id"]) == (external_job_id(job), job.id)
    assert (held["name"], held["provision_id"]) == (provision.name, str(provision.id))
    assert batch.request["aibrix"]["resource_allocation"]["provision_id"] == str(provision.id)
    assert shown["model"] == batch.request["aibrix"]["model"] == job.model
    assert (held["accelerator_type"], held["accelerator_count"]) == ("H100", TEMPLATE_SPEC["accelerator"]["count"])
    assert batch.request["aibrix"]["resource_allocation"]["resource_details"][0]["gpu_type"] == "H100"
    assert shown["createdBy"] == client.user.email
    assert shown["requestCounts"] == {"total": 3, "completed": 3, "failed": 0}
    assert answer["requestCounts"]["total"] == 3, "known from the accept on"
    assert provision.spec["options"] == PROVIDER_CONFIG


def test_every_replica_is_rented_paid_for_and_used(fake_mds: FakeMds, simulated_server: SimulatedServer) -> None:
    simulated_pool(simulated_server, **POOL)
    simulated_server.add_rule(Rule("create", is_never_ready=True))
    accepted(api("operator"))
    (held,) = ticking_until(simulated_server.live)
    assert simulated_server.ledger.bill().cost_per_hour == 3 * simulated_server.price
    simulated_server.make_ready(held.name)
    ticking_until(is_quiet)
    (batch,) = fake_mds.batches()
    assert batch.request["aibrix"]["resource_allocation"]["resource_details"] == [
        {"endpoint_cluster": "simulated", "gpu_type": "H100", "replica": 3}
    ]


def test_before_it_is_called_ready_a_resource_is_known_with_provider_place_and_id(
    fake_mds: FakeMds, simulated_server: SimulatedServer
) -> None:
    pool = simulated_pool(simulated_server, **POOL)
    fake_mds.add_rule(Rule("create", times=None, status=503))
    accepted(api("operator"))
    ticking_until(lambda: Provision.objects.filter(status="ready").exists())
    provision = Provision.objects.get()
    assert (provision.pool.provider, provision.region) == (pool.provider, "simulated")
    assert provision.external_ids == [held.id for held in simulated_server.live()]


def test_connection_details_are_those_of_the_last_look(fake_mds: FakeMds, simulated_server: SimulatedServer) -> None:
    """The answer to the create is not what the batch is told of: the resource may have moved since."""
    simulated_pool(simulated_server, **POOL)
    simulated_server.add_rule(Rule("create", is_never_ready=True))
    accepted(api("operator"))
    ticking_until(lambda: Provision.objects.filter(status="provisioning").exists())
    Provision.objects.update(region="as it was", detail={"as": "it was"}, external_ids=["x"])
    (held,) = simulated_server.live()
    simulated_server.make_ready(held.name)
    ticking_until(is_quiet)
    (batch,) = fake_mds.batches()
    assert batch.request["aibrix"]["resource_allocation"]["resource_details"][0]["endpoint_cluster"] == "simulated"
    assert Provision.objects.get().external_ids == [held.id]


# --- restarts ---


_THE_PROVIDERS_OWN = ("id", "sequence", "ready_at")


def story(job_id: str, folder: Path, mds: FakeMds) -> str:
    """The one request to the provider and the one to the MDS, byte for byte but for ids and times."""
    job = Job.objects.get(pk=job_id)
    assert (job.status, job.lost_attempts, job.crashes) == ("completed", 0, 0)
    (provision,) = job.provisions.all()
    (held,) = (held for held in ever_held(folder) if held["job_id"] == job_id)
    (batch,) = (batch for batch in mds.batches() if job_id in batch.job_id)
    told = json.dumps([{name: value for name, value in held.items() if name not in _THE_PROVIDERS_OWN}, batch.request])
    # a submit that died with its worker is another attempt's
    for ours, name in (
        (f"{job_id}:{job.attempt}", "JOB:1"),
        (job_id, "JOB"),
        (str(provision.id), "PROVISION"),
        (provision.name, "NAME"),
    ):
        told = told.replace(ours, name)
    return re.sub(r"\b[0-9]{10}(\.[0-9]+)?\b", "TIME", told)


def every_worker_dies() -> None:
    """What is due is claimed, and nobody ever comes back with an answer."""
    pass_time(60)
    step([], places())
    pass_time(60)


@pytest.mark.parametrize("status", [status.value for status in JobStatus if status in LIVE and status != "cancelling"])
def test_a_restart_in_any_state_asks_for_the_very_same(
    status: str, fake_mds: FakeMds, simulated_server: SimulatedServer, tmp_path: Path
) -> None:
    simulated_pool(simulated_server, **POOL)
    client = api("operator")
    body = full_body(client) | {"queue_timeout_seconds": 86_400}
    undisturbed = client.post("/jobs", body).json()["id"]
    ticking_until(is_quiet)
    restarted = client.post("/jobs", body).json()["id"]
    DeploymentTemplate.objects.update(spec={}, status="deprecated")  # what was frozen does not change with it
    ServedModel.objects.update(serving_name="renamed")
    with held_back(status, simulated_server, fake_mds, restarted):
        every_worker_dies()
    ticking_until(is_quiet)
    assert story(restarted, tmp_path, fake_mds) == story(undisturbed, tmp_path, fake_mds)
