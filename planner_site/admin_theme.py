"""How the admin looks, and what its sidebar leads to: Unfold's settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _static(path: str) -> Callable[[HttpRequest], str]:
    return lambda request: static(path)


def _list_of(title: str, icon: str, app: str, model: str) -> dict[str, Any]:
    """A line of the sidebar, for those who may look at the list."""
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{model}_changelist"),
        "permission": lambda request: request.user.has_perm(f"{app}.view_{model}"),
    }


UNFOLD = {
    "SITE_TITLE": "Batch planner",
    "SITE_HEADER": "Batch planner",
    "SITE_SUBHEADER": "Operations",
    "SITE_SYMBOL": "dynamic_feed",
    "SITE_URL": "/jobs/",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _static("jobs/icon.svg")}],
    "SHOW_BACK_BUTTON": True,
    "DASHBOARD_CALLBACK": "jobs.admin.dashboard.dashboard",
    "STYLES": [_static("jobs/status.css"), _static("jobs/admin.css")],
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.604)",
            "100": "oklch(93.2% .032 255.585)",
            "200": "oklch(88.2% .059 254.128)",
            "300": "oklch(80.9% .105 251.813)",
            "400": "oklch(70.7% .165 254.624)",
            "500": "oklch(62.3% .214 259.815)",
            "600": "oklch(54.6% .245 262.881)",
            "700": "oklch(48.8% .243 264.376)",
            "800": "oklch(42.4% .199 265.638)",
            "900": "oklch(37.9% .146 265.522)",
            "950": "oklch(28.2% .091 267.935)",
        },
    },
    "SIDEBAR": {
        "navigation": [
            {
                "items": [
                    {"title": "Dashboard", "icon": "monitoring", "link": reverse_lazy("admin:index")},
                    _list_of("Jobs", "list_alt", "jobs", "job"),
                    _list_of("Provisions", "memory", "jobs", "provision"),
                    _list_of("Pools", "dns", "jobs", "pool"),
                    _list_of("Queue", "low_priority", "jobs", "queue"),
                    _list_of("Owner quotas", "supervisor_account", "jobs", "ownerquota"),
                    _list_of("Timelines", "timeline", "jobs", "jobevent"),
                ],
            },
            {
                "title": "Catalogue",
                "separator": True,
                "items": [
                    _list_of("Models", "neurology", "jobs", "servedmodel"),
                    _list_of("Templates", "deployed_code", "jobs", "deploymenttemplate"),
                    _list_of("Files", "draft", "jobs", "inputfile"),
                ],
            },
            {
                "title": "Engine",
                "separator": True,
                "items": [
                    _list_of("Workers", "engineering", "jobs", "worker"),
                    _list_of("Scan of batches", "radar", "jobs", "batchscan"),
                ],
            },
            {
                "title": "People",
                "separator": True,
                "items": [
                    _list_of("Users", "person", "auth", "user"),
                    _list_of("Groups", "group", "auth", "group"),
                    _list_of("Identities", "badge", "jobs", "identity"),
                    _list_of("API tokens", "key", "jobs", "apitoken"),
                ],
            },
        ],
    },
}
