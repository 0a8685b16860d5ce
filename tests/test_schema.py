"""The OpenAPI document: valid, whole, and true of what is answered; and the page that shows it."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client
from jsonschema import Draft202012Validator

from jobs.models import ApiToken, DeploymentTemplate, InputFile, Job, OwnerQuota, Pool, Provision
from jobs.schema.document import OPERATIONS, document
from jobs.testing.fake_mds import FakeMds
from tests.api_client import ApiClient, api, job_body
from tests.batch_file import line
from tests.factories import jobs_everywhere, make_file, make_job, make_pool, make_template, make_user
from tests.openai_client import batch_body, openai


def problems(value: Any, schema: dict[str, Any]) -> list[str]:
    """Where a value is not as a schema says; references lead into the document."""
    whole = {**schema, "components": document()["components"]}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(whole).iter_errors(value)]


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to."""
    if "$ref" not in part:
        return part
    found: Any = document()
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def operation(path: str, method: str) -> dict[str, Any]:
    return dict(document()["paths"][path][method.lower()])


def contents(of: dict[str, Any]) -> list[dict[str, Any]]:
    """Every media type of an operation, sent and answered."""
    answers = [resolved(answer) for answer in of["responses"].values()]
    return [
        media
        for part in (of.get("requestBody", {}), *answers)
        for name, media in part.get("content", {}).items()
        if name != "text/html"
    ]


def assert_conforms(response: Any, template: str, method: str = "GET") -> None:
    """The answer is among those that are documented, and of its schema."""
    answers = operation(template, method)["responses"]
    assert str(response.status_code) in answers, f"{method} {template}: {response.status_code} {response.content}"
    content = resolved(answers[str(response.status_code)])["content"]
    kind = response["Content-Type"].partition(";")[0]
    assert kind in content, f"{method} {template}: {kind}"
    if kind == "application/json":
        assert problems(response.json(), content[kind]["schema"]) == [], f"{method} {template}"


def template_of(path: str) -> str:
    """The path template that a path belongs to; one with fewer parameters goes before."""
    for known in sorted(document()["paths"], key=lambda template: template.count("{")):
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path):
            return str(known)
    raise AssertionError(path)


# Valid and whole


def test_the_document_is_valid_and_no_route_is_left_out() -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", stdout=io.StringIO())
    assert document()["openapi"].startswith("3.1")


def test_a_route_that_nobody_has_written_down_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OPERATIONS, ("/api/v1/jobs", "POST"))
    with pytest.raises(CommandError):
        call_command("spectacular", "--fail-on-warn", stdout=io.StringIO(), stderr=io.StringIO())


def test_nothing_is_written_down_that_has_no_route() -> None:
    routes = {(path, method.upper()) for path, methods in document()["paths"].items() for method in methods}
    assert routes == set(OPERATIONS)


def test_the_shapes_are_json_schema_and_all_of_them_are_used() -> None:
    schemas = document()["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    used = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document())))
    assert used == set(schemas)


def test_operations_have_ids_of_their_own() -> None:
    ids = [operation(*key)["operationId"] for key in OPERATIONS]
    assert sorted(ids) == sorted(set(ids))
    assert {"listJobs", "createJob", "cancelJob"} <= set(ids)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_has_a_description_examples_and_its_errors(path: str, method: str) -> None:
    found = operation(path, method)
    assert found["summary"]
    assert found["description"].endswith(".")
    assert found["tags"][0] in {tag["name"] for tag in document()["tags"]}
    assert {status for status in found["responses"] if status[0] in "23"}
    assert "400" in found["responses"]
    if not OPERATIONS[path, method].is_public:
        assert {"401", "503"} <= set(found["responses"])
        assert found["security"] == [{"token": []}, {"session": []}]
    assert all(resolved(answer)["description"] for answer in found["responses"].values())
    assert all("example" in media for media in contents(found))
    assert all(parameter["description"] and "example" in parameter for parameter in found["parameters"])


@pytest.mark.parametrize("vocabulary", ["planner", "console"])
def test_every_example_is_of_its_schema(settings: Any, vocabulary: str) -> None:
    settings.PLANNER_STATUS_VOCABULARY = vocabulary
    for key in OPERATIONS:
        found = operation(*key)
        for part in (*contents(found), *found["parameters"]):
            assert problems(part["example"], part["schema"]) == [], key
    for name, schema in document()["components"]["schemas"].items():
        assert problems(schema["examples"][0], schema) == [], name


def test_a_wrong_value_is_seen() -> None:
    job = document()["components"]["schemas"]["Job"]
    example = job["examples"][0]
    assert problems(example | {"status": "sleeping"}, job)
    assert problems(example | {"createdAt": 1777863721}, job)
    assert problems(example | {"more": 1}, job)
    assert problems({key: value for key, value in example.items() if key != "usage"}, job)


# True of what is answered


def populate() -> list[Job]:
    """A row of every kind, in every state."""
    failed = make_job(status="failed", failure_stage="submit", error_code="refused", error_message="No.")
    jobs = [*jobs_everywhere(), failed]
    make_template()
    make_file()
    make_pool(name="held", is_enabled=False, disabled_reason="broken")
    OwnerQuota.objects.create(owner=make_user(username="held"), hold=True, hold_reason="too many")
    return jobs


def addresses(jobs: list[Job]) -> list[str]:
    """Everything that can be read."""
    template = make_template()
    models = f"/models/{template.model_id}"
    return [
        *(
            "/health",
            "/auth/config",
            "/auth/login",
            "/auth/userinfo",
            "/auth/callback",
            "/auth/tokens",
            "/config/job-capabilities",
        ),
        *("/jobs", "/queue", "/provisions", "/files", "/models", "/deployments", "/model-adapters"),
        "/model-adapter-targets",
        *("/jobs?limit=2", "/jobs?status=sleeping", "/provisions?limit=2", "/files?limit=0", "/jobs/nobody"),
        *(f"/jobs/{job.pk}" for job in jobs),
        *(f"/provisions/{provision.pk}" for provision in Provision.objects.all()),
        *(f"/files/{file.pk}" for file in InputFile.objects.all()),
        *("/files/file-out", models, f"{models}/deployment-templates"),
        f"{models}/deployment-templates/{template.pk}",
        f"{models}/deployment-templates/by-name/{template.name}",
    ]


@pytest.mark.django_db
@pytest.mark.parametrize("vocabulary", ["planner", "console"])
@pytest.mark.parametrize("role", ["operator", "submitter", "nobody"])
def test_whatever_is_read_is_as_documented(settings: Any, role: str, vocabulary: str) -> None:
    settings.PLANNER_STATUS_VOCABULARY = vocabulary
    client = ApiClient() if role == "nobody" else api(role)
    read = addresses(populate())
    for path in read:
        assert_conforms(client.get(path), template_of(f"/api/v1{path.partition('?')[0]}"))
    if role == "operator":
        seen = {template_of(f"/api/v1{path.partition('?')[0]}") for path in read}
        gets = {path for path, method in OPERATIONS if method == "GET" and path.startswith("/api/")}
        assert gets - seen == {"/api/v1/files/{file_id}/content"}, "a new path needs a line in `addresses`"


@pytest.mark.django_db
@pytest.mark.parametrize("role", ["operator", "submitter"])
def test_whatever_is_changed_is_answered_as_documented(role: str) -> None:
    client = api(role)
    jobs, pool = populate(), Pool.objects.get(name="held")
    provisions = list(Provision.objects.all())
    wishes = [
        *(
            (f"/jobs/{job.pk}/{what}", "/jobs/{job_id}/" + what)
            for job in jobs
            for what in ("hold", "resume", "cancel")
        ),
        *((f"/jobs/{job.pk}/priority", "/jobs/{job_id}/priority") for job in jobs),
        *((f"/provisions/{one.pk}/release", "/provisions/{provision_id}/release") for one in provisions),
        *((f"/queue/{what}", f"/queue/{what}") for what in ("hold", "resume")),
        *((f"/owners/held/{what}", "/owners/{username}/" + what) for what in ("hold", "resume")),
        *((f"/pools/{pool.name}/{what}", "/pools/{name}/" + what) for what in ("hold", "resume")),
    ]
    for path, template in wishes:
        assert_conforms(client.post(path, {"priority": 5, "reason": "a test"}), f"/api/v1{template}", "POST")
    for sent in ({"name": "nightly"}, {"name": "nightly", "expires_in_seconds": 60}, {}, []):
        assert_conforms(client.post("/auth/tokens", sent), "/api/v1/auth/tokens", "POST")
    for token_id in (ApiToken.objects.get(expires_at=None).pk, 0):
        revoked = client.client.delete(f"/api/v1/auth/tokens/{token_id}")
        assert_conforms(revoked, "/api/v1/auth/tokens/{token_id}", "DELETE")
    body = job_body(client.user)
    for sent in (body, body, body | {"name": "another"}, {}, []):
        assert_conforms(client.post("/jobs", sent, Idempotency_Key="once"), "/api/v1/jobs", "POST")


@pytest.mark.django_db
@pytest.mark.parametrize("role", ["operator", "submitter"])
def test_changes_of_the_catalogue_are_answered_as_documented(role: str) -> None:
    client, model = api(role), make_template().model
    templates, model_path, template_path = (
        f"/models/{model.pk}/deployment-templates",
        "/api/v1/models/{model_id}",
        "/api/v1/models/{model_id}/deployment-templates",
    )
    new = {name: document()["components"]["schemas"][name]["examples"][0] for name in ("NewModel", "NewTemplate")}
    for sent in (new["NewModel"], new["NewModel"], {}, []):
        assert_conforms(client.post("/models", sent), "/api/v1/models", "POST")
    for sent in (new["NewTemplate"], new["NewTemplate"], {}, []):
        assert_conforms(client.post(templates, sent), template_path, "POST")
    ids = [*DeploymentTemplate.objects.values_list("pk", flat=True), "nobody"]
    for sent in ({"name": "same", "version": "v1"}, {"name": "/"}):
        for one in ids:
            assert_conforms(client.put(f"{templates}/{one}", sent), f"{template_path}/{{template_id}}", "PUT")
        for one in (model.pk, "nobody"):
            assert_conforms(client.put(f"/models/{one}", sent), model_path, "PUT")
            assert_conforms(client.patch(f"/models/{one}", sent), model_path, "PATCH")
    assert_conforms(client.delete(f"/models/{model.pk}"), model_path, "DELETE")
    for one in ids:
        assert_conforms(client.delete(f"{templates}/{one}"), f"{template_path}/{{template_id}}", "DELETE")
    assert_conforms(client.delete(f"/models/{model.pk}"), model_path, "DELETE")


@pytest.mark.django_db
def test_files_come_and_go_as_documented(fake_mds: FakeMds) -> None:
    client = api()
    form = {"file": SimpleUploadedFile("requests.jsonl", line()), "purpose": "batch"}
    uploaded = client.client.post("/api/v1/files/upload", form)
    assert uploaded.status_code == 200
    assert_conforms(uploaded, "/api/v1/files/upload", "POST")
    download = client.get(f"/files/{uploaded.json()['id']}/content")
    assert b"".join(download.streaming_content) == line()
    assert_conforms(download, "/api/v1/files/{file_id}/content")
    assert_conforms(client.get("/files/upload"), "/api/v1/files/{file_id}")


@pytest.mark.django_db
@pytest.mark.parametrize("role", ["operator", "submitter"])
def test_openai_clients_are_answered_as_documented(role: str, fake_mds: FakeMds) -> None:
    jobs, client = populate(), openai(role)
    uploaded = client.upload(line())
    file, body = uploaded.json()["id"], batch_body(client.user)
    assert_conforms(uploaded, "/v1/files", "POST")
    for path in ("/batches", "/batches?limit=2", "/batches?limit=0", "/files", "/files?order=asc", f"/files/{file}"):
        assert_conforms(client.get(path), template_of(f"/v1{path.partition('?')[0]}"))
    for job in (*jobs, Job(id="nobody")):
        assert_conforms(client.get(f"/batches/{job.pk}"), "/v1/batches/{batch_id}")
        assert_conforms(client.post(f"/batches/{job.pk}/cancel"), "/v1/batches/{batch_id}/cancel", "POST")
    for sent in (body, body, body | {"completion_window": "1h"}, {}, []):
        assert_conforms(client.post("/batches", sent, Idempotency_Key="once"), "/v1/batches", "POST")
    for one in (file, body["input_file_id"], "nobody"):
        assert_conforms(client.delete(f"/files/{one}"), "/v1/files/{file_id}", "DELETE")


# The document and the page, served


def test_the_document_is_public_json_and_needs_no_database() -> None:
    response = Client().get("/api/schema")
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    assert response.json() == json.loads(json.dumps(document()))


def test_the_page_is_public_and_takes_everything_from_here() -> None:
    client = Client()
    page = client.get("/api/docs/")
    assert page.status_code == 200
    assert page["Content-Type"].startswith("text/html")
    text = page.content.decode()
    sources = re.findall(r'(?:src|href)="([^"]+)"', text)
    files = [source.removeprefix("/static/") for source in sources if source.startswith("/static/")]
    assert len(files) == 4, sources
    assert all(finders.find(file) for file in files)
    assert set(sources) - {f"/static/{file}" for file in files} == {"/api/docs/?script="}
    assert not re.search(r"<script>|https?://", text), "nothing inline, nothing from elsewhere"
    script = client.get("/api/docs/?script=")
    assert script["Content-Type"].startswith("application/javascript")
    assert "/api/schema" in script.content.decode()


def test_what_is_beside_them_is_still_an_unknown_path() -> None:
    for path in ("/api/schema/", "/api/docs/x", "/api/schemas"):
        response = Client().get(path)
        assert (response.status_code, response.json()["message"]) == (404, "Not Found")
    assert Client().get("/api/docs")["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("path", ["/api/docs", "/api/docs/", "/api/schema"])
def test_they_are_for_reading_only(path: str) -> None:
    answer = Client().post(path)
    assert (answer.status_code, answer["Content-Type"], answer.json()["code"]) == (405, "application/json", 12)
