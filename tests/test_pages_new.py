"""The form for a new job: what it offers, and what it says is wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from jobs import files, planner
from jobs.errors import QueueFull, Unavailable
from jobs.models import InputFile, Job
from tests.batch_file import line
from tests.factories import make_file, make_model, make_template, make_user
from tests.page_client import signed_in, text_of

pytestmark = pytest.mark.django_db


def form(**fields: Any) -> dict[str, Any]:
    """What a browser sends."""
    return {
        "name": "nightly",
        "template": "",
        "input_file": "",
        "endpoint": "/v1/chat/completions",
        "completion_window": "12h",
        "replicas": "2",
        "request_key": "key-1",
        **fields,
    }


def jsonl(content: bytes = line(), name: str = "requests.jsonl") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content, "application/octet-stream")


@pytest.mark.mds
def test_a_new_job_is_uploaded_and_enqueued(mds: str, settings: Any) -> None:
    settings.PLANNER_MDS_URL = mds
    user, template = make_user(), make_template()
    response = signed_in(user).post("/jobs/new", form(template=template.pk, upload=jsonl()))
    job = Job.objects.get()
    assert response.status_code == 302
    assert response["Location"] == f"/jobs/{job.pk}"
    uploaded = InputFile.objects.get()
    assert (uploaded.owner, uploaded.filename, uploaded.request_count) == (user, "requests.jsonl", 1)
    assert job.input_file_id == uploaded.pk
    assert (job.owner, job.name, job.replicas, job.completion_window) == (user, "nightly", 2, "12h")
    assert (job.model_id, job.template_name, job.accelerator_type) == (template.model_id, template.name, "H100")


def test_the_form_offers_active_templates_with_their_accelerators_and_own_files() -> None:
    user = make_user()
    model = make_model(name="Small")
    make_template(model, name="fast", spec={"accelerator": {"type": "A100", "count": 4}})
    make_template(model, name="old", status="deprecated")
    make_file(user, filename="mine.jsonl")
    make_file(make_user(), filename="theirs.jsonl")
    make_file(user, filename="half-gone.jsonl", deletion_requested_at=timezone.now())
    html = signed_in(user).get("/jobs/new").content.decode()
    assert "fast @ v1.0.0 (4 \N{MULTIPLICATION SIGN} A100)" in html
    assert "old @" not in html
    assert "mine.jsonl" in html
    assert "theirs.jsonl" not in html
    assert "half-gone.jsonl" not in html
    labels = set(re.findall(r'<label for="(id_[^"]+)"', html))
    inputs = set(re.findall(r'<(?:input|select)[^>]* id="(id_[^"]+)"', html)) - {"id_request_key"}
    assert inputs == labels
    assert len(inputs) == 7


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"completion_window": "0h"}, "completion_window", "is not between"),
        ({"completion_window": "soon"}, "completion_window", "is not a window"),
        ({"replicas": "0"}, "replicas", "greater than or equal to 1"),
        ({"replicas": "2000"}, "replicas", "less than or equal to 1024"),
        ({"endpoint": "/v1/embeddings"}, "endpoint", "supports only"),
        ({"input_file": ""}, "upload", "Choose a file"),
        ({"template": "tmpl_gone"}, "template", "Select a valid choice"),
        ({"name": "x" * 300}, "name", "at most 255"),
    ],
)
def test_each_mistake_is_told_beside_its_field(fields: dict[str, str], field: str, message: str) -> None:
    user, template = make_user(), make_template()
    given = form(template=template.pk, input_file=make_file(user).pk) | fields
    response = signed_in(user).post("/jobs/new", given)
    assert response.status_code == 400
    error = re.search(rf'id="id_{field}_error"[^>]*>([^<]+)<', response.content.decode())
    assert error
    assert message in error[1]
    assert not Job.objects.exists()


def test_a_file_of_somebody_else_cannot_be_chosen() -> None:
    response = signed_in(make_user()).post("/jobs/new", form(input_file=make_file().pk))
    assert response.status_code == 400
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("refusal", "status"),
    [(QueueFull("the queue is full", retry_after_seconds=30), 429), (Unavailable("does not answer"), 503)],
)
def test_what_was_chosen_stays_and_a_file_that_got_through_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception, status: int
) -> None:
    user, template = make_user(), make_template()
    uploads: list[str] = []

    def upload(user: User, file: Any) -> InputFile:
        uploads.append(file.name)
        return make_file(user, filename=file.name)

    def refuse(*args: Any, **kwargs: Any) -> Job:
        raise refusal

    monkeypatch.setattr(files, "upload", upload)
    client = signed_in(user)
    with monkeypatch.context() as patched:
        patched.setattr(planner, "enqueue", refuse)
        response = client.post("/jobs/new", form(template=template.pk, upload=jsonl()))
    assert response.status_code == status
    assert response.headers.get("Retry-After") == ("30" if status == 429 else None)
    html = response.content.decode()
    kept = InputFile.objects.get()
    assert str(refusal) in html
    assert f'<option value="{kept.pk}" selected>' in html
    assert f'<option value="{template.pk}" selected>' in html
    assert 'value="12h"' in html
    assert "need not be sent again" in html
    again = client.post("/jobs/new", form(template=template.pk, input_file=kept.pk))
    assert again.status_code == 302
    assert uploads == ["requests.jsonl"]


def test_bad_lines_are_told_beside_the_file() -> None:
    response = signed_in(make_user()).post("/jobs/new", form(upload=jsonl(line() + b"{broken\n" + line() + b"[]\n")))
    assert response.status_code == 400
    assert re.search(r'id="id_upload_error"[^>]*>Line 2: [^<]+<br>Line 4: ', response.content.decode())
    assert not InputFile.objects.exists()


def test_a_file_that_is_too_large_is_413(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.conf.MAX_FILE_BYTES", 10)
    response = signed_in(make_user()).post("/jobs/new", form(upload=jsonl()))
    assert response.status_code == 413
    assert 'id="id_upload_error"' in response.content.decode()


def test_sending_the_form_twice_makes_one_job() -> None:
    user = make_user()
    client = signed_in(user)
    given = form(input_file=make_file(user).pk)
    locations = {client.post("/jobs/new", given)["Location"] for _ in range(2)}
    assert locations == {f"/jobs/{Job.objects.get().pk}"}


def test_a_form_that_made_a_job_and_was_changed_since_asks_before_it_makes_another() -> None:
    user = make_user()
    client = signed_in(user)
    given = form(input_file=make_file(user).pk)
    client.post("/jobs/new", given)
    response = client.post("/jobs/new", given | {"name": "other"})
    assert response.status_code == 409
    assert "was sent before" in text_of(response)
    key = re.search(r'name="request_key" value="([^"]+)"', response.content.decode())
    assert key
    client.post("/jobs/new", given | {"name": "other", "request_key": key[1]})
    assert set(Job.objects.values_list("name", flat=True)) == {"nightly", "other"}


def test_each_form_has_a_key_of_its_own() -> None:
    client = signed_in(make_user())
    keys = {
        re.findall(r'name="request_key" value="([^"]+)"', client.get("/jobs/new").content.decode())[0] for _ in "ab"
    }
    assert len(keys) == 2
