"""Settings of the accept reference: this site, with `bare` in the place of everything it serves."""

from __future__ import annotations

from planner_site.settings import *  # noqa: F403 - a settings module extends another

ROOT_URLCONF = "planner_site.bench.bare"
REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": []}
