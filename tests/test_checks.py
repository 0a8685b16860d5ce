"""The settings' checks: silent on what is shipped, one sentence with a remedy for each wrong setting."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.test import override_settings

from jobs.checks import check_settings
from jobs.conf import Times
from jobs.first_pool import create_first_pool
from jobs.models import Pool


def test_the_shipped_settings_are_right() -> None:
    assert check_settings() == []


def test_the_spans_are_right_at_full_size() -> None:
    with override_settings(PLANNER_TIMES={}):
        assert check_settings() == []


@pytest.mark.parametrize(
    ("name", "value", "identity"),
    [
        ("PLANNER_AUTH_MODE", "none", "jobs.E001"),
        ("PLANNER_STATUS_VOCABULARY", "mine", "jobs.E001"),
        ("PLANNER_QUEUE_POLICY", "lifo", "jobs.E001"),
        ("PLANNER_PROVIDER", "nowhere", "jobs.E002"),
        ("PLANNER_MDS_URL", "mds:8090", "jobs.E010"),
        ("PLANNER_MDS_URL", "https://", "jobs.E010"),
        ("PLANNER_MDS_URL", "http://[x", "jobs.E010"),
        ("PLANNER_MDS_URL", "http://mds:8090/v1", "jobs.E010"),
        ("PLANNER_INSTALLATION", "prod:eu", "jobs.E005"),
        ("PLANNER_INSTALLATION", "", "jobs.E005"),
        ("PLANNER_WORKERS", 0, "jobs.E003"),
        ("PLANNER_QUEUE_CAPACITY", 0, "jobs.E003"),
        ("PLANNER_WRITES_PER_MINUTE", -1, "jobs.E003"),
        ("PLANNER_PROXIES", -1, "jobs.E003"),
        ("PLANNER_WORKERS_METRICS_PORT", -1, "jobs.E003"),
        ("PLANNER_METRICS_NETWORKS", ["10.0.0.1/8"], "jobs.E009"),
        ("PLANNER_METRICS_NETWORKS", ["everybody"], "jobs.E009"),
        ("PLANNER_TIMES", Times(lease=41.0), "jobs.E004"),
        ("PLANNER_TIMES", Times(look_lease=12.0), "jobs.E004"),
        ("PLANNER_TIMES", Times(no_long_calls_after=31.0), "jobs.E004"),
        ("PLANNER_TIMES", Times(no_calls_after=115.0), "jobs.E004"),
        ("PLANNER_TIMES", Times(stalled=3.0), "jobs.E004"),
        ("PLANNER_TIMES", Times(frozen=11.0), "jobs.E004"),
        ("PLANNER_TIMES", Times(unready=11.0), "jobs.E004"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_a_remedy(name: str, value: Any, identity: str) -> None:
    with override_settings(**{name: value}):
        found = check_settings()
    assert [message.id for message in found] == [identity]
    assert found[0].hint


PROVIDER = {
    "PLANNER_AUTH_MODE": "oidc",
    "PLANNER_OIDC_ISSUER": "https://idp.example.org",
    "PLANNER_OIDC_CLIENT_ID": "planner",
    "PLANNER_OIDC_CLIENT_SECRET": "x",
    "PLANNER_OIDC_DEFAULT_ROLE": "submitter",
}


@pytest.mark.parametrize(
    ("changed", "ids"),
    [
        ({}, []),
        ({"PLANNER_OIDC_ISSUER": "", "PLANNER_OIDC_CLIENT_SECRET": ""}, ["jobs.E006", "jobs.E006"]),
        ({"PLANNER_OIDC_DEFAULT_ROLE": "superuser"}, ["jobs.E007"]),
        ({"PLANNER_OIDC_DEFAULT_ROLE": ""}, ["jobs.E008"]),
        ({"PLANNER_OIDC_DEFAULT_ROLE": "", "PLANNER_OIDC_ROLES": {"viewer": ["all"]}}, []),
        ({"PLANNER_AUTH_MODE": "basic", "PLANNER_OIDC_ISSUER": ""}, []),
    ],
)
def test_an_identity_provider_is_told_in_full_and_gives_somebody_a_role(
    changed: dict[str, Any], ids: list[str]
) -> None:
    with override_settings(**{**PROVIDER, **changed}):
        found = check_settings()
    assert [message.id for message in found] == ids
    assert all(message.hint for message in found)


def test_an_empty_share_of_threads_is_refused() -> None:
    with override_settings(PLANNER_THREADS=settings.PLANNER_THREADS | {"scan": 0}):
        assert [message.id for message in check_settings()] == ["jobs.E003"]


@pytest.mark.django_db
def test_the_first_pool_is_made_once_and_only_if_named() -> None:
    config = apps.get_app_config("jobs")
    create_first_pool(config, using="default")
    assert not Pool.objects.exists()
    with override_settings(PLANNER_PROVIDER="passthrough"):
        create_first_pool(config, using="default")
        create_first_pool(config, using="default")
    assert list(Pool.objects.values_list("name", "provider")) == [("passthrough", "passthrough")]
