"""Models, templates and capabilities, as the create-job form needs them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api_client import api, assert_refused
from tests.factories import make_model, make_pool, make_template

pytestmark = pytest.mark.django_db


def test_a_model_has_every_key() -> None:
    model = make_model(
        name="Qwen", provider_name="Alibaba", context_length="32k", categories=["LLM"], tags=["small"], description="A."
    )
    client = api()
    answer = client.get(f"/models/{model.pk}").json()
    assert client.get("/models").json() == {"models": [answer]}
    assert answer == {
        "id": model.pk,
        "name": "Qwen",
        "iconBg": "bg-blue-100",
        "iconText": "Q",
        "iconTextColor": "text-blue-700",
        "categories": ["LLM"],
        "isNew": False,
        "pricing": {"uncachedInput": "", "cachedInput": "", "output": "", "perMinute": "", "perImage": ""},
        "contextLength": "32k",
        "description": "A.",
        "metadata": {
            "state": "",
            "createdOn": model.created_at.date().isoformat(),
            "providerName": "Alibaba",
            "huggingFace": "",
        },
        "specification": {"calibrated": False, "mixtureOfExperts": False, "parameters": ""},
        "tags": ["small"],
        "servingName": model.serving_name,
    }


def test_a_model_without_a_serving_name_serves_under_its_own() -> None:
    model = make_model(serving_name="", name="Qwen")
    assert api().get(f"/models/{model.pk}").json()["servingName"] == "Qwen"


def test_models_are_searched_and_filtered_newest_first() -> None:
    first = make_model(name="Qwen small", provider_name="Alibaba", categories=["LLM", "Vision"])
    second = make_model(name="Llama", provider_name="Meta", categories=["LLM"])
    client = api()

    def ids(**query: Any) -> list[str]:
        return [model["id"] for model in client.get("/models", **query).json()["models"]]

    assert ids() == [second.pk, first.pk]
    assert ids(search="qwen") == ids(search="ALIBABA") == ids(category="Vision") == [first.pk]
    assert ids(category="LLM") == [second.pk, first.pk]
    assert ids(category="LL") == ids(search="%") == ids(search="mistral") == []


FULL_SPEC = {
    "engine": {
        "type": "vllm",
        "version": "0.8.5",
        "image": "",
        "invocation": "",
        "serveArgs": [],
        "healthEndpoint": "",
        "readyTimeoutSeconds": 0,
        "metricsEndpoint": "",
    },
    "modelSource": {
        "type": "huggingface",
        "uri": "org/small-1b",
        "revision": "",
        "tokenizerPath": "",
        "chatTemplatePath": "",
        "authSecretRef": "",
    },
    "accelerator": {"type": "H100", "count": 2, "interconnect": "", "vramGb": 80, "skuHint": ""},
    "parallelism": {"tp": 2, "pp": 1, "dp": 1, "ep": 1, "sp": 1, "cp": 1},
    "engineArgs": {"max_num_seqs": "256", "dtype": "auto", "trust": "true"},
    "quantization": {"weight": "bf16", "kvCache": "", "weightsArtifactUri": ""},
    "supportedEndpoints": ["/v1/completions"],
    "deploymentMode": "dedicated",
}
SNAKE_SPEC = {
    "engine": {"type": "vllm", "version": "0.8.5", "serve_args": None},
    "model_source": {"type": "huggingface", "uri": "org/small-1b"},
    "accelerator": {"type": "H100", "count": 2, "vram_gb": 80},
    "parallelism": {"tp": 2},
    "engine_args": {"max_num_seqs": 256, "dtype": "auto", "trust": True},
    "quantization": {"weight": "bf16"},
    "supported_endpoints": ["/v1/completions"],
    "deployment_mode": "dedicated",
}


@pytest.mark.parametrize("spec", [FULL_SPEC, SNAKE_SPEC])
def test_a_template_has_every_key_however_it_is_stored(spec: dict[str, Any]) -> None:
    template = make_template(name="small", version="v2", spec=spec)
    client = api()
    answer = client.get(f"/models/{template.model_id}/deployment-templates/{template.pk}").json()
    assert answer == {
        "id": template.pk,
        "name": "small",
        "version": "v2",
        "status": "active",
        "modelId": template.model_id,
        "createdAt": template.created_at.isoformat(),
        "updatedAt": template.updated_at.isoformat(),
        "spec": FULL_SPEC,
    }
    listed = client.get(f"/models/{template.model_id}/deployment-templates", status="active").json()
    assert listed == {"templates": [answer]}


@pytest.mark.parametrize("spec", [{}, {"engine": "vllm", "accelerator": [], "engine_args": None}])
def test_a_poor_spec_breaks_nothing(spec: dict[str, Any]) -> None:
    template = make_template(spec=spec)
    answer = api().get(f"/models/{template.model_id}/deployment-templates/{template.pk}").json()["spec"]
    assert set(answer) == set(FULL_SPEC)
    assert answer["parallelism"] == {"tp": 1, "pp": 1, "dp": 1, "ep": 1, "sp": 1, "cp": 1}
    assert (answer["engine"]["type"], answer["accelerator"]["type"], answer["engineArgs"]) == ("", "", {})


def test_templates_are_filtered_and_belong_to_their_model() -> None:
    model = make_model()
    old = make_template(model, name="a", status="deprecated")
    new = make_template(model, name="b")
    other = make_template()
    client = api()
    path = f"/models/{model.pk}/deployment-templates"

    def ids(**query: Any) -> list[str]:
        return [template["id"] for template in client.get(path, **query).json()["templates"]]

    assert ids() == [new.pk, old.pk]
    assert ids(status="active") == ids(name="b") == [new.pk]
    assert_refused(client.get(path, status="gone"), 400, 3, field="status")
    assert_refused(client.get(f"{path}/{other.pk}"), 404, 5)
    assert client.get("/models/nope/deployment-templates").json() == {"templates": []}


def test_a_name_means_its_highest_active_version() -> None:
    model = make_model()
    for version, status in [("v1.9", "active"), ("v1.10", "active"), ("v2.0", "draft"), ("v1.2", "deprecated")]:
        make_template(model, name="small", version=version, status=status)
    make_template(model, name="none", status="draft")
    client = api()
    path = f"/models/{model.pk}/deployment-templates/by-name"
    assert client.get(f"{path}/small").json()["version"] == "v1.10"
    assert client.get(f"{path}/small", version="v2.0").json()["status"] == "draft"
    assert_refused(client.get(f"{path}/small", version="v9"), 404, 5)
    assert_refused(client.get(f"{path}/nope"), 404, 5)
    assert_refused(client.get(f"{path}/none"), 400, 9)


@pytest.mark.parametrize("model_id", ["nope", "a%00b"])
def test_an_unknown_model_is_not_found(model_id: str) -> None:
    assert_refused(api().get(f"/models/{model_id}"), 404, 5)


@pytest.mark.parametrize(
    ("provider", "word"), [("lambda_cloud", "lambdaCloud"), ("kubernetes", "kubernetes"), ("runpod", "runpod")]
)
def test_capabilities_name_the_first_enabled_pools_provider(provider: str, word: str) -> None:
    make_pool(priority=9, is_enabled=False)
    make_pool(priority=5, provider=provider)
    make_pool(priority=1)
    assert api().get("/config/job-capabilities").json() == {
        "resource_request": {"min_replicas": 1, "max_replicas": 1024},
        "provider": word,
    }


def test_capabilities_need_no_pool() -> None:
    assert api().get("/config/job-capabilities").json()["provider"] == ""


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/deployments", {"deployments": []}),
        ("/model-adapters", {"model_adapters": []}),
        ("/model-adapter-targets", {"targets": []}),
    ],
)
def test_what_the_planner_does_not_have_is_an_empty_list(path: str, answer: dict[str, Any]) -> None:
    assert api().get(path).json() == answer
