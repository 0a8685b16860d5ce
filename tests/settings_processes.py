"""Settings of real worker processes in tests: times at 1/10, but for what a busy machine cannot do in that.

A process takes about a second to start, whatever the factor; and a pass that looks for work a hundred times a second
would leave no processor for the others.
"""

from __future__ import annotations

import dataclasses

from jobs.conf import Times
from tests.settings import *  # noqa: F403 - a settings module extends another

PLANNER_TIMES = vars(
    dataclasses.replace(
        Times().scaled(1 / 10),
        call_timeout=2,
        look_lease=4,
        tick=0.1,
        timer_floor=0.1,
        poll_min=0.2,
        stalled=10,
        stop_grace=10,
    )
)
