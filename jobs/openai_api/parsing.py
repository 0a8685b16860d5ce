"""The body of a create: OpenAI's four fields, and under `aibrix` what a job may say beyond them.

Whoever cannot send `aibrix` may say the same in the metadata, under the name by which a refusal would call it:
`aibrix.model_id`, `aibrix.resource_request.replicas`. The metadata is stored as given in any case.
"""

from __future__ import annotations

from typing import Any

from jobs.api.parsing import EXTRAS, Body, job_extras
from jobs.errors import InvalidRequest
from jobs.planner import JobRequest

_FIELDS = ("input_file_id", "endpoint", "completion_window", "metadata", "aibrix")
_AIBRIX = "aibrix"
# The planner's name of a field, where ours is neither the same nor under `aibrix`.
_OWN_NAMES = {
    "input_dataset": "input_file_id",
    "endpoint": "endpoint",
    "completion_window": "completion_window",
    "metadata": "metadata",
    "idempotency_key": "Idempotency-Key",
}


class StrictBody(Body):
    """A body with names in snake_case only, and no others; `spare` has members that are absent, by their whole path."""

    def __init__(self, value: Any, path: str = "", *, spare: dict[str, Any] | None = None) -> None:
        super().__init__(value, path)
        self._spare = spare or {}

    def get(self, name: str) -> Any:
        """A member, or its spare; None if absent or null."""
        value = self._value.get(name)
        return self._spare.get(self._name(name)) if value is None else value

    def only(self, *names: str) -> Body:
        """The same body; raises `InvalidRequest` for a member of another name."""
        for name in self._value:
            if name not in names:
                shown = name[:80].encode(errors="backslashreplace").decode()  # an answer cannot hold lone surrogates
                raise InvalidRequest(self._name(shown), "is not a known parameter")
        return self

    def member(self, name: str) -> Body:
        """An object, empty if absent."""
        return StrictBody(self.get(name), self._name(name), spare=self._spare)


def batch_request(data: Any) -> JobRequest:
    """The job that a body asks for; raises `InvalidRequest`."""
    body = StrictBody(data).only(*_FIELDS)
    metadata = body.get("metadata") or {}
    spare = metadata if isinstance(metadata, dict) else {}
    aibrix = StrictBody(body.get(_AIBRIX), _AIBRIX, spare=spare).only(*EXTRAS, "model")
    extras = job_extras(aibrix)
    extras["model_id"] = _model(aibrix)
    return JobRequest(
        input_file_id=body.text("input_file_id"),
        endpoint=body.text("endpoint"),
        completion_window=body.text("completion_window"),
        metadata=metadata,
        **extras,
    )


def renamed(refused: InvalidRequest) -> InvalidRequest:
    """The planner's refusal with the name that the field has here."""
    return InvalidRequest(_OWN_NAMES.get(refused.field, f"{_AIBRIX}.{refused.field}"), refused.reason)


def _model(aibrix: Body) -> str:
    """`model` is `model_id` in the words of OpenAI's other calls."""
    model_id, model = aibrix.text("model_id"), aibrix.text("model")
    if model_id and model and model_id != model:
        raise InvalidRequest(f"{_AIBRIX}.model", "differs from aibrix.model_id; one of them is enough")
    return model_id or model
