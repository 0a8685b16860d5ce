"""The admin: models, templates and tokens."""

from __future__ import annotations

import re

import pytest
from django.contrib.admin.models import LogEntry

from jobs.models import (
    ApiToken,
    DeploymentTemplate,
    ServedModel,
)
from tests.admin_client import operator_client, signed_in, url
from tests.factories import make_model, make_user

pytestmark = pytest.mark.django_db


def test_a_template_needs_a_spec_that_can_be_read() -> None:
    model = make_model()
    client = signed_in(make_user("superuser"))
    given = {"model": model.pk, "name": "fast", "version": "v1", "status": "active"}
    for spec in ("[]", '{"accelerator": "H100"}', '{"accelerator": {"type": "H|100"}}', "{"):
        assert client.post(url(DeploymentTemplate, "add"), {**given, "spec": spec}).status_code == 200
    assert not DeploymentTemplate.objects.exists()
    client.post(
        url(DeploymentTemplate, "add"), {**given, "spec": '{"accelerator": {"type": "H100"}, "engine_args": {}}'}
    )
    template = DeploymentTemplate.objects.get()
    assert (template.name, template.spec) == ("fast", {"accelerator": {"type": "H100"}, "engineArgs": {}})


def test_operators_edit_models_by_the_rules_of_the_api() -> None:
    client = operator_client()
    given = {"id": "small", "name": "Small", "categories": '["LLM"]', "tags": "[]", "card": '{"is_new": true}'}
    for wrong in (
        {"categories": '"LLM"'},
        {"id": "a/b"},
        {"card": '{"pricing": 5}'},
        {"card": f'{{"a": {"9" * 5000}}}'},
    ):
        assert "errorlist" in client.post(url(ServedModel, "add"), {**given, **wrong}).content.decode(), wrong
    assert not ServedModel.objects.exists()
    assert client.post(url(ServedModel, "add"), given).status_code == 302
    model = ServedModel.objects.get()
    assert (model.pk, model.categories, model.card) == ("small", ["LLM"], {"isNew": True})


def test_a_token_is_shown_once_and_belongs_to_who_asked() -> None:
    user = make_user("superuser")
    client = signed_in(user)
    issued = client.post(url(ApiToken, "add"), {"name": "laptop", "user": make_user().pk})
    token = re.search(r"abp_[\w-]+", issued.content.decode())
    assert token
    row = ApiToken.objects.get()
    assert (row.user, row.name, row.digest) == (user, "laptop", ApiToken.digest_of(token[0]))
    assert "no-store" in issued["Cache-Control"]
    for path in (url(ApiToken), url(ApiToken, "change", row.pk)):
        assert token[0] not in client.get(path).content.decode()
    assert LogEntry.objects.filter(object_id=str(row.pk)).exists()


def test_tokens_are_revoked_and_neither_edited_nor_deleted() -> None:
    row, _token = ApiToken.issue(make_user(), "laptop")
    client = signed_in(make_user("superuser"))
    assert client.post(url(ApiToken, "change", row.pk), {"name": "other"}).status_code == 403
    assert client.post(url(ApiToken, "delete", row.pk), {"post": "yes"}).status_code == 403
    client.post(url(ApiToken), {"action": "revoke", "_selected_action": [row.pk]})
    row.refresh_from_db()
    revoked_at = row.revoked_at
    assert revoked_at is not None
    client.post(url(ApiToken), {"action": "revoke", "_selected_action": [row.pk]})
    row.refresh_from_db()
    assert row.revoked_at == revoked_at
