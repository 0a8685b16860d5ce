"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in
from django.core.checks import register
from django.db.models.expressions import OrderBy
from django.db.models.functions import Collate
from django.db.models.indexes import IndexExpression
from django.db.models.signals import post_migrate


class JobsConfig(AppConfig):
    """Jobs, the engine that moves them, and the front doors to it."""

    name = "jobs"
    verbose_name = "Batch jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect what runs after a migrate and a log-in; nothing here touches the database."""
        # `auth` and its models can be imported only once all apps are loaded
        from django.contrib.postgres.indexes import OpClass

        from jobs.accounts import limit_session
        from jobs.checks import SETTINGS, check_settings
        from jobs.first_pool import create_first_pool
        from jobs.roles import create_roles
        from jobs.schedules import create_schedules

        # What django.contrib.postgres does when installed, without the queries it makes on each new connection.
        IndexExpression.register_wrappers(OrderBy, OpClass, Collate)
        register(check_settings, SETTINGS)
        user_logged_in.connect(limit_session, dispatch_uid="jobs.limit_session")
        post_migrate.connect(create_roles, sender=self, dispatch_uid="jobs.create_roles")
        post_migrate.connect(create_first_pool, sender=self, dispatch_uid="jobs.create_first_pool")
        post_migrate.connect(create_schedules, sender=self, dispatch_uid="jobs.create_schedules")
