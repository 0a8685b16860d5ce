"""Upload and download against the real metadata service, and against small servers that misbehave."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from django.contrib.auth.models import User
from django.core.files.base import File
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import IntegrityError, OperationalError, transaction

from jobs import conf, files
from jobs.errors import FileTooLarge, Forbidden, InvalidRequest, NotFound, PlannerError, Unavailable
from jobs.models import InputFile
from tests.batch_file import line
from tests.factories import make_file, make_job, make_user
from tests.waiting import eventually

pytestmark = pytest.mark.django_db


def upload(user: User, content: bytes, name: str = "requests.jsonl", **options: Any) -> InputFile:
    return files.upload(user, SimpleUploadedFile(name, content), **options)


def refusal(content: bytes, name: str = "requests.jsonl", **options: Any) -> InvalidRequest:
    """The refusal of a file; the MDS must not be asked, so there is none."""
    with pytest.raises(InvalidRequest) as caught:
        upload(make_user(), content, name, **options)
    assert not InputFile.objects.exists()
    return caught.value


@contextlib.contextmanager
def server(settings: Any, answer: Callable[[BaseHTTPRequestHandler], object]) -> Iterator[list[str]]:
    """A metadata service that answers every call with `answer`; yields the calls, as `METHOD path`."""
    calls: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError):  # what the client gives up on is the point of some tests
                super().handle_one_request()

        def answer(self) -> None:
            calls.append(f"{self.command} {self.path}")
            self.close_connection = True
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    self.rfile.read(size + 2)
            answer(self)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names the base class looks for

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    settings.PLANNER_MDS_URL = f"http://127.0.0.1:{httpd.server_port}"
    try:
        yield calls
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def replying(status: int, body: object = None) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        content = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


@pytest.fixture
def real_mds(mds: str, settings: Any) -> str:
    settings.PLANNER_MDS_URL = mds
    return mds


@pytest.fixture
def no_mds(settings: Any) -> None:
    """An address at which nothing listens."""
    settings.PLANNER_MDS_URL = "http://127.0.0.1:9"


@pytest.mark.mds
def test_it_works(real_mds: str) -> None:
    user, content = make_user(), line(1) + b"\n" + line(2) + b"  \n" + line(3).rstrip()
    file = upload(user, content, 'Größe & "more".JSONL')
    assert (file.owner, file.filename, file.purpose) == (user, 'Größe & "more".JSONL', "batch")
    assert (file.size_bytes, file.request_count) == (len(content), 3)
    assert InputFile.objects.get() == file
    at_the_mds = requests.get(f"{real_mds}/v1/files/{file.pk}", timeout=5).json()
    assert (at_the_mds["bytes"], at_the_mds["purpose"]) == (len(content), "batch")
    download = files.open_content(user, file.pk)
    assert (download.file.filename, download.size_bytes) == (file.filename, len(content))
    assert b"".join(download) == content


@pytest.mark.mds
@pytest.mark.django_db(transaction=True)  # on a busy machine it takes longer than a transaction may idle
def test_a_large_file_is_never_in_memory_as_a_whole(real_mds: str, tmp_path: Path) -> None:
    user, path = make_user(), tmp_path / "large.jsonl"
    row = line(body={"model": "m", "messages": [{"role": "user", "content": "x" * 2000}]})
    path.write_bytes(row * (20 * 1024 * 1024 // len(row) + 1))
    tracemalloc.start()
    try:
        with path.open("rb") as content:
            file = files.upload(user, File(content, name=str(path)))
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
        size = sum(len(chunk) for chunk in files.open_content(user, file.pk))
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert (file.filename, file.size_bytes) == ("large.jsonl", size)
    assert size > 20 * 1024 * 1024


@pytest.mark.mds
def test_a_file_the_metadata_service_has_lost_is_not_found(real_mds: str) -> None:
    file = make_file()
    with pytest.raises(NotFound):
        files.open_content(file.owner, file.pk)


@pytest.mark.usefixtures("no_mds")
@pytest.mark.parametrize("name", ["requests.txt", "requests", "jsonl", "requests.jsonl.gz"])
def test_another_kind_of_file_is_refused(name: str) -> None:
    assert refusal(line(), name).field == "file"


@pytest.mark.usefixtures("no_mds")
def test_the_first_bad_line_is_named() -> None:
    assert str(refusal(line() + b"\n{\n")) == "file: line 3: not a JSON object"


@pytest.mark.usefixtures("no_mds")
def test_too_large_a_file_has_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf, "MAX_FILE_BYTES", 10)
    error = refusal(line())
    assert isinstance(error, FileTooLarge)
    assert error.code == "file_too_large"


@pytest.mark.usefixtures("no_mds")
def test_another_purpose_is_refused() -> None:
    assert refusal(line(), purpose="fine-tune").field == "purpose"


@pytest.mark.usefixtures("no_mds")
def test_who_may_not_submit_may_not_upload() -> None:
    with pytest.raises(Forbidden):
        upload(make_user("viewer"), line())


@pytest.mark.usefixtures("no_mds")
def test_without_the_metadata_service_nothing_is_stored() -> None:
    with pytest.raises(Unavailable):
        upload(make_user(), line())
    file = make_file()
    with pytest.raises(Unavailable):
        files.open_content(file.owner, file.pk)
    assert list(InputFile.objects.all()) == [file]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (413, {"error": {"code": "content_size_limit_exceeded"}}, FileTooLarge),
        (500, {"error": {"message": "at http://10.0.0.1/"}}, Unavailable),
        (200, {}, Unavailable),
        (200, [], Unavailable),
        (200, {"id": 5}, Unavailable),
        (307, None, Unavailable),
    ],
)
def test_an_answer_that_is_no_file_stores_nothing(
    settings: Any, status: int, body: object, error: type[PlannerError]
) -> None:
    with server(settings, replying(status, body)) as calls, pytest.raises(error) as caught:
        upload(make_user(), line())
    assert calls == ["POST /v1/files"]
    assert "10.0.0.1" not in str(caught.value)
    assert not InputFile.objects.exists()


@pytest.mark.parametrize("method", ["upload", "download"])
def test_a_metadata_service_that_hangs_is_unavailable(
    settings: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(files, "ANSWER_SECONDS", 0.1)
    file, given_up = make_file(), threading.Event()
    with server(settings, lambda _: given_up.wait(10)) as calls:
        with pytest.raises(Unavailable):
            upload(file.owner, line()) if method == "upload" else files.open_content(file.owner, file.pk)
        given_up.set()
    assert len(calls) == 1


def test_a_file_whose_row_cannot_be_stored_is_deleted_again(settings: Any) -> None:
    file = make_file()
    with server(settings, replying(200, {"id": file.pk})) as calls, pytest.raises(IntegrityError), transaction.atomic():
        upload(file.owner, line())
    assert calls == ["POST /v1/files", f"DELETE /v1/files/{file.pk}"]


def test_a_file_whose_row_may_be_there_is_kept(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit's own answer is lost: whoever lists the files may see this one."""
    file = make_file()
    create, lost = InputFile.objects.create, OperationalError("the connection was lost")

    def create_unanswered(**fields: Any) -> None:
        create(**fields)
        raise lost

    monkeypatch.setattr(InputFile.objects, "create", create_unanswered)
    with server(settings, replying(200, {"id": "file-1"})) as calls, pytest.raises(OperationalError):
        upload(file.owner, line())
    assert calls == ["POST /v1/files"]


def test_a_download_cut_short_is_an_error_and_no_end(settings: Any) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 100)

    file = make_file()
    with server(settings, cut):
        download = files.open_content(file.owner, file.pk)
        assert download.size_bytes == 1000
        with pytest.raises(Unavailable):
            list(download)


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_download_given_up_ends_at_the_metadata_service_too(settings: Any, is_begun: bool) -> None:
    ended = threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65_536)
        except ConnectionError:
            ended.set()

    file = make_file()
    with server(settings, endless):
        download = files.open_content(file.owner, file.pk)
        if is_begun:
            assert next(iter(download))
        download.close()
        assert ended.wait(10)


def test_a_file_id_is_one_part_of_the_path(settings: Any) -> None:
    file = make_file(id="../batches?x")
    with server(settings, replying(404)) as calls, pytest.raises(NotFound):
        files.open_content(file.owner, file.pk)
    assert calls == ["GET /v1/files/..%2Fbatches%3Fx/content"]


def test_people_list_and_read_their_own_files_newest_first() -> None:
    user = make_user()
    first, second, other = make_file(user), make_file(user), make_file()
    assert list(files.visible_files(user)) == [second, first]
    assert files.readable_file(user, first.pk).id == first.pk
    with pytest.raises(NotFound):
        files.readable_file(user, other.pk)


def test_operators_list_and_read_all_files() -> None:
    file = make_file()
    assert list(files.visible_files(make_user("operator"))) == [file]
    assert files.readable_file(make_user("operator"), file.pk).id == file.pk
    assert not files.visible_files(make_user("viewer")).exists()


def test_what_a_job_wrote_is_its_owners_to_read() -> None:
    job = make_job(status="completed", output_file_id="out-1", error_file_id="err-1")
    output = files.readable_file(job.owner, "out-1")
    assert (output.filename, output.purpose) == (f"{job.pk}_output.jsonl", "batch_output")
    assert (output.created_at, output.size_bytes) == (job.completed_at, None)
    assert files.readable_file(job.owner, "err-1").filename == f"{job.pk}_errors.jsonl"
    assert files.readable_file(make_user("operator"), "out-1") == output


@pytest.mark.parametrize(("role", "error"), [("viewer", Forbidden), ("submitter", NotFound), ("", NotFound)])
def test_who_sees_the_job_is_forbidden_its_files_and_others_know_of_none(role: str, error: type[PlannerError]) -> None:
    file = make_file()
    make_job(file.owner, input_file_id=file.pk, output_file_id="out-1", error_file_id="err-1")
    user = make_user(role)
    for file_id in (file.pk, "out-1", "err-1"):
        with pytest.raises(error):
            files.readable_file(user, file_id)


@pytest.mark.parametrize("file_id", ["", "nope", "\0", "\ud800"])
def test_an_unknown_file_is_not_found(file_id: str) -> None:
    make_job()  # has no output yet: its file ids are empty
    with pytest.raises(NotFound):
        files.readable_file(make_user("operator"), file_id)


def test_an_uploaded_file_need_not_be_on_disk(settings: Any) -> None:
    with server(settings, replying(200, {"id": "file-1"})):
        file = files.upload(make_user(), File(io.BytesIO(line()), name="a.json"))
    assert (file.pk, file.request_count) == ("file-1", 1)


def test_a_hung_mds_keeps_a_bounded_number_of_callers_waiting(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 0.01)
    may_answer = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        may_answer.wait(20)
        handler.send_response(404)
        handler.end_headers()

    with server(settings, hang) as calls, ThreadPoolExecutor(files.MOST_AT_ONCE) as threads:
        waiting = [threads.submit(files._call, "GET", "/v1/files/x") for _ in range(files.MOST_AT_ONCE)]
        eventually(lambda: len(calls) == files.MOST_AT_ONCE)
        with pytest.raises(Unavailable):
            files._call("GET", "/v1/files/x")
        assert len(calls) == files.MOST_AT_ONCE, "it was not even sent"
        may_answer.set()
        assert [each.result().status_code for each in waiting] == [404] * files.MOST_AT_ONCE
        assert files._call("GET", "/v1/files/x").status_code == 404


@pytest.mark.parametrize("is_read", [True, False])
def test_a_download_gives_its_place_back(is_read: bool, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 0.01)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"line\n")

    file = make_file()
    with server(settings, answer):
        for _ in range(files.MOST_AT_ONCE + 1):
            content = files.open_content(file.owner, file.pk)
            assert not is_read or b"".join(content) == b"line\n"
            content.close()
            content.close()
    with server(settings, lambda handler: handler.send_error(500)):
        for _ in range(files.MOST_AT_ONCE + 1):
            with pytest.raises(Unavailable, match="does not answer"):
                files.open_content(file.owner, file.pk)
