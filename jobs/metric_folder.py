"""The folder in which processes that are started together keep their figures. Imports nothing that counts already."""

from __future__ import annotations

import os
import shutil
import tempfile

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def make() -> str:
    """A new folder, named in the environment of the processes that are started from now on."""
    folder = os.environ[VARIABLE] = tempfile.mkdtemp(prefix="planner-metrics-")
    return folder


def remove() -> None:
    """Forget it, with all that is in it."""
    shutil.rmtree(os.environ.pop(VARIABLE, ""), ignore_errors=True)
