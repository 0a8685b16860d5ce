"""Settings of the queue reference: this site, with django-q2's own brokers and tasks instead of the planner's passes.

PLANNER_BENCH_REDIS_URL chooses the Redis broker, else it is the ORM broker. Where a setting is not django-q2's
default, it is one that makes the reference quicker.
"""

from __future__ import annotations

import os

from planner_site.settings import *  # noqa: F403 - a settings module extends another
from planner_site.settings import PLANNER_WORKERS

_REDIS_URL = os.environ.get("PLANNER_BENCH_REDIS_URL")

Q_CLUSTER = {
    "name": "bench",
    "workers": PLANNER_WORKERS,
    "timeout": 120,
    "retry": 600,
    "save_limit": -1,  # no row for a result
    "scheduler": False,
    "log_level": "WARNING",  # no lines for a task
    **({"redis": _REDIS_URL} if _REDIS_URL else {"orm": "default"}),
}
