"""The examples for systemd and Kubernetes: what they name is there."""

from __future__ import annotations

import configparser
import re
from typing import Any

import pytest
import yaml
from django.core.management import get_commands
from django.urls import resolve

from jobs.conf import Times
from planner_site import gunicorn_conf
from tests.documentation import DOCS

FOLDER = DOCS / "operations"
README = (DOCS.parent / "README.md").read_text()


def containers() -> dict[str, dict[str, Any]]:
    """The containers by name, each with how long it is given to stop."""
    found = {}
    for item in yaml.safe_load_all((FOLDER / "kubernetes.yml").read_text()):
        if "template" in item.get("spec", {}):
            pod = item["spec"]["template"]["spec"]
            for container in pod["containers"]:
                found[container["name"]] = container | {"grace": pod.get("terminationGracePeriodSeconds", 30)}
    return found


def check_command(words: list[str]) -> None:
    if "manage.py" in words:
        assert words[words.index("manage.py") + 1] in get_commands()
    else:
        assert (DOCS.parent / words[words.index("-c") + 1]).samefile(str(gunicorn_conf.__file__))


def test_kubernetes_starts_and_probes_what_there_is() -> None:
    found = containers()
    assert found.keys() == {"migrate", "web", "workers"}
    for container in found.values():
        check_command(container["command"])
    assert resolve(found["web"]["livenessProbe"]["httpGet"]["path"]).func.__name__ == "healthz"
    assert resolve(found["web"]["readinessProbe"]["httpGet"]["path"]).func.__name__ == "readyz"
    assert found["workers"]["grace"] > Times().stop_grace
    assert found["web"]["grace"] > gunicorn_conf.graceful_timeout


@pytest.mark.parametrize(("unit", "least"), [("web", gunicorn_conf.graceful_timeout), ("workers", Times().stop_grace)])
def test_a_unit_starts_what_there_is_and_waits_for_its_end(unit: str, least: float) -> None:
    read = configparser.ConfigParser(strict=False, interpolation=None)
    read.optionxform = str  # type: ignore[assignment]
    read.read(FOLDER / f"planner-{unit}.service")
    service = read["Service"]
    check_command(service["ExecStart"].split())
    assert float(service["TimeoutStopSec"]) > least
    assert service["Restart"] == "always"


def test_the_settings_of_the_examples_are_described() -> None:
    named = set()
    for path in FOLDER.iterdir():
        named |= set(re.findall(r"\b((?:DJANGO|PLANNER|DATABASE)_[A-Z_]+)\b", path.read_text()))
    assert named
    assert sorted(name for name in named if f"`{name}`" not in README) == []
