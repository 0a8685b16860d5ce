"""What the pages let a browser do: nothing inline, nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client

from jobs.pages.policy import HEADER
from tests.factories import make_user

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", ["/jobs/", "/jobs/new", "/jobs/nope", "/jobs/nope/nope", "/api/v1/auth/login"])
def test_every_page_has_the_policy_whatever_its_status(path: str) -> None:
    client = Client(headers={"Accept": "text/html"})
    client.force_login(make_user())
    policy = client.get(path)[HEADER]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "form-action 'self'" in policy


def test_a_log_out_may_lead_on_to_the_identity_provider(client: Client, settings: Any) -> None:
    settings.PLANNER_AUTH_MODE = "oidc"
    assert "form-action" not in client.get("/jobs/signed-out")[HEADER]


def test_others_have_a_policy_of_their_own(client: Client) -> None:
    assert HEADER not in client.get("/api/docs/")


def test_templates_have_nothing_inline_that_the_policy_would_refuse() -> None:
    folder = Path(django_settings.BASE_DIR) / "templates"
    for path in [folder / "base.html", *folder.glob("pages/*.html"), *folder.glob("auth/*.html")]:
        html = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?![^>]*\ssrc=)", html), path
        assert not re.search(r"\b(?:src|href|action)=\"(?:https?:)?//", html), path
