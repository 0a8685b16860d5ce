"""Lambda Cloud and its double."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

import requests

from jobs.provisioners.lambda_cloud import LambdaCloudProvisioner
from jobs.testing.fake_lambda_cloud import REGION, FakeLambdaCloud
from jobs.testing.provider_server import Refusal
from jobs.testing.script import Rule
from tests.providers.bench import CALL_TIMEOUT, ServerBench

ENVIRONMENT = {"LAMBDA_CLOUD_API_KEY": "secret_planner", "LAMBDA_CLOUD_SSH_KEYS": "planner"}
AT_ANY_PACE = {"request_interval_seconds": 0, "create_interval_seconds": 0}


class LambdaCloudBench(ServerBench):
    """One instance per replica; the account has no limits but in tests of them."""

    server: FakeLambdaCloud
    refusals: ClassVar[tuple[Refusal, ...]] = tuple(FakeLambdaCloud.refusals)

    def provisioner(
        self, installation: str = "here", call_timeout: float = CALL_TIMEOUT, **options: Any
    ) -> LambdaCloudProvisioner:
        """Its address is an option, its key comes from the environment."""
        options = {"base_url": f"{self.server.url}/api/v1", "regions": [REGION], **AT_ANY_PACE, **options}
        return LambdaCloudProvisioner(options, connect_timeout=1, call_timeout=call_timeout, installation=installation)

    def duplicate(self, name: str) -> None:
        """Names are not unique there."""
        tags = {"abp:installation": "here", "abp:replicas": "1", "abp:created": str(time.time_ns())}
        body = {
            "name": f"{name}-0-x1893456000-{hashlib.sha256(b'here').hexdigest()[:8]}",
            "region_name": REGION,
            "instance_type_name": "gpu_1x_h100",
            "ssh_key_names": ["planner"],
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        self._post("launch", body)

    def begin_deleting(self, object_id: str) -> None:
        """It lingers for an hour."""
        self.server.add_rule(Rule("delete", linger_seconds=3600))
        self._post("terminate", {"instance_ids": [object_id]})

    def _post(self, operation: str, body: dict[str, Any]) -> None:
        url, key = f"{self.server.url}/api/v1/instance-operations/{operation}", "Bearer secret_planner"
        requests.post(url, json=body, headers={"Authorization": key}, timeout=5).raise_for_status()


@contextmanager
def lambda_cloud() -> Iterator[LambdaCloudBench]:
    """A bench on a double of its own."""
    with FakeLambdaCloud() as server, patch.dict(os.environ, ENVIRONMENT):
        yield LambdaCloudBench(server)
