"""/files: upload, list, download and delete, in OpenAI's words. Other people's files do not exist here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.http import StreamingHttpResponse
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from jobs import files
from jobs.api.base import user_of
from jobs.api.pagination import page, strict_limit
from jobs.api.transfers import download, uploaded
from jobs.api.wire import file_json
from jobs.errors import Forbidden, InvalidRequest, NotFound
from jobs.openai_api.base import OpenAIView
from jobs.openai_api.parsing import StrictBody
from jobs.openai_api.wire import list_json

DEFAULT_LIMIT = 100
MAX_LIMIT = 10_000
_ORDERS = ("desc", "asc")


class FilesView(OpenAIView):
    """The input files one may use."""

    parser_classes = (MultiPartParser,)

    def get(self, request: Request) -> Response:
        """One page, newest first unless `order` says otherwise. What jobs have written is not listed."""
        query = request.query_params
        order = query.get("order") or "desc"
        if order not in _ORDERS:
            raise InvalidRequest("order", f"must be one of {', '.join(_ORDERS)}")
        visible = files.visible_files(user_of(request))
        found = page(
            visible.filter(purpose=query["purpose"]) if query.get("purpose") else visible,
            among=visible,
            by="created_at",
            after=query.get("after", ""),
            limit=strict_limit(request, default=DEFAULT_LIMIT, most=MAX_LIMIT),
            is_ascending=order == "asc",
        )
        return Response(list_json(found, [file_json(file) for file in found.rows]))

    def post(self, request: Request) -> Response:
        """Check the file, hand it on, and answer its id."""
        file, purpose = uploaded(request)
        StrictBody(request.data).only("file", "purpose")
        return Response(file_json(files.upload(user_of(request), file, purpose)))


class FileView(OpenAIView):
    """One file: an input, or what a job has written."""

    def get(self, request: Request, file_id: str) -> Response:
        """What is known of it without asking the MDS."""
        with _hidden(file_id):
            return Response(file_json(files.readable_file(user_of(request), file_id)))

    def delete(self, request: Request, file_id: str) -> Response:
        """Delete it at the MDS and here; one that a job still uses is a 409."""
        with _hidden(file_id):
            files.delete(user_of(request), file_id)
        return Response({"id": file_id, "object": "file", "deleted": True})


class FileContentView(OpenAIView):
    """One file's bytes."""

    def get(self, request: Request, file_id: str) -> StreamingHttpResponse:
        """The bytes as they come, for as long as they come."""
        with _hidden(file_id):
            return download(files.open_content(user_of(request), file_id))


@contextmanager
def _hidden(file_id: str) -> Iterator[None]:
    """OpenAI knows no files that one may see and not read."""
    try:
        yield
    except Forbidden as refused:
        raise NotFound(f'file "{file_id}" not found') from refused
