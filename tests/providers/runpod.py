"""RunPod and its double."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

import requests

from jobs.provisioners.runpod import RunPodProvisioner
from jobs.testing.fake_runpod import FakeRunPod
from jobs.testing.provider_server import Refusal
from jobs.testing.script import Rule
from tests.providers.bench import CALL_TIMEOUT, ServerBench

ENVIRONMENT = {"RUNPOD_API_KEY": "rpa_secret", "RUNPOD_SSH_PUBLIC_KEY": "ssh-ed25519 AAAA planner"}
AUTHORIZED = {"Authorization": "Bearer rpa_secret"}


class RunPodBench(ServerBench):
    """One pod per replica."""

    server: FakeRunPod
    refusals: ClassVar[tuple[Refusal, ...]] = tuple(FakeRunPod.refusals)

    def provisioner(
        self, installation: str = "here", call_timeout: float = CALL_TIMEOUT, **options: Any
    ) -> RunPodProvisioner:
        """Its address is an option, its key comes from the environment."""
        options = {"base_url": f"{self.server.url}/v1", **options}
        return RunPodProvisioner(options, connect_timeout=1, call_timeout=call_timeout, installation=installation)

    def duplicate(self, name: str) -> None:
        """Names are not unique there."""
        marks = {"ABP_INSTALLATION": "here", "ABP_REPLICAS": "1", "ABP_CREATED": str(time.time_ns())}
        body = {"name": f"{name}-0", "gpuTypeIds": ["H100"], "imageName": "any", "env": marks}
        requests.post(f"{self.server.url}/v1/pods", json=body, headers=AUTHORIZED, timeout=5).raise_for_status()

    def begin_deleting(self, object_id: str) -> None:
        """It lingers for an hour."""
        self.server.add_rule(Rule("delete", linger_seconds=3600))
        requests.delete(f"{self.server.url}/v1/pods/{object_id}", headers=AUTHORIZED, timeout=5).raise_for_status()


@contextmanager
def runpod() -> Iterator[RunPodBench]:
    """A bench on a double of its own."""
    with FakeRunPod() as server, patch.dict(os.environ, ENVIRONMENT):
        yield RunPodBench(server)
