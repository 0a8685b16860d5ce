"""What processes and the machine spend, as /proc tells. Linux only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Seconds spent up to a moment: by process trees, by name, and by the machine, of all its processors."""

    trees: Mapping[str, float]
    idle: float
    total: float

    @classmethod
    def of(cls, roots: Mapping[str, Sequence[int]]) -> Self:
        """Now, of the trees below these processes; what ended and was reaped counts."""
        processes = _processes()
        machine = [int(field) / _TICKS for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return cls(
            trees={name: _below(pids, processes) for name, pids in roots.items()},
            idle=machine[3] + machine[4],  # with what waits for a disk
            total=sum(machine),
        )

    def since(self, earlier: Usage) -> Usage:
        """What was spent between two moments."""
        trees = {name: seconds - earlier.trees[name] for name, seconds in self.trees.items()}
        return Usage(trees, self.idle - earlier.idle, self.total - earlier.total)

    @property
    def idle_share(self) -> float:
        """Of the machine's processors."""
        return self.idle / self.total if self.total else 0.0


def _processes() -> dict[int, tuple[int, float]]:
    """Every process, oldest first: its parent, and the seconds that it and the children it has reaped have used.

    What has ended and is not yet reaped is among them: its seconds are nobody else's yet.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = [int(field) for field in (entry / "stat").read_text().rpartition(")")[2].split()[1:]]
            found.append((fields[18], int(entry.name), fields[0], sum(fields[10:14]) / _TICKS))
    return {pid: (parent, seconds) for _, pid, parent, seconds in sorted(found)}


def _below(roots: Sequence[int], processes: Mapping[int, tuple[int, float]]) -> float:
    tree = set(roots)
    for pid, (parent, _) in processes.items():
        if parent in tree:
            tree.add(pid)
    return sum(seconds for pid, (_, seconds) in processes.items() if pid in tree)
