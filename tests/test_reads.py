"""Reads are answered from the database: nobody else is asked, nothing is written, and another process says the same."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NoReturn

import pytest
import requests
from django.contrib.admin.utils import quote
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from jobs.models import ApiToken, Job
from jobs.provisioners.base import Provisioner
from jobs.provisioners.simulated import SimulatedProvisioner
from tests.factories import (
    jobs_everywhere,
    make_file,
    make_model,
    make_template,
    make_user,
)


def addresses(jobs: list[Job]) -> list[str]:
    """Everything that can be looked at."""
    make_template(make_model())
    file = make_file()
    api = ["jobs", "provisions", "files", "models", "config/job-capabilities", f"files/{file.pk}"]
    api += [f"jobs/{job.pk}" for job in jobs]
    api += [f"provisions/{job.provision_id}" for job in jobs if job.provision_id]
    openai = ["batches", "files", f"files/{file.pk}", "files/file-out", *(f"batches/{job.pk}" for job in jobs)]
    pages = ["jobs/", "jobs/new", "jobs/queue", "jobs/profile", *(f"jobs/{job.pk}" for job in jobs)]
    admin = ["admin/", "admin/jobs/job/", "admin/jobs/provision/", "admin/jobs/pool/"]
    admin += [f"admin/jobs/job/{quote(job.pk)}/change/" for job in jobs]  # `_26` in an id would read as `&`
    admin += [f"admin/jobs/provision/{job.provision_id}/change/" for job in jobs if job.provision_id]
    found = [f"/api/v1/{path}" for path in api] + [f"/v1/{path}" for path in openai]
    return found + [f"/{path}" for path in pages + admin]


@pytest.mark.django_db
def test_whatever_is_looked_at_nobody_else_is_asked_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a read asked somebody else")

    monkeypatch.setattr(requests.Session, "send", asked)
    for method in (name for name in vars(Provisioner) if not name.startswith("_")):
        monkeypatch.setattr(SimulatedProvisioner, method, asked, raising=False)
    client = Client()
    client.force_login(make_user("superuser"))
    for address in addresses(jobs_everywhere()):
        with CaptureQueriesContext(connection) as queries:
            response = client.get(address)
        assert response.status_code == 200, address
        verbs = {query["sql"].split()[0].lstrip("(") for query in queries}
        assert verbs <= {"SELECT", "WITH", "DECLARE", "SAVEPOINT", "RELEASE"}, (address, verbs)


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
def test_a_process_that_has_just_started_gives_the_same_answers(child_environment: dict[str, str]) -> None:
    jobs = jobs_everywhere()
    user = make_user("viewer")
    Job.objects.update(accepted_at=timezone.now())
    _, token = ApiToken.issue(user, "reader")
    paths = ["/api/v1/jobs", *(f"/api/v1/jobs/{job.pk}" for job in jobs)]
    here = [_without_ages(Client().get(path, headers={"Authorization": f"Bearer {token}"}).json()) for path in paths]
    program = (
        "import django, json, sys; django.setup(); from django.test import Client\n"
        "token, *paths = sys.argv[1:]\n"
        "headers = {'Authorization': f'Bearer {token}'}\n"
        "print(json.dumps([Client(SERVER_NAME='localhost').get(path, headers=headers).json() for path in paths]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program, token, *paths],
        env=child_environment,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert [_without_ages(answer) for answer in json.loads(output)] == here


def _without_ages(answer: dict[str, Any]) -> dict[str, Any]:
    """The sentence on why a job waits counts seconds."""
    jobs = answer.get("jobs", [answer])
    return {
        **answer,
        "jobs": [{**job, "waitingReason": bool(job["waitingReason"])} for job in jobs],
        "waitingReason": 0,
    }
