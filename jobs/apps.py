"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class JobsConfig(AppConfig):
    """Jobs, the engine that moves them, and the front doors to it."""

    name = "jobs"
    verbose_name = "Batch jobs"
    default_auto_field = "django.db.models.BigAutoField"
