"""The vocabulary between deciding and doing: what is to be written, what is to be called, when to look again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from jobs.models import JobEvent


@dataclass(frozen=True)
class Event:
    """One line for the job's timeline; `to_status` is filled in when the change moves the job."""

    reason: str
    message: str = ""
    source: JobEvent.Source = JobEvent.Source.PLANNER
    actor: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """Columns to write to a job and to its newest provision, in one transaction, with the events that tell why."""

    job: dict[str, Any] = field(default_factory=dict)
    provision: dict[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    scan: bool = False  # the scan of the MDS's list should begin now
    pool_full_for: str | None = None  # the pool has no room for this accelerator type now
    pool_full_code: str = ""  # what it said: capacity, quota or ready_timeout
    pool_disabled: str = ""  # nothing will work in this pool until an operator acts: why
    unwanted_batch: str = ""  # nobody follows this batch any more: the scan is to stop it

    def and_then(self, other: Change) -> Change:
        """Both, `other` having the last word on a column."""
        return Change(
            job=self.job | other.job,
            provision=self.provision | other.provision,
            events=self.events + other.events,
            scan=self.scan or other.scan,
            pool_full_for=other.pool_full_for if other.pool_full_for is not None else self.pool_full_for,
            pool_full_code=other.pool_full_code or self.pool_full_code,
            pool_disabled=other.pool_disabled or self.pool_disabled,
            unwanted_batch=other.unwanted_batch or self.unwanted_batch,
        )


class CallKind(StrEnum):
    """The outside calls the engine makes for a job or a provision."""

    CREATE = "create"
    SUBMIT = "submit"
    POLL = "poll"
    CANCEL = "cancel"
    RELEASE = "release"


@dataclass(frozen=True)
class Call:
    """An outside call, and the intent that must be committed before it is made."""

    kind: CallKind
    intent: Change = field(default_factory=Change)


@dataclass(frozen=True)
class Wait:
    """Nothing to do before `until`; None when only news can change that (and news sets `due_at`)."""

    until: datetime | None


Step = Change | Call | Wait
