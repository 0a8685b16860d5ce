"""/healthz: this process answers. /readyz: it can do its work. The MDS is no part of it: its outage delays only.

Whoever may see the metrics is also told how late the work is and which worker has stopped.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from django.db import Error, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from jobs import vital_signs
from jobs.api.metrics import may_see_figures
from jobs.conf import times

_OK = "ok"
_UNKNOWN = "unknown"
_ANSWER_SECONDS = 3.0  # a database that takes longer is taken for one that hangs

_lock = threading.Lock()
_last = Future[tuple[dict[str, str], dict[str, Any]]]()  # what was asked of the database, and its answer if it came
_last.set_result(({}, {}))


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
        checks, information = _asked().result(_ANSWER_SECONDS)
    except TimeoutError:
        checks, information = _checks(database=f"does not answer within {_ANSWER_SECONDS:g} s"), {}
    is_ready = all(state == _OK for state in checks.values())
    body: dict[str, Any] = {"status": "ready" if is_ready else "not ready", "checks": checks}
    if may_see_figures(request):
        body["information"] = information
    return JsonResponse(body, status=200 if is_ready else 503)


def _asked() -> Future[tuple[dict[str, str], dict[str, Any]]]:
    """A question to the database on a thread of its own. One that has no answer yet is not asked again."""
    global _last
    with _lock:
        if _last.done():
            _last = Future()
            threading.Thread(target=_ask, args=(_last,), daemon=True).start()
        return _last


def _ask(asked: Future[tuple[dict[str, str], dict[str, Any]]]) -> None:
    try:
        try:
            answer = answer_of_database()
        finally:
            connection.close()
    except Exception as error:
        asked.set_exception(error)
    else:
        asked.set_result(answer)


def answer_of_database() -> tuple[dict[str, str], dict[str, Any]]:
    """The state of each check, and what else there is to know; it writes nothing."""
    checks, information = _checks(database=_OK), {}
    try:
        checks["migrations"] = _migrations()
        if checks["migrations"] == _OK:
            checks["workers"] = _workers()
            information = _information()
    except Error as error:
        # the driver's own words name hosts and accounts
        checks["database"] = f"does not answer ({type(error).__name__})"
    return checks, information


def _checks(*, database: str) -> dict[str, str]:
    return {"database": database, "migrations": _UNKNOWN, "workers": _UNKNOWN}


def _migrations() -> str:
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return f"{len(missing)} not applied" if missing else _OK


def _workers() -> str:
    return _OK if vital_signs.is_beating() else f"none has beaten for {times().unready:g} s"


def _information() -> dict[str, Any]:
    """What delays work and is no reason to send a web server's requests elsewhere."""
    return {
        "lag_seconds": round(vital_signs.lag_seconds(), 1),
        "oldest_hint_seconds": round(vital_signs.oldest_hint_seconds(), 1),
        "stalled_workers": [str(worker) for worker in vital_signs.stalled_workers()],
        "mds": vital_signs.mds_error() or (_OK if vital_signs.mds_was_read() else "not read yet"),
    }
