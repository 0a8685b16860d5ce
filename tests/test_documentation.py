"""Tests that read the docs: diagrams are the tables, named tests exist, settings and commands are described."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.documentation import DOCS, lifecycle_page

ROOT = DOCS.parent

# Of AIBrix's batch service, each a lesson for a planner.
PULL_REQUESTS = (2564, 2436, 2427, 2416, 2430, 2411, 2360, 2291, 2270, 2269, 2408, 2218, 2547, 2496)


def test_the_diagrams_are_the_transition_tables() -> None:
    page = (DOCS / "lifecycle.md").read_text()
    assert page == lifecycle_page(page), "run: python -m tests.documentation"
    assert "provisioning --> submitting" in page


@cache
def _tests_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    functions = (n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
    return frozenset(name for name in functions if name.startswith("test_"))


def _numbered(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(1, count + 1)]


# How many rows each table of the console's contract has, by its section.
CONTRACT = {
    **{"0.1": 7, "0.2": 10, "0.3": 14, "0.4": 3},
    **{"1": 1, "1.1": 11, "1.2": 2, "1.3": 24, "1.3b": 16, "1.4": 10, "1.5": 4, "1.6": 7, "1.7": 2},
    **{"2.1": 3, "2.2": 1, "2.3": 5, "2.4": 5, "2.5": 1, "3": 8, "4": 6, "5": 16, "6": 11},
}

# The lines of each page, in their order. A line names the tests that hold it.
LINES = {
    "console_contract.md": [line for section, count in CONTRACT.items() for line in _numbered(f"C{section}.", count)],
    "requirements.md": _numbered("R", 26),
    "guarantees.md": [
        *_numbered("G", 10),
        *(f"B{number:02}" for number in range(1, 33)),
        *(f"#{number}" for number in PULL_REQUESTS),
        *(f"O{number:02}" for number in range(1, 28)),
        *_numbered("C", 15),
        *_numbered("T", 12),
        *_numbered("M5.", 7),
        "M5.R",
        *_numbered("M7.", 10),
    ],
}


@pytest.mark.parametrize("page", LINES)
def test_every_line_names_tests_that_exist_or_says_why_it_does_not_apply(page: str) -> None:
    rows = re.findall(r"^\| ([A-Z#][\w.]+) \|.*\|(.*)\|$", (DOCS / page).read_text(), flags=re.MULTILINE)
    assert [number for number, _ in rows] == LINES[page]
    missing = []
    for number, cell in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", cell)
        if not named and not re.match(r" Does not apply: \w.{20,}", cell):
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
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
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
