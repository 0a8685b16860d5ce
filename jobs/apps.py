"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class JobsConfig(AppConfig):
    """Jobs, the engine that moves them, and the front doors to it."""

    name = "jobs"
    verbose_name = "Batch jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect what runs after a migrate; nothing here touches the database."""
        # `auth` and its models can be imported only once all apps are loaded
        from jobs.roles import create_roles

        post_migrate.connect(create_roles, sender=self, dispatch_uid="jobs.create_roles")
