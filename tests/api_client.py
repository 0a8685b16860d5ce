"""A console API client for tests: somebody logged in, JSON in and out."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.test import Client

from tests.factories import make_file, make_model, make_template, make_user

API = "/api/v1"


class ApiClient:
    """Calls below /api/v1 as one user, or as nobody; CSRF checks are on, as they are for a browser."""

    def __init__(self, user: User | None = None) -> None:
        self._user = user
        self.client = Client(enforce_csrf_checks=True, raise_request_exception=False)
        if user is not None:
            self.client.force_login(user)

    @property
    def user(self) -> User:
        """Who is logged in."""
        assert self._user is not None
        return self._user

    def get(self, path: str, **query: Any) -> Any:
        """GET; the UI sends a JSON content type here too."""
        return self.client.get(f"{API}{path}", query, headers={"Content-Type": "application/json"})

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """POST of JSON; text and bytes go as they are."""
        return self._send("post", path, body, headers)

    def put(self, path: str, body: Any = None, **headers: str) -> Any:
        """PUT of JSON."""
        return self._send("put", path, body, headers)

    def patch(self, path: str, body: Any = None, **headers: str) -> Any:
        """PATCH of JSON."""
        return self._send("patch", path, body, headers)

    def delete(self, path: str, body: Any = None, **headers: str) -> Any:
        """DELETE; the UI sends a JSON content type here too."""
        return self._send("delete", path, body, headers)

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        data = {} if body is None else body
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return getattr(self.client, method)(f"{API}{path}", data, content_type="application/json", headers=names)


def api(role: str = "submitter") -> ApiClient:
    """A client of a new user."""
    return ApiClient(make_user(role))


def job_body(owner: User, **fields: Any) -> dict[str, Any]:
    """A create body that is accepted, as the UI sends it; a field of None is left out."""
    template = make_template(make_model())
    body = {
        "input_dataset": make_file(owner).pk,
        "endpoint": "/v1/chat/completions",
        "completion_window": "12h",
        "name": "nightly-eval",
        "model_template_name": template.name,
        "model_template_version": template.version,
        "model_id": template.model_id,
        "resource_request": {"replicas": 1},
        **fields,
    }
    return {name: value for name, value in body.items() if value is not None}


def assert_refused(response: Any, status: int, code: int, *words: str, field: str = "") -> dict[str, Any]:
    """The contract's error shape and nothing else; returns the body."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"code", "message", "details"}
    assert body["code"] == code
    assert isinstance(body["details"], list)
    for word in words:
        assert word in body["message"]
    if field:
        assert [detail["field"] for detail in body["details"]] == [field]
        assert body["message"] == f"{field}: {body['details'][0]['message']}"
    return body
