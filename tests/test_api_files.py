"""/files, against a real metadata service: bytes go through us both ways, and belong to somebody."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
import requests
from django.core.files.uploadedfile import SimpleUploadedFile, TemporaryUploadedFile

from jobs import conf, files
from jobs.models import InputFile
from tests.api_client import API, ApiClient, api, assert_refused, job_body
from tests.batch_file import line, lines
from tests.factories import make_file, make_job, make_user

pytestmark = pytest.mark.django_db

CONTENT = lines(5)


def upload(client: ApiClient, content: bytes = CONTENT, name: str = "in.jsonl", **fields: Any) -> Any:
    form = {"file": SimpleUploadedFile(name, content, "application/octet-stream"), "purpose": "batch", **fields}
    form = {name: value for name, value in form.items() if value is not None}
    return client.client.post(f"{API}/files/upload", form)


@pytest.mark.mds
def test_a_file_comes_back_as_it_went_in(real_mds: str) -> None:
    client = api()

    answer = upload(client, name="Größe 1.jsonl")

    assert answer.status_code == 200, answer.content
    file = InputFile.objects.get()
    assert answer.json() == {
        "id": file.pk,
        "object": "file",
        "bytes": len(CONTENT),
        "created_at": int(file.created_at.timestamp()),
        "filename": "Größe 1.jsonl",
        "purpose": "batch",
        "status": "uploaded",
    }
    assert (file.owner, file.request_count) == (client.user, 5)
    assert requests.get(f"{real_mds}/v1/files/{file.pk}/content", timeout=5).content == CONTENT

    download = client.get(f"/files/{file.pk}/content")
    assert download.status_code == 200
    assert download.streaming
    assert b"".join(download.streaming_content) == CONTENT
    assert download["Content-Type"] == "application/jsonl"
    assert download["Content-Length"] == str(len(CONTENT))
    assert download["Content-Disposition"].startswith("attachment; filename")
    assert "Gr%C3%B6%C3%9Fe%201.jsonl" in download["Content-Disposition"]
    download.close()


@pytest.mark.mds
def test_an_uploaded_file_makes_a_job(real_mds: str) -> None:
    client = api()
    file_id = upload(client).json()["id"]
    job = client.post("/jobs", job_body(client.user, input_dataset=file_id)).json()
    assert (job["inputDataset"], job["requestCounts"]["total"]) == (file_id, 5)


def test_an_upload_is_on_disk_before_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def take(_user: object, file: Any, _purpose: str) -> InputFile:
        seen.append(file)
        return make_file()

    monkeypatch.setattr(files, "upload", take)
    assert upload(api()).status_code == 200
    assert isinstance(seen[0], TemporaryUploadedFile)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("file", {"file": None}),
    ("file", {"file": "a field, no file"}),
    ("file", {"name": "in.csv"}),
    ("file", {"name": "jsonl"}),
    ("file", {"content": b"not json\n"}),
    ("file", {"content": b"[]\n"}),
    ("file", {"content": b"\n \n"}),
    ("file", {"content": line(body=1)}),
    ("purpose", {"purpose": None}),
    ("purpose", {"purpose": "fine-tune"}),
    ("purpose", {"purpose": SimpleUploadedFile("p", b"batch")}),
]


@pytest.mark.usefixtures("no_mds")
@pytest.mark.parametrize(("field", "wrong"), REFUSED)
def test_a_wrong_upload_is_refused_before_the_mds_is_asked(field: str, wrong: dict[str, Any]) -> None:
    assert_refused(upload(api(), **wrong), 400, 3, field=field)
    assert not InputFile.objects.exists()


@pytest.mark.usefixtures("no_mds")
def test_a_file_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf, "MAX_FILE_BYTES", len(CONTENT) - 1)
    assert_refused(upload(api()), 413, 3, field="file")
    assert not InputFile.objects.exists()


@pytest.mark.usefixtures("no_mds")
def test_a_body_over_the_limit_is_read_to_its_end_and_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr("rest_framework.request.Request._parse", lambda _: pytest.fail("parsed"))
    client = api()
    body = BytesIO(b"x" * (1000 + 64 * 1024 + 1))

    response = client.client.generic(
        "POST", f"{API}/files/upload", body.getvalue(), content_type="multipart/form-data; boundary=b"
    )

    assert_refused(response, 413, 3, field="file")
    assert response.wsgi_request.read() == b""


@pytest.mark.parametrize(
    ("content_type", "status", "code"),
    [("application/json", 415, 3), ("multipart/form-data", 400, 3), ("multipart/form-data; boundary=b", 400, 3)],
)
def test_an_upload_that_is_no_form_is_refused(content_type: str, status: int, code: int) -> None:
    response = api().client.generic("POST", f"{API}/files/upload", b"{}", content_type=content_type)
    assert_refused(response, status, code)


@pytest.mark.usefixtures("no_mds")
def test_without_the_mds_it_is_a_503_and_nothing_is_stored() -> None:
    client = api()
    file = make_file(client.user)
    assert_refused(upload(client), 503, 14)
    assert InputFile.objects.count() == 1
    response = client.get(f"/files/{file.pk}/content")
    assert_refused(response, 503, 14)
    assert int(response["Retry-After"]) > 0
    assert client.get("/files").json()["data"][0]["id"] == file.pk


@pytest.mark.mds
def test_a_file_the_mds_has_lost_is_not_found(real_mds: str) -> None:
    client = api()
    file = make_file(client.user)
    assert_refused(client.get(f"/files/{file.pk}/content"), 404, 5)


@pytest.mark.usefixtures("no_mds")
def test_a_viewer_may_not_upload() -> None:
    assert_refused(upload(api("viewer")), 403, 7)


def test_one_file_is_described_without_asking_the_mds() -> None:
    client = api()
    file = make_file(client.user)
    assert client.get(f"/files/{file.pk}").json() == {
        "id": file.pk,
        "object": "file",
        "bytes": 300,
        "created_at": int(file.created_at.timestamp()),
        "filename": "requests.jsonl",
        "purpose": "batch",
        "status": "uploaded",
        "content_type": "application/jsonl",
        "etag": None,
        "last_modified": None,
    }


def test_an_output_is_described_by_its_job() -> None:
    job = make_job(status="completed", output_file_id="out-1", error_file_id="err-1")
    client = ApiClient(job.owner)
    output = client.get("/files/out-1").json()
    assert (output["filename"], output["purpose"]) == (f"{job.pk}_output.jsonl", "batch_output")
    assert client.get("/files/err-1").json()["filename"] == f"{job.pk}_errors.jsonl"


def test_the_list_is_ones_own_newest_first() -> None:
    owner = make_user()
    mine = [make_file(owner) for _ in range(3)]
    make_file()
    client = ApiClient(owner)
    everything = client.get("/files").json()
    assert everything["object"] == "list"
    assert [file["id"] for file in everything["data"]] == [file.pk for file in reversed(mine)]
    first = client.get("/files", limit=2, purpose="batch").json()
    rest = client.get("/files", limit=2, after=first["data"][-1]["id"]).json()
    assert first["data"] + rest["data"] == everything["data"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert client.get("/files", purpose="batch_output").json()["data"] == []
    assert client.get("/files", after="nope").json()["data"] == []


def test_the_list_shows_a_hundred_unasked() -> None:
    owner = make_user()
    for _ in range(101):
        make_file(owner)
    page = ApiClient(owner).get("/files").json()
    assert (len(page["data"]), page["has_more"]) == (100, True)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x"])
def test_a_limit_out_of_bounds_is_refused(limit: str) -> None:
    assert_refused(api().get("/files", limit=limit), 400, 3, field="limit")


# Who may read whose files; a 503 is "may read, but the MDS is not there".
MATRIX = {
    "owner": {"input": 200, "output": 200},
    "operator": {"input": 200, "output": 200},
    "viewer": {"input": 403, "output": 403},
    "submitter": {"input": 404, "output": 404},
    "": {"input": 404, "output": 404},
}


@pytest.mark.usefixtures("no_mds")
@pytest.mark.parametrize(
    ("who", "what", "status"), [(who, what, status) for who, row in MATRIX.items() for what, status in row.items()]
)
def test_who_may_read_a_jobs_files(who: str, what: str, status: int) -> None:
    owner = make_user()
    file = make_file(owner)
    make_job(owner, status="completed", input_file_id=file.pk, output_file_id="out-1")
    client = ApiClient(owner if who == "owner" else make_user(who))
    file_id = {"input": file.pk, "output": "out-1"}[what]

    answers = [client.get(f"/files/{file_id}"), client.get(f"/files/{file_id}/content")]

    if status == 200:
        assert [answer.status_code for answer in answers] == [200, 503]
    else:
        for answer in answers:
            assert_refused(answer, status, {403: 7, 404: 5}[status])


@pytest.mark.parametrize("file_id", ["nope", "a%00b", "x" * 500])
def test_an_unknown_file_is_not_found(file_id: str) -> None:
    for path in (f"/files/{file_id}", f"/files/{file_id}/content"):
        assert_refused(api("operator").get(path), 404, 5)
