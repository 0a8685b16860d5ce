"""What tests of the admin share: who looks at which page, what it says, and that looking writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from jobs.models import (
    ApiToken,
    BatchScan,
    DeploymentTemplate,
    Identity,
    InputFile,
    Job,
    JobEvent,
    Pool,
    Provision,
    ServedModel,
    Worker,
)
from tests.factories import make_file, make_job, make_model, make_template, make_user


def signed_in(user: User, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(user)
    return client


def operator_client() -> Client:
    return signed_in(make_user("operator"))


def url(model: type, page: str = "", pk: object = None) -> str:
    """An admin address; the admin writes ids in its own way."""
    name = model.__name__.lower()
    return f"/admin/jobs/{name}/" + (f"{quote(str(pk))}/" if pk is not None else "") + (f"{page}/" if page else "")


def words(response: HttpResponse) -> str:
    """What a page says, without markup."""
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def make_one_of_each() -> dict[type, Any]:
    job = make_job(status="provisioning")
    now = timezone.now()
    return {
        Job: job,
        Provision: job.provision,
        JobEvent: job.events.get(),
        InputFile: make_file(),
        Worker: Worker.objects.create(host="a", pid=1, pass_started_at=now, beat_at=now),
        BatchScan: BatchScan.objects.update_or_create(pk=1)[0],
        Pool: job.pool,
        ServedModel: make_model(),
        DeploymentTemplate: make_template(),
        ApiToken: ApiToken.issue(job.owner, "laptop")[0],
        Identity: Identity.objects.create(user=job.owner, issuer="https://idp.example", subject="1"),
    }


@contextmanager
def reading_only() -> Iterator[None]:
    def refuse_writes(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        assert sql.lstrip().upper().startswith("SELECT"), f"a read wrote: {sql}"
        assert "FOR UPDATE" not in sql.upper()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse_writes):
        yield
