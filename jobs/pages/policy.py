"""What a browser may do on the pages: their own scripts, styles and addresses, and nothing inline."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

# The pages, and those of the log-in; the admin and the API's documentation have needs of their own.
PATHS = ("/jobs/", "/api/v1/auth/")
HEADER = "Content-Security-Policy"
_OWN = "script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'"
_POLICY = f"default-src 'none'; {_OWN}; base-uri 'none'; frame-ancestors 'none'"


class ContentSecurityPolicy:
    """A middleware: the header on every answer below these paths, whatever the answer is."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self._get_response(request)
        if request.path.startswith(PATHS):
            response[HEADER] = _policy()
        return response


def _policy() -> str:
    # a log-out goes on to the identity provider, and a form's policy holds for where it is led, too
    return _POLICY if settings.PLANNER_AUTH_MODE == "oidc" else f"{_POLICY}; form-action 'self'"
