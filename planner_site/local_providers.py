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

LOCAL_PROVIDERS = {each.name: each for each in (SIMULATED,)}
