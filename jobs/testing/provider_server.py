"""The frame of a provider's double: a scripted server with a ledger and a bill, and its own way to say no.

A double brings its paths (`respond`), the shape of its errors (`refusal`) and its own words for a `Refusal`; what it
holds, for how long and at what price is the same for all.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

from jobs.testing.ledger import Held, Ledger
from jobs.testing.script import Rule
from jobs.testing.scripted_server import Answer, ScriptedServer, each, run


class Refusal(StrEnum):
    """Why a provider does not do what it is asked: the `code` of a rule to which it answers in its own words."""

    INVALID_REQUEST = "invalid_request"
    INVALID_CREDENTIAL = "invalid_credential"
    CAPACITY = "capacity"
    QUOTA = "quota"
    RATE_LIMITED = "rate_limited"
    BROKEN = "broken"


class ProviderServer(ScriptedServer):
    """The server and everything a test may read or script; attributes may be changed while it runs.

    The name of a call is the object's, by which it can be made `ready`, be made to `fail` or to `vanish`; of a
    listing, what it was filtered by.
    """

    verbs: ClassVar[frozenset[str]] = frozenset({"create", "list", "delete"})
    refusals: ClassVar[Mapping[Refusal, tuple[int, Any]]]  # the status and the body of each that this provider knows
    is_full_refused: ClassVar[bool] = True  # or taken, and it waits for a place

    def __init__(
        self,
        *,
        port: int = 0,
        ledger_path: Path | None = None,
        ready_seconds: float = 0,
        capacity: int | None = None,
        price: float = 1,
    ) -> None:
        """`capacity` counts objects; `price` is for one accelerator and hour."""
        self.ledger = Ledger(ledger_path)
        self.ready_seconds = ready_seconds
        self.capacity = capacity
        self.price = price
        super().__init__(port)

    def stop(self) -> None:
        """Stop as a kill would. The ledger stays readable."""
        super().stop()
        self.ledger.close()

    # --- what tests do and read ---

    def live(self, name: str | None = None) -> list[Held]:
        """What is held under a name, or at all, oldest first."""
        return [held for held in self.ledger.live() if name in (None, held.name)]

    def vanish(self, name: str) -> None:
        """Lose everything of that name, unasked."""
        self._change_all(name, "vanished", gone_at=time.time())

    def fail(self, name: str) -> None:
        """Break everything of that name; it stays listed and billed."""
        self._change_all(name, "changed", failure="simulated failure")

    def make_ready(self, name: str) -> None:
        """Make everything of that name ready now."""
        self._change_all(name, "changed", ready_at=time.time())

    def orders(self) -> Mapping[str, Callable[[Any], None]]:
        """`capacity`, `ready_seconds`, and lists of names to `vanish`, to `fail` and to make `ready`."""
        return {
            "capacity": lambda capacity: setattr(self, "capacity", capacity),
            "ready_seconds": lambda seconds: setattr(self, "ready_seconds", seconds),
            "vanish": each(self.vanish),
            "fail": each(self.fail),
            "ready": each(self.make_ready),
        }

    def stats(self) -> dict[str, Any]:
        """The bill, the calls that have ended by verb, and the peaks."""
        return {"bill": dataclasses.asdict(self.ledger.bill()), **super().stats()}

    # --- what a double is built of ---

    @abstractmethod
    def make_id(self, sequence: int) -> str:
        """The id of the so many-th object."""

    def hold(self, rule: Rule, name: str, accelerators: int, **facts: Any) -> Held | None:
        """One more object, as the rule has it; None if all places are taken."""
        now = time.time()
        ready_seconds = self.ready_seconds if rule.ready_seconds is None else rule.ready_seconds
        return self.ledger.create(
            now,
            self.make_id,
            capacity=self.capacity if self.is_full_refused else None,
            name=name,
            price_per_hour=self.price * max(1, accelerators),
            visible_at=now + rule.visible_after_seconds,
            ready_at=None if rule.is_never_ready else now + ready_seconds,
            facts=facts,
        )

    def listed(self, rule: Rule, name: str | None = None) -> list[Held]:
        """What a listing shows, of one name or at all, oldest first."""
        now = time.time()
        visible = [held for held in self.live(name) if held.visible_at <= now]
        return [held for held in visible if not (rule.hides and held.name.startswith(rule.name_prefix))]

    def status(self, rule: Rule, held: Held) -> str:
        """`pending`, `ready`, `failed` or `terminating`, or whatever the rule has it show."""
        is_shown = bool(rule.shows) and held.name.startswith(rule.name_prefix)
        return rule.shows if is_shown else held.status(time.time())

    def drop(self, rule: Rule, object_id: str) -> bool:
        """Delete one object, which may linger; whether it was there."""
        now = time.time()
        held = self.ledger.get(object_id)
        if held is None or (held.gone_at is not None and held.gone_at <= now):
            return False
        self.ledger.change(now, object_id, "deleted", gone_at=now + rule.linger_seconds)
        return True

    def scripted_refusal(self, rule: Rule) -> Answer:
        """In the provider's own words, if the rule's code is a `Refusal` that it knows."""
        known = {str(refusal): words for refusal, words in self.refusals.items()}
        if rule.code not in known:
            return super().scripted_refusal(rule)
        status, body = known[rule.code]
        return Answer(status, body, rule.retry_after_seconds)

    def _change_all(self, name: str, event: str, **fields: Any) -> None:
        with self._changed:
            for held in self.live(name):
                self.ledger.change(time.time(), held.id, event, **fields)
            self._changed.notify_all()

    # --- stand-alone ---

    @classmethod
    def main(cls) -> None:
        """Serve until killed, as the command line has it; the ledger is whole whenever that happens."""
        run(cls.from_command_line())

    @classmethod
    def from_command_line(cls) -> Self:
        """The server that the command line asks for."""
        parser = argparse.ArgumentParser(description=(cls.__doc__ or "").partition("\n")[0])
        parser.add_argument("--port", type=int, required=True)
        parser.add_argument("--ledger", type=Path, required=True)
        parser.add_argument("--ready-seconds", type=float, default=0)
        parser.add_argument("--capacity", type=int)
        parser.add_argument("--price", type=float, default=1, help="of one accelerator for one hour")
        given = parser.parse_args()
        return cls(
            port=given.port,
            ledger_path=given.ledger,
            ready_seconds=given.ready_seconds,
            capacity=given.capacity,
            price=given.price,
        )
