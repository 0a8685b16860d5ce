"""What runs below a process, and what it waits for, as /proc tells. Linux only."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def parents() -> dict[int, int]:
    """Every running process and its parent, oldest first. What has ended and is not yet reaped does not run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found.append((int(fields[19]), int(entry.name), int(fields[1])))
    return {pid: parent for _, pid, parent in sorted(found)}


def children(pid: int, running: dict[int, int]) -> list[int]:
    """Its children, oldest first."""
    return [child for child, parent in running.items() if parent == pid]


def waits_at(pid: int) -> dict[int, str]:
    """What each thread of a process waits for, in the kernel's words; the process's first thread bears its pid."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with suppress(OSError):
            found[int(task.name)] = (task / "wchan").read_text()
    return found
