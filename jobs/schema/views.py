"""The document and a page to read it and try it out, for everybody; no database is asked."""

from __future__ import annotations

from drf_spectacular.views import SpectacularSwaggerSplitView
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


class DocsView(SpectacularSwaggerSplitView):
    """/api/docs/: Swagger UI from our own static files, its script apart so that no inline script is needed."""

    schema = None
    authentication_classes = ()
    permission_classes = ()
    url = "/api/schema"
