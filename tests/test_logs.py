"""What is logged: one line for each transition, its facts in fields, the id of the request, and never a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from django.test import Client
from requests.adapters import HTTPAdapter

from jobs import planner, request_ids
from jobs.models import Job
from planner_site.logs import PlainFormatter, SafeJsonFormatter, WithRequestId, logging_settings, without_secrets
from tests.api_client import API, ApiClient, api
from tests.engine import passes_until_quiet, simulated_pool
from tests.flow import Planner


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """All that is logged meanwhile, as production formats it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    form = logging_settings()["formatters"]["json"]
    handler.setFormatter(SafeJsonFormatter(form["format"], rename_fields=form["rename_fields"]))
    handler.addFilter(WithRequestId())
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.mds
@pytest.mark.django_db(transaction=True)
def test_each_transition_is_one_line_with_its_facts(here: Planner, lines: io.StringIO) -> None:
    pool = simulated_pool(here.server)
    with request_ids.bound("req-42"):
        job = here.job()
    passes_until_quiet()
    told = [line for line in read(lines) if line["logger"] == "jobs.lifecycle.telling"]
    moves = [(line["from_status"], line["to_status"]) for line in told if line["what"] == "job"]
    events = job.events.exclude(to_status="").exclude(from_status="").order_by("sequence")
    assert moves == list(events.values_list("from_status", "to_status"))
    assert [line["to_status"] for line in told if line["what"] == "provision"][-2:] == ["releasing", "released"]
    provision = job.provisions.get()
    for line in told:
        assert (line["job"], line["provision"], line["pool"]) == (job.id, provision.name, pool.name)
        assert line["request_id"] == "req-42"
        assert line["reason"]
        assert isinstance(line["duration_seconds"], float)


# The id of a request


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "is_kept"), [("abc-123", True), ("", False), ("a b", False), ("x" * 65, False), ("a\u00e9", False)]
)
def test_a_request_has_an_id_its_own_if_it_is_fit(given: str, is_kept: bool) -> None:
    answer = Client().get("/healthz", headers={request_ids.HEADER: given} if given else {})
    assert (answer[request_ids.HEADER] == given) is is_kept
    assert answer[request_ids.HEADER]


@pytest.mark.mds
@pytest.mark.django_db(transaction=True)
def test_the_id_goes_from_the_request_to_every_outside_call_of_its_job(
    here: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str]] = []
    send = HTTPAdapter.send

    def note(adapter: HTTPAdapter, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        purpose = f"{request.method} {request.path_url.partition('?')[0].strip('/').partition('/')[0]}"
        sent.append((purpose, request.headers.get(request_ids.HEADER, "")))
        return send(adapter, request, **options)

    simulated_pool(here.server)
    job = here.job()
    monkeypatch.setattr(HTTPAdapter, "send", note)
    client = ApiClient(job.owner)
    body = {"input_dataset": job.input_file_id, "endpoint": job.endpoint, "model_id": job.model_id}
    made = client.post("/jobs", body, X_Request_ID="req-7")
    assert made.status_code in {200, 201}, made.content
    assert Job.objects.get(pk=made.json()["id"]).request_id == "req-7"
    passes_until_quiet()
    of_request = {purpose for purpose, request_id in sent if request_id == "req-7"}
    assert of_request == {"POST resources", "GET resources", "DELETE resources", "POST v1", "GET v1"}
    ids = {request_id for _, request_id in sent} - {"req-7", job.request_id or job.id}
    assert {each.partition("-")[0] for each in ids} == {"pass"}  # listings of pools and of the MDS are a pass's own


# Secrets


SECRETS = {
    "token": "abp_Zk3vQ9mX2rT7wY1u",
    "password": "correct-horse-battery",
    "key": "sk-live-0123456789abcdef",
    "opaque": "r8J2kLq0PzV5nB7c",
}


@pytest.mark.django_db
def test_no_secret_of_a_request_is_logged(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        address = f"https://user:{SECRETS['password']}@mds.example.org/v1?api_key={SECRETS['opaque']}"
        raise RuntimeError(f"{address} refused Authorization: Bearer {SECRETS['token']} as {SECRETS['key']}")

    monkeypatch.setattr(planner, "get_job", fail)
    headers = {
        "Authorization": f"Bearer {SECRETS['token']}",
        "X-Api-Key": SECRETS["opaque"],
        "Cookie": f"sessionid={SECRETS['opaque']}",
    }
    client = Client(raise_request_exception=False)
    client.get(f"{API}/jobs?token={SECRETS['token']}&api_key={SECRETS['opaque']}", headers=headers)
    client.get(f"/no-such-page?password={SECRETS['password']}", headers=headers)
    client.post(f"{API}/auth/login", {"username": "x", "password": SECRETS["password"]}, "application/json")
    client.post("/admin/login/", {"username": "x", "password": SECRETS["password"]})
    assert api("operator").get("/jobs/job_1").status_code == 500
    text = lines.getvalue()
    assert "RuntimeError" in text
    assert {name for name, secret in SECRETS.items() if secret in text} == set()


TEXTS = [
    "Authorization: Bearer {}",
    "{{'Authorization': 'Bearer {}', 'Accept': '*/*'}}",
    'the answer was {{"api_key": "{}", "id": 7}}',
    "GET https://user:{}@host.example/path failed",
    "postgresql://planner:{}@db/planner",
    "connection failed: host=db user=planner password={} dbname=planner",
    "https://api.example/v1/pods?api_key={}&limit=2",
    "RUNPOD_API_KEY={}",
    "client_secret={}&grant_type=x",
    "Set-Cookie: sessionid={}; Path=/",
    "X-Auth-Token: {}",
    "basic {}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_names_itself_a_secret_is_hidden(text: str) -> None:
    hidden = without_secrets(text.format(SECRETS["opaque"]))
    assert SECRETS["opaque"] not in hidden
    assert hidden == text.format("[hidden]") or "[hidden]" in hidden


@pytest.mark.parametrize(
    "secret", ["abp_Zk3vQ9mX2rT7wY1u", "sk-proj-0123456789", "eyJhbGciOi.eyJzdWIi.c2ln", "rpa_12345678"]
)
def test_what_looks_like_one_is_hidden(secret: str) -> None:
    hidden = without_secrets(f"refused: {secret} is not known")
    assert secret not in hidden
    assert hidden.endswith("is not known")


def test_what_is_none_is_left_alone() -> None:
    text = "job job_1: pending -> provisioning after 1.0 s, admitted (abp-1 at pool https://host.example:8000/x)"
    assert without_secrets(text) == text


@pytest.mark.parametrize(("form", "kind"), [("plain", PlainFormatter), ("json", SafeJsonFormatter)])
def test_the_form_is_as_set(form: str, kind: type[logging.Formatter], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_LOG_FORMAT", form)
    made = logging_settings()
    assert made["formatters"][made["handlers"]["stderr"]["formatter"]]["()"] is kind
    record = logging.LogRecord("n", logging.INFO, "p", 1, "a %s", ("b\nc",), None)
    WithRequestId().filter(record)
    text = kind(made["formatters"][form]["format"]).format(record)
    assert "a b" in text
    assert ("\n" in text) is (form == "plain")
