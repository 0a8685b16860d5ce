"""Files through HTTP: the form that an upload is read from, and the answer that a download streams."""

from __future__ import annotations

from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header
from rest_framework.request import Request

from jobs import conf
from jobs.api.parsing import Body
from jobs.errors import FileTooLarge, InvalidRequest
from jobs.files import FileContent

CONTENT_TYPE = "application/jsonl"
_FORM_BYTES = 64 * 1024  # what a form may add to its file: boundaries, headers, the other field
_DRAIN_BYTES = 1_000_000_000  # far more than any file, far less than for ever
_CHUNK_BYTES = 64 * 1024


def uploaded(request: Request) -> tuple[UploadedFile[Any], str]:
    """The file of a form and its purpose; raises `FileTooLarge` before anything is kept, `InvalidRequest`."""
    if _content_length(request) > conf.MAX_FILE_BYTES + _FORM_BYTES:
        _drain(request)
        raise FileTooLarge("file", f"must not be larger than {conf.MAX_FILE_BYTES} bytes")
    form = Body(request.data)
    file, purpose = form.get("file"), form.text("purpose")
    if not isinstance(file, UploadedFile):
        raise InvalidRequest("file", "is required, as a form part with a file name")
    return file, purpose


def download(content: FileContent) -> StreamingHttpResponse:
    """The bytes as they come; the header names what a browser saves, since a link may not."""
    response = StreamingHttpResponse(content, content_type=CONTENT_TYPE)
    response["Content-Disposition"] = content_disposition_header(True, content.file.filename)
    if content.size_bytes is not None:
        response["Content-Length"] = str(content.size_bytes)
    return response


def _content_length(request: Request) -> int:
    given = request.META.get("CONTENT_LENGTH") or "0"
    return int(given) if given.isdigit() else 0


def _drain(request: Request) -> None:
    """Read on for a while without keeping anything: a client that is cut off while it sends sees no answer."""
    left = _DRAIN_BYTES
    while left > 0 and (chunk := request._request.read(_CHUNK_BYTES)):
        left -= len(chunk)
