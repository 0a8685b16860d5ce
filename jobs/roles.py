"""The roles people have: Django groups with permissions, made after every migrate."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed_apps
from django.apps.registry import Apps
from django.contrib.auth.management import create_permissions

_SUBMITTER = ("submit_job",)
_VIEWER = (
    "view_all_jobs",
    "view_job",
    "view_jobevent",
    "view_provision",
    "view_pool",
    "view_servedmodel",
    "view_deploymenttemplate",
)
_OPERATOR = (
    "cancel_any_job",
    "release_provision",
    "hold_job",
    "prioritise_job",
    "retry_any_job",
    "refresh_job",
    "hold_owner",
    "hold_pool",
    "refresh_pool",
    "hold_queue",
    "view_queue",
    "view_ownerquota",
    "view_inputfile",
    "view_worker",
    "view_batchscan",
    *(f"{verb}_{kind}" for verb in ("add", "change", "delete") for kind in ("servedmodel", "deploymenttemplate")),
)

# Writing off (giving up a resource without proof of its release) is in no role: superusers only.
ROLES: dict[str, tuple[str, ...]] = {
    "submitter": _SUBMITTER,
    "viewer": _VIEWER,
    "operator": (*_SUBMITTER, *_VIEWER, *_OPERATOR),
}


def create_roles(app_config: AppConfig, *, using: str, apps: Apps = installed_apps, **_: Any) -> None:
    """Receiver of `post_migrate`: create each group that is missing and give it what it lacks. Idempotent."""
    try:
        group_model = apps.get_model("auth", "Group")
        permission_model = apps.get_model("auth", "Permission")
        apps.get_app_config(app_config.label)
    except LookupError:  # a migration of part of the apps: their turn comes
        return
    # Django creates permissions in the same signal, but only after the apps listed before `auth`.
    create_permissions(app_config, verbosity=0, using=using, apps=apps)
    for role, codenames in ROLES.items():
        group, _created = group_model.objects.using(using).get_or_create(name=role)
        permissions = permission_model.objects.using(using).filter(
            content_type__app_label=app_config.label, codename__in=codenames
        )
        group.permissions.add(*permissions)
