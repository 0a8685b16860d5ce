"""What became of every job: pure functions of what was found at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jobs.statuses import JOB_TRANSITIONS, TERMINAL, JobStatus

LONGEST_LIFE_OF_A_DUPLICATE_SECONDS = 60.0


@dataclass(frozen=True)
class Event:
    """One line of a job's timeline. `batch_id` is the batch that the job has followed since."""

    job_id: str
    sequence: int
    from_status: str
    to_status: str  # empty for what changes no status
    at: datetime
    batch_id: str = ""


@dataclass(frozen=True)
class JobFound:
    """A job's row."""

    id: str
    status: str
    batch_id: str
    is_cancel_requested: bool
    event_count: int
    ended: Mapping[str, datetime]  # the times written of terminal statuses, by status
    error_code: str = ""


@dataclass(frozen=True)
class BatchFound:
    """A batch at the MDS. Times are unix seconds; `ended_at` is None while it goes on."""

    id: str
    job_id: str
    status: str
    visible_at: float
    ended_at: float | None


@dataclass(frozen=True)
class Evidence:
    """Everything there is to judge by."""

    accepted: Mapping[str, frozenset[str]]  # job ids by the client's key
    cancels: frozenset[str]  # jobs whose cancel was answered with a 2xx
    jobs: Mapping[str, JobFound]
    events: list[Event]
    batches: list[BatchFound]  # all that bear our mark
    resources: list[str]  # names of what the provider still holds
    unreleased: list[str]  # names of provisions that do not count as released
    at: float = 0  # when it was gathered


@dataclass(frozen=True)
class Verdict:
    """One sentence for each thing that must not be."""

    lost: list[str]
    leaked: list[str]
    duplicates: list[str]
    illegal: list[str]
    duplicates_cancelled: int
    longest_duplicate_seconds: float  # from when it was listed and no job waited for it to its end
    ended: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)  # by error code

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, leaked, doubled or illegal."""
        return not (self.lost or self.leaked or self.duplicates or self.illegal)


def judge(found: Evidence) -> Verdict:
    """The verdict."""
    superfluous = list(_superfluous(found))
    return Verdict(
        lost=list(_lost(found)),
        leaked=list(_leaked(found)),
        duplicates=[*_doubled_keys(found), *_duplicates(found, superfluous)],
        illegal=list(_illegal(found)),
        duplicates_cancelled=sum(batch.status == JobStatus.CANCELLED for batch in superfluous),
        longest_duplicate_seconds=max(_lives(found, superfluous).values(), default=0.0),
        ended=dict(Counter(job.status for job in found.jobs.values())),
        failed=dict(Counter(job.error_code for job in found.jobs.values() if job.status == JobStatus.FAILED)),
    )


def _lost(found: Evidence) -> Iterator[str]:
    for key, ids in found.accepted.items():
        for job_id in sorted(ids):
            job = found.jobs.get(job_id)
            if job is None:
                yield f"{job_id}: accepted ({key}), and not there"
            elif job.status not in TERMINAL:
                yield f"{job_id}: accepted ({key}), and still {job.status}"
    for job_id in sorted(found.cancels):
        if job_id in found.jobs and not found.jobs[job_id].is_cancel_requested:
            yield f"{job_id}: its cancel was accepted, and is not there"


def _leaked(found: Evidence) -> Iterator[str]:
    for name in sorted({*found.resources, *found.unreleased}):
        where = [
            *(["held at the provider"] if name in found.resources else []),
            *(["not recorded as released"] if name in found.unreleased else []),
        ]
        yield f"{name}: {' and '.join(where)}"


def _doubled_keys(found: Evidence) -> Iterator[str]:
    for key, ids in found.accepted.items():
        if len(ids) > 1:
            yield f"{key}: one key, {len(ids)} jobs: {', '.join(sorted(ids))}"


def _superfluous(found: Evidence) -> Iterator[BatchFound]:
    """The batches that no job ever followed."""
    followed = {event.batch_id for event in found.events} | {job.batch_id for job in found.jobs.values()}
    return (batch for batch in found.batches if batch.id not in followed)


def _duplicates(found: Evidence, superfluous: Iterable[BatchFound]) -> Iterator[str]:
    current = {job.batch_id for job in found.jobs.values()}
    unfollowed = {batch.id for batch in superfluous}
    lives = _lives(found, superfluous)
    for batch in found.batches:
        what = f"{batch.id} of {batch.job_id}, {batch.status}"
        lived = lives.get(batch.id, 0.0)
        if batch.ended_at is None:
            yield f"{what}: goes on, and no job waits for it"
        elif batch.id in unfollowed and batch.status != JobStatus.CANCELLED:
            yield f"{what}: no job ever followed it"
        elif lived > LONGEST_LIFE_OF_A_DUPLICATE_SECONDS:
            never = "ever followed it" if batch.id in unfollowed else "waited for it any more"
            yield f"{what}: no job {never}, and it lived {lived:.0f} s"
        elif batch.status == JobStatus.COMPLETED and batch.id not in current:
            yield f"{what}: its job followed another one later"


def _lives(found: Evidence, superfluous: Iterable[BatchFound]) -> dict[str, float]:
    """By id, how long a batch has gone on while it was listed and no job waited for it; none that always had one."""
    since = {batch.id: batch.visible_at for batch in superfluous} | _left_at(found.events)
    lives = {}
    for batch in found.batches:
        if batch.id in since:
            end = found.at if batch.ended_at is None else batch.ended_at
            lives[batch.id] = max(0.0, end - max(since[batch.id], batch.visible_at))
    return lives


def _left_at(events: Iterable[Event]) -> dict[str, float]:
    """By id, when the job of a batch that it followed ended, went back to the queue or followed another one."""
    followed: dict[str, str] = {}  # by job
    left: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.sequence):
        batch_id = followed.get(event.job_id, "")
        is_left = event.to_status in {JobStatus.PENDING, *TERMINAL} or event.batch_id not in {"", batch_id}
        if batch_id and is_left:
            left[followed.pop(event.job_id)] = event.at.timestamp()
        if event.batch_id and event.batch_id not in left:
            followed[event.job_id] = event.batch_id
    return left


def _illegal(found: Evidence) -> Iterator[str]:
    yield from illegal_histories(found.jobs.values(), found.events)
    batches = {batch.id: batch for batch in found.batches}
    for job in found.jobs.values():
        batch = batches.get(job.batch_id)
        if job.status == JobStatus.CANCELLED and not job.is_cancel_requested:
            yield f"{job.id}: is cancelled, and nobody asked for it"
        elif job.status == JobStatus.COMPLETED and (batch is None or batch.status != JobStatus.COMPLETED):
            yield f"{job.id}: is completed, and its batch {job.batch_id!r} is {batch.status if batch else 'not there'}"


def illegal_histories(jobs: Iterable[JobFound], events: Iterable[Event]) -> Iterator[str]:
    """Every step that the transition table does not have, every gap, every end that was written twice or not at all."""
    histories: dict[str, list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event.sequence):
        histories[event.job_id].append(event)
    for job in jobs:
        for problem in _history_problems(job, histories[job.id]):
            yield f"{job.id}: {problem}"


def _history_problems(job: JobFound, events: list[Event]) -> Iterator[str]:
    if [event.sequence for event in events] != list(range(1, job.event_count + 1)):
        yield f"events {[event.sequence for event in events]} instead of 1 to {job.event_count}"
    status, ended_at = "", None
    for event in (event for event in events if event.to_status):
        allowed = JOB_TRANSITIONS[JobStatus(status)] if status else {JobStatus.PENDING}
        if event.from_status != status or event.to_status not in allowed:
            yield f"event {event.sequence} goes from {event.from_status!r} to {event.to_status!r}, after {status!r}"
        status, ended_at = event.to_status, event.at
    if status != job.status:
        yield f"is {job.status}, and its events end with {status!r}"
    if job.ended != ({job.status: ended_at} if job.status in TERMINAL else {}):
        yield f"ended {job.status} at {ended_at}, and its times are {dict(job.ended)}"


def objections(told: Mapping[str, Any]) -> list[str]:
    """Why a soak has not passed, by its line of JSON; none if it has."""
    counts = ("lost", "leaked", "duplicates", "illegal", "refused", "unanswered")
    wrong = [f"{name} is {told[name]}" for name in counts if told[name]]
    if told["accepted"] < told["jobs"]:
        wrong.append(f"{told['accepted']} of {told['jobs']} jobs were accepted")
    if told["quiet_after_seconds"] is None:
        wrong.append("it never came to rest")
    return wrong
