"""What the fake MDS holds: batches and their life, files, and the journal that outlives its process."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.testing.journal import Journal
from jobs.testing.mds_requests import normalised_window, window_minutes

OVER = frozenset({"completed", "failed", "expired", "cancelled"})
ORDER = ("scheduling", "validating", "in_progress", "finalizing")
_REACHED = dict(zip(ORDER, (0.0, 0.05, 0.1, 0.9), strict=True))  # share of the run time after which each begins
_UNTIMED = {"scheduling", "validating"}  # statuses the MDS keeps no time of
_USAGE = {
    **{f"{kind}_tokens": 0 for kind in ("input", "output", "total")},
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


@dataclass
class FakeBatch:
    """One batch. Times are unix seconds."""

    id: str
    job_id: str  # `aibrix.job_id`
    request: dict[str, Any]
    status: str
    created_at: float
    expires_at: int
    total: int  # lines of its input
    run_seconds: float  # 0: each GET moves it one step on
    ends: str
    missing_lines: int
    visible_at: float  # listed from then on
    listed_as: str = ""  # the list says so for ever
    done: int = 0
    cancel_at: float | None = None  # when a cancel was taken
    cancel_seconds: float = 0
    reached: dict[str, int] = field(default_factory=dict)  # `in_progress_at` and so on
    shown: dict[str, Any] = field(default_factory=dict)  # set by hand, shown as it is

    @property
    def is_over(self) -> bool:
        """Whether it can change no more by itself."""
        return self.status in OVER

    @property
    def is_taken_back(self) -> bool:
        """Whether it is cancelled, or will be without anybody's further doing."""
        return self.status == "cancelled" or (self.cancel_at is not None and not self.is_over)

    def wire(self, *, listed: bool = False) -> dict[str, Any]:
        """The batch object; members without a value are left out, as the MDS does."""
        aibrix = self.request.get("aibrix") or {}
        body: dict[str, Any] = {
            "id": self.id,
            "object": "batch",
            "endpoint": self.request["endpoint"],
            "model": aibrix.get("model") or (aibrix.get("model_template") or {}).get("name"),
            "errors": _ERRORS if self.status == "failed" else None,
            "input_file_id": self.request["input_file_id"],
            "completion_window": normalised_window(window_minutes(self.request.get("completion_window", "24h")) or 0),
            "status": self.status,
            "output_file_id": output_file_id(self.id) if self.is_over and self.done else None,
            "created_at": int(self.created_at),
            "expires_at": self.expires_at,
            **self.reached,
            "request_counts": self._counts(),
            "usage": _USAGE if self.is_over and "finalizing_at" in self.reached else None,
            "metadata": self.request.get("metadata"),
            "aibrix": self.request.get("aibrix"),
            **self.shown,
        }
        if listed and self.listed_as:
            body |= {"status": self.listed_as, f"{self.status}_at": None}
        return {key: value for key, value in body.items() if value is not None}

    def _counts(self) -> dict[str, int] | None:
        is_known = "in_progress_at" in self.reached or self.status == "completed"
        return {"total": self.total, "completed": self.done, "failed": 0} if is_known else None


_ERRORS = {"data": [{"code": "inference_failed", "message": "as scripted"}], "object": "list"}


@dataclass(frozen=True)
class FakeFile:
    """One uploaded file."""

    id: str
    filename: str
    created_at: int
    content: bytes

    @property
    def lines(self) -> list[bytes]:
        """Its requests."""
        return [line for line in self.content.splitlines() if line.strip()]

    def wire(self) -> dict[str, Any]:
        """The file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": "batch",
            "status": "uploaded",
        }


class Batches:
    """Batches and files by id, each change journalled before it counts. Not thread-safe: callers hold their lock.

    An event has `at`, `event` (created, changed, forgotten, uploaded, deleted), `id` and `fields`.
    """

    def __init__(self, path: Path | None) -> None:
        self.files: dict[str, FakeFile] = {}
        self._journal = Journal(path)
        self._batches: dict[str, FakeBatch] = {}
        self._unfinished: dict[str, FakeBatch] = {}
        self._order: list[str] = []  # ids, oldest first, the forgotten among them
        self._place: dict[str, int] = {}
        for event in self._journal.replay():
            self._apply(event)

    def close(self) -> None:
        """Close the journal; what is held stays held."""
        self._journal.close()

    def create(self, now: float, request: dict[str, Any], **plan: Any) -> FakeBatch:
        """A new batch; `plan` has its `run_seconds`, `ends`, `missing_lines`, `unknown_lines` and `visible_at`."""
        deadline = int(_allocation(request).get("provision_resource_deadline") or 0)
        window_seconds = 60 * (window_minutes(request.get("completion_window", "24h")) or 0)
        file = self.files.get(request["input_file_id"])
        unknown_lines = plan.pop("unknown_lines")
        batch = FakeBatch(
            id=str(uuid.uuid4()),
            job_id=str((request.get("aibrix") or {}).get("job_id") or ""),
            request={key: request[key] for key in _KEPT if request.get(key) is not None},
            status=ORDER[0],
            created_at=now,
            expires_at=deadline if deadline > 0 else int(now) + window_seconds,
            total=len(file.lines) if file else unknown_lines,
            **plan,
        )
        if batch.expires_at <= now:
            # its list entry never learns of it, as in the real one
            batch.status, batch.listed_as, batch.reached = "expired", ORDER[0], {"expired_at": int(now)}
        self._record(now, "created", batch.id, dataclasses.asdict(batch))
        return self._batches[batch.id]

    def find(self, batch_id: str) -> FakeBatch | None:
        """One batch as it last was."""
        return self._batches.get(batch_id)

    def get(self, batch_id: str, now: float) -> FakeBatch | None:
        """One batch as it is by now."""
        batch = self._batches.get(batch_id)
        if batch is not None:
            self._settle(batch, now)
        return batch

    def step(self, batch: FakeBatch, now: float) -> None:
        """Move a batch without a run time one step on."""
        if batch.run_seconds == 0 and batch.cancel_at is None and batch.status in ORDER:
            self._advance(batch, now)

    def cancel(self, batch: FakeBatch, now: float, seconds: float) -> None:
        """Cancel a batch that may be: at once while it waits, else in so many seconds."""
        if batch.status == "scheduling":
            self.move(batch, now, "cancelling")
            self.move(batch, now, "cancelled")
        elif batch.cancel_at is None:
            self.move(batch, now, "cancelling", cancel_at=now, cancel_seconds=seconds)

    def move(self, batch: FakeBatch, now: float, status: str, **fields: Any) -> None:
        """Give a batch a status, and its time."""
        if status not in _UNTIMED:
            fields["reached"] = {**batch.reached, f"{status}_at": int(now)}
        self._record(now, "changed", batch.id, {"status": status, **fields})

    def set_by_hand(self, batch: FakeBatch, now: float, status: str, shown: dict[str, Any]) -> None:
        """Give a batch any status, with members of the batch object as they are to be shown."""
        done = batch.total - batch.missing_lines if status == "completed" else batch.done
        self.move(batch, now, status, shown={**batch.shown, **shown}, done=done)

    def forget(self, batch_id: str, now: float) -> None:
        """Lose a batch."""
        self._record(now, "forgotten", batch_id, {})

    def newest_first(self, now: float, after: str = "") -> Iterator[FakeBatch]:
        """Batches that are listed by now, as they are by now, from behind one of them; none behind an unknown one."""
        end = self._place.get(after, 0) if after else len(self._order)
        for place in range(end - 1, -1, -1):
            batch = self.get(self._order[place], now)
            if batch is not None and batch.visible_at <= now:
                yield batch

    def all(self, now: float) -> list[FakeBatch]:
        """Every batch as it is by now, listed or not, newest first."""
        for batch in list(self._unfinished.values()):
            self._settle(batch, now)
        return [self._batches[batch_id] for batch_id in reversed(self._order) if batch_id in self._batches]

    def pass_time(self, seconds: int) -> None:
        """Let everything read as if it had happened that much earlier; the journal is not told."""
        for batch in self._batches.values():
            batch.created_at -= seconds
            batch.visible_at -= seconds
            batch.expires_at -= seconds
            batch.cancel_at = None if batch.cancel_at is None else batch.cancel_at - seconds
            batch.reached = {name: at - seconds for name, at in batch.reached.items()}

    def upload(self, now: float, filename: str, content: bytes, file_id: str = "") -> FakeFile:
        """Keep a file, under an id of the MDS's choice if none is given."""
        file_id = file_id or str(uuid.uuid4())
        fields = {"filename": filename, "created_at": int(now), "content": content.decode("latin-1")}
        self._record(now, "uploaded", file_id, fields)
        return self.files[file_id]

    def delete_file(self, now: float, file_id: str) -> None:
        """Delete a file."""
        self._record(now, "deleted", file_id, {})

    def output(self, file_id: str) -> bytes | None:
        """What a batch wrote: an echo of each line done."""
        batch = self._batches.get(file_id.removeprefix(_OUTPUT))
        if not file_id.startswith(_OUTPUT) or batch is None or not batch.is_over or not batch.done:
            return None
        file = self.files.get(batch.request["input_file_id"])
        lines = [json.loads(line) for line in file.lines] if file else [{} for _ in range(batch.total)]
        return b"".join(_output_line(batch.id, number, line) for number, line in enumerate(lines[: batch.done]))

    # --- life ---

    def _settle(self, batch: FakeBatch, now: float) -> None:
        """Let everything happen that time alone brings about."""
        while not batch.is_over:
            before = batch.status
            if batch.cancel_at is not None:
                self._end_cancel(batch, now)
            elif batch.expires_at <= now and batch.status in ORDER:
                self._expire(batch, now)
            elif batch.run_seconds and batch.status in ORDER:
                self._run(batch, now)
            if batch.status == before:
                return

    def _end_cancel(self, batch: FakeBatch, now: float) -> None:
        assert batch.cancel_at is not None  # noqa: S101 - asked by the caller
        if batch.status == "cancelling" and now >= batch.cancel_at + batch.cancel_seconds / 2:
            self.move(batch, now, "finalizing")
        elif batch.status == "finalizing" and now >= batch.cancel_at + batch.cancel_seconds:
            self.move(batch, now, "cancelled")

    def _expire(self, batch: FakeBatch, now: float) -> None:
        """What waits is expired; what runs ends as completed with what it has, as in the real one."""
        if batch.status in _UNTIMED:
            self.move(batch, now, "expired")
        elif batch.status == "in_progress":
            self.move(batch, now, "finalizing")
        else:
            self.move(batch, now, "completed")

    def _run(self, batch: FakeBatch, now: float) -> None:
        share = (now - batch.created_at) / batch.run_seconds
        rank = ORDER.index(batch.status)
        following = _REACHED[ORDER[rank + 1]] if rank + 1 < len(ORDER) else 1.0
        if share >= following:
            self._advance(batch, batch.created_at + following * batch.run_seconds)
        elif batch.status == "in_progress":
            batch.done = int(batch.total * share)  # no event: it can be worked out again

    def _advance(self, batch: FakeBatch, at: float) -> None:
        rank = ORDER.index(batch.status)
        done = batch.total - batch.missing_lines if batch.ends == "completed" else 0
        if batch.status == "in_progress":
            self.move(batch, at, "finalizing", done=done)
        elif batch.status == "finalizing":
            self.move(batch, at, batch.ends, done=done)
        else:
            self.move(batch, at, ORDER[rank + 1])

    # --- the journal ---

    def _record(self, now: float, event: str, object_id: str, fields: dict[str, Any]) -> None:
        entry = {"at": now, "event": event, "id": object_id, "fields": fields}
        self._journal.append(entry)
        self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        object_id, fields = entry["id"], entry["fields"]
        match entry["event"]:
            case "created":
                batch = FakeBatch(**fields)
                self._batches[object_id] = batch
                self._place[object_id] = len(self._order)
                self._order.append(object_id)
            case "changed":
                batch = self._batches[object_id]
                for name, value in fields.items():
                    setattr(batch, name, value)
            case "forgotten":
                del self._batches[object_id]
                self._unfinished.pop(object_id, None)
                return
            case "uploaded":
                fields = {**fields, "content": fields["content"].encode("latin-1")}
                self.files[object_id] = FakeFile(id=object_id, **fields)
                return
            case _:
                del self.files[object_id]
                return
        if batch.is_over:
            self._unfinished.pop(object_id, None)
        else:
            self._unfinished[object_id] = batch


_KEPT = ("input_file_id", "endpoint", "completion_window", "metadata", "aibrix")
_OUTPUT = "output-of-"


def output_file_id(batch_id: str) -> str:
    """The id of the file a batch writes."""
    return f"{_OUTPUT}{batch_id}"


def _output_line(batch_id: str, number: int, line: dict[str, Any]) -> bytes:
    response = {"status_code": 200, "request_id": f"{batch_id}-{number}", "body": line.get("body")}
    written = {"id": f"{number:05x}", "error": None, "response": response, "custom_id": line.get("custom_id")}
    return json.dumps(written).encode() + b"\n"


def _allocation(request: dict[str, Any]) -> dict[str, Any]:
    found = (request.get("aibrix") or {}).get("resource_allocation")
    return found if isinstance(found, dict) else {}
