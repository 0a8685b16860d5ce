"""Tests that read the docs: diagrams are the tables, named tests exist, settings and commands are described."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.documentation import DOCS, lifecycle_page

ROOT = DOCS.parent


def test_the_diagrams_are_the_transition_tables() -> None:
    page = (DOCS / "lifecycle.md").read_text()
    assert page == lifecycle_page(page), "run: python -m tests.documentation"
    assert "provisioning --> submitting" in page


def _tests_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}


def test_every_requirement_names_tests_that_exist() -> None:
    page = (DOCS / "requirements.md").read_text()
    rows = re.findall(r"^\| (R\d+) \|.*\|(.*)\|$", page, flags=re.MULTILINE)
    assert [number for number, _ in rows] == [f"R{n}" for n in range(1, 27)]
    missing = []
    for number, cell in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", cell)
        if not named:
            missing.append(f"{number} names no test")
        missing += [
            f"{number}: {file}::{name}"
            for file, name in named
            if not (ROOT / "tests" / file).exists() or name not in _tests_of(ROOT / "tests" / file)
        ]
    assert missing == []


@pytest.mark.parametrize("source", ["planner_site/settings.py", "planner_site/database.py"])
def test_every_environment_variable_is_in_the_readme(source: str) -> None:
    readme = (ROOT / "README.md").read_text()
    read = set(re.findall(r"[\"']((?:DJANGO|PLANNER|DATABASE)_[A-Z_]+)[\"']", (ROOT / source).read_text()))
    variables = {name for name in read if f'"{name}"' in (ROOT / source).read_text()}
    assert variables
    assert sorted(name for name in variables if f"`{name}`" not in readme) == []


def test_every_make_target_is_in_the_readme() -> None:
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert targets
    assert [name for name in targets if f"make {name}" not in readme] == []


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
