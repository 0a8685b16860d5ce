"""The status words on the wire: the planner's own, or those of the newer console."""

from __future__ import annotations

from django.conf import settings
from django.db.models import Q

from jobs.errors import InvalidRequest
from jobs.statuses import FailureStage, JobStatus, ProvisionStatus, shown_as

_CONSOLE_WORDS = {
    JobStatus.PENDING.value: "queued",
    JobStatus.PROVISIONING.value: "resource_preparing",
}
_CONSOLE_FAILURES = {
    FailureStage.PROVISION.value: "resource_failed",
    FailureStage.SUBMIT.value: "submit_failed",
}
# The contract's words for a provision inside a job, the same in both vocabularies.
PROVISION_WORDS = {
    ProvisionStatus.REQUESTED.value: "pending",
    ProvisionStatus.PROVISIONING.value: "provisioning",
    ProvisionStatus.READY.value: "running",
    ProvisionStatus.FAILED.value: "failed",
    ProvisionStatus.LOST.value: "failed",
    ProvisionStatus.RELEASING.value: "releasing",
    ProvisionStatus.RELEASED.value: "released",
    ProvisionStatus.WRITTEN_OFF.value: "release_failed",
}


def is_console() -> bool:
    """Whether the newer console's words are in force."""
    return bool(settings.PLANNER_STATUS_VOCABULARY == "console")


def job_word(status: str, failure_stage: str) -> str:
    """The word for a shown status."""
    if not is_console():
        return status
    if status == JobStatus.FAILED:
        return _CONSOLE_FAILURES.get(failure_stage, status)
    return _CONSOLE_WORDS.get(status, status)


def jobs_shown_as(word: str) -> Q:
    """The jobs a word stands for, in the vocabulary in force; all of them without a word."""
    if not word:
        return Q()
    meanings = _meanings()
    if word not in meanings:
        raise InvalidRequest("status", f"must be one of {', '.join(meanings)}")
    return meanings[word]


def _meanings() -> dict[str, Q]:
    if not is_console():
        return {status.value: shown_as(status.value) for status in JobStatus}
    failed = Q(status=JobStatus.FAILED.value)
    return {
        **{_CONSOLE_WORDS.get(status.value, status.value): shown_as(status.value) for status in JobStatus},
        JobStatus.FAILED.value: failed & ~Q(failure_stage__in=sorted(_CONSOLE_FAILURES)),
        **{word: failed & Q(failure_stage=stage) for stage, word in _CONSOLE_FAILURES.items()},
    }
