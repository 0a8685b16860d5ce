"""A client of /v1 for tests: a bearer token, JSON in and out, and OpenAI's shape of a refusal."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from jobs.models import ApiToken
from tests.factories import make_file, make_user


class OpenAIClient:
    """Calls below /v1 with a token of one user, or with none."""

    def __init__(self, user: User | None = None) -> None:
        self._user = user
        headers = {"Authorization": f"Bearer {ApiToken.issue(user, 'tests')[1]}"} if user else {}
        self.client = Client(enforce_csrf_checks=True, raise_request_exception=False, headers=headers)

    @property
    def user(self) -> User:
        """Whose token it is."""
        assert self._user is not None
        return self._user

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f"/v1{path}", query)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """POST of JSON; text and bytes go as they are."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        data = {} if body is None else body
        return self.client.post(f"/v1{path}", data, content_type="application/json", headers=names)

    def delete(self, path: str) -> Any:
        return self.client.delete(f"/v1{path}")

    def upload(self, content: bytes, name: str = "in.jsonl", **fields: Any) -> Any:
        """POST of a form as the official package sends it; a field of None is left out."""
        form = {"file": SimpleUploadedFile(name, content, "application/octet-stream"), "purpose": "batch", **fields}
        return self.client.post("/v1/files", {name: value for name, value in form.items() if value is not None})


def openai(role: str = "submitter") -> OpenAIClient:
    """A client of a new user."""
    return OpenAIClient(make_user(role))


def batch_body(owner: User, **fields: Any) -> dict[str, Any]:
    """A create body that is accepted; a field of None is left out."""
    body = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **fields}
    if "input_file_id" not in body:
        body["input_file_id"] = make_file(owner).pk
    return {name: value for name, value in body.items() if value is not None}


def assert_refused(
    response: Any, status: int, *words: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error shape and nothing else; returns what is in it."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    expected = {429: "requests", 500: "server_error", 503: "server_error"}.get(status, "invalid_request_error")
    assert error["type"] == expected
    assert error["param"] == param, error
    if code is not None:
        assert error["code"] == code
    if param is not None:
        assert error["message"].startswith(f"{param}: ")
    for word in words:
        assert word in error["message"]
    return error
