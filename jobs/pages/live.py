"""The part of a page that refreshes itself: rendered once, told apart by its own hash.

The hash covers everything that is shown, so a 304 cannot hide a change; nothing in a fragment may therefore
depend on the clock alone. Ages are worked out in the browser.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.utils.cache import get_conditional_response
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

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


def page_path(request: HttpRequest) -> str:
    """The address of the page that asks, whether for itself or for a part of it."""
    return HtmxDetails(request).current_url_abs_path or request.get_full_path()


def go_to(request: HttpRequest, to: str, *arguments: Any, **keywords: Any) -> HttpResponse:
    """A redirect of the whole page, also when only a part of it was asked for. Takes what `redirect` takes."""
    answer = redirect(to, *arguments, **keywords)
    return HttpResponseClientRedirect(answer.url) if HtmxDetails(request) else answer
