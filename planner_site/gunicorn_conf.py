"""gunicorn's configuration. The command line and GUNICORN_CMD_ARGS come after it and win."""

from __future__ import annotations

import os

from jobs import metric_folder
from planner_site.logs import logging_settings

wsgi_app = "planner_site.wsgi:application"
bind = "127.0.0.1:8000"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "gthread"
threads = 8
timeout = 60
graceful_timeout = 20
preload_app = False  # the connection pool must be opened after the fork
raw_env = [f"PLANNER_DATABASE_POOL={threads}"]
control_socket_disable = True  # nothing of ours uses it, and it would live in the user's home
accesslog = None
logconfig_dict = logging_settings()


def on_starting(_: object) -> None:
    """Before there are workers: a folder in which they keep their figures together."""
    metric_folder.make()


def on_exit(_: object) -> None:
    """After the last of them."""
    metric_folder.remove()
