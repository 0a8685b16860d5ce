"""A provision that is one machine per replica: named `<provision>-<replica>`, taken together as one resource."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from jobs.provisioners.base import Resource, ResourceState

_NAME = re.compile(r"(?P<provision>.+)-(?P<replica>\d{1,5})")


@dataclass(frozen=True)
class Machine:
    """One machine as a listing tells of it, and what our own marks on it say."""

    id: str
    provision: str  # the provision's name
    replica: int
    replicas: int  # how many there are to be
    created: int  # by its creator's clock, of any unit: who is the oldest must be the same for everybody
    state: ResourceState
    is_terminating: bool = False  # on its way out, and not yet gone
    region: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    message: str = ""


def machine_name(provision: str, replica: int) -> str:
    """The name of one replica's machine."""
    return f"{provision}-{replica}"


def parse_name(name: str) -> tuple[str, int] | None:
    """The provision's name and the replica's number; None if it is not a name of ours."""
    match = _NAME.fullmatch(name)
    return (match["provision"], int(match["replica"])) if match else None


def number(text: object, default: int = 0) -> int:
    """A number out of a mark that anybody may have edited since."""
    return int(text) if isinstance(text, str) and text.isdecimal() else default


def resources(machines: Iterable[Machine]) -> dict[str, Resource]:
    """What there is, by the provision's name."""
    grouped: dict[str, list[Machine]] = {}
    for machine in machines:
        grouped.setdefault(machine.provision, []).append(machine)
    return {name: resource(name, group) for name, group in grouped.items()}


def resource(name: str, machines: list[Machine]) -> Resource:
    """Of each replica the oldest machine is kept, whoever looks; what is terminating counts only if there is no other.

    The detail and the region are the first replica's.
    """
    kept: dict[int, Machine] = {}
    surplus: list[str] = []
    for machine in sorted(machines, key=lambda each: (each.is_terminating, each.created, each.id)):
        if machine.replica not in kept:
            kept[machine.replica] = machine
        elif not machine.is_terminating:
            surplus.append(machine.id)
    chosen = [kept[replica] for replica in sorted(kept)]
    state, message = _state(chosen, max(machine.replicas for machine in chosen))
    return Resource(
        name=name,
        state=state,
        external_ids=tuple(machine.id for machine in chosen),
        surplus_ids=tuple(surplus),
        region=chosen[0].region,
        detail=chosen[0].detail,
        message=message,
    )


def _state(chosen: list[Machine], wanted: int) -> tuple[ResourceState, str]:
    broken = next((machine for machine in chosen if machine.state == ResourceState.FAILED), None)
    if broken is not None:
        return ResourceState.FAILED, broken.message
    waiting = next((machine for machine in chosen if machine.state == ResourceState.PENDING), None)
    if waiting is not None:
        return ResourceState.PENDING, waiting.message
    if len(chosen) < wanted:
        # a new one may be listed late, but not so late that all others are ready
        return ResourceState.FAILED, f"{len(chosen)} of {wanted} machines are there"
    return ResourceState.READY, ""
