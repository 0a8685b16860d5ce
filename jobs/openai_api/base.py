"""What every view under /v1 shares: the rules of the console's API, and OpenAI's shape for what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rest_framework.response import Response

from jobs.api import base
from jobs.openai_api.errors import exception_handler


class OpenAIView(base.ApiView):
    """A view under /v1."""

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response]:
        """OpenAI's shape instead of the console's."""
        return exception_handler


class UnknownRoute(OpenAIView, base.UnknownRoute):
    """Every path below /v1 that has no view of its own."""
