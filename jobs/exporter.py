"""The figures of one host's worker processes, on a small port of `run_workers`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from django.conf import settings
from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from jobs import metric_folder
from jobs.metrics import may_read, registry


class _Quiet(WSGIRequestHandler):
    timeout = 10  # a caller that sends nothing keeps no thread for ever

    def log_message(self, *_: Any) -> None:
        """Nobody needs to know."""

    def address_string(self) -> str:
        """No look-up of names."""
        return str(self.client_address[0])


@contextmanager
def exporting(port: int) -> Iterator[None]:
    """Serve /metrics on this port meanwhile; 0: nowhere. Raises `OSError` if it cannot be listened on.

    The processes to be shown are those started meanwhile.
    """
    if not port:
        yield
        return
    folder = metric_folder.make()
    try:
        host = "127.0.0.1" if _is_for_loopback_only() else ""
        with make_server(host, port, _app(folder), ThreadingWSGIServer, _Quiet) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()
    finally:
        metric_folder.remove()


def _is_for_loopback_only() -> bool:
    local = all(network in {"127.0.0.0/8", "127.0.0.1", "::1"} for network in settings.PLANNER_METRICS_NETWORKS)
    return local and not settings.PLANNER_METRICS_TOKEN


def _app(folder: str) -> Callable[..., Iterable[bytes]]:
    shown = make_wsgi_app(registry(folder=folder))

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"only /metrics is here"]
        if not may_read(environ["REMOTE_ADDR"], environ.get("HTTP_AUTHORIZATION", "")):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"metrics are not for you"]
        answer: Iterable[bytes] = shown(environ, start_response)
        return answer

    return app
