"""Settings of the soak alone: times at 1/5, so that minutes see many leases expire, but for what a busy machine needs.

A process takes about a second to start whatever the factor, and a pass that looked for work fifty times a second would
leave no processor for the others.
"""

from __future__ import annotations

import dataclasses

from jobs.conf import Times
from planner_site.settings import *  # noqa: F403 - a settings module extends another
from planner_site.settings import LOGGING, Q_CLUSTER

PLANNER_TIMES = vars(
    dataclasses.replace(
        Times().scaled(1 / 5),
        tick=0.1,
        timer_floor=0.25,
        poll_min=0.5,
        poll_max=2.0,
        beat=1.0,
        stalled=15.0,
        unready=20.0,
        stop_grace=15.0,
        release_retry_max=30.0,
        capacity_retry_max=15.0,
    )
)
# django-q2 then logs which process is its pusher, its monitor or a worker: that is how the soak finds its victims.
Q_CLUSTER = Q_CLUSTER | {"log_level": "INFO"}
LOGGING = LOGGING | {"loggers": {"django-q": {"level": "INFO"}}}
