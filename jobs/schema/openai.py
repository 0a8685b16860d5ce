"""Everything under /v1: shapes with an example each, and the operations, in OpenAI's words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from jobs import conf
from jobs.api.pagination import Page
from jobs.models import Job
from jobs.openai_api import batches, files, wire
from jobs.openai_api.errors import error_json
from jobs.schema import console
from jobs.schema.console import FILE_ID, JOB_ID
from jobs.schema.operations import FORM, IDEMPOTENCY_KEY, JSON_LINES, SEGMENT, Face, Operation, Parameter
from jobs.schema.shapes import Schema, array, exactly, integer, nullable, one_of, ref, request, shape, text
from jobs.statuses import JobStatus

_AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
_ROW = Job(
    id=JOB_ID,
    status=JobStatus.COMPLETED.value,
    endpoint="/v1/chat/completions",
    model="org/small-1b",
    input_file_id=FILE_ID,
    output_file_id="output-1",
    completion_window="24h",
    completion_window_seconds=86_400,
    metadata={"team": "search"},
    usage={"input_tokens": 42, "output_tokens": 90, "total_tokens": 132},
    request_total=3,
    request_completed=3,
    accepted_at=_AT,
    in_progress_at=_AT + timedelta(seconds=74),
    completed_at=_AT + timedelta(seconds=200),
)
_BATCH = wire.batch_json(_ROW)
_ERROR = {"code": "incomplete_output", "message": "one line is missing", "param": None, "line": None}
_ERRORS = {"object": "list", "data": [_ERROR]}
_TIME = nullable({"type": "integer", "description": "Unix seconds; null for not yet."})
_TEXT = nullable(text())


def face() -> Face:
    """What they share."""
    in_path = {
        "batch_id": Parameter("batch_id", "The batch's id: its job's.", JOB_ID, SEGMENT, "path"),
        "file_id": Parameter("file_id", "The id of an input, or of what a job has written.", FILE_ID, SEGMENT, "path"),
    }
    return Face(console.components() | _components(), "OpenAIError", error_json, in_path)


def _components() -> dict[str, Schema]:
    files_of_console = console.components()
    return {
        "Batch": shape(
            "A job as OpenAI's clients know it.",
            _BATCH,
            status=one_of(wire.STATUSES.values()),
            metadata=nullable({"type": "object", "additionalProperties": {"type": "string"}}),
            errors=nullable(exactly(_ERRORS, data=array(exactly(_ERROR, **_error_fields())))),
            usage=nullable(exactly(_BATCH["usage"])),
            **dict.fromkeys(("model", "output_file_id", "error_file_id"), _TEXT),
            **{name: _TIME for name in _BATCH if name.endswith("_at") and name not in {"created_at", "expires_at"}},
        ),
        "BatchPage": _page("Batches, newest first.", "Batch", _BATCH),
        "BatchRequest": request(
            "A batch to be; any other name is refused.",
            {"input_file_id": FILE_ID, "endpoint": "/v1/chat/completions", "completion_window": "24h"},
            required=("input_file_id", "endpoint"),
            input_file_id=text("The id of an uploaded file.", minLength=1, maxLength=128),
            endpoint=one_of(conf.ENDPOINTS),
            completion_window=text("Such as 30min, 12h, 1d2h; 24h if absent.", maxLength=32),
            metadata=files_of_console["JobRequest"]["properties"]["metadata"],
            aibrix={"type": "object", "properties": _extras(files_of_console["JobRequest"]["properties"])},
        )
        | {"additionalProperties": False},
        "BatchFilePage": _page("Files, newest first unless asked otherwise.", "File", _file()),
        "FileDeleted": shape("It is gone.", {"id": FILE_ID, "object": "file", "deleted": True}),
        "OpenAIError": shape(
            "Why a request was refused.",
            {"error": _refused()},
            error=exactly(_refused(), param=_TEXT, code=_TEXT),
        ),
    }


def _error_fields() -> dict[str, Schema]:
    return {"code": _TEXT, "message": _TEXT, "param": _TEXT, "line": nullable({"type": "integer"})}


def _extras(of_job: dict[str, Schema]) -> dict[str, Schema]:
    """What a batch may say beyond OpenAI's fields: what a job may, without what the batch says already."""
    said = {"input_dataset", "endpoint", "completion_window", "metadata"}
    return {name: schema for name, schema in of_job.items() if name not in said} | {"model": text(maxLength=255)}


def _file() -> dict[str, Any]:
    example: dict[str, Any] = console.components()["File"]["examples"][0]
    return example


def _refused() -> dict[str, Any]:
    return {"message": "limit: must be an integer", "type": "invalid_request_error", "param": "limit", "code": None}


def _page(description: str, item: str, example: dict[str, Any]) -> Schema:
    page = wire.list_json(Page([], has_more=False), [example])
    return shape(description, page, data=array(ref(item)), first_id=_TEXT, last_id=_TEXT)


def _limit(default: int, most: int) -> Parameter:
    return Parameter("limit", f"How many; {default} if absent.", 20, integer(1, most))


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("/v1/batches", "GET"): Operation(
        "List batches",
        "One page of the batches one may see, newest first.",
        "openai",
        "BatchPage",
        (
            Parameter("after", "The id of the last one received.", JOB_ID, text()),
            _limit(batches.DEFAULT_LIMIT, batches.MAX_LIMIT),
        ),
    ),
    ("/v1/batches", "POST"): Operation(
        "Create batch",
        "Accept a batch; it is committed before the answer. What a job may say beyond OpenAI's fields stands under "
        "`aibrix`, or in the metadata.",
        "openai",
        "Batch",
        (IDEMPOTENCY_KEY,),
        body="BatchRequest",
        errors=(409,),
    ),
    ("/v1/batches/{batch_id}", "GET"): Operation("Get batch", "The batch as the planner knows it.", "openai", "Batch"),
    ("/v1/batches/{batch_id}/cancel", "POST"): Operation(
        "Cancel batch",
        "Record the wish to cancel. The batch reads `cancelling` until it is true; one that is over is a 409.",
        "openai",
        "Batch",
        errors=(409,),
    ),
    ("/v1/files", "GET"): Operation(
        "List batch files",
        "One page of the input files one may use. What jobs have written is not listed.",
        "openai",
        "BatchFilePage",
        (
            Parameter("after", "The id of the last one received.", FILE_ID, text()),
            _limit(files.DEFAULT_LIMIT, files.MAX_LIMIT),
            Parameter("order", "By the time of the upload.", "desc", one_of(("desc", "asc"))),
            Parameter("purpose", "Their purpose.", "batch", text()),
        ),
    ),
    ("/v1/files", "POST"): Operation(
        "Upload batch file",
        "Check every line of a JSONL file and keep it at the metadata service; a refusal names the first bad line.",
        "openai",
        "File",
        body="Upload",
        body_type=FORM,
    ),
    ("/v1/files/{file_id}", "GET"): Operation(
        "Get batch file", "What is known of an input, or of what a job has written.", "openai", "File"
    ),
    ("/v1/files/{file_id}", "DELETE"): Operation(
        "Delete batch file",
        "Delete it at the metadata service, then here; one that a job still needs is a 409. After a 503 no job takes "
        "it any more, and the deletion is to be repeated.",
        "openai",
        "FileDeleted",
        errors=(409,),
    ),
    ("/v1/files/{file_id}/content", "GET"): Operation(
        "Download batch file",
        "The bytes, streamed. A connection that ends before `Content-Length` bytes is a file that was cut off.",
        "openai",
        '{"custom_id": "1", "response": {"status_code": 200, "body": {}}}\n',
        answer_type=JSON_LINES,
    ),
}
