"""The chores django-q2 starts by the clock. Operators may change their rows: a migrate only adds what is missing."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed_apps
from django.apps.registry import Apps

ORPHAN_MINUTES = 5
_FORGET_MINUTES = 60
_CLEANUP_MINUTES = 24 * 60

CHORES = {
    "release_orphans": ("jobs.tasks.release_orphans", ORPHAN_MINUTES),
    "forget": ("jobs.tasks.forget", _FORGET_MINUTES),
    "cleanup": ("jobs.tasks.cleanup", _CLEANUP_MINUTES),
}


def create_schedules(app_config: AppConfig, *, using: str, apps: Apps = installed_apps, **_: Any) -> None:
    """Receiver of `post_migrate`: one schedule for each chore, unless there is one of its name."""
    try:
        schedule_model = apps.get_model("django_q", "Schedule")
    except LookupError:  # its tables are not there yet
        return
    for name, (function, minutes) in CHORES.items():
        schedule_model.objects.using(using).get_or_create(
            name=name, defaults={"func": function, "schedule_type": "I", "minutes": minutes, "repeats": -1}
        )
