"""/v1/files: OpenAI's words for an input and for what a job has written; nothing is ever half-stored."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from jobs import conf
from jobs.models import InputFile
from tests.batch_file import lines
from tests.factories import make_file, make_job, make_user
from tests.openai_client import OpenAIClient, assert_refused, openai

pytestmark = pytest.mark.django_db

CONTENT = lines(5)


@pytest.mark.mds
@pytest.mark.django_db(transaction=True)  # a download that ends closes the connection to the database
def test_it_works(real_mds: str) -> None:
    client = openai()

    answer = client.upload(CONTENT, "Größe 1.jsonl")

    assert answer.status_code == 200, answer.content
    file = InputFile.objects.get()
    expected = {
        "id": file.pk,
        "object": "file",
        "bytes": len(CONTENT),
        "created_at": int(file.created_at.timestamp()),
        "filename": "Größe 1.jsonl",
        "purpose": "batch",
        "status": "uploaded",
    }
    assert answer.json() == client.get(f"/files/{file.pk}").json() == expected
    assert client.get("/files").json()["data"] == [expected]
    download = client.get(f"/files/{file.pk}/content")
    assert download.streaming
    assert b"".join(download.streaming_content) == CONTENT
    download.close()
    assert client.delete(f"/files/{file.pk}").json() == {"id": file.pk, "object": "file", "deleted": True}
    for gone in (client.get(f"/files/{file.pk}"), client.delete(f"/files/{file.pk}")):
        assert_refused(gone, 404)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("file", {"file": None}),
    ("file", {"file": "a field, no file"}),
    ("file", {"name": "in.csv"}),
    ("file", {"content": b"not json\n"}),
    ("file", {"content": b""}),
    ("purpose", {"purpose": None}),
    ("purpose", {"purpose": "fine-tune"}),
    ("purpose", {"purpose": SimpleUploadedFile("p", b"batch")}),
    ("expires_after[seconds]", {"expires_after[seconds]": "3600"}),
]


@pytest.mark.usefixtures("no_mds")
@pytest.mark.parametrize(("param", "wrong"), REFUSED)
def test_a_wrong_upload_is_refused_before_the_mds_is_asked(param: str, wrong: dict[str, Any]) -> None:
    assert_refused(openai().upload(**{"content": CONTENT, **wrong}), 400, param=param)
    assert not InputFile.objects.exists()


@pytest.mark.usefixtures("no_mds")
def test_a_file_over_the_limit_is_a_413(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf, "MAX_FILE_BYTES", len(CONTENT) - 1)
    assert_refused(openai().upload(CONTENT), 413, param="file", code="content_size_limit_exceeded")
    assert not InputFile.objects.exists()


@pytest.mark.usefixtures("no_mds")
def test_a_body_over_the_limit_is_a_413_that_its_sender_gets_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf, "MAX_FILE_BYTES", 1000)
    body = BytesIO(b"x" * (1000 + 64 * 1024 + 1))
    form = "multipart/form-data; boundary=b"
    response = openai().client.generic("POST", "/v1/files", body.getvalue(), content_type=form)
    assert_refused(response, 413, param="file")
    assert response.wsgi_request.read() == b""


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("application/json", 415), ("multipart/form-data", 400), ("multipart/form-data; boundary=b", 400)],
)
def test_an_upload_that_is_no_form_is_refused(content_type: str, status: int) -> None:
    response = openai().client.generic("POST", "/v1/files", b"{}", content_type=content_type)
    assert response.status_code == status
    assert set(response.json()) == {"error"}


@pytest.mark.usefixtures("no_mds")
def test_without_the_mds_it_is_a_503_and_nothing_changes() -> None:
    client = openai()
    file = make_file(client.user)
    job = make_job(client.user, status="completed", output_file_id="out-1")
    answers = [
        client.upload(CONTENT),
        client.get(f"/files/{file.pk}/content"),
        client.delete(f"/files/{file.pk}"),
        client.delete("/files/out-1"),
    ]
    for answer in answers:
        assert_refused(answer, 503, code="service_unavailable")
        assert int(answer["Retry-After"]) > 0
    assert InputFile.objects.get() == file
    job.refresh_from_db()
    assert job.output_file_id == "out-1"
    assert client.get(f"/files/{file.pk}").status_code == client.get("/files").status_code == 200


def test_what_a_job_wrote_is_described_by_its_job() -> None:
    job = make_job(status="completed", output_file_id="out-1", error_file_id="err-1")
    client = OpenAIClient(job.owner)
    output = client.get("/files/out-1").json()
    assert output == {
        "id": "out-1",
        "object": "file",
        "bytes": 0,
        "created_at": int(job.completed_at.timestamp()),  # type: ignore[union-attr]
        "filename": f"{job.pk}_output.jsonl",
        "purpose": "batch_output",
        "status": "uploaded",
    }
    assert client.get("/files/err-1").json()["filename"] == f"{job.pk}_errors.jsonl"


def test_a_file_in_use_is_a_409_that_is_not_worth_a_retry() -> None:
    owner = make_user()
    file = make_file(owner)
    make_job(owner, input_file_id=file.pk)
    response = OpenAIClient(owner).delete(f"/files/{file.pk}")
    assert_refused(response, 409, "not over", code="conflict")
    assert response["x-should-retry"] == "false"


@pytest.mark.parametrize("file_id", ["nope", "a%00b", "x" * 500])
def test_an_unknown_file_is_not_found(file_id: str) -> None:
    client = openai("operator")
    for answer in (
        client.get(f"/files/{file_id}"),
        client.get(f"/files/{file_id}/content"),
        client.delete(f"/files/{file_id}"),
    ):
        assert_refused(answer, 404)
