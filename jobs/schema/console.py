"""What goes over the wire under /api/v1: each shape with an example, in the status words that are in force."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from jobs import conf
from jobs.api import wire
from jobs.api.tokens import token_json
from jobs.api.vocabulary import PROVISION_WORDS, job_word
from jobs.files import PURPOSE
from jobs.holds import MAX_REASON_LENGTH
from jobs.models import ApiToken, InputFile, JobEvent, Pool, Provision
from jobs.schema import catalogue
from jobs.schema.catalogue import MODEL_ID
from jobs.schema.shapes import (
    ANY_OBJECT,
    DIGITS,
    SECONDS,
    TEXTS,
    Schema,
    array,
    exactly,
    integer,
    nullable,
    one_of,
    ref,
    request,
    shape,
    text,
)
from jobs.statuses import FailureStage, JobStatus, ProvisionStatus
from jobs.tokens import MAX_NAME, MAX_SECONDS
from jobs.validation import (
    ACCEPTED,
    MAX_METADATA_PAIRS,
    MAX_METADATA_VALUE_LENGTH,
    MAX_NAME_LENGTH,
    MAX_NAMES,
    MAX_PLACE_LENGTH,
)

JOB_ID = "job_0b9c6c2e-6a3b-4d7c-9d3e-2a4f6e8b1c5d"
FILE_ID = "5f0c8b8e-1f7e-4f0a-8a55-3d7f7c0c9b21"
PROVISION_ID = "7d9a4b1e-3c2f-4e5d-8b6a-9f0e1d2c3b4a"

# Rows for the examples, shown by what shows real ones.
_AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
_POOL_ROW = Pool(
    name="west",
    provider="simulated",
    is_enabled=False,
    disabled_reason="maintenance on Tuesday",
    held_by="oscar@example.org",
    held_at=_AT,
)
_PROVISION_ROW = Provision(
    id=PROVISION_ID,
    job_id=JOB_ID,
    attempt=1,
    pool=_POOL_ROW,
    name="abp-7d9a4b1e3c2f4e5d8b6a",
    status=ProvisionStatus.READY.value,
    region="us-west",
    external_ids=["i-0042"],
    observed_state="ready",
    requested_at=_AT,
    ready_at=_AT + timedelta(seconds=68),
    observed_at=_AT + timedelta(seconds=75),
    deadline_at=_AT + timedelta(seconds=900),
    expires_at=_AT + timedelta(seconds=87_420),
)
_FILE_ROW = InputFile(id=FILE_ID, filename="requests.jsonl", purpose=PURPOSE, size_bytes=1834, created_at=_AT)
_HOLD = wire.hold_json(_POOL_ROW)
_PROVISION = wire.provision_json(_PROVISION_ROW, with_errors=False)
_FILE = wire.file_json(_FILE_ROW)

_EVENT: dict[str, Any] = {
    "id": "3-resource_ready",
    "label": "Resource ready",
    "status": "submitting",
    "source": "provider",
    "at": "1777863790",
    "message": "",
}
_POOL_ANSWER = {
    "pool": "west",
    "code": "capacity",
    "message": "pool west has none left, asked again at 2026-05-04 03:02:31 UTC",
    "retryAt": "1777863751",
}
_ERROR = {"code": "incomplete_output", "message": "one line is missing", "param": "", "line": "0"}
_OF_JOB: dict[str, Any] = {
    "requestCounts": {"total": 3, "completed": 1, "failed": 0},
    "usage": {"inputTokens": "42", "outputTokens": "90", "totalTokens": "132"},
    "runtime": {"target": "simulated", "options": {"pool": "west"}, "rawJson": "{}"},
    "resourceAllocation": {
        "provisionId": PROVISION_ID,
        "provisionResourceDeadline": "1777951122",
        "resourceDetails": [{"endpointCluster": "us-west", "gpuType": "H100", "replica": 1, "extra": {}}],
        "rawJson": "{}",
    },
    "modelTemplateRef": {"name": "small-1b-h100", "version": "v1.0.0", "rawJson": "{}"},
    "provision": {
        "provisionId": PROVISION_ID,
        "provider": "simulated",
        "idempotencyKey": "abp-7d9a4b1e3c2f4e5d8b6a",
        "status": "running",
        "region": "us-west",
        "errorMessage": "",
        "createdAt": "1777863722",
        "updatedAt": "1777863790",
        "rawJson": "{}",
    },
}
_JOB: dict[str, Any] = {
    "id": JOB_ID,
    "object": "batch",
    "name": "nightly-eval",
    "endpoint": "/v1/chat/completions",
    "model": "org/small-1b",
    "createdBy": "sam@example.org",
    "status": "in_progress",
    "failureStage": "",
    "attempt": 1,
    "waitingReason": "The batch runs.",
    "waitingCode": "running",
    "waitingPools": [],
    "queuePosition": "",
    "hold": False,
    "priority": 0,
    "inputDataset": FILE_ID,
    "outputDataset": "",
    "errorDataset": "",
    "completionWindow": "24h",
    "modelTemplateName": "small-1b-h100",
    "modelTemplateVersion": "v1.0.0",
    "batchId": "batch_5d4c3b2a",
    "provisionId": PROVISION_ID,
    "errorMessage": "",
    **dict.fromkeys(("createdAt", "queuedAt", "resourcePreparingAt"), "1777863721"),
    **dict.fromkeys(("submittingAt", "inProgressAt"), "1777863790"),
    **dict.fromkeys(("finalizingAt", "completedAt", "failedAt", "resourceFailedAt", "submitFailedAt"), "0"),
    **dict.fromkeys(("expiredAt", "cancelRequestedAt", "cancellingAt", "cancelledAt"), "0"),
    "expiresAt": "1777951022",
    **_OF_JOB,
    "metadata": {"team": "search"},
    "extraBody": {},
    "accepts": {"providers": [], "pools": [], "regions": ["us-west"]},
    "errors": [],
    "profile": None,
    "events": [_EVENT],
}
JOB_REQUEST: dict[str, Any] = {
    "input_dataset": FILE_ID,
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
    "name": "nightly-eval",
    "model_id": MODEL_ID,
    "model_template_name": "small-1b-h100",
    "resource_request": {"replicas": 1},
}
_EDGES = {"firstId": text("The first id here."), "lastId": text("The last: the next page's `after`.")}


def components() -> dict[str, Schema]:
    """Every shape by its name."""
    return {**_jobs(), **_resources(), **_files(), **catalogue.components(), **_access()}


def _jobs() -> dict[str, Schema]:
    status = ref("JobStatus")
    details = exactly(_OF_JOB["resourceAllocation"]["resourceDetails"][0], extra=TEXTS)
    parts: dict[str, Schema] = {
        "runtime": _part("runtime", options=TEXTS),
        "usage": _part("usage", **dict.fromkeys(_OF_JOB["usage"], DIGITS)),
        "resourceAllocation": _part(
            "resourceAllocation", provisionResourceDeadline=SECONDS, resourceDetails=array(details)
        ),
        "provision": _part("provision", status=one_of(PROVISION_WORDS.values())),
        **{name: _part(name) for name in ("requestCounts", "modelTemplateRef")},
    }
    event = shape(
        "One line of a job's timeline.",
        _EVENT,
        status=status,
        at=SECONDS,
        source=one_of(JobEvent.Source.values),
    )
    job = shape(
        "A job: what was asked for, where it is, and what it waits for.",
        _JOB,
        status=status,
        failureStage=one_of(("", *FailureStage.values)),
        waitingCode=text("Why it is where it is, for programs; empty when it is over."),
        waitingPools=array(exactly(_POOL_ANSWER, code=text("too_large, full, capacity, quota, ready_timeout or held.")))
        | {"description": "Where no pool takes it: each one's answer."},
        accepts=exactly(_JOB["accepts"], **{kind: array(text()) for kind in ACCEPTED})
        | {"description": "Where it may run, by name; none: anywhere."},
        queuePosition=text('"1" is next; "" in lists and where there is no place to tell.'),
        metadata=TEXTS,
        extraBody=TEXTS,
        events=array(ref("JobEvent"))
        | {"description": f"The newest {wire.EVENTS_IN_DETAIL}, in a list of jobs fewer."},
        profile={"type": "null"},
        errors=array(exactly(_ERROR, line=DIGITS)),
        **{name: nullable(part) for name, part in parts.items()},
    )
    return {
        "Job": job,
        "JobEvent": event,
        "JobStatus": one_of(
            (job_word(status, stage) for status in JobStatus for stage in ("", *FailureStage.values)),
            "`cancelling` is shown from the wish on.",
        )
        | {"examples": [_JOB["status"]]},
        "JobPage": _page("Jobs, newest first.", "jobs", "Job", _JOB),
        "JobRequest": request(
            "A job to be. Names may be in camelCase too, null is absent, other names are ignored.",
            JOB_REQUEST,
            required=("input_dataset", "endpoint"),
            input_dataset=text("The id of an uploaded file.", minLength=1, maxLength=128),
            endpoint=one_of(conf.ENDPOINTS),
            completion_window=text("Such as 30min, 12h, 1d2h; 24h if absent.", maxLength=32),
            name=text(maxLength=MAX_NAME_LENGTH),
            metadata=TEXTS | {"maxProperties": MAX_METADATA_PAIRS, "additionalProperties": _metadata_value()},
            model_id=text(maxLength=255),
            model_template_name=text(maxLength=255),
            model_template_version=text("The highest active one if absent.", maxLength=64),
            resource_request={
                "type": "object",
                "properties": {
                    "replicas": integer(0, conf.MAX_REPLICAS, "0 reads as 1."),
                    "provider_config": ANY_OBJECT,
                    **{kind: _accepted(kind) for kind in ACCEPTED},
                },
            },
            client=_client(),
            queue_timeout_seconds=integer(
                1,
                conf.MAX_WINDOW_SECONDS,
                "Expire if it waits in the queue then, with nothing submitted; never if absent.",
            ),
            priority=integer(0, conf.MAX_PRIORITY, "More than 0 is for operators."),
        ),
        "PriorityRequest": request(
            "A pending job's new priority.",
            {"priority": 10, "reason": "needed for the release"},
            required=("priority",),
            priority=integer(0, conf.MAX_PRIORITY),
            reason=_reason(),
        ),
        "Reason": request("Why, for whoever has to wait.", {"reason": "not needed any more"}, reason=_reason()),
    }


def _resources() -> dict[str, Schema]:
    return {
        "Provision": shape(
            "What is or was reserved at a provider for one attempt of one job.",
            _PROVISION,
            status=one_of(ProvisionStatus.values),
            errorMessage=text("The provider's own words; told to operators only."),
        ),
        "ProvisionPage": _page("Provisions, newest first.", "provisions", "Provision", _PROVISION),
        "Hold": shape("A hold on the queue, on an owner or on a pool.", _HOLD),
        "Queue": shape(
            "The hold on the whole queue, and all holds that stand.",
            {**_HOLD, "pool": "", "hold": False, "reason": "", "heldBy": "", "heldAt": "0", "holds": [_HOLD]},
            holds=array(ref("Hold")),
        ),
        "Capabilities": shape(
            "What a job may ask for.",
            {"resource_request": {"min_replicas": 1, "max_replicas": conf.MAX_REPLICAS}, "provider": "simulated"},
        ),
    }


def _files() -> dict[str, Schema]:
    page = {"object": "list", "data": [_FILE], "has_more": False}
    detail = {**_FILE, "content_type": "application/jsonl", "etag": None, "last_modified": None}
    lines = '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", '
    lines += '"body": {"model": "org/small-1b", "messages": [{"role": "user", "content": "Say hello."}]}}\n'
    return {
        "File": shape("A file.", _FILE),
        "FileDetail": shape("A file.", detail, etag={"type": "null"}, last_modified={"type": "null"}),
        "FilePage": shape("Files, newest first.", page, data=array(ref("File"))),
        "Upload": request(
            f"A JSONL file of requests, at most {conf.MAX_FILE_BYTES} bytes and {conf.MAX_FILE_LINES} lines.",
            {"file": lines, "purpose": PURPOSE},
            required=("file", "purpose"),
            file={"type": "string", "format": "binary", "description": "With a name that ends in .jsonl or .json."},
            purpose=one_of((PURPOSE,)),
        ),
    }


def _access() -> dict[str, Schema]:
    mode = one_of(("basic", "dev", "oidc"))
    user = {"id": "basic-sam", "name": "Sam", "email": "sam@example.org", "role": "viewer"}
    token = token_json(ApiToken(pk=7, name="nightly", created_at=_AT))
    logged_out = shape(
        "The session is over; `redirect_url`, if there is one, ends the one at the identity provider.",
        {"message": "logged out"},
    )
    logged_out["properties"]["redirect_url"] = text(format="uri")
    error = {"code": 3, "message": "limit: must be an integer, not negative", "details": []}
    return {
        "Health": shape("It answers.", {"status": "ok"}, status=one_of(("ok",))),
        "LogInMode": shape("How people log in here.", {"mode": "basic"}, mode=mode),
        "LogInHint": shape(
            "How a program logs in.", {"mode": "basic", "message": "POST username and password"}, mode=mode
        ),
        "LogIn": request(
            "A user name and its password.",
            {"username": "sam", "password": "a secret"},
            required=("username", "password"),
            username=text(maxLength=150),
            password=text(),
        ),
        "UserInfo": shape(
            "Who is asking.",
            {**user, "username": "sam", "picture": ""},
            role=one_of(("admin", "viewer")),
        ),
        "LoggedOut": logged_out,
        "Token": shape("A token for scripts, without its secret; it expires at `expiresAt` unless that is 0.", token),
        "TokenList": shape("Newest first.", {"tokens": [token]}, tokens=array(ref("Token"))),
        "NewToken": request(
            "What the token is for.",
            {"name": "nightly", "expires_in_seconds": 2_592_000},
            required=("name",),
            name=text(minLength=1, maxLength=MAX_NAME),
            expires_in_seconds=nullable(integer(1, MAX_SECONDS, "Without it, it does not expire.")),
        ),
        "IssuedToken": shape(
            "A new token. Its secret is in this answer and nowhere else.",
            {"token": token, "secret": "abp_..."},
            token=ref("Token"),
        ),
        "Nothing": shape("Done.", {}),
        "Error": shape(
            "Why a request was refused.",
            error,
            code=integer(0, 16, "The gRPC code that belongs to it."),
            details=array(ANY_OBJECT) | {"description": "The field that is wrong, or the row that is in the way."},
        ),
    }


def _part(name: str, **known: Schema) -> Schema:
    return exactly(_OF_JOB[name], **known)


def _page(description: str, key: str, item: str, example: dict[str, Any]) -> Schema:
    page = {key: [example], "firstId": example["id"], "lastId": example["id"], "hasMore": False}
    return shape(description, page, **{key: array(ref(item))}, **_EDGES)


def _reason() -> Schema:
    return text(maxLength=MAX_REASON_LENGTH)


def _metadata_value() -> Schema:
    return text(maxLength=MAX_METADATA_VALUE_LENGTH)


def _accepted(kind: str) -> Schema:
    names = array(text(minLength=1, maxLength=MAX_PLACE_LENGTH))
    return names | {"maxItems": MAX_NAMES, "description": f"The {kind} it may run at; any if empty or absent."}


def _client() -> Schema:
    at_least_one, not_negative = integer(1), integer(0)
    seconds: Schema = {"type": "number", "minimum": 0}
    retry = {
        "max_retries": not_negative,
        "no_endpoint_max_retries": not_negative,
        "base_delay_seconds": seconds,
        "max_delay_seconds": seconds,
    }
    properties = {
        "max_concurrency": integer(1, 1024),
        "request_timeout_seconds": {"type": "number", "minimum": 1},
        "adaptive_concurrency": {"type": "boolean"},
        "adaptive_max_factor": {"type": "number", "minimum": 1},
        "adaptive_healthy_window": at_least_one,
        "adaptive_additive_increase": at_least_one,
        "retry_policy": {"type": "object", "properties": retry},
    }
    return {"type": "object", "properties": properties, "description": "How the requests of the batch are dispatched."}
