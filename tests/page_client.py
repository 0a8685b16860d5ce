"""The pages as somebody sees them, without a browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext


def signed_in(user: User, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(user)
    return client


def text_of(response: HttpResponse) -> str:
    """The page's words with the markup gone and the spaces folded."""
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


@contextmanager
def reading_only() -> Iterator[None]:
    def refuse_writes(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        assert sql.lstrip().upper().startswith(("SELECT", "WITH")), f"a read wrote: {sql}"
        assert "FOR UPDATE" not in sql.upper()
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse_writes):
        yield


def queries_of(get: Callable[[], HttpResponse]) -> int:
    with CaptureQueriesContext(connection) as queries:
        assert get().status_code == 200
    return len(queries)
