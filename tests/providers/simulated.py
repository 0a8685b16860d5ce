"""The simulated provider and its server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import requests

from jobs.provisioners.simulated import SimulatedProvisioner
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.provider_server import Refusal
from jobs.testing.script import Rule
from tests.providers.bench import CALL_TIMEOUT, ServerBench


class SimulatedBench(ServerBench):
    """One object holds all replicas."""

    refusals: ClassVar[tuple[Refusal, ...]] = tuple(SimulatedServer.refusals)
    has_object_per_replica: ClassVar[bool] = False

    def provisioner(self, installation: str = "here", call_timeout: float = CALL_TIMEOUT) -> SimulatedProvisioner:
        """Its address is an option."""
        options = {"base_url": self.server.url}
        return SimulatedProvisioner(options, connect_timeout=1, call_timeout=call_timeout, installation=installation)

    def duplicate(self, name: str) -> None:
        """Names are not unique there."""
        requests.post(f"{self.server.url}/resources", json={"name": name}, timeout=5).raise_for_status()

    def begin_deleting(self, object_id: str) -> None:
        """It lingers for an hour."""
        self.server.add_rule(Rule("delete", linger_seconds=3600))
        requests.delete(f"{self.server.url}/resources/{object_id}", timeout=5).raise_for_status()


@contextmanager
def simulated() -> Iterator[SimulatedBench]:
    """A bench on a server of its own."""
    with SimulatedServer() as server:
        yield SimulatedBench(server)
