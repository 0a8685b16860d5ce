"""/files: upload, list and download, streamed both ways."""

from __future__ import annotations

import re

from django.core.files.uploadedfile import UploadedFile
from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import conf, files
from jobs.api import wire
from jobs.api.base import ApiView, user_of
from jobs.api.pagination import page
from jobs.api.parsing import Body
from jobs.errors import FileTooLarge, InvalidRequest

CONTENT_TYPE = "application/jsonl"
MAX_LIMIT = 100  # also the default: the console reads one page and never asks for another
_FORM_BYTES = 64 * 1024  # what a form may add to its file: boundaries, headers, the other field
_DRAIN_BYTES = 1_000_000_000  # far more than any file, far less than for ever
_CHUNK_BYTES = 64 * 1024


class UploadView(ApiView):
    """Where input files come in; Django has put them on disk before they are looked at."""

    parser_classes = (MultiPartParser,)

    def post(self, request: Request) -> Response:
        """Check the file, hand it on, and answer its id."""
        if _content_length(request) > conf.MAX_FILE_BYTES + _FORM_BYTES:
            _drain(request)
            raise FileTooLarge("file", f"must not be larger than {conf.MAX_FILE_BYTES} bytes")
        form = Body(request.data)
        file, purpose = form.get("file"), form.text("purpose")
        if not isinstance(file, UploadedFile):
            raise InvalidRequest("file", "is required, as a form part with a file name")
        return Response(wire.file_json(files.upload(user_of(request), file, purpose)))


class FilesView(ApiView):
    """The input files one may use."""

    def get(self, request: Request) -> Response:
        """One page, newest first."""
        visible = files.visible_files(user_of(request))
        purpose = request.query_params.get("purpose")
        found = page(
            visible.filter(purpose=purpose) if purpose else visible,
            among=visible,
            by="created_at",
            after=request.query_params.get("after", ""),
            limit=_limit(request),
        )
        data = [wire.file_json(file) for file in found.rows]
        return Response({"object": "list", "data": data, "has_more": found.has_more})


class FileView(ApiView):
    """One file."""

    def get(self, request: Request, file_id: str) -> Response:
        """What is known of it without asking the MDS."""
        file = files.readable_file(user_of(request), file_id)
        return Response(
            {**wire.file_json(file), "content_type": CONTENT_TYPE, "etag": None, "last_modified": None},
        )


class FileContentView(ApiView):
    """One file's bytes."""

    def get(self, request: Request, file_id: str) -> StreamingHttpResponse:
        """The bytes as they come; the header names what a browser saves, since the console's link does not."""
        content = files.open_content(user_of(request), file_id)
        response = StreamingHttpResponse(content, content_type=CONTENT_TYPE)
        response["Content-Disposition"] = content_disposition_header(True, content.file.filename)
        if content.size_bytes is not None:
            response["Content-Length"] = str(content.size_bytes)
        return response


def _limit(request: Request) -> int:
    given = request.query_params.get("limit") or str(MAX_LIMIT)
    if not re.fullmatch(r"[0-9]{1,9}", given) or not 1 <= int(given) <= MAX_LIMIT:
        raise InvalidRequest("limit", f"must be an integer between 1 and {MAX_LIMIT}")
    return int(given)


def _content_length(request: Request) -> int:
    given = request.META.get("CONTENT_LENGTH") or "0"
    return int(given) if given.isdigit() else 0


def _drain(request: Request) -> None:
    """Read on for a while without keeping anything: a client that is cut off while it sends sees no answer."""
    left = _DRAIN_BYTES
    while left > 0 and (chunk := request._request.read(_CHUNK_BYTES)):
        left -= len(chunk)
