"""The interface of a provider: four operations, each safe to repeat, none of which sees the database."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from jobs.errors import UpstreamError, UpstreamKind


class ResourceState(StrEnum):
    """What a provider says of the objects that bear one name."""

    PENDING = "pending"
    READY = "ready"  # everything that submission needs is there (R6)
    FAILED = "failed"  # ended or broken; it must still be released


@dataclass(frozen=True)
class ResourceRequest:
    """What is wanted, under a name that is ours alone.

    `expires_at` is when the provider may end the resource by itself, where it can: a forgotten one then ends
    even if we are dead; `lifetime_seconds` is how long that is from the intent to create on, for whoever wants a span:
    a worker's own clock may be wrong.
    """

    name: str
    installation: str
    provision_id: str
    job_id: str
    accelerator_type: str
    accelerator_count: int  # per replica
    replicas: int
    expires_at: datetime
    lifetime_seconds: float
    model: str = ""  # what the engine is to serve
    template_spec: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # the job's own provider_config


@dataclass(frozen=True)
class Resource:
    """The objects found under one name, as one thing. Absence is the lack of a `Resource`, never a state."""

    name: str
    state: ResourceState
    external_ids: tuple[str, ...] = ()
    surplus_ids: tuple[str, ...] = ()  # beyond what was asked: the provider keeps the oldest, all agree
    region: str = ""
    detail: dict[str, Any] = field(default_factory=dict)  # JSON; connection data, provider status, prices
    message: str = ""


@dataclass(frozen=True)
class Runtime:
    """`aibrix.runtime` of the submission: where the MDS finds the engine. `None` for both means no runtime."""

    target: str
    options: dict[str, Any] = field(default_factory=dict)


class Provisioner(Protocol):
    """One provider account, cluster or region. Instances are shared by threads.

    Every method raises `errors.UpstreamError` and nothing else, and returns within the call timeout. Made by
    `get_provisioner` as `Class(options, connect_timeout=…, call_timeout=…, installation=…)`, which makes no call.

    `holds_resources`: False means that nothing is ever held there, so nothing can be observed, lost or released:
    a provision is ready when `ensure` says so and released as soon as that is asked for; `observe` and `discover`
    always answer "nothing", which then proves neither a loss nor a release.

    `hands_over`: True means that what is held is room, which the engine takes once the batch is submitted: that it is
    gone from then on, or broken, is no loss.
    """

    holds_resources: bool
    hands_over: bool

    def ensure(self, request: ResourceRequest) -> Resource:
        """Look the name up; create only what is missing. Repeating it creates nothing twice.

        `AMBIGUOUS` is raised when something may have been created and cannot be told now. Any other kind speaks of
        the last thing tried: with several objects to create, earlier ones may be there under the name. A kind that
        fails the job is only ever said of a create: see `looking_up`.
        """
        ...

    def observe(self, names: Collection[str]) -> dict[str, Resource]:
        """One listing, whatever the number of names. A name that is missing from the answer was absent."""
        ...

    def release(self, name: str, only: Collection[str] | None = None) -> None:
        """Delete every object of that name, or `only` those with these ids, which may be none.

        None there is success; absence is not promised.
        """
        ...

    def discover(self) -> dict[str, Resource]:
        """Everything there that bears our installation's mark, by name."""
        ...

    def runtime(self, request: ResourceRequest, resource: Resource) -> Runtime | None:
        """How the MDS reaches the engine on a ready resource; None leaves it to the MDS. Makes no call."""
        ...


@contextmanager
def looking_up() -> Iterator[None]:
    """Around a listing, or any other look, which asks for nothing of a job's: that it is refused fails none."""
    try:
        yield
    except UpstreamError as error:
        if error.kind not in {UpstreamKind.PERMANENT, UpstreamKind.NOT_FOUND, UpstreamKind.CONFLICT}:
            raise
        after = error.retry_after_seconds
        raise UpstreamError(UpstreamKind.TRANSIENT, str(error), code=error.code, retry_after_seconds=after) from error
