"""gunicorn's configuration. The command line and GUNICORN_CMD_ARGS come after it and win."""

from __future__ import annotations

import os

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
