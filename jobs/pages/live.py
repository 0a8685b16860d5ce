"""The part of a page that refreshes itself: rendered once, told apart by its own hash.

The hash covers everything that is shown, so a 304 cannot hide a change; nothing in a fragment may therefore
depend on the clock alone. Ages are worked out in the browser.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.cache import get_conditional_response

PARAMETER = "part"


@dataclass(frozen=True)
class LivePart:
    """The rendered fragment, its ETag, and whether anything in it can still change by itself."""

    html: str
    etag: str
    is_live: bool

    @classmethod
    def render(cls, request: HttpRequest, template: str, context: dict[str, Any], *, is_live: bool) -> LivePart:
        """Render `template` now."""
        html = render_to_string(template, context, request)
        return cls(html, f'"{hashlib.sha256(html.encode()).hexdigest()[:32]}"', is_live)

    def response(self, request: HttpRequest) -> HttpResponse:
        """The fragment alone, or 304 when the caller has it already."""
        response = get_conditional_response(request, etag=self.etag) or HttpResponse(self.html)
        response["ETag"] = self.etag
        response["Cache-Control"] = "private, no-cache"
        response["X-Live"] = "1" if self.is_live else "0"
        return response


def is_asked_for(request: HttpRequest) -> bool:
    """Whether the caller wants the fragment rather than the page around it."""
    return PARAMETER in request.GET
