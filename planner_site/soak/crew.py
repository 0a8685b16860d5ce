"""Who is who among the processes of one `run_workers`: django-q2's log tells the roles, /proc who lives and waits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from planner_site.process_tree import children, parents, waits_at

_ROLES = {b"ready for work": "worker", b"pushing tasks": "pusher", b"monitoring": "monitor"}
_LINE = re.compile(rb"(ready for work|pushing tasks|monitoring) at (\d+)\n")


@dataclass(frozen=True)
class Crew:
    """The processes of one host's cluster at one moment. A role that nobody has just now is 0 or empty."""

    parent: int = 0
    sentinel: int = 0
    pusher: int = 0
    monitor: int = 0
    workers: tuple[int, ...] = ()

    def who(self, what: str) -> list[int]:
        """Those an action of the plan may be about."""
        match what:
            case "worker in a call":
                return [pid for pid in self.workers if _is_in_call(pid)]
            case "worker with the queue's lock":
                return [pid for pid in self.workers if _has_queue_lock(pid)]
            case "worker":
                found = self.workers
            case "pusher":
                found = (self.pusher,)
            case "monitor":
                found = (self.monitor,)
            case "sentinel":
                found = (self.sentinel,)
            case "cluster's parent" | "cluster's group":
                found = (self.parent,)
            case "cluster":
                found = (self.parent, self.sentinel, self.pusher, self.monitor, *self.workers)
            case _:
                raise ValueError(what)
        return [pid for pid in found if pid]


def _is_in_call(worker: int) -> bool:
    """Whether a call to the outside world is under way: a thread beside the first one waits for a socket."""
    waits = [at for thread, at in waits_at(worker).items() if thread != worker]
    return any("poll" in at or "sk_" in at or "woken" in at for at in waits)


def _has_queue_lock(worker: int) -> bool:
    """Whether it is the idle one that reads django-q2's queue, with its lock in hand; the others wait for that."""
    return waits_at(worker).get(worker, "").endswith("pipe_read")


class Roster:
    """The crew of one host, found anew at each look. Its log may grow and its processes come and go meanwhile."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0
        self._roles: dict[int, str] = {}

    def crew(self, supervisor: int) -> Crew:
        """Who lives now below this supervisor."""
        self._read_log()
        running = parents()
        cluster = children(supervisor, running)
        sentinels = children(cluster[0], running) if cluster else []
        if not sentinels:
            return Crew(parent=cluster[0] if cluster else 0)
        by_role: dict[str, list[int]] = {"worker": [], "pusher": [], "monitor": []}
        for pid in children(sentinels[0], running):
            if pid in self._roles:
                by_role[self._roles[pid]].append(pid)
        return Crew(
            parent=cluster[0],
            sentinel=sentinels[0],
            pusher=by_role["pusher"][-1] if by_role["pusher"] else 0,
            monitor=by_role["monitor"][-1] if by_role["monitor"] else 0,
            workers=tuple(by_role["worker"]),
        )

    def _read_log(self) -> None:
        with self._log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for words, pid in _LINE.findall(whole):
            self._roles[int(pid)] = _ROLES[words]
