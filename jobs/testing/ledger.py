"""What a double of a provider holds and bills, and the file that outlives its process."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.testing.journal import Journal


@dataclass
class Held:
    """One object at a double of a provider. Times are unix seconds; None is never."""

    id: str
    sequence: int  # order of creation
    name: str  # not unique
    price_per_hour: float
    created_at: float
    visible_at: float  # listed from then on
    ready_at: float | None
    facts: dict[str, Any] = field(default_factory=dict)  # whatever else was given; of no effect, so kept and billed on
    failure: str = ""
    gone_at: float | None = None  # deleted; there, listed and billed until then

    def status(self, now: float) -> str:
        """`pending`, `ready`, `failed` or `terminating`."""
        if self.gone_at is not None:
            return "terminating"
        if self.failure:
            return "failed"
        return "ready" if self.ready_at is not None and now >= self.ready_at else "pending"


@dataclass(frozen=True)
class Bill:
    """What everything ever held has cost, and what goes on costing."""

    objects_created: int
    objects_live: int
    object_seconds: float
    cost: float
    cost_per_hour: float


class Ledger:
    """Objects by id, each change appended to the journal before it counts. Shared by threads.

    An event has `at`, `event` (created, changed, deleted, vanished), `id` and `fields`.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._journal = Journal(path)
        self._lock = threading.RLock()
        self._objects: dict[str, Held] = {}
        self._created = 0
        self._ended_seconds = 0.0
        self._ended_cost = 0.0
        for event in self._journal.replay():
            self._apply(event)

    def create(self, now: float, make_id: Callable[[int], str], *, capacity: int | None, **fields: Any) -> Held | None:
        """A new object, with an id made of its number, or None if `capacity` objects are there already."""
        with self._lock:
            if capacity is not None and len(self.live(now)) >= capacity:
                return None
            sequence = self._created + 1
            held = Held(id=make_id(sequence), sequence=sequence, created_at=now, **fields)
            self._record(now, "created", held.id, dataclasses.asdict(held))
            return held

    def change(self, now: float, object_id: str, event: str = "changed", **fields: Any) -> bool:
        """Change an object that is there; `gone_at` ends it then. False if it is not there, or ended already."""
        with self._lock:
            held = self._objects.get(object_id)
            if held is None or held.gone_at is not None:
                return False
            self._record(now, event, object_id, fields)
            return True

    def live(self, now: float | None = None) -> list[Held]:
        """What is held, oldest first, whether it is listed or not."""
        with self._lock:
            self._settle(time.time() if now is None else now)
            return list(self._objects.values())

    def get(self, object_id: str) -> Held | None:
        """One object, if it is there or was just deleted."""
        with self._lock:
            return self._objects.get(object_id)

    def bill(self, now: float | None = None) -> Bill:
        """The bill so far."""
        now = time.time() if now is None else now
        with self._lock:
            live = self.live(now)
            return Bill(
                objects_created=self._created,
                objects_live=len(live),
                object_seconds=self._ended_seconds + sum(now - held.created_at for held in live),
                cost=self._ended_cost + sum(_cost(held, now) for held in live),
                cost_per_hour=sum(held.price_per_hour for held in live),
            )

    def pass_time(self, seconds: float) -> None:
        """Let everything read as if it had happened that much earlier; the journal is not told."""
        with self._lock:
            for held in self._objects.values():
                held.created_at -= seconds
                held.visible_at -= seconds
                held.ready_at = None if held.ready_at is None else held.ready_at - seconds
                held.gone_at = None if held.gone_at is None else held.gone_at - seconds

    def close(self) -> None:
        """Close the journal; what is held stays held."""
        with self._lock:
            self._journal.close()

    def _record(self, now: float, event: str, object_id: str, fields: dict[str, Any]) -> None:
        entry = {"at": now, "event": event, "id": object_id, "fields": fields}
        self._journal.append(entry)
        self._apply(entry)

    def _apply(self, entry: dict[str, Any]) -> None:
        if entry["event"] == "created":
            self._objects[entry["id"]] = Held(**entry["fields"])
            self._created += 1
        else:
            for name, value in entry["fields"].items():
                setattr(self._objects[entry["id"]], name, value)

    def _settle(self, now: float) -> None:
        """Move what is gone from the objects to the totals."""
        for held in list(self._objects.values()):
            if held.gone_at is not None and held.gone_at <= now:
                self._ended_seconds += held.gone_at - held.created_at
                self._ended_cost += _cost(held, held.gone_at)
                del self._objects[held.id]


def _cost(held: Held, until: float) -> float:
    return held.price_per_hour * (until - held.created_at) / 3600
