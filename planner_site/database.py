"""Where the database is: `DATABASE_URL`, or the embedded PostgreSQL of this checkout."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


def database_settings() -> dict[str, Any]:
    """Django's settings of the default database."""
    url = urlsplit(os.environ["DATABASE_URL"])
    query = dict(parse_qsl(url.query))
    host = unquote(url.hostname or query.get("host", ""))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.lstrip("/"),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": host,
        "PORT": str(url.port or query.get("port", "")),
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            "options": "-c lock_timeout=2000 -c statement_timeout=10000 -c idle_in_transaction_session_timeout=5000"
        },
    }
