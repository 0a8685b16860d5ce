"""Settings of the scale-out measurement: a host that has at most 4 outside calls in flight."""

from __future__ import annotations

from planner_site.settings import *  # noqa: F403 - a settings module extends another
from planner_site.settings import PLANNER_THREADS

# A create is two calls, a look and the create itself: two threads of the pool keep up with one that submits.
PLANNER_THREADS = PLANNER_THREADS | {"pool": 2, "mds_submit": 1, "mds_follow": 1}
