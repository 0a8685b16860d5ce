"""Which model and template a request means: names and versions resolved to rows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Q

from jobs.catalogue_rules import accelerator_of
from jobs.errors import InvalidRequest
from jobs.models import DeploymentTemplate, ServedModel

_VERSION_PARTS = 32  # as many as 64 characters can have
_NUMBERED = re.compile(r"([0-9]*)(.*)", re.DOTALL)


# Asked with each job; what Django puts together anew for a query costs more than the database takes to answer it.
_TEMPLATES = """
    SELECT template.*, model.name AS model_name, model.serving_name AS model_serving_name
    FROM jobs_deploymenttemplate AS template JOIN jobs_servedmodel AS model ON model.id = template.model_id
    WHERE template.name = %(name)s AND (%(model)s = '' OR model.id = %(model)s)
"""


@dataclass(frozen=True)
class Deployment:
    """What a job runs on, as found in the catalogue; all empty for a job that names neither model nor template."""

    model_id: str = ""
    serving_name: str = ""
    template_name: str = ""
    template_version: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    accelerator_type: str = ""
    accelerator_count: int = 0


def resolve(model_id: str, template_name: str, template_version: str) -> Deployment:
    """The deployment meant by a request; `InvalidRequest` when there is no such one, or it may not be used."""
    if not template_name:
        model = _model(model_id) if model_id else None
        return Deployment(model.pk, model.effective_serving_name) if model else Deployment()
    template = _template(model_id, template_name, template_version)
    accelerator_type, accelerator_count = _accelerator(template)
    return Deployment(
        model_id=template.model_id,
        serving_name=template.model.effective_serving_name,
        template_name=template.name,
        template_version=template.version,
        spec=template.spec,
        accelerator_type=accelerator_type,
        accelerator_count=accelerator_count,
    )


def highest_active(templates: Iterable[DeploymentTemplate]) -> DeploymentTemplate | None:
    """The active template of the highest version, the newer one of two equal versions; None if none is active."""
    active = [template for template in templates if template.status == DeploymentTemplate.Status.ACTIVE]
    return max(active, key=lambda template: (version_key(template.version), template.created_at), default=None)


def version_key(version: str) -> tuple[tuple[int, bool, str], ...]:
    """A sort key: dotted parts compared as numbers, a leading v ignored; `1.0-rc1` comes before `1.0`."""
    parts = []
    for part in version.strip().lower().removeprefix("v").split("."):
        digits, suffix = _NUMBERED.fullmatch(part).groups()  # type: ignore[union-attr] # matches every string
        parts.append((int(digits or 0), suffix == "", suffix))
    parts += [(0, True, "")] * (_VERSION_PARTS - len(parts))  # 1.2 equals 1.2.0
    return tuple(parts)


def _model(name: str) -> ServedModel:
    """The model with this id, or else the one that is served under this name."""
    model = ServedModel.objects.filter(pk=name).first()
    if model is not None:
        return model
    served = ServedModel.objects.filter(Q(serving_name=name) | Q(serving_name="", name=name))[:2]
    if len(served) > 1:
        raise InvalidRequest("model_id", f'several models are served as "{name}": give an id')
    if not served:
        raise InvalidRequest("model_id", f'unknown model "{name}"')
    return served[0]


def _templates(model_id: str, name: str) -> list[DeploymentTemplate]:
    """All versions of the template, with the names of their models; of one model if that is named, by its id."""
    rows: Any = DeploymentTemplate.objects.raw(_TEMPLATES, {"name": name, "model": model_id})
    found = list(rows)
    for template in found:
        names = {"name": template.model_name, "serving_name": template.model_serving_name}
        template.model = ServedModel(template.model_id, **names)
    return found


def _template(model_id: str, name: str, version: str) -> DeploymentTemplate:
    found = _templates(model_id, name)
    if not found and model_id:
        model_id = _model(model_id).pk  # it may have been named as it is served
        found = _templates(model_id, name)
    if not found:
        scope = f' for model "{model_id}"' if model_id else ""
        raise InvalidRequest("model_template_name", f'unknown template "{name}"{scope}')
    if len({template.model_id for template in found}) > 1:
        raise InvalidRequest("model_id", f'is required: several models have a template "{name}"')
    if not version:
        template = highest_active(found)
        if template is None:
            raise InvalidRequest("model_template_name", f'template "{name}" has no active version')
        return template
    for template in found:
        if template.version == version:
            if template.status != DeploymentTemplate.Status.ACTIVE:
                raise InvalidRequest("model_template_version", f'"{name}" @ "{version}" is {template.status}')
            return template
    raise InvalidRequest("model_template_version", f'template "{name}" has no version "{version}"')


def _accelerator(template: DeploymentTemplate) -> tuple[str, int]:
    """Type and count per replica."""
    try:
        return accelerator_of(template.spec)
    except InvalidRequest:  # a row older than the rules
        raise InvalidRequest("model_template_name", f'template "{template}" names no usable accelerator') from None
