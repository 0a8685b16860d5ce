"""/files: upload, list and download, streamed both ways."""

from __future__ import annotations

from django.http import StreamingHttpResponse
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import files
from jobs.api import wire
from jobs.api.base import ApiView, user_of
from jobs.api.pagination import page, strict_limit
from jobs.api.transfers import CONTENT_TYPE, download, uploaded

MAX_LIMIT = 100  # also the default: the console reads one page and never asks for another


class UploadView(ApiView):
    """Where input files come in; Django has put them on disk before they are looked at."""

    parser_classes = (MultiPartParser,)

    def post(self, request: Request) -> Response:
        """Check the file, hand it on, and answer its id."""
        file, purpose = uploaded(request)
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
            limit=strict_limit(request, default=MAX_LIMIT, most=MAX_LIMIT),
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
        """The bytes as they come."""
        return download(files.open_content(user_of(request), file_id))
