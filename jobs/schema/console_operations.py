"""Every operation under /api/v1: what it does, what it takes, and what it answers."""

from __future__ import annotations

from jobs.api.files import MAX_LIMIT as MOST_FILES
from jobs.api.pagination import DEFAULT_LIMIT, MAX_LIMIT
from jobs.models import DeploymentTemplate
from jobs.schema import console
from jobs.schema.catalogue import MODEL_ID, TEMPLATE_ID
from jobs.schema.console import FILE_ID, JOB_ID, PROVISION_ID
from jobs.schema.operations import FORM, IDEMPOTENCY_KEY, JSON_LINES, SEGMENT, Face, Operation, Parameter
from jobs.schema.shapes import Schema, integer, one_of, ref, text
from jobs.statuses import ProvisionStatus

_UP_TO_255: Schema = text(maxLength=255)

_AFTER = Parameter("after", "The id of the last one received; without it, from the newest on.", JOB_ID, text())
_LIMIT = Parameter(
    "limit", f"How many; {DEFAULT_LIMIT} if absent or 0, at most {MAX_LIMIT}.", 20, integer(0, 10**9 - 1)
)


def _path(name: str, description: str, example: str) -> Parameter:
    return Parameter(name, description, example, SEGMENT, "path")


_IN_PATH = (
    _path("job_id", "The job's id.", JOB_ID),
    _path("provision_id", "The provision's id.", PROVISION_ID),
    _path("file_id", "The id of an input, or of what a job has written.", FILE_ID),
    _path("model_id", "The model's id.", MODEL_ID),
    _path("template_id", "The template's id.", TEMPLATE_ID),
    _path("token_id", "The token's id.", "7"),
    _path("username", "The owner's user name.", "sam"),
    _path("name", "A name.", "west"),
)


def face() -> Face:
    """What they share, in the status words that are in force."""
    in_path = {parameter.name: parameter for parameter in _IN_PATH}
    return Face(console.components(), "Error", lambda refusal: refusal.body, in_path)


def _since(name: str, description: str) -> Parameter:
    return Parameter(name, f"{description}: unix seconds, or RFC 3339 with its offset.", "1777863600", text())


def _holds(
    prefix: str, what: str, answer: str = "Hold", errors: tuple[int, ...] = ()
) -> dict[tuple[str, str], Operation]:
    """The two wishes there are for everything that can be held."""
    tag = "jobs" if answer == "Job" else "queue"
    hold = (
        "Operators only. Nothing of it is admitted from then on; what is admitted already goes on. Of a held one the "
        "newest reason stands."
    )
    resume = "Operators only. It is admitted again; what is not held stays as it is."
    return {
        (f"{prefix}/hold", "POST"): Operation(f"Hold {what}", hold, tag, answer, body="Reason", errors=errors),
        (f"{prefix}/resume", "POST"): Operation(f"Resume {what}", resume, tag, answer, body="Reason", errors=errors),
    }


_JOBS = {
    ("/api/v1/jobs", "GET"): Operation(
        "List jobs",
        "One page of the jobs one may see, newest first; all filters that are given must hold. Nothing is counted: "
        "`hasMore` says whether there is another page, after `lastId`.",
        "jobs",
        "JobPage",
        (
            _AFTER,
            _LIMIT,
            Parameter("status", "The status that is shown.", "in_progress", ref("JobStatus")),
            Parameter("search", "What the name, the id or the model begins with, in any case.", "nightly", _UP_TO_255),
            Parameter("created_by", "The owner's e-mail or user name.", "sam@example.org", _UP_TO_255),
            Parameter("model", "The name that the engine serves, in any case.", "org/small-1b", _UP_TO_255),
            Parameter("provider", "Of the pool that the job is or was at.", "simulated", _UP_TO_255),
            _since("created_after", "Accepted then or later"),
            _since("created_before", "Accepted earlier"),
        ),
    ),
    ("/api/v1/jobs", "POST"): Operation(
        "Create job",
        "Accept a job. It is committed before the answer, and whatever becomes of provider and metadata service, it "
        "ends. A full queue is a 429.",
        "jobs",
        "Job",
        (IDEMPOTENCY_KEY,),
        body="JobRequest",
        errors=(409,),
    ),
    ("/api/v1/jobs/{job_id}", "GET"): Operation(
        "Get job",
        "The job in full, from the database. While it waits, `waitingReason` says for what.",
        "jobs",
        "Job",
        (Parameter("include_deployment", "Changes nothing: no deployment is known here.", "true", text()),),
    ),
    ("/api/v1/jobs/{job_id}/cancel", "POST"): Operation(
        "Cancel job",
        "Record the wish to cancel. The job reads `cancelling` until it is true; one that is over is a 409, with the "
        "job in `details`. Repeated, it changes nothing.",
        "jobs",
        "Job",
        body="Reason",
        errors=(409,),
    ),
    ("/api/v1/jobs/{job_id}/priority", "POST"): Operation(
        "Set priority of a job",
        "Operators only, while it is pending. It counts under the queue policy `priority`.",
        "jobs",
        "Job",
        body="PriorityRequest",
        errors=(409,),
    ),
    **_holds("/api/v1/jobs/{job_id}", "a job", "Job", (409,)),
}

_QUEUE = {
    ("/api/v1/queue", "GET"): Operation(
        "Get queue",
        "Whether the whole queue is held, and in `holds` all holds that stand; on other owners only for those who see "
        "all jobs.",
        "queue",
        "Queue",
    ),
    **_holds("/api/v1/queue", "the queue"),
    **_holds("/api/v1/owners/{username}", "an owner"),
    **_holds("/api/v1/pools/{name}", "a pool"),
}

_PROVISIONS = {
    ("/api/v1/provisions", "GET"): Operation(
        "List provisions",
        "One page of what is or was reserved for the jobs one may see, newest first.",
        "provisions",
        "ProvisionPage",
        (_AFTER, _LIMIT, Parameter("status", "Its status.", "ready", one_of(ProvisionStatus.values))),
    ),
    ("/api/v1/provisions/{provision_id}", "GET"): Operation(
        "Get provision", "One provision, as its provider last showed it.", "provisions", "Provision"
    ),
    ("/api/v1/provisions/{provision_id}/release", "POST"): Operation(
        "Release provision",
        "Operators only. A live job loses its resource and is provisioned again; a release that waits is tried again "
        "at once. One that is released already is a 409, with the provision in `details`.",
        "provisions",
        "Provision",
        body="Reason",
        errors=(409,),
    ),
}

_FILES = {
    ("/api/v1/files", "GET"): Operation(
        "List files",
        "One page of the input files one may use, newest first. What jobs have written is not listed.",
        "files",
        "FilePage",
        (
            Parameter("after", "The id of the last one received.", FILE_ID, text()),
            Parameter("limit", f"How many; {MOST_FILES} if absent.", 20, integer(1, MOST_FILES)),
            Parameter("purpose", "Their purpose.", "batch", text()),
        ),
    ),
    ("/api/v1/files/upload", "POST"): Operation(
        "Upload file",
        "Check every line of a JSONL file and keep it at the metadata service; a refusal names the first bad line.",
        "files",
        "File",
        body="Upload",
        body_type=FORM,
    ),
    ("/api/v1/files/{file_id}", "GET"): Operation(
        "Get file",
        "What is known of an input, or of what a job has written. `upload` is no id but a path of its own: a 405.",
        "files",
        "FileDetail",
        errors=(403, 405),
    ),
    ("/api/v1/files/{file_id}/content", "GET"): Operation(
        "Download file",
        "The bytes, streamed. A connection that ends before `Content-Length` bytes is a file that was cut off.",
        "files",
        '{"custom_id": "1", "response": {"status_code": 200, "body": {}}}\n',
        answer_type=JSON_LINES,
        errors=(403,),
    ),
}

_TEMPLATES = "/api/v1/models/{model_id}/deployment-templates"
_CHANGE_MODEL = (
    "Operators only. What is given is changed; of prices, metadata and specification, member by member. Jobs keep what "
    "they were accepted with."
)
_CATALOGUE = {
    ("/api/v1/config/job-capabilities", "GET"): Operation(
        "Get job capabilities", "What a job may ask for.", "catalogue", "Capabilities"
    ),
    ("/api/v1/models", "GET"): Operation(
        "List models",
        "The models that jobs can run on.",
        "catalogue",
        "ModelList",
        (
            Parameter("search", "Part of the name or of its provider's, in any case.", "small", text()),
            Parameter("category", "One of its categories.", "LLM", text()),
        ),
    ),
    ("/api/v1/models", "POST"): Operation(
        "Create model",
        "Operators only. Names may be in snake_case or camelCase. Of one id there is one model: a second is a 409.",
        "catalogue",
        "Model",
        body="NewModel",
        errors=(409,),
    ),
    ("/api/v1/models/{model_id}", "GET"): Operation("Get model", "One model.", "catalogue", "Model"),
    ("/api/v1/models/{model_id}", "PUT"): Operation(
        "Change model", _CHANGE_MODEL, "catalogue", "Model", body="ModelChange"
    ),
    ("/api/v1/models/{model_id}", "PATCH"): Operation(
        "Patch model", _CHANGE_MODEL, "catalogue", "Model", body="ModelChange"
    ),
    ("/api/v1/models/{model_id}", "DELETE"): Operation(
        "Delete model",
        "Operators only. A model with templates is a 409. One that there is not is gone, too.",
        "catalogue",
        "Deleted",
        errors=(409,),
    ),
    (_TEMPLATES, "GET"): Operation(
        "List templates",
        "All versions of a model's deployment templates; none for a model that there is not.",
        "catalogue",
        "TemplateList",
        (
            Parameter("status", "Their status.", "active", one_of(DeploymentTemplate.Status.values)),
            Parameter("name", "Their name.", "small-1b-h100", text()),
        ),
    ),
    (_TEMPLATES, "POST"): Operation(
        "Create template",
        "Operators only. A model that there is not is a 400; a second one of the same name and version is a 409.",
        "catalogue",
        "Template",
        body="NewTemplate",
        errors=(409,),
    ),
    (f"{_TEMPLATES}/{{template_id}}", "GET"): Operation("Get template", "One version.", "catalogue", "Template"),
    (f"{_TEMPLATES}/{{template_id}}", "PUT"): Operation(
        "Change template",
        "Operators only. What is given is changed, the spec as a whole. Jobs keep what they were accepted with.",
        "catalogue",
        "Template",
        body="TemplateChange",
        errors=(409,),
    ),
    (f"{_TEMPLATES}/{{template_id}}", "DELETE"): Operation(
        "Delete template",
        "Operators only. One that there is not is gone, too. Jobs keep what they were accepted with.",
        "catalogue",
        "Deleted",
    ),
    (f"{_TEMPLATES}/by-name/{{name}}", "GET"): Operation(
        "Get template by name",
        "The version that is asked for, whatever its status, or the highest active one; a 400 if none is active.",
        "catalogue",
        "Template",
        (Parameter("version", "Its version.", "v1.0.0", text()),),
    ),
    ("/api/v1/deployments", "GET"): Operation(
        "List deployments", "Always empty; for the console's home page.", "catalogue", "Deployments"
    ),
    ("/api/v1/model-adapters", "GET"): Operation(
        "List model adapters", "Always empty; for the console.", "catalogue", "ModelAdapters"
    ),
    ("/api/v1/model-adapter-targets", "GET"): Operation(
        "List model adapter targets", "Always empty; for the console.", "catalogue", "ModelAdapterTargets"
    ),
}

_ACCESS = {
    ("/api/v1/health", "GET"): Operation(
        "Get health", "It answers; the database is not asked.", "access", "Health", is_public=True
    ),
    ("/api/v1/auth/config", "GET"): Operation(
        "Get log in mode", "How people log in here.", "access", "LogInMode", is_public=True
    ),
    ("/api/v1/auth/login", "GET"): Operation(
        "Show log in",
        "For people the form, or where nobody logs in the way back; for programs how to log in. In `oidc` mode "
        "on to the identity provider.",
        "access",
        "LogInHint",
        (Parameter("return", "The path to come back to; only of this site.", "/jobs/", text()),),
        is_public=True,
        errors=(429, 503),
        redirect=302,
        has_page=True,
    ),
    ("/api/v1/auth/login", "POST"): Operation(
        "Log in",
        "Begin a session: its cookie is in the answer. A form is answered with a redirect.",
        "access",
        "UserInfo",
        body="LogIn",
        errors=(401, 503),
        is_public=True,
        redirect=303,
        has_page=True,
    ),
    ("/api/v1/auth/logout", "POST"): Operation("Log out", "Forget the session.", "access", "LoggedOut"),
    ("/api/v1/auth/userinfo", "GET"): Operation("Get user", "Who is asking, and as what.", "access", "UserInfo"),
    ("/api/v1/auth/callback", "GET"): Operation(
        "Finish log in",
        "Where an identity provider sends people back to; a 400 where there is none.",
        "access",
        "",
        errors=(401, 502, 503),
        is_public=True,
        redirect=302,
        has_page=True,
    ),
    ("/api/v1/auth/tokens", "GET"): Operation(
        "List tokens", "One's own tokens for scripts that are not revoked.", "access", "TokenList"
    ),
    ("/api/v1/auth/tokens", "POST"): Operation(
        "Issue token",
        "For people only: a token issues no tokens.",
        "access",
        "IssuedToken",
        body="NewToken",
        errors=(409,),
    ),
    ("/api/v1/auth/tokens/{token_id}", "DELETE"): Operation(
        "Revoke token", "At once and for good; again is no error.", "access", "Nothing"
    ),
}

OPERATIONS: dict[tuple[str, str], Operation] = {**_JOBS, **_QUEUE, **_PROVISIONS, **_FILES, **_CATALOGUE, **_ACCESS}
