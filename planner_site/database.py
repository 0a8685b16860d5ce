"""Where the database is: `DATABASE_URL`, or the embedded PostgreSQL of this checkout."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg
from django.core.exceptions import ImproperlyConfigured

from planner_site import postgres
from planner_site.postgres_home import EmbeddedServerError

# A process stopped inside a transaction must block nobody for long. `migrate` takes the latter two off.
_SESSION_LIMITS = "-c lock_timeout=2000 -c statement_timeout=10000 -c idle_in_transaction_session_timeout=5000"
# A database host that vanishes is noticed in seconds, not in the hours the system's defaults take.
_NETWORK_LIMITS = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


class DatabaseUnavailable(Exception):
    """The database cannot be used; the message is one line and says what to do."""


def database_settings() -> dict[str, Any]:
    """Django's settings of the default database. Starts nothing."""
    parsed = _parsed(os.environ.get("DATABASE_URL") or postgres.url("dev"))
    query = parsed.pop("query")
    limits = " ".join(filter(None, [_SESSION_LIMITS, query.pop("options", "")]))
    settings = {
        "ENGINE": "django.db.backends.postgresql",
        **parsed,
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {**_NETWORK_LIMITS, **query, "options": limits},
    }
    # Set by our gunicorn configuration alone: workers fork, and a forked pool hangs or shares a connection.
    if pool_size := os.environ.get("PLANNER_DATABASE_POOL"):
        settings["CONN_MAX_AGE"] = 0  # the pool keeps the connections
        # Back-off doubles until `reconnect_timeout`: short, so that the end of an outage is noticed soon.
        pool = {"min_size": 1, "max_size": int(pool_size), "timeout": 3, "reconnect_timeout": 8}
        settings["OPTIONS"]["pool"] = pool
    return settings


def _parsed(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ImproperlyConfigured(f"DATABASE_URL cannot be read: {error}.") from None
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ImproperlyConfigured(
            f"DATABASE_URL must begin with postgresql://, not {parts.scheme or 'nothing'}://: "
            "the planner needs PostgreSQL and runs on nothing else."
        )
    name = unquote(parts.path.lstrip("/"))
    if not name:
        raise ImproperlyConfigured("DATABASE_URL names no database: it should end in /NAME.")
    query = dict(parse_qsl(parts.query))
    query_host, query_port = query.pop("host", ""), query.pop("port", "")
    return {
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or "") or query_host,
        "PORT": str(port or query_port),
        "query": query,
    }


def choose_database() -> None:
    """Without a DATABASE_URL, start the embedded server of `dev` and name it there. Raises `DatabaseUnavailable`."""
    if not os.environ.get("DATABASE_URL"):
        try:
            os.environ["DATABASE_URL"] = postgres.ensure_running("dev")
        except (EmbeddedServerError, OSError) as error:
            raise DatabaseUnavailable(f"The embedded PostgreSQL does not start: {error}") from error


def check_database() -> None:
    """Raise `DatabaseUnavailable` unless the chosen database answers."""
    try:
        database_settings()
        psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=5).close()
    except ImproperlyConfigured as error:
        raise DatabaseUnavailable(str(error)) from error
    except psycopg.Error as error:
        raise DatabaseUnavailable(explanation(error)) from error


def explanation(error: BaseException) -> str:
    """One line on a failed connection: what was tried, what was said, what to do."""
    settings = database_settings()
    where = f"{settings['NAME']} at {settings['HOST'] or 'the default socket'}"
    said = " ".join(str(error).split()).partition(" Is the server running")[0].rstrip(".")
    return f"The database ({where}) cannot be reached: {said}. Start it, or set DATABASE_URL to one that runs."
