"""What the conformance suite needs of a provider's outside, and most of it for a double that is a `ProviderServer`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

from jobs.provisioners.base import Provisioner, ResourceRequest
from jobs.testing.provider_server import ProviderServer, Refusal
from jobs.testing.script import Rule

CALL_TIMEOUT = 2.0


class Bench(Protocol):
    """A provider, and whatever stands for its outside."""

    refusals: ClassVar[tuple[Refusal, ...]]  # those the provider has words for
    has_object_per_replica: ClassVar[bool]  # or one object for all

    def provisioner(self, installation: str = "here", call_timeout: float = CALL_TIMEOUT) -> Provisioner:
        """The provider, pointed at this outside."""

    def held(self, name: str) -> list[str]:
        """The ids held under a name, the one that is kept first."""

    def listings(self) -> int:
        """How many listings were asked for."""

    def request_ids(self) -> list[str]:
        """What each call so far bore as its `X-Request-ID`."""

    def duplicate(self, name: str) -> None:
        """Create one more object of that name behind the provider's back."""

    def stay_pending(self) -> None:
        """What is created next does not become ready."""

    def make_ready(self, name: str) -> None:
        """What is held under the name becomes ready."""

    def make_failed(self, name: str) -> None:
        """What is held under the name breaks."""

    def vanish(self, name: str) -> None:
        """What is held under the name is there no longer, unasked."""

    def begin_deleting(self, object_id: str) -> None:
        """One object is on its way out and still listed."""

    def refuse_next(self, on: str, refusal: Refusal, retry_after_seconds: int | None = None) -> None:
        """The next `create` or `list` is refused, in the provider's own words, and does nothing."""

    def lose_next_create_answer(self) -> None:
        """The next create is carried out, and its answer never arrives."""

    def fail_next_delete(self, *, is_gone: bool) -> None:
        """The next delete fails; `is_gone`: because there is nothing left to delete."""

    def hang(self, on: str) -> None:
        """From now on `create`, `list` or `delete` gets no answer within any timeout."""

    def stop(self) -> None:
        """Nothing listens any more."""


class ServerBench:
    """A bench on a `ProviderServer`: a provider adds `provisioner`, `duplicate` and `begin_deleting`."""

    has_object_per_replica: ClassVar[bool] = True

    def __init__(self, server: ProviderServer) -> None:
        self.server = server
        self.stop = server.stop

    def held(self, name: str) -> list[str]:
        """By what the double itself knows."""
        return [held.id for held in self.server.live(name)]

    def listings(self) -> int:
        """Of whatever is listed."""
        return self.server.count("list")

    def request_ids(self) -> list[str]:
        """By the double's ledger of calls."""
        return [call.request_id for call in self.server.calls]

    def stay_pending(self) -> None:
        """For an hour."""
        self.server.ready_seconds = 3600

    def make_ready(self, name: str) -> None:
        """At once."""
        self.server.make_ready(name)

    def make_failed(self, name: str) -> None:
        """At once."""
        self.server.fail(name)

    def vanish(self, name: str) -> None:
        """At once."""
        self.server.vanish(name)

    def refuse_next(self, on: str, refusal: Refusal, retry_after_seconds: int | None = None) -> None:
        """Once."""
        status, _ = self.server.refusals[refusal]
        self.server.add_rule(Rule(on, status=status, code=refusal, retry_after_seconds=retry_after_seconds))

    def lose_next_create_answer(self) -> None:
        """Once."""
        self.server.add_rule(Rule("create", drop=True, is_applied=True))

    def fail_next_delete(self, *, is_gone: bool) -> None:
        """Once; the object stays in either case."""
        self.server.add_rule(Rule("delete", status=404 if is_gone else 500))

    def hang(self, on: str) -> None:
        """For good."""
        self.server.add_rule(Rule(on, delay_seconds=600, times=None))


def wanted(name: str = "one", **fields: Any) -> ResourceRequest:
    """A request for one accelerator, but for these fields."""
    defaults: dict[str, Any] = {
        "name": name,
        "installation": "here",
        "provision_id": f"provision-of-{name}",
        "job_id": "job_1",
        "accelerator_type": "H100",
        "accelerator_count": 1,
        "replicas": 1,
        "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
        "lifetime_seconds": 3600,
    }
    return ResourceRequest(**{**defaults, **fields})
