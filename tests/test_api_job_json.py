"""The job object: every key of the contract, always there, of its type; in both vocabularies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs.models import Job, JobEvent, Provision
from jobs.statuses import FailureStage, JobStatus, ProvisionStatus
from tests.api_client import api
from tests.factories import make_job, make_pool, make_provision

pytestmark = pytest.mark.django_db

STRINGS = [
    "id",
    "object",
    "endpoint",
    "model",
    "inputDataset",
    "outputDataset",
    "errorDataset",
    "completionWindow",
    "status",
    "name",
    "createdBy",
    "modelTemplateName",
    "modelTemplateVersion",
    "batchId",
    "provisionId",
    "errorMessage",
    "failureStage",
    "waitingReason",
    "waitingCode",
    "queuePosition",
]
TIMES = [
    "createdAt",
    "inProgressAt",
    "expiresAt",
    "finalizingAt",
    "completedAt",
    "failedAt",
    "expiredAt",
    "cancellingAt",
    "cancelledAt",
    "queuedAt",
    "resourcePreparingAt",
    "submittingAt",
    "resourceFailedAt",
    "submitFailedAt",
    "cancelRequestedAt",
]
OBJECTS = ["requestCounts", "usage", "runtime", "resourceAllocation", "modelTemplateRef", "profile", "provision"]
OTHERS: dict[str, type] = {
    "metadata": dict,
    "accepts": dict,
    "waitingPools": list,
    "extraBody": dict,
    "errors": list,
    "events": list,
    "attempt": int,
    "hold": bool,
    "priority": int,
}

EARLIER = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def read(job: Job) -> dict[str, Any]:
    answer: dict[str, Any] = api("operator").get(f"/jobs/{job.pk}").json()
    return answer


def seconds(moment: datetime) -> str:
    return str(int(moment.timestamp()))


def full_job() -> Job:
    """A completed job with everything set."""
    times = {
        f"{name}_at": EARLIER + timedelta(minutes=number)
        for number, name in enumerate(("provisioning", "submitting", "in_progress", "finalizing", "completed"))
    }
    job = make_job(
        status=JobStatus.COMPLETED,
        batch_id="batch_31",
        output_file_id="file-out-9",
        error_file_id="file-err-9",
        model="qwen/small-1b",
        name="nightly",
        template_name="qwen-small",
        template_version="v1",
        replicas=2,
        metadata={"team": "eval", "n": 5},
        request_completed=2,
        request_failed=1,
        usage={"input_tokens": 30, "output_tokens": 2**40, "total_tokens": None},
        deadline_at=EARLIER + timedelta(days=3),
        **times,
    )
    make_provision(job, make_pool(name="west"), status="released", region="us-west-1", last_error_code="quota")
    return job


@pytest.mark.parametrize("make", [make_job, full_job])
def test_every_key_is_there_with_its_type_in_list_and_detail(make: Any) -> None:
    job = make()
    listed = api("operator").get("/jobs").json()["jobs"][0]

    for answer in (listed, read(job)):
        assert set(answer) == {*STRINGS, *TIMES, *OBJECTS, *OTHERS}
        for key in STRINGS:
            assert isinstance(answer[key], str), key
        for key in TIMES:
            assert isinstance(answer[key], str), key
            assert answer[key].isdigit(), key
        for key in OBJECTS:
            assert isinstance(answer[key], dict | None), key
        for key, kind in OTHERS.items():
            assert isinstance(answer[key], kind), key


def test_what_is_not_yet_there_is_zero_empty_or_null() -> None:
    job = make_job(request_total=None)
    answer = read(job)
    assert [key for key in TIMES if answer[key] != "0"] == ["createdAt", "expiresAt", "queuedAt"]
    assert all(answer[key] is None for key in OBJECTS)
    assert (answer["errors"], answer["extraBody"], answer["metadata"]) == ([], {}, {})
    assert (answer["object"], answer["attempt"], answer["failureStage"]) == ("batch", 1, "")
    assert (answer["batchId"], answer["provisionId"], answer["errorMessage"]) == ("", "", "")


def test_a_completed_job_says_everything() -> None:
    job = full_job()
    provision = Provision.objects.get()
    answer = read(job)
    assert answer["id"] == job.pk
    assert answer["status"] == "completed"
    assert answer["waitingReason"] == ""
    assert (answer["batchId"], answer["outputDataset"], answer["errorDataset"]) == (
        "batch_31",
        "file-out-9",
        "file-err-9",
    )
    assert answer["requestCounts"] == {"total": 3, "completed": 2, "failed": 1}
    assert answer["usage"] == {"inputTokens": "30", "outputTokens": str(2**40), "totalTokens": "0"}
    assert answer["metadata"] == {"team": "eval", "n": "5"}
    assert answer["modelTemplateRef"] == {"name": "qwen-small", "version": "v1", "rawJson": "{}"}
    assert answer["runtime"] == {"target": "simulated", "options": {"pool": "west"}, "rawJson": "{}"}
    assert answer["resourceAllocation"] == {
        "provisionId": str(provision.pk),
        "provisionResourceDeadline": seconds(provision.expires_at),
        "resourceDetails": [{"endpointCluster": "us-west-1", "gpuType": "H100", "replica": 2, "extra": {}}],
        "rawJson": "{}",
    }
    assert provision.released_at is not None
    assert answer["provisionId"] == str(provision.pk)
    assert answer["provision"] == {
        "provisionId": str(provision.pk),
        "provider": "simulated",
        "idempotencyKey": provision.name,
        "status": "released",
        "region": "us-west-1",
        "errorMessage": "quota",
        "createdAt": seconds(provision.requested_at),
        "updatedAt": seconds(max(provision.requested_at, provision.released_at)),
        "rawJson": "{}",
    }


def test_each_time_comes_from_its_column() -> None:
    job = full_job()
    answer = read(job)
    assert answer["createdAt"] == answer["queuedAt"] == seconds(job.accepted_at)
    assert answer["resourcePreparingAt"] == seconds(EARLIER)
    assert answer["submittingAt"] == seconds(EARLIER + timedelta(minutes=1))
    assert answer["inProgressAt"] == seconds(EARLIER + timedelta(minutes=2))
    assert answer["finalizingAt"] == seconds(EARLIER + timedelta(minutes=3))
    assert answer["completedAt"] == seconds(EARLIER + timedelta(minutes=4))
    assert answer["expiresAt"] == seconds(EARLIER + timedelta(days=3))
    zero = ("failedAt", "expiredAt", "cancellingAt", "cancelledAt", "resourceFailedAt", "submitFailedAt")
    assert {answer[key] for key in zero} == {"0"}


def test_before_admission_the_deadline_is_accept_plus_window() -> None:
    job = make_job(completion_window="1d", completion_window_seconds=86_400)
    assert read(job)["expiresAt"] == seconds(job.accepted_at + timedelta(days=1))


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        (FailureStage.PROVISION, "resourceFailedAt"),
        (FailureStage.SUBMIT, "submitFailedAt"),
        (FailureStage.BATCH, "failedAt"),
    ],
)
def test_a_failure_says_where_when_and_why(stage: FailureStage, key: str) -> None:
    job = make_job(
        status="failed", failed_at=EARLIER, failure_stage=stage, error_code="quota", error_message="No room."
    )
    answer = read(job)
    failures = {name for name in ("resourceFailedAt", "submitFailedAt") if answer[name] != "0"}
    assert answer["failedAt"] == seconds(EARLIER)
    assert failures == {key} - {"failedAt"}
    assert answer[key] == seconds(EARLIER)
    assert (answer["failureStage"], answer["errorMessage"]) == (stage.value, "No room.")
    assert answer["errors"] == [{"code": "quota", "message": "No room.", "param": "", "line": "0"}]


def test_of_a_batch_that_was_refused_every_line_is_told() -> None:
    said = [{"code": "invalid_json", "message": "not JSON", "line": 2}, {"code": "bad_url", "param": "url", "line": 7}]
    why = {"failure_stage": "batch", "error_code": "invalid_json", "error_message": "not JSON (line 2)"}
    job = make_job(status="failed", batch_view={"errors": {"data": said}}, **why)
    assert read(job)["errors"] == [
        {"code": "invalid_json", "message": "not JSON", "param": "", "line": "2"},
        {"code": "bad_url", "message": "", "param": "url", "line": "7"},
    ]


CONSOLE_WORDS = {
    **{(status, ""): status.value for status in JobStatus},
    (JobStatus.PENDING, ""): "queued",
    (JobStatus.PROVISIONING, ""): "resource_preparing",
    (JobStatus.FAILED, "provision"): "resource_failed",
    (JobStatus.FAILED, "submit"): "submit_failed",
    (JobStatus.FAILED, "batch"): "failed",
}


@pytest.mark.parametrize("vocabulary", ["planner", "console"])
@pytest.mark.parametrize(("status", "stage"), CONSOLE_WORDS)
def test_a_status_reads_the_same_everywhere_and_filters(
    vocabulary: str, status: JobStatus, stage: str, settings: Any
) -> None:
    settings.PLANNER_STATUS_VOCABULARY = vocabulary
    job = make_job(status=status, failure_stage=stage)
    JobEvent.objects.create(job=job, sequence=2, reason="moved", to_status=status)
    word = CONSOLE_WORDS[status, stage] if vocabulary == "console" else status.value
    client = api("viewer")

    detail = read(job)
    filtered = client.get("/jobs", status=word).json()["jobs"]

    assert detail["status"] == word
    assert detail["events"][-1]["status"] == word
    assert [row["status"] for row in client.get("/jobs").json()["jobs"]] == [word]
    assert [row["id"] for row in filtered] == [job.pk]


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.IN_PROGRESS])
def test_a_cancel_that_was_asked_for_is_shown_at_once(status: JobStatus) -> None:
    job = make_job(status=status, cancel_requested_at=EARLIER)
    client = api("viewer")
    answer = read(job)
    assert answer["status"] == "cancelling"
    assert answer["cancelRequestedAt"] == answer["cancellingAt"] == seconds(EARLIER)
    assert [row["id"] for row in client.get("/jobs", status="cancelling").json()["jobs"]] == [job.pk]
    assert client.get("/jobs", status=status.value).json()["jobs"] == []


PROVISION_WORDS = {
    "requested": "pending",
    "provisioning": "provisioning",
    "ready": "running",
    "failed": "failed",
    "lost": "failed",
    "releasing": "releasing",
    "released": "released",
    "written_off": "release_failed",
}


@pytest.mark.parametrize("status", ProvisionStatus)
def test_a_provision_has_the_contracts_word(status: ProvisionStatus) -> None:
    job = make_job(status="in_progress")
    make_provision(job, status=status.value)
    assert read(job)["provision"]["status"] == PROVISION_WORDS[status.value]


def test_what_a_provider_said_is_not_for_everybody() -> None:
    job = make_job(status="in_progress")
    make_provision(job, status="ready", last_error_code="timeout", last_error="https://internal:8443 said no")
    assert "internal" not in api("operator").get(f"/jobs/{job.pk}").content.decode()


def test_events_are_in_their_own_order_with_unique_ids() -> None:
    job = make_job(status="in_progress", event_count=4)
    late, early = timezone.now(), EARLIER
    JobEvent.objects.create(job=job, sequence=3, reason="ready", at=early, from_status="provisioning", message="Up.")
    JobEvent.objects.create(
        job=job, sequence=2, reason="admitted", at=late, to_status="provisioning", source="operator"
    )
    JobEvent.objects.create(job=job, sequence=4, reason="release_requested", at=late)

    events = read(job)["events"]

    assert [event["id"] for event in events] == ["1-accepted", "2-admitted", "3-ready", "4-release_requested"]
    assert [event["status"] for event in events] == ["pending", "provisioning", "provisioning", "provisioning"]
    assert [event["label"] for event in events] == ["Accepted", "Admitted", "Ready", "Release requested"]
    assert events[1]["source"] == "operator"
    assert events[2] == {
        "id": "3-ready",
        "label": "Ready",
        "status": "provisioning",
        "source": "planner",
        "at": seconds(early),
        "message": "Up.",
    }


def test_a_long_timeline_is_cut_at_its_old_end() -> None:
    job = make_job(event_count=500)
    JobEvent.objects.bulk_create(
        JobEvent(job=job, sequence=number, reason="retried", to_status="pending") for number in range(2, 501)
    )
    listed = api("operator").get("/jobs").json()["jobs"][0]["events"]
    detail = read(job)["events"]
    assert (len(listed), len(detail)) == (20, 200)
    assert listed[-1]["id"] == detail[-1]["id"] == "500-retried"
