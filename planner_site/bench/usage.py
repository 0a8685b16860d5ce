"""What processes and the machine spend, as /proc tells. Linux only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from planner_site.process_tree import parents

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
        running = parents()
        machine = [int(field) / _TICKS for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return cls(
            trees={name: sum(_seconds(pid) for pid in _below(pids, running)) for name, pids in roots.items()},
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


def _below(roots: Sequence[int], running: Mapping[int, int]) -> set[int]:
    found = set(roots)
    for pid, parent in running.items():  # parents come first: they are older
        if parent in found:
            found.add(pid)
    return found


def _seconds(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / _TICKS  # its own, and its reaped children's
    return 0.0
