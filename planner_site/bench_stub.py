"""A metadata service that costs no time: it notes when a batch arrives, and each is over at the first look."""

from __future__ import annotations

import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class StubMetadataService:
    """Serves on loopback inside a `with`."""

    def __init__(self) -> None:
        self._arrivals: dict[str, float] = {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stub = self
        self._thread = threading.Thread(target=self._server.serve_forever, name="stub-mds", daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.batches: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def arrived_at(self, job_id: str) -> float:
        """When the job's batch was asked for, in unix seconds."""
        return self._arrivals[job_id]

    def create(self, body: dict[str, Any], at: float) -> dict[str, Any]:
        """A new batch, not begun."""
        self._arrivals[body["aibrix"]["job_id"].split(":")[1]] = at
        batch = {**body, "id": f"batch_{uuid.uuid4()}", "object": "batch", "status": "scheduling"}
        batch |= {"created_at": int(at), "expires_at": int(at) + 3600}
        self.batches[batch["id"]] = batch
        return batch

    def get(self, batch_id: str) -> dict[str, Any]:
        """The batch, completed by now."""
        ended = {"status": "completed", "completed_at": int(time.time()), "output_file_id": "stub"}
        self.batches[batch_id] |= ended | {"request_counts": {"total": 1, "completed": 1, "failed": 0}}
        return self.batches[batch_id]


class _Server(ThreadingHTTPServer):
    stub: StubMetadataService


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave as one

    def do_POST(self) -> None:
        at = time.time()
        self._answer(self.server.stub.create(json.loads(self.rfile.read(int(self.headers["Content-Length"]))), at))

    def do_GET(self) -> None:
        _, _, batch_id = self.path.partition("/v1/batches/")
        newest_first = list(self.server.stub.batches.values())[:-101:-1]
        everything = {"object": "list", "data": newest_first, "has_more": False}
        self._answer(self.server.stub.get(batch_id) if batch_id else everything)

    def _answer(self, body: dict[str, Any]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args: Any) -> None:
        """Nobody reads it."""
