"""What a planner on this machine can rent from: each provider's double, and what a pool on it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LocalProvider:
    """One provider, by its name in PLANNER_PROVIDERS."""

    name: str
    double: str  # the module that `python -m` serves it from
    options: Callable[[str], dict[str, Any]]  # of the pool, by the double's address
    environment: Mapping[str, str] = field(default_factory=dict)  # credentials that the double takes


def _base_url(url: str) -> dict[str, Any]:
    return {"base_url": url}


SIMULATED = LocalProvider("simulated", "jobs.provisioners.simulated_server", _base_url)
RUNPOD = LocalProvider(
    "runpod",
    "jobs.testing.fake_runpod",
    lambda url: {"base_url": f"{url}/v1"},
    {"RUNPOD_API_KEY": "any", "RUNPOD_SSH_PUBLIC_KEY": "any"},
)
LAMBDA_CLOUD = LocalProvider(
    "lambda_cloud",
    "jobs.testing.fake_lambda_cloud",
    # paced as the real one, in a twentieth of its time
    lambda url: {
        "base_url": f"{url}/api/v1",
        "regions": ["us-west-1"],
        "request_interval_seconds": 0.05,
        "create_interval_seconds": 0.6,
    },
    {"LAMBDA_CLOUD_API_KEY": "any", "LAMBDA_CLOUD_SSH_KEYS": "any"},
)

KUBERNETES = LocalProvider("kubernetes", "jobs.testing.fake_kubernetes", _base_url)

LOCAL_PROVIDERS = {each.name: each for each in (SIMULATED, KUBERNETES, RUNPOD, LAMBDA_CLOUD)}
