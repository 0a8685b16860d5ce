"""Changes of models and templates. Each call is one transaction, and `planner` offers it.

Jobs carry their own copy of what they run on, so nothing here touches a job that was accepted before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from jobs.catalogue_rules import MODEL_RULES, TEMPLATE_RULES, default_model_id
from jobs.errors import AlreadyExists, Conflict, Forbidden, InvalidRequest, NotFound
from jobs.models import DeploymentTemplate, ServedModel

Given = Mapping[str, Any]  # columns by name, as somebody gave them
Row = TypeVar("Row", ServedModel, DeploymentTemplate)


def create_model(user: User, given: Given) -> ServedModel:
    """Add a model; without an id it gets one made of its name.

    Raises `Forbidden`, `InvalidRequest`, `AlreadyExists`; each stores nothing.
    """
    _may(user, "add", ServedModel)
    columns = {"name": MODEL_RULES["name"]("name", given.get("name")), **_checked(MODEL_RULES, given)}
    columns.setdefault("id", default_model_id(columns["name"]))
    return _stored(ServedModel(), columns)


def change_model(user: User, model_id: str, given: Given) -> ServedModel:
    """Change what is given of a model; of its card, member by member. Raises like `create_model`, and `NotFound`."""
    _may(user, "change", ServedModel)
    if given.get("id", model_id) != model_id:
        raise InvalidRequest("id", "cannot be changed")
    with transaction.atomic():
        model = ServedModel.objects.select_for_update(no_key=True).filter(pk=model_id).first()
        if model is None:
            raise NotFound(f'model "{model_id}" not found')
        columns = _checked(MODEL_RULES, {name: value for name, value in given.items() if name != "id"})
        if "card" in columns:
            columns["card"] = _merged(model.card, columns["card"])
        return _stored(model, columns)


def delete_model(user: User, model_id: str) -> None:
    """Delete a model that has no templates left; an unknown one is gone already. Raises `Forbidden`, `Conflict`."""
    _may(user, "delete", ServedModel)
    with transaction.atomic():
        model = ServedModel.objects.select_for_update().filter(pk=model_id).first()
        if model is None:
            return
        if model.templates.exists():
            raise Conflict(f'model "{model_id}" has deployment templates: delete them first')
        model.delete()


def create_template(user: User, model_id: str, given: Given) -> DeploymentTemplate:
    """Add a template to a model. Raises `Forbidden`, `InvalidRequest`, `NotFound` (model), `AlreadyExists`."""
    _may(user, "add", DeploymentTemplate)
    columns = _checked(TEMPLATE_RULES, given)
    for name in ("name", "spec"):
        if name not in columns:
            raise InvalidRequest(name, "is required")
    with transaction.atomic():
        # locked, so that nobody deletes it meanwhile: foreign keys are checked no sooner than at the commit
        model = ServedModel.objects.select_for_update(no_key=True).filter(pk=model_id).first()
        if model is None:
            raise NotFound(f'model "{model_id}" not found')
        return _stored(DeploymentTemplate(model=model), columns)


def change_template(user: User, model_id: str, template_id: str, given: Given) -> DeploymentTemplate:
    """Change what is given of a template; a spec is replaced as a whole. Raises like `create_template`."""
    _may(user, "change", DeploymentTemplate)
    with transaction.atomic():
        found = DeploymentTemplate.objects.select_for_update(no_key=True).filter(model_id=model_id, pk=template_id)
        template = found.first()
        if template is None:
            raise NotFound(f'template "{template_id}" not found')
        columns = _checked(TEMPLATE_RULES, given)
        return _stored(template, columns)


def delete_template(user: User, model_id: str, template_id: str) -> None:
    """Delete a template of a model; an unknown one is gone already. Raises `Forbidden`."""
    _may(user, "delete", DeploymentTemplate)
    DeploymentTemplate.objects.filter(model_id=model_id, pk=template_id).delete()


def _may(user: User, verb: str, kind: type[ServedModel | DeploymentTemplate]) -> None:
    if not user.has_perm(f"jobs.{verb}_{kind._meta.model_name}"):
        raise Forbidden(f"you may not {verb} {kind._meta.verbose_name_plural}")


def _checked(rules: Mapping[str, Any], given: Given) -> dict[str, Any]:
    return {name: rules[name](name, value) for name, value in given.items()}


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = {**old, **new}
    parts = {name for name, value in new.items() if isinstance(value, dict) and isinstance(old.get(name), dict)}
    return {name: {**old[name], **new[name]} if name in parts else value for name, value in both.items()}


def _stored(row: Row, columns: dict[str, Any]) -> Row:
    """The row with these columns; what it is called by is unique, and somebody may have been faster."""
    for name, value in columns.items():
        setattr(row, name, value)
    try:
        with transaction.atomic():
            row.save(force_insert=row._state.adding)
    except IntegrityError as taken:
        name = row.pk if isinstance(row, ServedModel) else str(row)
        raise AlreadyExists(f'{row._meta.verbose_name} "{name}" exists already') from taken
    return row
