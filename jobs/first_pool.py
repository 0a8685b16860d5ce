"""The pool a new installation begins with; from then on pools are rows, edited in the admin."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed_apps
from django.apps.registry import Apps
from django.conf import settings


def create_first_pool(app_config: AppConfig, *, using: str, apps: Apps = installed_apps, **_: Any) -> None:
    """Receiver of `post_migrate`: one pool of PLANNER_PROVIDER, if that is set and there is no pool at all."""
    try:
        pool_model = apps.get_model(app_config.label, "Pool")
    except LookupError:  # a migration back to before there were pools
        return
    provider = settings.PLANNER_PROVIDER
    if provider and not pool_model.objects.using(using).exists():
        pool_model.objects.using(using).create(name=provider, provider=provider)
