"""What no linter sees: tests that cannot fail, statuses written in the wrong place, names in strings, locks."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils.module_loading import import_string

ROOT = Path(__file__).resolve().parent.parent
DOTTED_PATH = re.compile(r"(jobs|planner_site)(\.\w+)+")


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "migrations" not in path.parts)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


# A test that cannot fail is a defect


def called_name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def can_fail(test: ast.AST) -> bool:
    """It asserts, expects an error, or calls something that is named for doing so."""
    for node in ast.walk(test):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = called_name(node)
            if name in {"raises", "fail", "eventually", "expect"} or name.startswith(("check_", "assert")):
                return True
    return False


def each_test(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            yield node


def state_machines_of(tree: ast.Module) -> list[str]:
    """Hypothesis state machines: their tests are made at run time, their invariants are methods."""
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any("RuleBasedStateMachine" in ast.unparse(base) for base in node.bases)
        and not can_fail(node)
    ]


@pytest.mark.parametrize("path", modules("tests"), ids=named)
def test_every_test_can_fail(path: Path) -> None:
    tree = tree_of(path)
    assert [test.name for test in each_test(tree) if not can_fail(test)] == []
    assert state_machines_of(tree) == []


def test_a_test_that_cannot_fail_is_seen() -> None:
    harmless = tree_of(Path(__file__)).body[-1]
    assert can_fail(harmless)
    assert not can_fail(ast.parse("def test_it_works(client):\n    client.get('/')"))
    assert not can_fail(ast.parse("def test_it_works(client):\n    client.checked()"))


@pytest.mark.parametrize("path", modules("tests"), ids=named)
def test_no_test_sleeps(path: Path) -> None:
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if called_name(call) == "sleep"] == []


# Only `lifecycle` writes a status


def status_writes(tree: ast.AST) -> list[int]:
    """Lines that assign to somebody else's `.status`, or pass it to an update."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Attribute) and target.attr == "status" for target in targets):
                lines.append(node.lineno)
        elif isinstance(node, ast.Call):
            writes = called_name(node) in {"update", "bulk_update", "update_or_create"}
            named_fields = {keyword.arg for keyword in node.keywords}
            listed_fields = {
                leaf.value for part in node.args for leaf in ast.walk(part) if isinstance(leaf, ast.Constant)
            }
            if writes and "status" in named_fields | listed_fields:
                lines.append(node.lineno)
    return lines


def test_only_lifecycle_writes_a_status() -> None:
    lifecycle = ROOT / "jobs" / "lifecycle"
    found = {
        named(path): lines
        for folder in ("jobs", "planner_site")
        for path in modules(folder)
        if lifecycle not in path.parents and path.stem != "lifecycle" and (lines := status_writes(tree_of(path)))
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    ["job.status = 'failed'", "jobs.update(status='failed', version=2)", "Job.objects.bulk_update(rows, ['status'])"],
)
def test_a_write_of_a_status_is_seen(line: str) -> None:
    assert status_writes(ast.parse(line)) == [1]
    assert status_writes(ast.parse("row.update(state='failed'); status = job.status")) == []


# What is done to the planner in tests is out of its own reach


def reaches_for_tests(tree: ast.Module) -> list[str]:
    """Modules of the tests that are imported, and strings that name them or the variable that plans faults."""
    imported = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    ]
    written = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found = [name for name in (*imported, *written) if name.partition(".")[0] == "tests" and " " not in name]
    return found + [text for text in written if "FAULTS_FOLDER" in text]


@pytest.mark.parametrize("folder", ["jobs", "planner_site"])
def test_no_fault_can_be_planned_in_production(folder: str) -> None:
    found = {named(path): names for path in modules(folder) if (names := reaches_for_tests(tree_of(path)))}
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "import tests.faults",
        "from tests import faults",
        "APPS = ['tests.settings_faults.Faults']",
        "f('FAULTS_FOLDER')",
    ],
)
def test_a_way_to_plan_a_fault_is_seen(line: str) -> None:
    assert reaches_for_tests(ast.parse(line))
    assert not reaches_for_tests(ast.parse("from jobs.testing import script; NAME = 'the tests'"))


# Names in strings


def strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in (*value, *value.values()):
            yield from strings_in(part)
    elif isinstance(value, (list, tuple, set)):
        for part in value:
            yield from strings_in(part)


def exists(dotted: str) -> bool:
    try:
        importlib.import_module(dotted)
    except ModuleNotFoundError:
        import_string(dotted)
    return True


def our_dotted_paths() -> list[str]:
    values = (getattr(settings, name) for name in dir(settings) if name.isupper())
    return sorted({text for value in values for text in strings_in(value) if DOTTED_PATH.fullmatch(text)})


def test_settings_name_something_of_ours() -> None:
    assert {settings.ROOT_URLCONF, settings.WSGI_APPLICATION, *settings.PLANNER_PROVIDERS.values()} <= {
        *our_dotted_paths()
    }


@pytest.mark.parametrize("dotted", [path for path in our_dotted_paths() if path != settings.WSGI_APPLICATION])
def test_a_dotted_path_in_the_settings_leads_somewhere(dotted: str) -> None:
    assert exists(dotted)


def test_a_dotted_path_that_leads_nowhere_is_seen() -> None:
    for dotted in ("jobs.queueing.NoSuchQueue", "jobs.no_such_module.Name"):
        with pytest.raises(ImportError):
            exists(dotted)


# The locks


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", text, flags=re.MULTILINE))


def test_the_locks_have_every_dependency_and_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime, development = locked("planner"), locked("dev")
    wanted = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in project["project"]["dependencies"]}
    wanted_in_development = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in project["dependency-groups"]["dev"]}
    assert wanted <= runtime.keys()
    assert wanted_in_development <= development.keys()
    assert runtime.items() <= development.items()
    assert locked("mds")["aibrix"]


@pytest.mark.parametrize("lock", ["planner", "dev", "mds"])
def test_a_lock_has_hashes_and_names_no_place(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    assert text.count("--hash=sha256:") >= len(locked(lock)) > 0
    assert "://" not in text
    assert not re.search(r"^\s*(--(index|extra|find)|-f|-i|#|/)", text, flags=re.MULTILINE)
