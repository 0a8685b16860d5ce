"""What the processes of a worker host do without, the web, and what they go on sharing, all from before the fork."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings
from django_q.management.commands import qcluster

_JUST_BEFORE_THE_WORK = """
import gc, sys
from django.core.management import execute_from_command_line
from django_q.management.commands import qcluster
from jobs.supervisor import Supervisor
Supervisor.run = lambda _: None
qcluster.Command.handle = lambda *_, **__: print(len(gc.get_objects()), gc.get_freeze_count(), *sys.modules)
execute_from_command_line(["manage.py", "run_workers"])
execute_from_command_line(["manage.py", "qcluster"])
"""
_WEB = {
    "planner_site.urls",
    "jobs.admin",
    "jobs.api",
    "jobs.openai_api",
    "jobs.pages",
    "jobs.schema",
    "rest_framework.views",
}


@pytest.mark.processes
def test_workers_load_no_web_and_no_collection_touches_what_they_share(child_environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", _JUST_BEFORE_THE_WORK]
    ended = subprocess.run(command, env=child_environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    looked_at, frozen, *modules = ended.stdout.split()
    assert int(frozen) > 100 * int(looked_at)
    assert "jobs.reconciler.passes" in modules  # loaded before the fork, once for all
    assert not _WEB & set(modules)


@pytest.mark.parametrize(
    "wrong",
    [{"PLANNER_QUEUE_POLICY": "lifo"}, {"HTTPS": True, "IS_DEVELOPMENT_KEY": True}],
)
def test_the_cluster_does_not_start_with_wrong_settings(wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qcluster.Command, "handle", lambda *_, **__: pytest.fail("it started"))
    with override_settings(DEBUG=False, **wrong), pytest.raises(SystemCheckError, match=r"jobs\.E001|planner\.E001"):
        call_command("qcluster", skip_checks=False)
