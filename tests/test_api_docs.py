"""The examples of docs/api.md run as they stand there, against a server, a worker and the real metadata service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from jobs.models import ApiToken, Job
from tests.documentation import DOCS
from tests.engine import run_pass, simulated_pool
from tests.factories import make_model, make_user
from tests.flow import Planner
from tests.waiting import eventually

PAGE = (DOCS / "api.md").read_text()
SAMPLE = Path(settings.BASE_DIR) / "docs" / "sample.jsonl"

pytestmark = [pytest.mark.mds, pytest.mark.django_db(transaction=True)]


def blocks(language: str) -> str:
    """All code of a language, one after another, as somebody works through the page."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture
def environment(here: Planner, live_server: Any, tmp_path: Path) -> dict[str, str]:
    """What the page asks to be set; the folder has what the examples read."""
    simulated_pool(here.server)
    make_model(id="sample-1b", name="sample-1b", serving_name="sample-1b")
    (tmp_path / "docs").mkdir()
    shutil.copy(SAMPLE, tmp_path / "docs")
    tokens = {
        f"{name}TOKEN": ApiToken.issue(make_user(role), "docs")[1]
        for name, role in (("", "submitter"), ("OPERATOR_", "operator"))
    }
    return {**os.environ, **tokens, "URL": live_server.url}


def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    """What a program prints, while a worker works."""
    log = folder / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT)

        def has_ended() -> bool:
            run_pass()
            return process.poll() is not None

        try:
            eventually(has_ended, 120, 0.05, what="the examples to end")
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, log.read_text()
    return log.read_text()


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="curl or jq is not installed")
def test_the_examples_for_a_shell_run(environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "examples.sh"
    script.write_text(f"set -euo pipefail\n{blocks('sh')}")
    said = run(["bash", str(script)], environment, tmp_path)
    assert '"completed"' in said
    assert "cancelling" in said
    assert "job is already completed" in said
    assert "The queue is held" in said
    assert (tmp_path / "output.jsonl").read_text().count("\n") == SAMPLE.read_text().count("\n")


def test_the_examples_in_python_run(environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "examples.py"
    script.write_text(blocks("python"))
    said = run([sys.executable, str(script)], environment, tmp_path)
    job = Job.objects.get(name="nightly-eval")
    assert f"['{job.id}']" in said, "found by its name, on the only page"
    assert Job.objects.count() == 2, "one of each face"
    assert not Job.objects.exclude(status="completed").exists()
