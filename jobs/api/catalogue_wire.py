"""Models and templates as the console reads them: it goes blank if one list or object is missing."""

from __future__ import annotations

import json
from typing import Any

from jobs.models import DeploymentTemplate, ServedModel

# What a template's `spec` looks like on the wire, with the value of whatever the stored one leaves out.
_SPEC: dict[str, dict[str, Any]] = {
    "engine": {
        "type": "",
        "version": "",
        "image": "",
        "invocation": "",
        "serveArgs": [],
        "healthEndpoint": "",
        "readyTimeoutSeconds": 0,
        "metricsEndpoint": "",
    },
    "modelSource": {
        "type": "",
        "uri": "",
        "revision": "",
        "tokenizerPath": "",
        "chatTemplatePath": "",
        "authSecretRef": "",
    },
    "accelerator": {"type": "", "count": 0, "interconnect": "", "vramGb": 0, "skuHint": ""},
    # the console prints a zero as it is: `TP=0` would be wrong
    "parallelism": {"tp": 1, "pp": 1, "dp": 1, "ep": 1, "sp": 1, "cp": 1},
    "quantization": {"weight": "", "kvCache": "", "weightsArtifactUri": ""},
}


def model_json(model: ServedModel) -> dict[str, Any]:
    """One model."""
    return {
        "id": model.pk,
        "name": model.name,
        "iconBg": "bg-blue-100",
        "iconText": model.name[:1].upper(),
        "iconTextColor": "text-blue-700",
        "categories": model.categories,
        "isNew": False,
        "pricing": {"uncachedInput": "", "cachedInput": "", "output": "", "perMinute": "", "perImage": ""},
        "contextLength": model.context_length,
        "description": model.description,
        "metadata": {
            "state": "",
            "createdOn": model.created_at.date().isoformat(),
            "providerName": model.provider_name,
            "huggingFace": "",
        },
        "specification": {"calibrated": False, "mixtureOfExperts": False, "parameters": ""},
        "tags": model.tags,
        "servingName": model.effective_serving_name,
    }


def template_json(template: DeploymentTemplate) -> dict[str, Any]:
    """One deployment template."""
    return {
        "id": template.pk,
        "name": template.name,
        "version": template.version,
        "status": template.status,
        "modelId": template.model_id,
        "createdAt": template.created_at.isoformat(),
        "updatedAt": template.updated_at.isoformat(),
        "spec": _spec(template.spec),
    }


def _spec(stored: dict[str, Any]) -> dict[str, Any]:
    arguments = _member(stored, "engineArgs")
    return {
        **{part: _filled(defaults, _member(stored, part)) for part, defaults in _SPEC.items()},
        "engineArgs": {key: value if isinstance(value, str) else json.dumps(value) for key, value in arguments.items()},
        "supportedEndpoints": _value(stored, "supportedEndpoints") or [],
        "deploymentMode": _value(stored, "deploymentMode") or "",
    }


def _filled(defaults: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    given = {name: _value(stored, name) for name in defaults}
    return {name: default if given[name] is None else given[name] for name, default in defaults.items()}


def _member(stored: dict[str, Any], name: str) -> dict[str, Any]:
    """An object of the stored spec, which people type by hand: anything else reads as empty."""
    value = _value(stored, name)
    return value if isinstance(value, dict) else {}


def _value(stored: dict[str, Any], name: str) -> Any:
    """A member by its camelCase name; the MDS's own spelling is snake_case, and either may be stored."""
    snake = "".join(f"_{char.lower()}" if char.isupper() else char for char in name)
    return stored.get(name, stored.get(snake))
