"""The settings an installation starts with: safe unless it says that it is not a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from django.test import Client

from planner_site.checks import check_security

KEY = "an-installation-key-" + "0123456789abcdef" * 3


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    names = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PLANNER_"))}
    return subprocess.run(
        [sys.executable, "manage.py", "check", *arguments],
        env={**names, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.processes
def test_with_a_key_the_deployment_check_has_nothing_to_say() -> None:
    result = check("--deploy", "--fail-level", "INFO", DJANGO_SECRET_KEY=KEY)
    assert result.returncode == 0, result.stderr


@pytest.mark.processes
def test_without_a_key_it_does_not_start() -> None:
    result = check()
    assert result.returncode != 0
    assert "planner.E001" in result.stderr


@pytest.mark.parametrize(
    ("changed", "ids"),
    [
        ({}, []),
        ({"IS_DEVELOPMENT_KEY": True}, ["planner.E001"]),
        ({"PLANNER_AUTH_MODE": "dev"}, ["planner.E002"]),
        ({"IS_DEVELOPMENT_KEY": True, "PLANNER_AUTH_MODE": "dev", "HTTPS": False}, []),
        ({"IS_DEVELOPMENT_KEY": True, "PLANNER_AUTH_MODE": "dev", "DEBUG": True}, []),
    ],
)
def test_what_everybody_knows_opens_no_real_installation(
    changed: dict[str, Any], ids: list[str], settings: Any
) -> None:
    for name, value in {"DEBUG": False, "HTTPS": True, "IS_DEVELOPMENT_KEY": False, **changed}.items():
        setattr(settings, name, value)
    assert [message.id for message in check_security()] == ids


@pytest.mark.parametrize(("path", "is_moved"), [("/api/v1/health", True), ("/jobs/", True), ("/healthz", False)])
def test_plain_http_is_moved_to_https_but_for_probes(path: str, is_moved: bool, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert (Client().get(path).status_code == 301) is is_moved
