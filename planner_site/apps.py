"""The site as an app: what has to happen once all apps are loaded."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.db.models.signals import post_migrate


class SiteConfig(AppConfig):
    """The installation itself; it has no models."""

    name = "planner_site"
    verbose_name = "Site"

    def ready(self) -> None:
        """Register the site's checks, and what follows a migrate."""
        from planner_site.checks import check_security

        register(check_security, Tags.security)
        post_migrate.connect(_create_dev_user, sender=self, dispatch_uid="planner_site.dev_user")


def _create_dev_user(using: str, **_: Any) -> None:
    from jobs.api.authentication import dev_user, is_dev_mode

    if is_dev_mode() and using == "default":
        dev_user()
