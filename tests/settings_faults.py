"""Settings of real processes that meet with faults, as they are planned in the folder that FAULTS_FOLDER names.

Production settings know nothing of it; without that variable these are the settings of other real processes in tests.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from django.apps import AppConfig

from tests.settings_processes import *  # noqa: F403 - a settings module extends another

# A lease is the longest that a killed or stopped process holds anybody up; there are hundreds of those.
PLANNER_TIMES = vars(
    dataclasses.replace(
        Times().scaled(1 / 20),  # noqa: F405 - as above
        lease=3,
        look_lease=2,
        call_timeout=1,
        connect_timeout=0.5,
        create_batch_timeout=1.5,
        tick=0.05,
        beat=0.2,
        poll_max=0.5,
        scan_interval=0.5,
        stalled=6,
        stop_grace=10,
    )
)

INSTALLED_APPS = [*INSTALLED_APPS, "tests.settings_faults.Faults"]  # noqa: F405 - as above


class Faults(AppConfig):
    """Installs the fault points in this process and all that it forks."""

    name = "tests"
    label = "faults"

    def ready(self) -> None:
        """Once the models are there."""
        from tests.process_faults import install

        if folder := os.environ.get("FAULTS_FOLDER"):
            install(Path(folder))
