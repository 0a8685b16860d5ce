"""Input and output files: their bytes are at the MDS, streamed through here; owner and line count are our rows.

The one module of the web side that calls the MDS. Nothing is read into memory as a whole, in either direction.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, cast
from urllib.parse import quote, urlsplit

import requests
from django.conf import settings
from django.contrib.auth.models import User
from django.core.files.base import File
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now

from jobs import conf, request_ids
from jobs.access_rules import SUBMIT_JOB, may_use_any_file, visible_jobs
from jobs.errors import Conflict, FileTooLarge, Forbidden, InvalidRequest, NotFound, Unavailable, is_database_away
from jobs.holds import record
from jobs.input_lines import check_lines
from jobs.metrics import MDS, outside_call
from jobs.models import InputFile, Job
from jobs.statuses import LIVE
from jobs.validation import check_text, is_storable

logger = logging.getLogger(__name__)

PURPOSE = "batch"
OUTPUT_PURPOSE = "batch_output"
SUFFIXES = (".jsonl", ".json")
CHUNK_BYTES = 64 * 1024

# Not `conf.times()`: a person waits here, nothing else does, and a large file may keep the MDS busy for a while.
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0  # between two bytes, too: a download has no limit in all
MOST_AT_ONCE = 4  # calls of one web process, of its 8 threads: a hung MDS must leave some to everybody else
PATIENCE_SECONDS = 1.0  # of one more

_places = threading.BoundedSemaphore(MOST_AT_ONCE)


@dataclass(frozen=True)
class ReadableFile:
    """A file somebody may download: an input of theirs, or what a job of theirs has written."""

    id: str
    filename: str
    purpose: str
    created_at: datetime
    size_bytes: int | None = None  # known for inputs
    request_count: int | None = None  # known for inputs


class FileContent:
    """A download under way. Iterate it once; `close` ends it early, begun or not, at the MDS too.

    An MDS that breaks off raises while iterating, so that a cut file is never taken for a whole one.
    """

    def __init__(self, file: ReadableFile, response: requests.Response, place: ExitStack) -> None:
        """`response` is open, its body unread; `place` is closed with it."""
        self.file = file
        length = response.headers.get("Content-Length", "")
        self.size_bytes = int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None
        self._response = response
        self._give_place_back = place.close

    def __iter__(self) -> Iterator[bytes]:
        """The bytes, in pieces."""
        try:
            yield from self._response.iter_content(CHUNK_BYTES)
        except requests.RequestException as error:
            logger.warning("download of file %s broke off: %s", self.file.id, type(error).__name__)
            raise Unavailable("the metadata service broke off the download") from error
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection up, and the place. Repeating it is harmless."""
        self._response.close()
        self._give_place_back()


def upload(user: User, file: File[Any], purpose: str = PURPOSE) -> InputFile:
    """Check a JSONL file, hand it to the MDS and record whose it is.

    Raises `Forbidden`, `InvalidRequest` (`InvalidFile` names the first bad lines), `FileTooLarge` and `Unavailable`;
    each stores nothing.
    """
    if not user.has_perm(SUBMIT_JOB):
        raise Forbidden("you may not upload files")
    if purpose != PURPOSE:
        raise InvalidRequest("purpose", f'must be "{PURPOSE}"')
    filename = check_text("file", os.path.basename(file.name or ""), 255)
    if not filename.lower().endswith(SUFFIXES):
        raise InvalidRequest("file", f"its name must end in {' or '.join(SUFFIXES)}")
    content = cast("IO[bytes]", file)
    size_bytes = content.seek(0, 2)
    if size_bytes > conf.MAX_FILE_BYTES:
        raise FileTooLarge("file", f"must not be larger than {conf.MAX_FILE_BYTES} bytes")
    # Two passes over what Django has put on disk: a bad line is known before the MDS has seen a byte.
    content.seek(0)
    found = check_lines(content)
    content.seek(0)
    file_id = _send(content)
    try:
        return InputFile.objects.create(
            id=file_id,
            owner=user,
            filename=filename,
            purpose=purpose,
            size_bytes=size_bytes,
            request_count=found.count,
            endpoint=found.endpoint,
        )
    except BaseException as error:
        if not is_database_away(error):  # it is: then the row may be there all the same, and needs its file
            _discard(file_id)
        raise


def visible_files(user: User) -> QuerySet[InputFile]:
    """The input files this user may list and read, newest first: their own; for operators, all."""
    files = InputFile.objects.order_by("-created_at", "-id")
    return files if may_use_any_file(user) else files.filter(owner=user)


def readable_file(user: User, file_id: str) -> ReadableFile:
    """An input, output or error file this user may download.

    Raises `Forbidden` if it belongs to a job they may only see, `NotFound` if they may not even know of it.
    """
    if not file_id or not is_storable(file_id):
        raise NotFound(f'file "{file_id}" not found')
    file = visible_files(user).filter(pk=file_id).first()
    if file is not None:
        return ReadableFile(file.pk, file.filename, file.purpose, file.created_at, file.size_bytes, file.request_count)
    written = _written(file_id)
    jobs = visible_jobs(user).filter(written)
    mine = jobs if may_use_any_file(user) else jobs.filter(owner=user)
    job = mine.first()
    if job is not None:
        part = "output" if job.output_file_id == file_id else "errors"
        ended_at = job.completed_at or job.failed_at or job.expired_at or job.cancelled_at or job.accepted_at
        return ReadableFile(file_id, f"{job.pk}_{part}.jsonl", OUTPUT_PURPOSE, ended_at)
    if visible_jobs(user).filter(written | Q(input_file_id=file_id)).exists():
        raise Forbidden("only the job owner can download this file")
    raise NotFound(f'file "{file_id}" not found')


def open_content(user: User, file_id: str) -> FileContent:
    """Begin a download, to be read to its end or closed. Raises `NotFound`, `Forbidden`, `Unavailable`."""
    file = readable_file(user, file_id)
    # Uncompressed: the length then is what is passed on, and a cut body is noticed.
    path = f"{_file_path(file.id)}/content"
    with ExitStack() as stack:
        stack.enter_context(_place())
        response = _send_call("GET", path, headers={"Accept-Encoding": "identity"}, stream=True)
        if response.status_code == 200:
            return FileContent(file, response, stack.pop_all())
        response.close()
    if response.status_code == 404:
        raise NotFound(f'file "{file_id}" is no longer at the metadata service')
    raise _unavailable(f"download of file {file.id} was answered {response.status_code}")


def delete(user: User, file_id: str) -> None:
    """Delete a file at the MDS and then forget it here: an input, or what a job has written.

    Raises `NotFound`, `Forbidden`, `Conflict` (a job that is not over uses it), `Unavailable` (it may be gone there or
    not, is known here still, and no job is made from it; repeat the call).
    """
    file = readable_file(user, file_id)
    if file.purpose == OUTPUT_PURPOSE:
        _delete_output(user, file_id)
    else:
        _delete_input(file_id)


def _delete_input(file_id: str) -> None:
    """From the mark on no job can be made from it; the row goes last, so that whatever is killed it has an owner."""
    with transaction.atomic():
        # waits for jobs that are being accepted with it, which hold the row (`planner.enqueue`)
        file = InputFile.objects.select_for_update().filter(pk=file_id).first()
        if file is None:
            raise NotFound(f'file "{file_id}" not found')
        _refuse_if_used(Q(input_file_id=file_id))
        InputFile.objects.filter(pk=file_id).update(deletion_requested_at=Now())
    _remove(file_id)
    InputFile.objects.filter(pk=file_id).delete()


def _delete_output(user: User, file_id: str) -> None:
    """No job can be made from an output, so its job loses it only when it is gone."""
    _refuse_if_used(_written(file_id))
    _remove(file_id)
    with transaction.atomic():
        for job in Job.objects.select_for_update(no_key=True).filter(_written(file_id)):
            for column in ("output_file_id", "error_file_id"):
                Job.objects.filter(pk=job.pk, **{column: file_id}).update(**{column: ""})
            Job.objects.filter(pk=job.pk).update(event_count=F("event_count") + 1)
            record(job, job.event_count + 1, "file_deleted", user, data={"file_id": file_id})


def _refuse_if_used(use: Q) -> None:
    if Job.objects.filter(use, status__in=sorted(LIVE)).exists():
        raise Conflict("the file is used by a job that is not over")


def _written(file_id: str) -> Q:
    return Q(output_file_id=file_id) | Q(error_file_id=file_id)


def _send(content: IO[bytes]) -> str:
    """POST the file as a multipart stream; returns the MDS's id of it."""
    boundary = uuid.uuid4().hex
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    response = _call("POST", "/v1/files", data=_multipart(content, boundary), headers=headers)
    if response.status_code == 413:
        raise FileTooLarge("file", "is larger than the metadata service accepts")
    try:
        file_id = response.json()["id"] if response.status_code == 200 else None
    except (ValueError, KeyError, TypeError):
        file_id = None
    if not isinstance(file_id, str) or not file_id:
        raise _unavailable(f"upload was answered {response.status_code}")
    return file_id


def _multipart(content: IO[bytes], boundary: str) -> Iterator[bytes]:
    """The body of a form with the two fields of an upload; `requests` sends it in chunks as it comes."""
    # The person's own file name stays with us: object stores behind the MDS keep ASCII metadata only.
    yield (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{PURPOSE}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="input.jsonl"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    ).encode()
    while chunk := content.read(CHUNK_BYTES):
        yield chunk
    yield f"\r\n--{boundary}--\r\n".encode()


def _remove(file_id: str) -> None:
    """Delete a file at the MDS; one that is not there is deleted."""
    response = _call("DELETE", _file_path(file_id))
    if response.status_code not in {200, 404}:
        raise _unavailable(f"deletion of file {file_id} was answered {response.status_code}")


def _discard(file_id: str) -> None:
    """Delete a file nobody will ever know of; if that fails too, it only takes up room there."""
    try:
        _call("DELETE", _file_path(file_id))
    except Unavailable:
        logger.warning("file %s stays at the metadata service without an owner", file_id)


def _call(method: str, path: str, **options: Any) -> requests.Response:
    """One whole call to the MDS, never repeated; any answer is returned, none is `Unavailable`."""
    with _place():
        return _send_call(method, path, **options)


@contextmanager
def _place() -> Iterator[None]:
    """One of the places for calls; `Unavailable` if all are taken by calls that take long."""
    if not _places.acquire(timeout=PATIENCE_SECONDS):
        raise _unavailable(f"{MOST_AT_ONCE} calls are under way")
    try:
        yield
    finally:
        _places.release()


def _send_call(method: str, path: str, **options: Any) -> requests.Response:
    url: str = settings.PLANNER_MDS_URL
    with requests.Session() as session:
        # A proxy named in the environment cannot reach our own loopback.
        session.trust_env = urlsplit(url).hostname not in {"127.0.0.1", "::1", "localhost"}
        session.headers.update(request_ids.headers())
        try:
            with outside_call(MDS, f"file_{method.lower()}"):
                return session.request(
                    method, url + path, timeout=(CONNECT_SECONDS, ANSWER_SECONDS), allow_redirects=False, **options
                )
        except requests.RequestException as error:
            raise _unavailable(f"no answer: {type(error).__name__}") from error


def _file_path(file_id: str) -> str:
    return f"/v1/files/{quote(file_id, safe='')}"


def _unavailable(log: str) -> Unavailable:
    """The caller is told little: addresses and upstream texts are for the log."""
    logger.warning("metadata service, files: %s", log)
    return Unavailable("the metadata service does not answer; try again later")
