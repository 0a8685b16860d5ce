"""Models and templates as the console reads and writes them: it goes blank if one list or object is missing."""

from __future__ import annotations

from typing import Any

from jobs.api.parsing import Body
from jobs.api.wire import as_text
from jobs.catalogue_rules import CARD, SPEC, member
from jobs.models import DeploymentTemplate, ServedModel

_MODEL_COLUMNS = ("id", "name", "serving_name", "description", "context_length", "categories", "tags")
_MODEL_CARD = ("icon_bg", "icon_text", "icon_text_color", "is_new", "pricing", "specification")
_TEMPLATE_COLUMNS = ("name", "version", "status", "spec")


def model_given(data: Any) -> dict[str, Any]:
    """What a body gives of a model, by column."""
    body = Body(data)
    metadata = body.member("metadata")
    given = {**body.known(_MODEL_COLUMNS), **metadata.known(("provider_name",))}
    card = {
        **body.known(_MODEL_CARD),
        "metadata": metadata.known(("state", "created_on", "hugging_face")),
    }
    return {**given, "card": card}


def template_given(data: Any) -> dict[str, Any]:
    """What a body gives of a template, by column; an empty name, version or status is not given."""
    given = Body(data).known(_TEMPLATE_COLUMNS)
    return {name: value for name, value in given.items() if value != ""}


def model_json(model: ServedModel) -> dict[str, Any]:
    """One model."""
    card = {part: _filled(default, member(model.card, part)) for part, default in CARD.items()}
    metadata = {
        **card["metadata"],
        "createdOn": card["metadata"]["createdOn"] or model.created_at.date().isoformat(),
        "providerName": model.provider_name,
    }
    return {
        **card,
        "id": model.pk,
        "name": model.name,
        "iconText": card["iconText"] or model.name[:1].upper(),
        "categories": model.categories,
        "contextLength": model.context_length,
        "description": model.description,
        "metadata": metadata,
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
    spec = {part: _filled(default, member(stored, part)) for part, default in SPEC.items()}
    arguments = spec["engineArgs"]
    return {**spec, "engineArgs": {key: as_text(value) for key, value in arguments.items()}}


def _filled(default: Any, stored: Any) -> Any:
    """What is stored, or the default; an object in a row older than the rules may be anything else."""
    if default is None:
        return stored if isinstance(stored, dict) else {}
    if isinstance(default, dict):
        document = stored if isinstance(stored, dict) else {}
        return {name: _filled(value, member(document, name)) for name, value in default.items()}
    is_kept = isinstance(stored, list) if isinstance(default, list) else stored is not None
    return stored if is_kept else default
