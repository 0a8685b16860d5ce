"""The simulated provider: accelerators that exist only in the ledger of `simulated_server`."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote

from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners.base import Resource, ResourceRequest, ResourceState, Runtime, looking_up
from jobs.transport import Answer, Transport, retry_after_seconds, unreadable

_UPSTREAM = "The simulated provider"
_KINDS = {
    400: UpstreamKind.PERMANENT,
    401: UpstreamKind.INVALID_CREDENTIAL,
    409: UpstreamKind.CAPACITY,
    429: UpstreamKind.RATE_LIMITED,
}
_STATES = {"pending": ResourceState.PENDING, "ready": ResourceState.READY}  # any other is of no use any more


@dataclass(frozen=True)
class _Item:
    """One object as the server shows it."""

    id: str
    sequence: int
    name: str
    installation: str
    status: str
    region: str
    price_per_hour: float
    message: str

    @property
    def is_terminating(self) -> bool:
        """On its way out, and not yet gone."""
        return self.status == "terminating"


_ITEM_FIELDS = tuple(each.name for each in fields(_Item))


class SimulatedProvisioner:
    """One simulated server. One object there holds all replicas of a provision.

    Options: `base_url`; without it the environment variable PLANNER_SIMULATED_URL is read when the instance is made.
    """

    holds_resources = True
    hands_over = False

    def __init__(
        self, options: dict[str, Any], *, connect_timeout: float, call_timeout: float, installation: str
    ) -> None:
        base_url = options.get("base_url") or os.environ.get("PLANNER_SIMULATED_URL")
        if not base_url:
            # of this kind because it fails no job: nothing works here until an operator acts
            message = f"{_UPSTREAM} has no address: set the pool's option base_url, or PLANNER_SIMULATED_URL"
            raise UpstreamError(UpstreamKind.INVALID_CREDENTIAL, message, code="no_address")
        self._transport = Transport(base_url, upstream=_UPSTREAM, connect_timeout=connect_timeout)
        self._call_timeout = call_timeout
        self._installation = installation

    def ensure(self, request: ResourceRequest) -> Resource:
        """Look the name up; create the object if there is none."""
        until = time.monotonic() + self._call_timeout
        found = self._list(name=request.name)
        if not found:
            body = {
                "name": request.name,
                "installation": request.installation,
                "provision_id": request.provision_id,
                "job_id": request.job_id,
                "accelerator_type": request.accelerator_type,
                "accelerator_count": request.accelerator_count,
                "replicas": request.replicas,
                "expires_at": request.expires_at.timestamp(),
            }
            response = self._transport.call("POST", "/resources", until=until, creates=True, body=body)
            found = _items(response, creates=True)
        return _resource(request.name, found)

    def observe(self, names: Collection[str]) -> dict[str, Resource]:
        """Those of the names that are there, from one listing."""
        wanted = set(names)
        return _by_name(item for item in self._list() if item.name in wanted)

    def release(self, name: str, only: Collection[str] | None = None) -> None:
        """Delete every object of that name, or only these; one that cannot be deleted spares no other."""
        until = time.monotonic() + self._call_timeout
        failure: UpstreamError | None = None
        for item in self._list(name=name):
            if only is not None and item.id not in only:
                continue
            try:
                response = self._transport.call("DELETE", f"/resources/{quote(item.id, safe='')}", until=until)
                if response.status_code != 404:
                    _check(response)
            except UpstreamError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def discover(self) -> dict[str, Resource]:
        """Everything there that bears our installation's mark."""
        return _by_name(item for item in self._list() if item.installation == self._installation)

    def runtime(self, request: ResourceRequest, resource: Resource) -> Runtime | None:
        """None: there is no engine, so the MDS echoes (dry-run)."""
        return None

    @looking_up()
    def _list(self, **params: str | int) -> list[_Item]:
        # Half the time at most, so that what follows a slow look-up still has a fair share.
        until = time.monotonic() + self._call_timeout / 2
        return _items(self._transport.call("GET", "/resources", until=until, params=params))


def _items(response: Answer, *, creates: bool = False) -> list[_Item]:
    """The answer's objects."""
    _check(response, creates=creates)
    try:
        body = response.json()
        raw_items = body["resources"] if response.status_code == 200 else [body]
        return [_Item(**{name: raw[name] for name in _ITEM_FIELDS}) for raw in raw_items]
    except (KeyError, TypeError) as error:
        raise unreadable(_UPSTREAM, creates=creates) from error


def _check(response: Answer, *, creates: bool = False) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    try:
        error = response.json()["error"]
        code, message = error["code"], f"{_UPSTREAM}: {error['message']}"
    except (KeyError, TypeError):
        code, message = f"http_{status}", f"{_UPSTREAM} answered {status}"
    kind = _KINDS.get(status, UpstreamKind.AMBIGUOUS if creates else UpstreamKind.TRANSIENT)
    raise UpstreamError(kind, message, code=code, retry_after_seconds=retry_after_seconds(response))


def _by_name(items: Iterable[_Item]) -> dict[str, Resource]:
    grouped: dict[str, list[_Item]] = {}
    for item in items:
        grouped.setdefault(item.name, []).append(item)
    return {name: _resource(name, group) for name, group in grouped.items()}


def _resource(name: str, items: list[_Item]) -> Resource:
    """The oldest object is the one kept, whoever looks; what is terminating counts only when there is no other."""
    oldest, *others = sorted(items, key=lambda item: (item.is_terminating, item.sequence))
    return Resource(
        name=name,
        state=_STATES.get(oldest.status, ResourceState.FAILED),
        external_ids=(oldest.id,),
        surplus_ids=tuple(item.id for item in others if not item.is_terminating),
        region=oldest.region,
        detail={"status": oldest.status, "price_per_hour": oldest.price_per_hour},
        message=oldest.message,
    )
