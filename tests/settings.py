"""Settings of the tests: the project's own, with times at 1/30."""

from __future__ import annotations

import dataclasses

from jobs.conf import Times
from planner_site.settings import *  # noqa: F403 - a settings module extends another

PLANNER_TIMES = dataclasses.asdict(Times().scaled(1 / 30))
PLANNER_AUTH_MODE = "basic"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# the tests speak plain http
HTTPS = SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False
DATABASES["default"]["OPTIONS"]["options"] += " -c synchronous_commit=off"  # noqa: F405
