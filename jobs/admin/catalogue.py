"""Models and deployment templates. Jobs carry their own copy, so editing one changes no accepted job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db import models

from jobs.admin.base import ModelAdmin
from jobs.admin.documents import DocumentField
from jobs.catalogue_rules import MODEL_RULES, TEMPLATE_RULES
from jobs.errors import InvalidRequest
from jobs.models import DeploymentTemplate, ServedModel
from jobs.validation import Rule


class CheckedForm(forms.ModelForm):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """A row by the rules that the API has too."""

    rules: ClassVar[Mapping[str, Rule]]

    def clean(self) -> dict[str, Any] | None:
        """Every field that could be read, as it is to be stored."""
        for name in self.rules.keys() & self.cleaned_data.keys():
            try:
                self.cleaned_data[name] = self.rules[name](name, self.cleaned_data[name])
            except InvalidRequest as wrong:
                self.add_error(name, str(wrong))
        return super().clean()


class ModelForm(CheckedForm):
    """A model that the console can show."""

    rules = MODEL_RULES

    class Meta:
        model = ServedModel
        fields = (*MODEL_RULES,)


class TemplateForm(CheckedForm):
    """A template whose spec can be read."""

    rules = TEMPLATE_RULES

    class Meta:
        model = DeploymentTemplate
        fields = ("model", *TEMPLATE_RULES)


_DOCUMENTS: dict[Any, Any] = {models.JSONField: {"form_class": DocumentField}}


@admin.register(ServedModel)
class ServedModelAdmin(ModelAdmin):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """What people can run jobs on."""

    form = ModelForm
    formfield_overrides = _DOCUMENTS
    list_display = ("name", "id", "serving_name", "provider_name", "created_at")
    search_fields = ("name__istartswith", "id__startswith")
    readonly_fields = ("created_at",)
    show_facets = admin.ShowFacets.NEVER


@admin.register(DeploymentTemplate)
class DeploymentTemplateAdmin(ModelAdmin):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """How a model is deployed."""

    form = TemplateForm
    formfield_overrides = _DOCUMENTS
    list_display = ("__str__", "model", "status", "created_at", "updated_at")
    list_filter = ("status",)
    list_select_related = ("model",)
    search_fields = ("name__istartswith", "model__name__istartswith")
    autocomplete_fields = ("model",)
    show_facets = admin.ShowFacets.NEVER
