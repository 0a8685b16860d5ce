"""The tests. Their settings are read before any conftest, so the database they run on is named here."""

from __future__ import annotations

import os

from planner_site import postgres

os.environ.setdefault("DATABASE_URL", postgres.url("test"))
