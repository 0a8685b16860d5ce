"""Settings of the latency measurement: a batch that is over at once is seen to be, so that the next job can begin."""

from __future__ import annotations

from planner_site.settings import *  # noqa: F403 - a settings module extends another

PLANNER_TIMES = {"poll_min": 0.2}
