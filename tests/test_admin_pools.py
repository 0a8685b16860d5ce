"""The admin: pools, edited, paused and kept from being forgotten."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs.models import (
    Pool,
    Provision,
    QueueMessage,
)
from jobs.reconciler.admission import admission
from jobs.wakeup import send_hint
from tests.admin_client import operator_client, signed_in, url, words
from tests.engine import places
from tests.factories import make_job, make_pool, make_provision, make_user
from tests.threads import elsewhere, stopped, until_waiting

pytestmark = pytest.mark.django_db


def pool_form(pool: Pool, **changes: Any) -> dict[str, Any]:
    """What the browser sends back of a pool's page."""
    given = {
        "name": pool.name,
        "provider": pool.provider,
        "priority": pool.priority,
        "accelerator_types": "[]",
        "initial-accelerator_types": "[]",
        "options": "{}",
        "initial-options": "{}",
        "max_live": pool.max_live,
        "max_provisioning": pool.max_provisioning,
        "ready_timeout_seconds": pool.ready_timeout_seconds,
        "loss_retries": pool.loss_retries,
        "observe_interval_seconds": pool.observe_interval_seconds,
        "absence_confirm_seconds": pool.absence_confirm_seconds,
        "disabled_reason": pool.disabled_reason,
        "price_per_hour": "",
        **({"is_enabled": "on"} if pool.is_enabled else {}),
        **changes,
    }
    return {name: value for name, value in given.items() if value is not None}


def test_a_new_limit_is_written_alone_and_wakes_the_workers() -> None:
    pool = make_pool()
    client = signed_in(make_user("superuser"))
    hints = QueueMessage.objects.filter(payload=None).count()
    with CaptureQueriesContext(connection) as captured:
        assert client.post(url(Pool, "change", pool.pk), pool_form(pool, max_live=3)).status_code == 302
    updates = [query["sql"] for query in captured if query["sql"].startswith('UPDATE "jobs_pool"')]
    assert len(updates) == 1
    assert re.findall(r'"(\w+)" = ', updates[0].partition(" WHERE ")[0]) == ["max_live"]
    assert QueueMessage.objects.filter(payload=None).count() == hints + 1
    assert LogEntry.objects.filter(object_id=str(pool.pk)).exists()


def test_the_columns_of_the_engine_cannot_be_edited() -> None:
    pool = make_pool()
    client = signed_in(make_user("superuser"))
    client.post(url(Pool, "change", pool.pk), pool_form(pool, observe_version=9, capacity_retry_at='{"x": {"at": 1}}'))
    pool.refresh_from_db()
    assert (pool.observe_version, pool.capacity_retry_at) == (0, {})


@pytest.mark.parametrize(
    ("field", "value"), [("provider", "passthrough"), ("options", '{"base_url": "http://10.9.9.9"}')]
)
def test_where_a_provider_is_is_fixed_while_something_is_held_there(field: str, value: str) -> None:
    """Else what it holds would read as absent, and count as released."""
    pool = make_pool()
    provision = make_provision(pool=pool, status="releasing")
    client, address = signed_in(make_user("superuser")), url(Pool, "change", pool.pk)
    before = getattr(pool, field)
    assert "Cannot be changed while provisions here are not released" in words(client.get(address))
    client.post(address, pool_form(pool, **{field: value, "max_live": 3}))
    pool.refresh_from_db()
    assert (getattr(pool, field), pool.max_live) == (before, 3)
    Provision.objects.filter(pk=provision.pk).update(status="released", released_at=timezone.now())
    assert "Cannot be changed" not in words(client.get(address))
    client.post(address, pool_form(pool, **{field: value}))
    pool.refresh_from_db()
    assert getattr(pool, field) != before


@pytest.mark.django_db(transaction=True)
def test_a_pool_that_is_being_admitted_to_counts_as_holding_something() -> None:
    pool = make_pool()
    make_job()
    client = signed_in(make_user("superuser"))
    free = places()
    edit = pool_form(pool, options='{"base_url": "http://10.9.9.9"}')
    with stopped(lambda: admission(free, send_hint)) as admitting:
        waiting = elsewhere(lambda: client.post(url(Pool, "change", pool.pk), edit))
        until_waiting()
        assert admitting.result().claims
        assert waiting.result(30).status_code == 302
    pool.refresh_from_db()
    assert pool.options == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("provider", "aws"),
        ("options", "[]"),
        ("options", '{"a": "\\u0000"}'),
        ("options", '{"a": "\\ud800"}'),
        ("options", '{"a": 1e999}'),
        ("options", '{"a": ' + "9" * 5000 + "}"),
        ("options", "[" * 100_000),
        ("options", '{"a": "' + "x" * 70_000 + '"}'),
        ("options", '{"api_key": "sk-1"}'),
        ("options", '{"env": [{"HF_TOKEN": "hf-1"}]}'),
        ("accelerator_types", '"H100"'),
        ("accelerator_types", "[1]"),
        ("observe_interval_seconds", "0"),
        ("observe_interval_seconds", "1e300"),
        ("absence_confirm_seconds", "-1"),
        ("absence_confirm_seconds", "1e300"),
        ("accelerator_types", '["\\u0000"]'),
    ],
)
def test_a_pool_that_cannot_work_is_refused(field: str, value: str) -> None:
    pool = make_pool()
    response = signed_in(make_user("superuser")).post(
        url(Pool, "change", pool.pk), pool_form(pool, **{field: value, "max_live": 3})
    )
    assert response.status_code == 200
    assert "errorlist" in response.content.decode()
    pool.refresh_from_db()
    assert pool.max_live != 3


def test_options_may_say_where_a_secret_is() -> None:
    pool, options = make_pool(), '{"api_key_env": "KEY", "api_key_file": "/run/key", "max_tokens": 5}'
    client = signed_in(make_user("superuser"))
    assert client.post(url(Pool, "change", pool.pk), pool_form(pool, options=options)).status_code == 302
    pool.refresh_from_db()
    assert pool.options == json.loads(options)


def test_a_pool_that_is_held_in_the_admin_says_since_when_by_whom_and_why() -> None:
    pool, admin = make_pool(), make_user("superuser")
    client, address = signed_in(admin), url(Pool, "change", pool.pk)
    client.post(address, pool_form(pool, is_enabled=None, disabled_reason="firmware"))
    pool.refresh_from_db()
    assert (pool.is_enabled, pool.disabled_reason, pool.held_by) == (False, "firmware", admin.email)
    assert f"by {admin.email}" in words(client.get(address))


def test_a_pool_is_added_and_enabling_one_clears_why_it_was_off() -> None:
    client = signed_in(make_user("superuser"))
    client.post(url(Pool, "add"), pool_form(Pool(name="new", provider="simulated")))
    pool = Pool.objects.get(name="new")
    Pool.objects.filter(pk=pool.pk).update(
        is_enabled=False, disabled_reason="invalid credential", held_at=timezone.now()
    )
    pool.refresh_from_db()
    assert "by the planner" in words(client.get(url(Pool, "change", pool.pk)))
    client.post(url(Pool, "change", pool.pk), pool_form(pool, is_enabled="on"))
    pool.refresh_from_db()
    assert (pool.is_enabled, pool.disabled_reason, pool.held_at) == (True, "", None)


def test_a_pool_that_holds_something_is_not_deleted_and_says_why() -> None:
    pool, empty = make_pool(), make_pool()
    make_provision(pool=pool, status="releasing")
    client = signed_in(make_user("superuser"))
    for request in (client.get, client.post):
        refused = request(url(Pool, "delete", pool.pk), {"post": "yes"}, follow=True)
        assert "cannot be deleted: it has provisions that are not released" in words(refused)
    client.post(url(Pool), {"action": "delete_selected", "_selected_action": [pool.pk], "post": "yes"})
    assert Pool.objects.filter(pk=pool.pk).exists()
    client.post(url(Pool, "delete", empty.pk), {"post": "yes"})
    assert not Pool.objects.filter(pk=empty.pk).exists()


def test_a_pool_shows_what_it_holds_and_how_long_readiness_really_took() -> None:
    pool = make_pool(max_live=9, max_provisioning=8)
    at = timezone.now() - timedelta(hours=1)
    for seconds in (10, 15, 20, 25, 30):
        make_provision(pool=pool, status="releasing", requested_at=at, ready_at=at + timedelta(seconds=seconds))
    make_provision(pool=pool)
    make_provision(pool=pool, status="released")
    client = operator_client()
    listed = words(client.get(url(Pool)))
    assert "6 / 9" in listed
    assert "1 / 8" in listed
    page = words(client.get(url(Pool, "change", pool.pk)))
    assert "H100: p50 20.0 s, p95 29.0 s, max 30.0 s, of 5 in the last 30 days" in page
    assert "suggested timeout: 60 s" in page
