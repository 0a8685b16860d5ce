"""Models and templates as they go over the wire under /api/v1, each shape with an example."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jobs.api.catalogue_wire import model_json, template_json
from jobs.catalogue_rules import CARD, MAX_ACCELERATORS, MAX_LABEL_LENGTH, MAX_LABELS
from jobs.models import DeploymentTemplate, ServedModel
from jobs.schema.shapes import ANY_OBJECT, TEXTS, Schema, array, exactly, integer, one_of, ref, request, shape, text

MODEL_ID, TEMPLATE_ID = "model-small-1b", "tmpl_2c1b0a9f-8e7d-4c6b-9a5f-4e3d2c1b0a9f"

# Rows for the examples, shown by what shows real ones.
_AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
_SPEC = {
    "engine": {"type": "vllm", "version": "0.8.5", "serveArgs": ["--max-model-len=8192"]},
    "modelSource": {"type": "huggingface", "uri": "org/small-1b"},
    "accelerator": {"type": "H100", "count": 1, "vramGb": 80},
    "quantization": {"weight": "bf16"},
    "supportedEndpoints": ["/v1/chat/completions"],
    "deploymentMode": "dedicated",
}
_MODEL_ROW = ServedModel(
    id=MODEL_ID,
    name="Small 1B",
    serving_name="org/small-1b",
    provider_name="org",
    context_length="8192",
    categories=["LLM"],
    tags=["chat"],
    created_at=_AT,
)
_MODEL = model_json(_MODEL_ROW)
_TEMPLATE = template_json(
    DeploymentTemplate(
        id=TEMPLATE_ID, model=_MODEL_ROW, name="small-1b-h100", spec=_SPEC, created_at=_AT, updated_at=_AT
    )
)
_GIVEN_MODEL = {"name": "Small 1B", "serving_name": "org/small-1b", "categories": ["LLM"], "pricing": {"output": "0.4"}}
_GIVEN_TEMPLATE = {"name": "small-1b-h100", "version": "v1.0.0", "spec": _SPEC}


def components() -> dict[str, Schema]:
    """Every shape by its name."""
    spec, nothing = _TEMPLATE["spec"], array({})
    return {
        "Model": shape("A model that jobs can run on.", _MODEL),
        "ModelList": shape("All of them, newest first.", {"models": [_MODEL]}, models=array(ref("Model"))),
        "Template": shape(
            "How a model is deployed.",
            _TEMPLATE,
            status=one_of(DeploymentTemplate.Status.values),
            createdAt=text(format="date-time"),
            updatedAt=text(format="date-time"),
            spec=exactly(spec, engineArgs=TEXTS),
        ),
        "TemplateList": shape("Newest first.", {"templates": [_TEMPLATE]}, templates=array(ref("Template"))),
        "Deployments": shape("None: the planner keeps no deployments.", {"deployments": []}, deployments=nothing),
        "NewModel": request("A model to add.", _GIVEN_MODEL, required=("name",), **_model_fields()),
        "ModelChange": request("What is to change of a model.", {"pricing": {"output": "0.45"}}, **_model_fields()),
        "NewTemplate": request("A template to add.", _GIVEN_TEMPLATE, required=("name", "spec"), **_template_fields()),
        "TemplateChange": request("What is to change of a template.", {"status": "deprecated"}, **_template_fields()),
        "Deleted": shape("It is not there any more.", {}),
        "ModelAdapterTargets": shape("None: there are no adapters.", {"targets": []}, targets=nothing),
        "ModelAdapters": shape("None: there are no adapters.", {"model_adapters": []}, model_adapters=nothing),
    }


def _model_fields() -> dict[str, Schema]:
    labels = array(text(maxLength=MAX_LABEL_LENGTH)) | {"maxItems": MAX_LABELS}
    members = {name: _sent(default) for name, default in CARD["metadata"].items()}
    return {
        "id": text("`model-` and its name if absent; never changed.", pattern=r"^[^/]*$", maxLength=255),
        "name": text(minLength=1, maxLength=255),
        "serving_name": text("What requests call it; its name if empty.", maxLength=255),
        "description": text(maxLength=10_000),
        "context_length": text(maxLength=32),
        "categories": labels,
        "tags": labels,
        "icon_bg": text(),
        "icon_text": text(),
        "icon_text_color": text(),
        "is_new": {"type": "boolean"},
        "pricing": _sent(CARD["pricing"]),
        "metadata": {"type": "object", "properties": members | {"providerName": text(maxLength=255)}},
        "specification": _sent(CARD["specification"]),
    }


def _template_fields() -> dict[str, Schema]:
    count = integer(0, MAX_ACCELERATORS, "Of each replica; 1 if absent.")
    accelerator: Schema = {"type": "object", "properties": {"type": text(maxLength=64), "count": count}}
    return {
        "name": text(pattern="^[^/|]+$", maxLength=255),
        "version": text("`v1.0.0` if absent.", maxLength=64),
        "status": one_of(DeploymentTemplate.Status.values),
        "spec": ANY_OBJECT | {"properties": {"accelerator": accelerator}, "description": "As it is answered."},
    }


def _sent(default: Any) -> Schema:
    """What may be sent in the place of a default: all of its members are optional."""
    if isinstance(default, dict):
        return {"type": "object", "properties": {name: _sent(value) for name, value in default.items()}}
    return {"type": "boolean"} if isinstance(default, bool) else text()
