"""/healthz: this process answers. /readyz: it can do its work. The MDS is no part of it: its outage delays only."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from datetime import timedelta

from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models.functions import Now
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from jobs.conf import times
from jobs.models import Worker

_OK = "ok"
_UNKNOWN = "unknown"
_ANSWER_SECONDS = 3.0  # a database that takes longer is taken for one that hangs

_lock = threading.Lock()
_last = Future[dict[str, str]]()  # what was asked of the database, and what it answered if it has
_last.set_result({})


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """Always 200; touches nothing."""
    return JsonResponse({"status": _OK})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200, or 503 with what is missing."""
    try:
        checks = _asked().result(_ANSWER_SECONDS)
    except TimeoutError:
        checks = _checks(database=f"does not answer within {_ANSWER_SECONDS:g} s")
    is_ready = all(state == _OK for state in checks.values())
    return JsonResponse(
        {"status": "ready" if is_ready else "not ready", "checks": checks}, status=200 if is_ready else 503
    )


def _asked() -> Future[dict[str, str]]:
    """A question to the database on a thread of its own. One that has no answer yet is not asked again."""
    global _last
    with _lock:
        if _last.done():
            _last = Future()
            threading.Thread(target=_ask, args=(_last,), daemon=True).start()
        return _last


def _ask(asked: Future[dict[str, str]]) -> None:
    try:
        try:
            answer = answer_of_database()
        finally:
            connection.close()
    except Exception as error:
        asked.set_exception(error)
    else:
        asked.set_result(answer)


def answer_of_database() -> dict[str, str]:
    """The state of each check; it writes nothing."""
    checks = _checks(database=_OK)
    try:
        checks["migrations"] = _migrations()
        if checks["migrations"] == _OK:
            checks["workers"] = _workers()
    except Error as error:
        # the driver's own words name hosts and accounts
        checks["database"] = f"does not answer ({type(error).__name__})"
    return checks


def _checks(*, database: str) -> dict[str, str]:
    return {"database": database, "migrations": _UNKNOWN, "workers": _UNKNOWN}


def _migrations() -> str:
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return f"{len(missing)} not applied" if missing else _OK


def _workers() -> str:
    limit = times().unready
    has_beaten = Worker.objects.filter(beat_at__gt=Now() - timedelta(seconds=limit)).exists()
    return _OK if has_beaten else f"none has beaten for {limit:g} s"
