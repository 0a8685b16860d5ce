"""The settings an installation starts with: safe unless it says that it is not a real one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from django.test import Client

from planner_site.checks import check_security

KEY = "an-installation-key-" + "0123456789abcdef" * 3


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    names = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "PLANNER_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**names, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("manage.py", "check", *arguments, **environment)


@pytest.mark.processes
def test_with_a_key_the_deployment_check_has_nothing_to_say() -> None:
    told = {"DJANGO_SECRET_KEY": KEY, "DJANGO_ALLOWED_HOSTS": "planner.example.org", "PLANNER_PROXIES": "1"}
    result = check("--deploy", "--fail-level", "INFO", **told)
    assert result.returncode == 0, result.stderr


@pytest.mark.processes
def test_hosts_and_proxies_are_asked_for_by_the_deployment_check_alone() -> None:
    result = check("--deploy", "--fail-level", "WARNING", DJANGO_SECRET_KEY=KEY)
    assert result.returncode != 0
    assert {"planner.W001", "planner.W002"} <= set(re.findall(r"planner\.W\d+", result.stderr))
    assert check("--fail-level", "WARNING", DJANGO_SECRET_KEY=KEY).returncode == 0


@pytest.mark.processes
def test_an_unknown_form_of_logs_is_refused() -> None:
    result = check(DJANGO_SECRET_KEY=KEY, PLANNER_LOG_FORMAT="xml")
    assert result.returncode != 0
    assert "planner.E006" in result.stderr


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
        ({"ALLOWED_HOSTS": ["*"]}, ["planner.E005"]),
        ({"PLANNER_AUTH_MODE": "oidc", "PLANNER_OIDC_ISSUER": "http://idp.example.org"}, ["planner.E003"]),
        ({"PLANNER_AUTH_MODE": "oidc", "PLANNER_OIDC_ISSUER": "https://idp.example.org"}, []),
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


@pytest.mark.processes
def test_without_a_key_the_web_does_not_start_either() -> None:
    result = run("-c", "import planner_site.wsgi", DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    assert result.returncode != 0
    assert "planner.E001" in result.stderr


NAMED = ["CORS_ALLOWED_ORIGINS", "CORS_ALLOW_ALL_ORIGINS", "CORS_ALLOW_CREDENTIALS", "PLANNER_STATUS_VOCABULARY"]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, [[], False, True, "planner"]),
        (
            {"PLANNER_CORS_ORIGINS": "https://A.example/, https://b.example", "PLANNER_CONSOLE_DIST": "/x"},
            [["https://a.example", "https://b.example"], False, True, "console"],
        ),
        (
            {"PLANNER_CORS_ORIGINS": "*", "PLANNER_CONSOLE_DIST": "/x", "PLANNER_STATUS_VOCABULARY": "planner"},
            [[], True, False, "planner"],
        ),
    ],
)
def test_what_the_environment_says_of_consoles(environment: dict[str, str], expected: list[Any]) -> None:
    program = (
        f"import json; from planner_site import settings as s; print(json.dumps([getattr(s, n) for n in {NAMED}]))"
    )
    assert json.loads(run("-c", program, **environment).stdout) == expected


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/jobs/", 400)])
def test_probes_may_come_to_any_address_of_ours_and_others_only_to_our_names(path: str, status: int) -> None:
    assert Client(SERVER_NAME="10.244.0.17").get(path).status_code == status


@pytest.mark.parametrize(("path", "is_moved"), [("/api/v1/health", True), ("/jobs/", True), ("/healthz", False)])
def test_plain_http_is_moved_to_https_but_for_probes(path: str, is_moved: bool, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert (Client().get(path).status_code == 301) is is_moved
