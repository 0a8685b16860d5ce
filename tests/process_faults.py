"""Faults of real processes: each is planned as a file, and the process that takes the file meets with it."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn

from jobs.conf import times
from tests.faults import SECOND, Point, installed, meet

_installed = ExitStack()  # of this process, for as long as it lives
_numbers = itertools.count(1)


class Folder:
    """Faults that are planned, and those that were met; seen from outside and from within the processes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def plan(self, point: str, fault: str) -> None:
        """Have a fault happen, once."""
        self._write(f"{next(_numbers)}", point, fault)

    def _write(self, name: str, point: str, fault: str) -> None:
        """Written aside first: nobody sees half a file."""
        (self._path / f"{name}.new").write_text(f"{point}\n{fault}")
        (self._path / f"{name}.new").rename(self._path / f"{name}.planned")

    def planned(self) -> list[str]:
        """The points whose faults have not happened yet."""
        return [path.read_text().partition("\n")[0] for path in self._path.glob("*.planned")]

    def take(self, point: Point) -> str:
        """The fault that this process is to meet here, now no other's; "" if there is none."""
        for path in self._path.glob("*.planned"):
            with suppress(FileNotFoundError):  # somebody else was quicker
                name, _, fault = path.read_text().partition("\n")
                if name.removeprefix(SECOND) not in point.names:
                    continue
                if name.startswith(SECOND):
                    path.rename(path.with_suffix(".passed"))  # nobody else takes it meanwhile
                    self._write(path.stem, name.removeprefix(SECOND), fault)
                else:
                    path.rename(path.with_suffix(f".{os.getpid()}.{fault.replace(' ', '-')}"))
                    return fault
        return ""

    def stopped(self) -> list[int]:
        """The processes that met with a stop and have not been let go."""
        return [int(path.suffixes[0][1:]) for path in self._path.glob("*.stop-*")]

    def let_go(self, pid: int) -> None:
        """Have a stopped process go on, if it still is there."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        for path in self._path.glob(f"*.{pid}.stop-*"):
            path.unlink()

    def clear(self) -> None:
        """Forget what is planned and what was met."""
        for path in self._path.iterdir():
            path.unlink()


class _Process:
    """How a real process meets its fate."""

    def die(self) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody survives that")

    def halt(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def idle(self, seconds: float | None) -> None:
        threading.Event().wait(1.1 * times().lease if seconds is None else seconds)

    def later(self, act: Callable[[], Any]) -> None:
        threading.Thread(target=act, daemon=True).start()


def install(path: Path) -> None:
    """From now on this process, and what it forks, meets with what is planned in that folder."""
    folder, process = Folder(path), _Process()

    def handle(point: Point) -> Any:
        fault = folder.take(point)
        return meet(point, fault, process) if fault else point.act()

    _installed.enter_context(installed(handle))
