"""Models and deployment templates. Jobs carry their own copy, so editing one changes no accepted job."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin

from jobs.models import DeploymentTemplate, ServedModel


@admin.register(ServedModel)
class ServedModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """What people can run jobs on."""

    list_display = ("name", "id", "serving_name", "provider_name", "created_at")
    search_fields = ("name__istartswith", "id__startswith")
    readonly_fields = ("created_at",)
    show_facets = admin.ShowFacets.NEVER


class TemplateForm(forms.ModelForm):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """A template whose spec can be read."""

    class Meta:
        model = DeploymentTemplate
        fields = ("model", "name", "version", "status", "spec")

    def clean_spec(self) -> dict[str, Any]:
        """An object, its accelerator too."""
        spec = {} if self.cleaned_data["spec"] is None else self.cleaned_data["spec"]
        if not isinstance(spec, dict) or not isinstance(spec.get("accelerator") or {}, dict):
            raise forms.ValidationError('The spec must be a JSON object, and its "accelerator" too.')
        return spec


@admin.register(DeploymentTemplate)
class DeploymentTemplateAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # the stubs' generic does not exist at run time
    """How a model is deployed."""

    form = TemplateForm
    list_display = ("__str__", "model", "status", "created_at", "updated_at")
    list_filter = ("status",)
    list_select_related = ("model",)
    search_fields = ("name__istartswith", "model__name__istartswith")
    autocomplete_fields = ("model",)
    show_facets = admin.ShowFacets.NEVER
