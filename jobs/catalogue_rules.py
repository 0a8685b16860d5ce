"""What a model and a template may say: the same rules for the API and the admin. No database, no clock.

Documents are kept in the console's spelling, camelCase; snake_case is understood as well.
"""

from __future__ import annotations

import re
from typing import Any

from jobs.errors import InvalidRequest
from jobs.models import DeploymentTemplate
from jobs.validation import Rule, check_boolean, check_document, check_text, integer_from

MAX_ACCELERATORS = 1024  # per replica
MAX_DOCUMENT_BYTES = 64 * 1024
MAX_LABELS = 32
MAX_LABEL_LENGTH = 64
MAX_TEXT_LENGTH = 4096

# What a template's `spec` looks like, with the value that stands for whatever it leaves out.
SPEC: dict[str, Any] = {
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
    "engineArgs": None,  # the engine's own words
    "quantization": {"weight": "", "kvCache": "", "weightsArtifactUri": ""},
    "supportedEndpoints": [],
    "deploymentMode": "",
}
# What the console shows of a model beside the columns it has here.
CARD: dict[str, Any] = {
    "iconBg": "bg-blue-100",
    "iconText": "",
    "iconTextColor": "text-blue-700",
    "isNew": False,
    "pricing": {"uncachedInput": "", "cachedInput": "", "output": "", "perMinute": "", "perImage": ""},
    "metadata": {"state": "", "createdOn": "", "huggingFace": ""},
    "specification": {"calibrated": False, "mixtureOfExperts": False, "parameters": ""},
}


def check_spec(value: object) -> dict[str, Any]:
    """A template's spec with what it names of `SPEC` checked and in its spelling; what nobody here knows is kept."""
    spec = _shaped("spec", check_document("spec", value, MAX_DOCUMENT_BYTES), SPEC)
    accelerator_of(spec)
    return spec


def check_card(value: object) -> dict[str, Any]:
    """A model's card, checked and spelt like `CARD`."""
    return _shaped("", check_document("card", value, MAX_DOCUMENT_BYTES), CARD)


def accelerator_of(spec: dict[str, Any]) -> tuple[str, int]:
    """Type and count per replica. A type without a count means one; no type means that none is needed."""
    accelerator = check_document("spec.accelerator", spec.get("accelerator"), MAX_DOCUMENT_BYTES)
    kind = check_text("spec.accelerator.type", accelerator.get("type"), 64)
    if "|" in kind:  # the queue's name for it ends there
        raise InvalidRequest("spec.accelerator.type", 'must not contain "|"')
    count = accelerator.get("count")
    read = integer_from(0, MAX_ACCELERATORS)("spec.accelerator.count", 1 if count is None else count)
    return kind, read if kind else 0


def member(document: dict[str, Any], name: str) -> Any:
    """A member by its camelCase name, whichever way it is spelt there."""
    return document.get(name, document.get(_snake(name)))


def _shaped(path: str, document: dict[str, Any], shape: dict[str, Any]) -> dict[str, Any]:
    known = {spelling for name in shape for spelling in (name, _snake(name))}
    shaped = {name: value for name, value in document.items() if name not in known}
    for name, default in shape.items():
        value = member(document, name)
        if value is not None:
            shaped[name] = _checked(f"{path}.{name}".removeprefix("."), value, default)
    return shaped


def _checked(path: str, value: Any, default: Any) -> Any:
    """A value of the kind that its default has."""
    match default:
        case bool():
            return check_boolean(path, value)
        case int():
            return integer_from(0)(path, value)
        case str():
            return check_text(path, value, MAX_TEXT_LENGTH)
        case list():
            return _texts(path, value, MAX_TEXT_LENGTH)
        case None:
            return check_document(path, value, MAX_DOCUMENT_BYTES)
    return _shaped(path, check_document(path, value, MAX_DOCUMENT_BYTES), default)


def _texts(path: str, value: object, limit: int) -> list[str]:
    if not isinstance(value, list):
        raise InvalidRequest(path, "must be a list of strings")
    return [check_text(path, "" if item is None else item, limit) for item in value]


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)


def _labels(field_name: str, value: object) -> list[str]:
    labels = [] if value is None else _texts(field_name, value, MAX_LABEL_LENGTH)
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(field_name, f"must not be more than {MAX_LABELS}")
    return labels


def _text(limit: int) -> Rule:
    return lambda field_name, value: check_text(field_name, value, limit).strip()


def _required(limit: int, refused: str = "") -> Rule:
    def rule(field_name: str, value: object) -> str:
        text = check_text(field_name, value, limit).strip()
        if not text:
            raise InvalidRequest(field_name, "is required")
        if found := [char for char in refused if char in text]:
            raise InvalidRequest(field_name, f'must not contain "{found[0]}"')
        return text

    return rule


def _model_id(field_name: str, value: object) -> str:
    text: str = _required(255, "/")(field_name, value)  # it stands in paths
    if not text.strip("."):
        raise InvalidRequest(field_name, "must not be dots only")
    return text


def _status(field_name: str, value: object) -> str:
    if value not in DeploymentTemplate.Status.values:
        raise InvalidRequest(field_name, f"must be one of {', '.join(DeploymentTemplate.Status.values)}")
    return str(value)


MODEL_RULES: dict[str, Rule] = {
    "id": _model_id,
    "name": _required(255),
    "serving_name": _text(255),
    "description": _text(10_000),
    "provider_name": _text(255),
    "context_length": _text(32),
    "categories": _labels,
    "tags": _labels,
    "card": lambda _, value: check_card(value),
}
TEMPLATE_RULES: dict[str, Rule] = {
    "name": _required(255, "/|"),  # "/" parts paths, "|" the planner's own names
    "version": _required(64),
    "status": _status,
    "spec": lambda _, value: check_spec(value),
}


def default_model_id(name: str) -> str:
    """What a model is called in paths unless its maker says otherwise: `model-` and its name in lower case."""
    slug = re.sub(r"\s+|/", "-", name.lower())
    return f"model-{slug}"[:255]
