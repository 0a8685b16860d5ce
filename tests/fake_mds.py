"""An MDS in memory, in the place of its client, where a test must lose an answer at an exact point."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from django.utils import timezone

from jobs.batch_client import Batch, BatchPage, Submission
from jobs.errors import UpstreamError
from jobs.statuses import RUNNING_ORDER
from tests.answers import batch, error, page

_ENDS = {"completed", "failed", "expired", "cancelled"}
_STEPS = [status.value for status in RUNNING_ORDER] + ["completed"]


class FakeMds:
    """Each GET moves a batch one step on; three lines each, all of them done at the end."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []  # newest first
        self.fate: list[str] = []  # of the next creates: "lost" is sent, "unsent" is not; neither is answered
        self.calls: list[str] = []
        self.is_reached = threading.Event()  # a create has arrived
        self.may_create = threading.Event()  # cleared, it hangs until told to go on
        self.may_create.set()
        self._lock = threading.Lock()

    def create(self, submission: Submission) -> Batch:
        self.is_reached.set()
        assert self.may_create.wait(20)
        with self._lock:
            self.calls.append("create")
            fate = self.fate.pop(0) if self.fate else ""
            if fate != "unsent":
                made: dict[str, Any] = {"job_id": submission.decision.job_id, "created_at": timezone.now()}
                self.batches.insert(0, batch("scheduling", f"batch-{len(self.batches)}", **made))
            if fate:
                raise error("ambiguous", "no answer")
            return self.batches[0]

    def get(self, batch_id: str) -> Batch:
        found = self._found(batch_id)
        if found.status in _STEPS[:-1]:
            return self._become(found, _STEPS[_STEPS.index(found.status) + 1])
        return found

    def cancel(self, batch_id: str) -> Batch:
        found = self._found(batch_id)
        if found.status in _ENDS or found.status == "finalizing":
            raise error("conflict", "too late")
        return self._become(found, "cancelled")

    def list_page(self, after: str = "", limit: int = 100) -> BatchPage:
        ids = [each.id for each in self.batches]
        return page(*(self.batches[ids.index(after) + 1 :] if after else self.batches))

    def running(self) -> list[Batch]:
        """What still runs, newest first."""
        return [each for each in self.batches if each.status not in _ENDS]

    def counted(self) -> list[Batch]:
        """What was not taken back."""
        return [each for each in self.batches if each.status != "cancelled"]

    def _found(self, batch_id: str) -> Batch:
        found = next((each for each in self.batches if each.id == batch_id), None)
        if found is None:
            raise _unknown()
        return found

    def _become(self, old: Batch, status: str) -> Batch:
        done: dict[str, Any] = {"total": 3, "completed": 3} if status in {"finalizing", "completed"} else {}
        new = replace(old, status=status, raw={"id": old.id, "status": status}, **done)
        with self._lock:
            self.batches[self.batches.index(old)] = new
        return new


def _unknown() -> UpstreamError:
    return error("not_found", "Batch not found")
