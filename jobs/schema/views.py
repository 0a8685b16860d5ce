"""The document and a page to read it and try it out, for everybody; no database is asked."""

from __future__ import annotations

from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from jobs.api.base import PublicView
from jobs.schema.document import document


class SchemaView(PublicView):
    """/api/schema."""

    schema = None  # not part of itself

    def get(self, request: Request) -> Response:
        """OpenAPI 3.1, as JSON."""
        return Response(document())


class DocsView(PublicView, SpectacularSwaggerSplitView):
    """/api/docs: Swagger UI from our own static files, its script apart so that no inline script is needed."""

    schema = None
    url = "/api/schema"

    def handle_exception(self, exc: Exception) -> Response:
        """A refusal is JSON here too, although the page is not."""
        self.request.accepted_renderer = JSONRenderer()
        self.request.accepted_media_type = JSONRenderer.media_type
        return super().handle_exception(exc)
