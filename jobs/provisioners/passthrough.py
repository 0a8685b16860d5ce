"""A provider that reserves nothing: the MDS finds or makes its own engines."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jobs.provisioners.base import Resource, ResourceRequest, ResourceState, Runtime


class PassthroughProvisioner:
    """Every request is ready at once; nothing is held, so there is nothing to observe, lose or release."""

    holds_resources = False
    hands_over = False

    def __init__(
        self, options: dict[str, Any], *, connect_timeout: float, call_timeout: float, installation: str
    ) -> None:
        """Takes what every provider takes and needs none of it."""

    def ensure(self, request: ResourceRequest) -> Resource:
        """Ready, always."""
        return Resource(name=request.name, state=ResourceState.READY)

    def observe(self, names: Collection[str]) -> dict[str, Resource]:
        """Nothing is held under any name."""
        return {}

    def release(self, name: str, only: Collection[str] | None = None) -> None:
        """Nothing to give back."""

    def discover(self) -> dict[str, Resource]:
        """Nothing is there."""
        return {}

    def runtime(self, request: ResourceRequest, resource: Resource) -> Runtime | None:
        """The MDS decides."""
        return None
