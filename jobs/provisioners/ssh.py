"""Machines on which the MDS starts the engine itself, over ssh: what it is told of them, and whether ssh answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.provisioners.base import ResourceRequest

ENGINE_PORT = 8000
_GREETING = b"SSH-"
_SIDE_BY_SIDE = 16
_SECONDS = 1.0  # for one greeting

Address = tuple[str, int]


def engine_options(request: ResourceRequest) -> dict[str, Any]:
    """What the engine is to run: the job's model, and its template's image and arguments if it names any."""
    engine = request.template_spec.get("engine") or {}
    told = {"model": request.model, "image": engine.get("image"), "vllm_args": list(engine.get("serveArgs") or [])}
    return {name: value for name, value in told.items() if value}


class SshProbe:
    """Whether ssh answers on machines. One on which it has answered once is not asked again."""

    def __init__(self) -> None:
        self._answered: set[tuple[str, Address]] = set()

    def answering(self, machines: Mapping[str, Address], until: float) -> set[str]:
        """The ids of those that have answered by `until` (monotonic clock); asked side by side."""
        asked = set(machines.items())
        new = list(asked - self._answered)
        if new:
            with ThreadPoolExecutor(min(_SIDE_BY_SIDE, len(new)), thread_name_prefix="ssh-probe") as executor:
                greeted = list(executor.map(lambda machine: _greets(machine[1], until), new))
            self._answered |= {machine for machine, is_greeted in zip(new, greeted, strict=True) if is_greeted}
        return {machine_id for machine_id, _ in asked & self._answered}


def _greets(address: Address, until: float) -> bool:
    """A proxy takes a connection for a machine that is not up yet; the greeting comes from the machine."""
    ends = min(until, time.monotonic() + _SECONDS)
    try:
        with socket.create_connection(address, timeout=max(0.001, ends - time.monotonic())) as connection:
            connection.settimeout(max(0.001, ends - time.monotonic()))
            return connection.recv(len(_GREETING)).startswith(_GREETING)
    except (OSError, ValueError):
        return False
