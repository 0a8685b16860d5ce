"""A metadata service that runs nothing and can be scripted to misbehave; held to the real one by shared tests.

In tests: `with FakeMds() as mds: ...`. Stand-alone: `python -m jobs.testing.fake_mds`.

    POST, GET  /v1/batches                  create; list, newest first (`limit`, `after`)
    GET        /v1/batches/{id}             one batch
    POST       /v1/batches/{id}/cancel      cancel it
    POST       /v1/files                    upload
    GET, DELETE /v1/files/{id}[/content]    one file
    GET        /healthz, /stats             liveness; the batches, the calls so far and how many were in flight at once
    POST       /script                      see `ScriptedServer.script` and `FakeMds.orders`

Unlike the real one it knows no invalid input: a file it was never given has `UNKNOWN_LINES` requests.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

from jobs.testing.mds_batches import Batches, FakeBatch
from jobs.testing.mds_requests import Problem, bounds_problems, problem, problems, target_problem
from jobs.testing.script import Rule
from jobs.testing.scripted_server import Answer, Request, ScriptedServer, each, run

UNKNOWN_LINES = 3
_MAX_LIMIT = 100
_FIELD_NAME = re.compile(rb'[; ]name="([^"]*)"')
_FILENAME = re.compile(rb'filename="([^"]*)"')


class FakeMds(ScriptedServer):
    """The server and everything a test may read or script; attributes may be changed while it runs.

    The name of a call is the `aibrix.job_id` of its batch; of a listing, an upload or a download it is "".
    """

    verbs: ClassVar[frozenset[str]] = frozenset({"create", "get", "list", "cancel", "upload", "content", "discard"})

    def __init__(self, port: int = 0, ledger_path: Path | None = None, run_seconds: float = 0) -> None:
        """`run_seconds` is how long a batch takes; 0: each GET moves it one step on.

        A cancel of a batch that runs takes `cancel_seconds`; 0: the next look finds it cancelled.
        """
        self.run_seconds = run_seconds
        self.cancel_seconds: float = 0
        self._batches = Batches(ledger_path)
        super().__init__(port)

    def stop(self) -> None:
        """Stop as a kill would. What it held stays readable."""
        super().stop()
        self._batches.close()

    # --- what tests do and read ---

    def batches(self) -> list[FakeBatch]:
        """Every batch as it is now, listed or not, newest first."""
        with self._changed:
            return [dataclasses.replace(batch) for batch in self._batches.all(time.time())]

    def running(self) -> list[FakeBatch]:
        """What is not over, newest first."""
        return [batch for batch in self.batches() if not batch.is_over]

    def counted(self) -> list[FakeBatch]:
        """What nobody has cancelled, newest first."""
        return [batch for batch in self.batches() if not batch.is_taken_back]

    def uncancelled_by_attempt(self) -> dict[str, list[str]]:
        """By `aibrix.job_id`, the ids of the batches nobody has cancelled, newest first."""
        found: dict[str, list[str]] = {}
        for batch in self.counted():
            found.setdefault(batch.job_id, []).append(batch.id)
        return found

    def set_status(self, batch_id: str, status: str, **fields: Any) -> None:
        """Give a batch any status, known or not; `fields` are members of the batch object as they are to be shown.

        It goes on from there: one step at a GET, or when its run time comes to a later status.
        """
        with self._changed:
            now = time.time()
            batch = self._batches.get(batch_id, now)
            if batch is None:
                raise KeyError(batch_id)
            self._batches.set_by_hand(batch, now, status, fields)
            self._changed.notify_all()

    def add_file(self, file_id: str, content: bytes) -> None:
        """Keep a file under an id of the caller's choice."""
        with self._changed:
            self._batches.upload(time.time(), "in.jsonl", content, file_id)

    def forget(self, batch_id: str) -> None:
        """Lose a batch: it is neither found nor listed any more."""
        with self._changed:
            self._batches.forget(batch_id, time.time())
            self._changed.notify_all()

    def pass_time(self, seconds: int) -> None:
        """Let every batch read as if everything had happened to it that much earlier."""
        with self._changed:
            self._batches.pass_time(seconds)

    def orders(self) -> Mapping[str, Callable[[Any], None]]:
        """`run_seconds`, `cancel_seconds`, `status` (of batches, by id) and a list of ids to `forget`."""
        return {
            "run_seconds": lambda seconds: setattr(self, "run_seconds", seconds),
            "cancel_seconds": lambda seconds: setattr(self, "cancel_seconds", seconds),
            "status": self._set_all,
            "forget": each(self.forget),
        }

    def _set_all(self, statuses: dict[str, str]) -> None:
        for batch_id, status in statuses.items():
            self.set_status(batch_id, status)

    def stats(self) -> dict[str, Any]:
        """How many batches there are by status, the calls that have ended by verb, and the peaks."""
        return {"batches": dict(Counter(batch.status for batch in self.batches())), **super().stats()}

    # --- what it answers ---

    def respond(self, request: Request) -> Answer | None:
        """Batches and files, as the MDS has them."""
        version, collection, object_id, *action = (*request.path.strip("/").split("/"), "", "")
        routes = _ROUTES.get((version, collection, bool(object_id), "/".join(action).rstrip("/")), {})
        if route := routes.get(request.method):
            return route(self, unquote(object_id), request)
        return Answer(405, {"detail": "Method Not Allowed"}) if routes else Answer(404, {"detail": "Not Found"})

    def refusal(self, status: int, code: str, message: str, retry_after_seconds: int | None = None) -> Answer:
        """Its own error, or for a 422 the error of its validation."""
        if status == 422:
            return _invalid([problem(code, ("body",), message, None)])
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        return Answer(status, {"error": error}, retry_after_seconds)

    def _route_create(self, _: str, request: Request) -> Answer | None:
        try:
            body = json.loads(request.body)
        except ValueError as error:
            return _invalid(
                [problem("json_invalid", ("body", 1), "JSON decode error", {}) | {"ctx": {"error": str(error)}}]
            )
        if found := problems(body):
            return _invalid(found)
        if message := target_problem(body):
            return self.refusal(400, "", message)
        return self.handle(
            "create", str((body.get("aibrix") or {}).get("job_id") or ""), lambda rule: self._create(body, rule)
        )

    def _create(self, body: dict[str, Any], rule: Rule) -> Answer:
        now = time.time()
        batch = self._batches.create(
            now,
            body,
            run_seconds=self.run_seconds if rule.run_seconds is None else rule.run_seconds,
            ends="failed" if _target(body) == "noop" else rule.ends,
            missing_lines=rule.missing_lines,
            unknown_lines=UNKNOWN_LINES,
            visible_at=now + rule.visible_after_seconds,
        )
        return _batch_answer(batch, rule)

    def _route_get(self, batch_id: str, request: Request) -> Answer | None:
        return self.handle("get", self._name(batch_id), lambda rule: self._get(batch_id, rule))

    def _get(self, batch_id: str, rule: Rule) -> Answer:
        now = time.time()
        batch = self._batches.get(batch_id, now)
        if batch is None or rule.hides:
            return self._unknown("Batch")
        self._batches.step(batch, now)
        return _batch_answer(batch, rule)

    def _route_cancel(self, batch_id: str, request: Request) -> Answer | None:
        return self.handle("cancel", self._name(batch_id), lambda rule: self._cancel(batch_id, rule))

    def _cancel(self, batch_id: str, rule: Rule) -> Answer:
        now = time.time()
        batch = self._batches.get(batch_id, now)
        if batch is None:
            return self._unknown("Batch")
        if batch.is_over or batch.status == "finalizing":
            state = "finalized" if batch.is_over else batch.status
            message = f"Cannot cancel a batch with status '{state}'."
            return Answer(409, {"error": {"message": message, "type": "invalid_request_error"}}, object_id=batch_id)
        self._batches.cancel(batch, now, self.cancel_seconds)
        return _batch_answer(batch, rule)

    def _route_list(self, _: str, request: Request) -> Answer | None:
        given = request.query.get("limit", "20")
        try:
            limit = int(given)
        except ValueError:
            return _invalid([problem("int_parsing", ("query", "limit"), "Input should be a valid integer", given)])
        if found := list(bounds_problems(limit, 1, _MAX_LIMIT, ("query", "limit"))):
            return _invalid(found)
        after = request.query.get("after", "")
        return self.handle("list", "", lambda rule: self._list(limit, after, rule))

    def _list(self, limit: int, after: str, rule: Rule) -> Answer:
        batches: Iterable[FakeBatch] = self._batches.newest_first(time.time(), after)
        if rule.hides:
            batches = (batch for batch in batches if not batch.job_id.startswith(rule.name_prefix))
        found = list(itertools.islice(batches, limit + 1))
        data = [_shown(batch, rule, listed=True) for batch in found[:limit]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return Answer(200, {"object": "list", "data": data, **ends, "has_more": len(found) > limit})

    def _name(self, batch_id: str) -> str:
        with self._changed:
            batch = self._batches.find(batch_id)
            return batch.job_id if batch else ""

    def _unknown(self, what: str) -> Answer:
        return self.refusal(404, "", f"{what} not found")

    # --- files ---

    def _route_upload(self, _: str, request: Request) -> Answer | None:
        form = _form(request)
        filename, content = form.get("file", ("", None))
        if form.get("purpose", ("", b""))[1] != b"batch":
            return _invalid([problem("enum", ("body", "purpose"), "Input should be 'batch'", None)])
        if content is None:
            return _invalid([problem("missing", ("body", "file"), "Field required", None)])
        if not filename.endswith((".jsonl", ".json")):
            refused = self.refusal(400, "", "Invalid file format. Supported formats: {'jsonl', 'json'}")
            refused.body["error"]["param"] = "file"
            return refused
        return self.handle("upload", "", lambda rule: self._upload(filename, content))

    def _upload(self, filename: str, content: bytes) -> Answer:
        file = self._batches.upload(time.time(), filename, content)
        return Answer(200, file.wire(), object_id=file.id)

    def _route_content(self, file_id: str, request: Request) -> Answer | None:
        return self.handle("content", "", lambda rule: self._content(file_id))

    def _content(self, file_id: str) -> Answer:
        file = self._batches.files.get(file_id)
        content = file.content if file else self._batches.output(file_id)
        return self._unknown("File content") if content is None else Answer(200, content, object_id=file_id)

    def _route_file(self, file_id: str, request: Request) -> Answer | None:
        with self._changed:
            file = self._batches.files.get(file_id)
        return self._unknown("File") if file is None else Answer(200, file.wire())

    def _route_discard(self, file_id: str, request: Request) -> Answer | None:
        return self.handle("discard", "", lambda rule: self._discard(file_id))

    def _discard(self, file_id: str) -> Answer:
        if file_id not in self._batches.files:
            return self._unknown("File")
        self._batches.delete_file(time.time(), file_id)
        return Answer(200, {"id": file_id, "object": "file", "deleted": True}, object_id=file_id)


def _batch_answer(batch: FakeBatch, rule: Rule) -> Answer:
    return Answer(200, _shown(batch, rule), object_id=batch.id)


def _shown(batch: FakeBatch, rule: Rule, *, listed: bool = False) -> dict[str, Any]:
    body = batch.wire(listed=listed)
    return body | {"status": rule.shows} if rule.shows and batch.job_id.startswith(rule.name_prefix) else body


def _target(body: dict[str, Any]) -> Any:
    return ((body.get("aibrix") or {}).get("runtime") or {}).get("target")


def _invalid(found: list[Problem]) -> Answer:
    return Answer(422, {"detail": found})


def _form(request: Request) -> dict[str, tuple[str, bytes]]:
    """The fields of a multipart form: file name and content by name."""
    _, _, boundary = request.content_type.partition("boundary=")
    found = {}
    for part in request.body.split(b"--" + boundary.strip('"').encode())[1:-1] if boundary else []:
        head, _, content = part.partition(b"\r\n\r\n")
        name, filename = _FIELD_NAME.search(head), _FILENAME.search(head)
        if name:
            found[name[1].decode()] = (filename[1].decode() if filename else "", content.removesuffix(b"\r\n"))
    return found


_Route = Callable[[FakeMds, str, Request], Answer | None]
_ROUTES: dict[tuple[str, str, bool, str], dict[str, _Route]] = {
    ("v1", "batches", False, ""): {"POST": FakeMds._route_create, "GET": FakeMds._route_list},
    ("v1", "batches", True, ""): {"GET": FakeMds._route_get},
    ("v1", "batches", True, "cancel"): {"POST": FakeMds._route_cancel},
    ("v1", "files", False, ""): {"POST": FakeMds._route_upload},
    ("v1", "files", True, ""): {"GET": FakeMds._route_file, "DELETE": FakeMds._route_discard},
    ("v1", "files", True, "content"): {"GET": FakeMds._route_content},
}


def main() -> None:
    """Serve until killed; the ledger is whole whenever that happens."""
    parser = argparse.ArgumentParser(description="A fake metadata service.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--run-seconds", type=float, default=0, help="of a batch; 0: each GET moves it one step on")
    given = parser.parse_args()
    run(FakeMds(given.port, given.ledger, given.run_seconds))


if __name__ == "__main__":
    main()
