"""The small catalogue the create-job form and the provision spec need."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.db.models.functions import Now


class ServedModel(models.Model):
    """A model people can run jobs on."""

    id = models.CharField(primary_key=True, max_length=255)
    name = models.CharField(max_length=255)
    serving_name = models.CharField(max_length=255, blank=True, help_text="What requests call it; empty: its name.")
    description = models.TextField(blank=True)
    provider_name = models.CharField(max_length=255, blank=True)
    context_length = models.CharField(max_length=32, blank=True)
    categories = models.JSONField(default=list, blank=True)
    tags = models.JSONField(default=list, blank=True)
    card = models.JSONField(
        default=dict, blank=True, help_text="What else the console shows of it: icon, prices, links. May be empty."
    )
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering: ClassVar = ["-created_at", "id"]

    def __str__(self) -> str:
        return self.name

    @property
    def effective_serving_name(self) -> str:
        """The name requests and the engine use."""
        return self.serving_name or self.name


def new_template_id() -> str:
    """`tmpl_` and a random uuid."""
    return f"tmpl_{uuid.uuid4()}"


class DeploymentTemplate(models.Model):
    """How a model is deployed: engine, accelerator, parallelism. Frozen into a job at accept."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        DEPRECATED = "deprecated"
        DRAFT = "draft"

    id = models.CharField(primary_key=True, max_length=64, default=new_template_id)
    model = models.ForeignKey(ServedModel, on_delete=models.CASCADE, related_name="templates")
    name = models.CharField(max_length=255)
    version = models.CharField(max_length=64, default="v1.0.0")
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.ACTIVE)
    spec = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["model", "name", "version"], name="template_name_version")
        ]
        ordering: ClassVar = ["-created_at", "id"]

    def __str__(self) -> str:
        return f"{self.name} @ {self.version}"
