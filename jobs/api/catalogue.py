"""/models, their deployment templates, and what the create-job form asks before it lets anybody type."""

from __future__ import annotations

from typing import Any

from django.db.models import Q, QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import conf, planner
from jobs.api.base import ApiView, user_of
from jobs.api.catalogue_wire import model_given, model_json, template_given, template_json
from jobs.api.errors import FailedPrecondition
from jobs.catalogue import highest_active
from jobs.errors import InvalidRequest, NotFound
from jobs.models import DeploymentTemplate, Pool, ServedModel

_CONSOLE_PROVIDERS = {"lambda_cloud": "lambdaCloud"}


class ModelsView(ApiView):
    """The models people can run jobs on."""

    def get(self, request: Request) -> Response:
        """All of them, newest first."""
        models = ServedModel.objects.order_by("-created_at", "id")
        if search := request.query_params.get("search"):
            models = models.filter(Q(name__icontains=search) | Q(provider_name__icontains=search))
        if category := request.query_params.get("category"):
            models = models.filter(categories__contains=[category])
        return Response({"models": [model_json(model) for model in models]})

    def post(self, request: Request) -> Response:
        """Add one."""
        return Response(model_json(planner.create_model(user_of(request), model_given(request.data))))


class ModelView(ApiView):
    """One model."""

    def get(self, request: Request, model_id: str) -> Response:
        """The model."""
        model = ServedModel.objects.filter(pk=model_id).first()
        if model is None:
            raise NotFound(f'model "{model_id}" not found')
        return Response(model_json(model))

    def put(self, request: Request, model_id: str) -> Response:
        """Change what the body gives."""
        return Response(model_json(planner.change_model(user_of(request), model_id, model_given(request.data))))

    patch = put

    def delete(self, request: Request, model_id: str) -> Response:
        """Delete it, or find it gone."""
        planner.delete_model(user_of(request), model_id)
        return Response({})


class TemplatesView(ApiView):
    """One model's deployment templates."""

    def get(self, request: Request, model_id: str) -> Response:
        """All versions, newest first; none for an unknown model."""
        templates = _templates(model_id)
        if status := request.query_params.get("status"):
            if status not in DeploymentTemplate.Status.values:
                raise InvalidRequest("status", f"must be one of {', '.join(DeploymentTemplate.Status.values)}")
            templates = templates.filter(status=status)
        if name := request.query_params.get("name"):
            templates = templates.filter(name=name)
        return Response({"templates": [template_json(template) for template in templates]})

    def post(self, request: Request, model_id: str) -> Response:
        """Add one; the model not being there is no 404, for the console's gateway has it so."""
        try:
            template = planner.create_template(user_of(request), model_id, template_given(request.data))
        except NotFound as missing:
            raise FailedPrecondition(str(missing)) from missing
        return Response(template_json(template))


class TemplateView(ApiView):
    """One deployment template."""

    def get(self, request: Request, model_id: str, template_id: str) -> Response:
        """The template."""
        template = _templates(model_id).filter(pk=template_id).first()
        if template is None:
            raise NotFound(f'template "{template_id}" not found')
        return Response(template_json(template))

    def put(self, request: Request, model_id: str, template_id: str) -> Response:
        """Change what the body gives."""
        given = template_given(request.data)
        return Response(template_json(planner.change_template(user_of(request), model_id, template_id, given)))

    def delete(self, request: Request, model_id: str, template_id: str) -> Response:
        """Delete it, or find it gone."""
        planner.delete_template(user_of(request), model_id, template_id)
        return Response({})


class TemplateByNameView(ApiView):
    """The template a name stands for."""

    def get(self, request: Request, model_id: str, name: str) -> Response:
        """The given version whatever its status, or the highest active one."""
        templates = _templates(model_id).filter(name=name)
        if version := request.query_params.get("version"):
            templates = templates.filter(version=version)
        found = list(templates)
        if not found:
            raise NotFound(f'template "{name}" not found')
        template = found[0] if version else highest_active(found)
        if template is None:
            raise FailedPrecondition(f'template "{name}" has no active version')
        return Response(template_json(template))


class CapabilitiesView(ApiView):
    """What a job may ask for."""

    def get(self, request: Request) -> Response:
        """Replica limits, and the provider that the first enabled pool belongs to."""
        provider = Pool.objects.filter(is_enabled=True).values_list("provider", flat=True).first() or ""
        replicas = {"min_replicas": 1, "max_replicas": conf.MAX_REPLICAS}
        return Response({"resource_request": replicas, "provider": _CONSOLE_PROVIDERS.get(provider, provider)})


class EmptyListView(ApiView):
    """A list the console asks for and the planner has nothing for."""

    key = ""

    def get(self, request: Request) -> Response:
        """Nothing, under the key the console reads."""
        empty: dict[str, list[Any]] = {self.key: []}
        return Response(empty)


def _templates(model_id: str) -> QuerySet[DeploymentTemplate]:
    return DeploymentTemplate.objects.filter(model_id=model_id).order_by("-created_at", "id")
