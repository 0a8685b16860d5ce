"""docs/extending.md as somebody follows it: its code, put where it says, is a provider that the suite takes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkouts import ORIGINAL
from tests.documentation import DOCS

_STEP = re.compile(
    r"^`(?P<path>[\w/]+\.py)`(?:, a line in `(?P<table>\w+)`|(?P<is_import>, an import))?:\n\n"
    r"```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def follow(page: str, checkout: Path) -> list[str]:
    """Do what the page says; the files it touched."""
    touched = []
    for step in _STEP.finditer(page):
        file, code = checkout / step["path"], step["code"]
        touched.append(step["path"])
        if not step["table"] and not step["is_import"]:
            assert not file.exists(), "a newcomer's file"
            file.write_text(code)
            continue
        mark = rf"^{step['table']}\b.* = {{\n" if step["table"] else r"^from __future__ import annotations\n"
        text, found = re.subn(mark, lambda line, code=code: line[0] + code, file.read_text(), flags=re.MULTILINE)
        assert found == 1
        file.write_text(text)
    return touched


@pytest.mark.processes
def test_a_newcomers_provider_is_one_file_one_line_and_one_row(tmp_path: Path) -> None:
    for part in ("jobs", "planner_site", "templates", "tests"):
        shutil.copytree(ORIGINAL / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("manage.py", "pyproject.toml"):
        shutil.copy(ORIGINAL / part, tmp_path)
    page = (DOCS / "extending.md").read_text()
    assert page.count("```python") == len(touched := follow(page, tmp_path)), "every block of code has its place"
    assert [path for path in touched if path.startswith(("jobs", "planner_site"))] == [
        "jobs/provisioners/nimbus.py",
        "planner_site/settings.py",
    ]
    tests = ["tests/test_provisioner_conformance.py", "tests/test_get_provisioner.py", "-k", "nimbus or made"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed, run.stdout
    assert int(passed[1]) > 25, "the whole suite"
