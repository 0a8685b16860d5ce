"""What happens when: the plan of one soak, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jobs.conf import Times
from planner_site.soak import faults

KILLS = (
    "worker in a call",
    "worker with the queue's lock",
    "worker",
    "pusher",
    "monitor",
    "sentinel",
    "cluster's parent",
    "cluster's group",
    "supervisor",
    "host's groups",
    "host by SIGTERM",
    "web worker",
    "web",
    "web by SIGTERM",
    "provider",
    "mds",
    "postgres at once",
    "postgres by SIGKILL",
)
STOPS = ("worker", "worker in a call", "pusher", "sentinel", "cluster", "web", "provider", "mds", "postgres")

# What nobody can do without for long: these go down in turn, each once the one before is back, not all at a time.
_WHOLE_PARTS = {
    "kill": {
        "cluster's parent",
        "cluster's group",
        "supervisor",
        "host's groups",
        "host by SIGTERM",
        "mds",
        "postgres at once",
        "postgres by SIGKILL",
    },
    "stop": {"cluster", "mds", "postgres"},
}

QUIET_START_SECONDS = 3.0
_KILL_EVERY_SECONDS = (4.0, 6.0)
_STOP_EVERY_SECONDS = (8.0, 14.0)
_FAULT_EVERY_SECONDS = (2.0, 4.0)
# Of these nobody waits for a lease: they are stopped for long enough to run into time-outs.
_UPSTREAMS = ("web", "provider", "mds", "postgres")
_UPSTREAM_STOP_SECONDS = (3.0, 9.0)
_PAST_LEASE_SECONDS = (2.0, 8.0)
_DOWN_SECONDS = (0.5, 5.0)


@dataclass(frozen=True)
class Action:
    """One thing to be done. `seconds` is how long what was stopped stays so, or what was killed stays down."""

    at: float  # since the start
    verb: str  # kill, stop or fault
    what: str
    host: int = 0
    pick: float = 0  # which of several, from 0 up to 1
    seconds: float = 0
    order: dict[str, Any] = field(default_factory=dict)  # of a fault: the script

    @property
    def is_in_turn(self) -> bool:
        """Whether it waits until what went down before is back."""
        return self.what in _WHOLE_PARTS.get(self.verb, ())


def plan(seed: int, seconds: float, hosts: int, times: Times) -> list[Action]:
    """Everything that happens in that many seconds, in order. Every kind comes before any comes again."""
    chance = random.Random(f"{seed}:plan")  # noqa: S311 - to be repeated, not to be secret
    actions = [
        *_kills(chance, seconds, hosts),
        *_stops(chance, seconds, hosts, times.lease),
        *_faults(chance, seconds, times),
    ]
    return sorted(actions, key=lambda action: action.at)


def _moments(chance: random.Random, seconds: float, every: tuple[float, float]) -> Iterator[float]:
    at = QUIET_START_SECONDS + chance.uniform(0, every[0])
    while at < seconds:
        yield at
        at += chance.uniform(*every)


def _shuffled(chance: random.Random, cards: tuple[str, ...]) -> Iterator[str]:
    while True:
        yield from chance.sample(cards, len(cards))


def _kills(chance: random.Random, seconds: float, hosts: int) -> Iterator[Action]:
    kinds = _shuffled(chance, KILLS)
    for at in _moments(chance, seconds, _KILL_EVERY_SECONDS):
        host, pick, down = chance.randrange(hosts), chance.random(), chance.uniform(*_DOWN_SECONDS)
        yield Action(at, "kill", next(kinds), host, pick, down)


def _stops(chance: random.Random, seconds: float, hosts: int, lease: float) -> Iterator[Action]:
    kinds = _shuffled(chance, STOPS)
    for at in _moments(chance, seconds, _STOP_EVERY_SECONDS):
        what = next(kinds)
        host, pick = chance.randrange(hosts), chance.random()
        is_upstream = what in _UPSTREAMS
        span = chance.uniform(*_UPSTREAM_STOP_SECONDS) if is_upstream else lease + chance.uniform(*_PAST_LEASE_SECONDS)
        yield Action(at, "stop", what, host, pick, span)


def _faults(chance: random.Random, seconds: float, times: Times) -> Iterator[Action]:
    scripts = faults.scripts(times)
    kinds = _shuffled(chance, (*scripts, faults.SEND_AGAIN, faults.SEND_AGAIN))  # what G2 is about comes more often
    for at in _moments(chance, seconds, _FAULT_EVERY_SECONDS):
        what = next(kinds)
        yield Action(at, "fault", what, pick=chance.random(), order=scripts[what])
