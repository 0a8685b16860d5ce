"""The site as an app: what has to happen once all apps are loaded."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed
from django.apps.registry import Apps
from django.core.checks import Tags, register
from django.db.models.signals import post_migrate


class SiteConfig(AppConfig):
    """The installation itself; it has no models."""

    name = "planner_site"
    verbose_name = "Site"

    def ready(self) -> None:
        """Register the site's checks, and what follows a migrate."""
        from jobs.checks import SETTINGS
        from planner_site.checks import check_console, check_deployment, check_logs, check_security

        register(check_security, Tags.security)
        register(check_deployment, Tags.security, deploy=True)
        register(check_logs, SETTINGS)
        register(check_console, Tags.files)
        users = installed.get_app_config("auth")
        post_migrate.connect(_create_dev_user, sender=users, dispatch_uid="planner_site.dev_user")


def _create_dev_user(*, apps: Apps = installed, **_: Any) -> None:
    from jobs.api.authentication import dev_user, is_dev_mode

    try:
        apps.get_model("auth", "User")
    except LookupError:  # a migration back to before there were users
        return
    if is_dev_mode():
        dev_user()
