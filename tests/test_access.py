"""Who gets what at every endpoint, and that what one may not see reads like what does not exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from jobs.models import ApiToken
from jobs.testing.fake_mds import FakeMds
from tests.batch_file import line
from tests.engine import running_job
from tests.factories import make_file, make_template, make_user
from tests.flow import upload

pytestmark = pytest.mark.django_db

ROLES = ("anonymous", "viewer", "stranger", "owner", "operator")
PUBLIC = (200, 200, 200, 200, 200)
ALL = (401, 200, 200, 200, 200)
SUBMITTERS = (401, 403, 200, 200, 200)
OPERATORS = (401, 403, 403, 403, 200)
SEEN = (401, 200, 404, 200, 200)  # viewers see all jobs and provisions
OWN = (401, 404, 404, 200, 200)  # and nobody's files
CANCELLED = (401, 403, 404, 200, 200)
STEERED = (401, 403, 404, 403, 200)
READ = (401, 403, 404, 200, 200)  # whoever sees the job knows of its file, and may not read it
IN_USE = 409

TABLE: dict[str, tuple[int, ...]] = {
    "GET /api/v1/health": PUBLIC,
    "GET /api/v1/auth/config": PUBLIC,
    "GET /api/v1/auth/login": PUBLIC,
    "POST /api/v1/auth/login": (401, 401, 401, 401, 401),  # without a name
    "GET /api/v1/auth/callback": (400, 400, 400, 400, 400),  # without an identity provider
    "GET /api/v1/auth/userinfo": ALL,
    "POST /api/v1/auth/logout": ALL,
    "GET /api/v1/auth/tokens": ALL,
    "POST /api/v1/auth/tokens": ALL,
    "DELETE /api/v1/auth/tokens/{token}": (401, 404, 404, 200, 404),  # one's own, and nobody else's
    "GET /api/v1/jobs": ALL,
    "POST /api/v1/jobs": (401, 403, 400, 200, 200),  # with the owner's file: there is none for a stranger
    "GET /api/v1/jobs/{job}": SEEN,
    "POST /api/v1/jobs/{job}/cancel": CANCELLED,
    "POST /api/v1/jobs/{job}/hold": STEERED,
    "POST /api/v1/jobs/{job}/resume": STEERED,
    "POST /api/v1/jobs/{job}/priority": (401, 403, 404, 403, IN_USE),
    "GET /api/v1/queue": ALL,
    "POST /api/v1/queue/hold": OPERATORS,
    "POST /api/v1/queue/resume": OPERATORS,
    "POST /api/v1/owners/{owner}/hold": OPERATORS,
    "POST /api/v1/owners/{owner}/resume": OPERATORS,
    "POST /api/v1/pools/{pool}/hold": OPERATORS,
    "POST /api/v1/pools/{pool}/resume": OPERATORS,
    "GET /api/v1/provisions": ALL,
    "GET /api/v1/provisions/{provision}": SEEN,
    "POST /api/v1/provisions/{provision}/release": STEERED,
    "GET /api/v1/files": ALL,
    "POST /api/v1/files/upload": SUBMITTERS,
    "GET /api/v1/files/{file}": READ,
    "GET /api/v1/files/{file}/content": READ,
    "GET /api/v1/config/job-capabilities": ALL,
    "GET /api/v1/models": ALL,
    "POST /api/v1/models": OPERATORS,
    "GET /api/v1/models/{model}": ALL,
    "PUT /api/v1/models/{model}": OPERATORS,
    "PATCH /api/v1/models/{model}": OPERATORS,
    "DELETE /api/v1/models/{model}": (401, 403, 403, 403, IN_USE),
    "GET /api/v1/models/{model}/deployment-templates": ALL,
    "POST /api/v1/models/{model}/deployment-templates": OPERATORS,
    "GET /api/v1/models/{model}/deployment-templates/{template}": ALL,
    "PUT /api/v1/models/{model}/deployment-templates/{template}": OPERATORS,
    "DELETE /api/v1/models/{model}/deployment-templates/{template}": OPERATORS,
    "GET /api/v1/models/{model}/deployment-templates/by-name/{name}": ALL,
    "GET /api/v1/deployments": ALL,
    "GET /api/v1/model-adapters": ALL,
    "GET /api/v1/model-adapter-targets": ALL,
    "GET /v1/batches": ALL,
    "POST /v1/batches": (401, 403, 400, 200, 200),
    "GET /v1/batches/{job}": SEEN,
    "POST /v1/batches/{job}/cancel": CANCELLED,
    "GET /v1/files": ALL,
    "POST /v1/files": SUBMITTERS,
    "GET /v1/files/{file}": OWN,
    "DELETE /v1/files/{file}": (401, 404, 404, IN_USE, IN_USE),
    "GET /v1/files/{file}/content": OWN,
}
UPLOADS = {"POST /api/v1/files/upload", "POST /v1/files"}


@dataclass
class Place:
    """A job that runs, all it has, and one user of each role."""

    ids: dict[str, str]
    clients: dict[str, Client]

    def ask(self, endpoint: str, role: str, **ids: str) -> Any:
        """What this role is answered."""
        method, path = endpoint.split()
        sent: dict[str, Any] = {"data": json.dumps(self.body(endpoint)), "content_type": "application/json"}
        if endpoint in UPLOADS:
            sent = {"data": {"file": SimpleUploadedFile("in.jsonl", line()), "purpose": "batch"}}
        call = getattr(self.clients[role], method.lower())
        answer = call(path.format(**self.ids | ids), **({} if method == "GET" else sent))
        if answer.streaming:
            answer.getvalue()  # to its end, where the call behind it is closed
        return answer

    def body(self, endpoint: str) -> dict[str, Any]:
        """One that is accepted of who may send it."""
        job = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        spec = {"engine": {"type": "vllm"}, "accelerator": {"type": "H100", "count": 1}}
        return {
            "POST /api/v1/jobs": {"input_dataset": self.ids["file"], **job},
            "POST /v1/batches": {"input_file_id": self.ids["file"], **job},
            "POST /api/v1/jobs/{job}/priority": {"priority": 7},
            "POST /api/v1/models": {"name": "New"},
            "POST /api/v1/auth/tokens": {"name": "new"},
            "POST /api/v1/models/{model}/deployment-templates": {"name": "new", "spec": spec},
        }.get(endpoint, {})


@pytest.fixture
def place(fake_mds: FakeMds) -> Place:
    owner, template = make_user(), make_template()
    file = make_file(owner, id=upload(fake_mds.url, 1))
    job = running_job(owner=owner, input_file_id=file.id)
    assert job.provision is not None
    ids = {
        "job": job.id,
        "provision": str(job.provision.id),
        "pool": job.provision.pool.name,
        "owner": owner.username,
        "file": file.id,
        "token": str(ApiToken.objects.create(pk=4_711_000_000, user=owner, name="script").pk),
        "model": template.model_id,
        "template": template.id,
        "name": template.name,
    }
    users = {"viewer": make_user("viewer"), "stranger": make_user(), "owner": owner, "operator": make_user("operator")}
    clients = {"anonymous": Client()}
    for role, user in users.items():
        clients[role] = Client()
        clients[role].force_login(user)
    return Place(ids, clients)


@pytest.mark.parametrize("endpoint", TABLE)
def test_everybody_gets_what_the_table_says(endpoint: str, place: Place) -> None:
    for role, status in zip(ROLES, TABLE[endpoint], strict=True):
        answer = place.ask(endpoint, role)
        assert answer.status_code == status, f"{role}: {getattr(answer, 'content', '')}"


NOTHING = {"job": "job_nope", "provision": "6d0f7f2c-5b8e-4a55-9a0e-6a2f7f2f8a11", "file": "file-nope", "token": "0"}
HIDDEN = [
    (endpoint, role)
    for endpoint, statuses in TABLE.items()
    for role, status in zip(ROLES, statuses, strict=True)
    if status == 404
]


@pytest.mark.parametrize(("endpoint", "role"), HIDDEN)
def test_what_one_may_not_see_reads_like_what_does_not_exist(endpoint: str, role: str, place: Place) -> None:
    hidden, missing = place.ask(endpoint, role), place.ask(endpoint, role, **NOTHING)
    assert hidden.status_code == missing.status_code == 404
    same = hidden.content.decode()
    for name, nothing in NOTHING.items():
        same = same.replace(place.ids[name], nothing)
    assert same == missing.content.decode()


def test_somebody_elses_file_reads_like_none_in_a_create(place: Place) -> None:
    hidden = place.ask("POST /api/v1/jobs", "stranger").content.decode()
    hidden = hidden.replace(place.ids["file"], NOTHING["file"])
    place.ids["file"] = NOTHING["file"]
    assert hidden == place.ask("POST /api/v1/jobs", "stranger").content.decode()


def test_no_endpoint_is_missing_in_the_table() -> None:
    told = {re.sub(r"\{\w+\}", "{}", endpoint) for endpoint in TABLE}
    assert {f"{method} {path}" for path, methods in routes() for method in methods} == told


def routes() -> Iterator[tuple[str, list[str]]]:
    """Every path of the REST faces with its methods, as the resolver has them."""

    def walk(patterns: list[URLPattern | URLResolver], before: str) -> Iterator[tuple[str, Any]]:
        for each in patterns:
            path = before + str(each.pattern)
            if isinstance(each, URLResolver):
                yield from walk(each.url_patterns, path)
            else:
                yield path, getattr(each.callback, "cls", None)

    for path, view in walk(get_resolver().url_patterns, "/"):
        if path.startswith(("/api/v1/", "/v1/")) and not path.endswith("/"):
            methods = [method.upper() for method in ("get", "post", "put", "patch", "delete") if hasattr(view, method)]
            yield re.sub(r"<str:\w+>", "{}", path), methods
