"""What the real metadata service and the fake one both do: the fake cannot drift from what it stands for."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import requests

from jobs.testing.fake_mds import FakeMds
from tests.batch_file import BODY, lines
from tests.waiting import eventually

ALWAYS = {"id", "object", "endpoint", "input_file_id", "completion_window", "status", "created_at", "expires_at"}
RAN = {"in_progress_at", "finalizing_at", "request_counts", "usage"}
AIBRIX = {
    "job_id": "here:job_1:1",
    "resource_allocation": {
        "provision_id": "p",
        "provision_resource_deadline": 0,
        "resource_details": [{"endpoint_cluster": "", "gpu_type": "H100", "replica": 1}],
    },
    "model": "m",
    "client": {"max_concurrency": 4},
}
USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


class Service:
    """One MDS, spoken to in plain HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, self._url + path, timeout=30, **options)

    def upload(self, count: int) -> str:
        answer = self.send_file("in.jsonl", lines(count).decode())
        return str(answer.json()["id"])

    def send_file(self, name: str, content: str, purpose: str = "batch") -> requests.Response:
        return self.call("POST", "/v1/files", files={"file": (name, content)}, data={"purpose": purpose})

    def post(self, **fields: Any) -> requests.Response:
        request = {"input_file_id": "no-such-file", "endpoint": "/v1/chat/completions", "aibrix": AIBRIX}
        return self.call("POST", "/v1/batches", json={**request, **fields})

    def create(self, **fields: Any) -> Any:
        return self.post(**fields).json()

    def get(self, batch_id: str) -> Any:
        return self.call("GET", f"/v1/batches/{batch_id}").json()

    def cancel(self, batch_id: str) -> requests.Response:
        return self.call("POST", f"/v1/batches/{batch_id}/cancel")

    def list(self, **params: Any) -> Any:
        return self.call("GET", "/v1/batches", params=params).json()

    def ended(self, batch_id: str) -> Any:
        """The batch once it is over."""
        ends = {"completed", "failed", "expired", "cancelled"}
        eventually(lambda: self.get(batch_id)["status"] in ends, 60, 0.02)
        return self.get(batch_id)

    def running(self) -> str:
        """A batch that runs, and will for a while."""
        batch_id: str = self.create(input_file_id=self.upload(5000))["id"]
        eventually(lambda: self.get(batch_id)["status"] == "in_progress", 60, 0.02)
        return batch_id


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.mds)])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    if request.param == "real":
        yield Service(request.getfixturevalue("mds"))
        return
    with FakeMds(run_seconds=3) as fake:
        fake.cancel_seconds = 3
        yield Service(fake.url)


# --- batches ---


def test_a_created_batch_is_echoed_with_what_it_was_given(service: Service) -> None:
    created = service.post(metadata={"a": "b"}, completion_window="90m")
    body = created.json()
    assert created.status_code == 200
    assert set(body) == ALWAYS | {"model", "metadata", "aibrix"}
    assert (body["aibrix"], body["metadata"], body["model"]) == (AIBRIX, {"a": "b"}, "m")
    assert (body["object"], body["status"], body["input_file_id"]) == ("batch", "scheduling", "no-such-file")
    assert abs(body["created_at"] - time.time()) < 60
    assert body["expires_at"] == body["created_at"] + 90 * 60
    server_at = parsedate_to_datetime(created.headers["Date"]).timestamp()
    assert abs(server_at - time.time()) < 60
    assert created.headers["Content-Type"] == "application/json"
    assert uuid.UUID(body["id"])


def test_what_was_not_given_is_left_out(service: Service) -> None:
    body = service.create(aibrix=None, metadata=None, surprise=1)
    assert set(body) == ALWAYS
    assert (body["completion_window"], body["expires_at"] - body["created_at"]) == ("1d", 86_400)


@pytest.mark.parametrize(("given", "echoed"), [("24h", "1d"), ("90m", "1h30min"), ("60min", "1h"), ("25h", "1d1h")])
def test_a_window_is_echoed_normalised(service: Service, given: str, echoed: str) -> None:
    assert service.create(completion_window=given)["completion_window"] == echoed


def test_the_model_is_the_templates_when_none_is_named(service: Service) -> None:
    assert service.create(aibrix={"model_template": {"name": "t"}})["model"] == "t"


def test_a_batch_runs_to_its_end(service: Service) -> None:
    created = service.create(input_file_id=service.upload(3))
    done = service.ended(created["id"])
    assert set(done) == ALWAYS | RAN | {"completed_at", "output_file_id", "model", "aibrix"}
    assert (done["status"], done["usage"]) == ("completed", USAGE)
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert created["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
    content = service.call("GET", f"/v1/files/{done['output_file_id']}/content")
    assert content.headers["Content-Type"] == "application/jsonl"
    written = [json.loads(line) for line in content.text.splitlines()]
    assert {line["custom_id"] for line in written} == {"c0", "c1", "c2"}
    for line in written:
        assert set(line) == {"id", "custom_id", "error", "response"}
        assert set(line["response"]) == {"status_code", "request_id", "body"}
        assert line["response"]["body"] == BODY
        assert line["response"]["request_id"].startswith(done["id"])


def test_a_status_only_goes_forward(service: Service) -> None:
    batch_id = service.create(input_file_id=service.upload(20))["id"]
    seen: list[str] = []
    while not seen or seen[-1] != "completed":
        status = service.get(batch_id)["status"]
        seen += [status] if seen[-1:] != [status] else []
        assert len(seen) < 6
    order = ["scheduling", "validating", "in_progress", "finalizing", "completed"]
    assert seen == [status for status in order if status in seen]


def test_counts_are_told_from_the_moment_it_runs(service: Service) -> None:
    batch_id = service.running()
    running = service.get(batch_id)
    assert set(running) == ALWAYS | {"in_progress_at", "request_counts", "model", "aibrix"}
    assert running["request_counts"]["total"] == 5000
    service.cancel(batch_id)


def test_a_failed_batch_says_why(service: Service) -> None:
    noop = {"runtime": {"target": "noop", "options": {}}}
    failed = service.ended(service.create(input_file_id=service.upload(3), aibrix=noop)["id"])
    assert set(failed) == ALWAYS | RAN | {"failed_at", "errors", "aibrix"}
    assert failed["status"] == "failed"
    assert failed["request_counts"] == {"total": 3, "completed": 0, "failed": 0}
    (error,) = failed["errors"].pop("data")
    assert (failed["errors"], set(error), error["code"]) == (
        {"object": "list"},
        {"code", "message"},
        "inference_failed",
    )


def test_a_batch_past_its_deadline_is_expired_and_its_list_entry_may_be_stale_for_ever(service: Service) -> None:
    aibrix = {"resource_allocation": {"provision_resource_deadline": 1_700_000_000}}
    created = service.create(aibrix=aibrix)
    assert set(created) == ALWAYS | {"expired_at", "aibrix"}
    assert (created["status"], created["expires_at"]) == ("expired", 1_700_000_000)
    assert service.get(created["id"])["status"] == "expired"
    entry = next(item for item in service.list(limit=100)["data"] if item["id"] == created["id"])
    # the real one's is stale but for one in some ten; the fake's always
    assert (entry["status"], "expired_at" in entry) in {("scheduling", False), ("expired", True)}


def test_the_same_request_twice_makes_two_batches(service: Service) -> None:
    assert service.create()["id"] != service.create()["id"]


# --- cancelling ---


def test_a_batch_that_waits_is_cancelled_at_once(service: Service) -> None:
    answers = [service.cancel(service.create(input_file_id=service.upload(3))["id"]) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    # one may have begun by chance
    waiting = [answer.json() for answer in answers if "in_progress_at" not in answer.json()]
    told = ALWAYS | {"cancelling_at", "cancelled_at", "model", "aibrix"}
    assert {"cancelled"} == {batch["status"] for batch in waiting if set(batch) == told}


def test_a_batch_that_runs_is_cancelled_in_the_end(service: Service) -> None:
    batch_id = service.running()
    first = service.cancel(batch_id)
    assert (first.status_code, first.json()["status"]) == (200, "cancelling")
    assert set(first.json()) == ALWAYS | {"in_progress_at", "cancelling_at", "request_counts", "model", "aibrix"}
    ended = service.ended(batch_id)
    assert ended["status"] == "cancelled"
    told = ALWAYS | RAN | {"cancelling_at", "cancelled_at", "model", "aibrix"}
    assert told - {"usage"} <= set(ended) <= told | {"output_file_id"}
    assert ("output_file_id" in ended) == (ended["request_counts"]["completed"] > 0)


def test_a_cancel_may_be_repeated_while_it_is_under_way(service: Service) -> None:
    batch_id = service.running()
    answers = [service.cancel(batch_id) for _ in range(2)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[0] == 200
    assert statuses[1] == (200 if answers[1].json().get("status") == "cancelling" else 409)


def test_what_is_over_cannot_be_cancelled(service: Service) -> None:
    batch_id = service.create(input_file_id=service.upload(3))["id"]
    service.cancel(batch_id)
    service.ended(batch_id)
    refused = service.cancel(batch_id)
    assert refused.status_code == 409
    message = "Cannot cancel a batch with status 'finalized'."
    assert refused.json() == {"error": {"message": message, "type": "invalid_request_error"}}


# --- listing ---


def test_the_list_is_newest_first_and_tells_where_it_goes_on(service: Service) -> None:
    ids = [service.create()["id"] for _ in range(3)]
    page = service.list(limit=2)
    assert set(page) == {"object", "data", "first_id", "last_id", "has_more"}
    assert [item["id"] for item in page["data"]] == [ids[2], ids[1]]
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", ids[2], ids[1], True)
    service.create()
    assert service.list(limit=1, after=ids[1])["data"][0]["id"] == ids[0], "what is new moves no page"
    assert set(page["data"][0]) >= ALWAYS | {"aibrix"}


def test_the_list_ends_where_the_oldest_is(service: Service) -> None:
    ids = [service.create()["id"] for _ in range(25)]
    page = service.list()
    assert (len(page["data"]), page["has_more"]) == (20, True)
    seen = []
    while page["has_more"]:
        seen += [item["id"] for item in page["data"]]
        page = service.list(limit=100, after=seen[-1])
    seen += [item["id"] for item in page["data"]]
    assert seen[:25] == ids[::-1]
    assert len(seen) == len(set(seen))
    assert service.list(after=seen[-1]) == {"object": "list", "data": [], "has_more": False}


def test_behind_an_unknown_batch_there_is_nothing(service: Service) -> None:
    service.create()
    assert service.list(after="unknown") == {"object": "list", "data": [], "has_more": False}


# --- refusals ---

OWN = {"type": "invalid_request_error", "param": None, "code": None}


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/v1/batches/unknown", 404, {"error": {"message": "Batch not found", **OWN}}),
        ("POST", "/v1/batches/unknown/cancel", 404, {"error": {"message": "Batch not found", **OWN}}),
        ("GET", "/v1/files/unknown", 404, {"error": {"message": "File not found", **OWN}}),
        ("DELETE", "/v1/files/unknown", 404, {"error": {"message": "File not found", **OWN}}),
        ("GET", "/v1/files/unknown/content", 404, {"error": {"message": "File content not found", **OWN}}),
        ("GET", "/v1/unknown", 404, {"detail": "Not Found"}),
        ("POST", "/v1/batches/unknown/unknown", 404, {"detail": "Not Found"}),
        ("DELETE", "/v1/batches/unknown", 405, {"detail": "Method Not Allowed"}),
        ("PUT", "/v1/batches", 405, {"detail": "Method Not Allowed"}),
        ("GET", "/healthz", 200, {"status": "ok"}),
    ],
)
def test_what_is_not_there_is_told_in_the_same_words(
    service: Service, method: str, path: str, status: int, body: Any
) -> None:
    answer = service.call(method, path)
    assert (answer.status_code, answer.json()) == (status, body)


def check_invalid(answer: requests.Response, kind: str, where: list[Any]) -> None:
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert (problem["type"], problem["loc"]) == (kind, where)
    assert {"type", "loc", "msg", "input"} <= set(problem)


@pytest.mark.parametrize(
    ("fields", "kind", "where"),
    [
        ({"endpoint": "/x"}, "enum", ["endpoint"]),
        ({"completion_window": "30s"}, "value_error", ["completion_window"]),
        ({"completion_window": "0h"}, "value_error", ["completion_window"]),
        ({"completion_window": ""}, "value_error", ["completion_window"]),
        ({"completion_window": 5}, "string_type", ["completion_window"]),
        ({"input_file_id": None}, "string_type", ["input_file_id"]),
        ({"metadata": {str(number): "x" for number in range(17)}}, "too_long", ["metadata"]),
        ({"metadata": {"a": 1}}, "string_type", ["metadata", "a"]),
        ({"metadata": [1]}, "dict_type", ["metadata"]),
        ({"aibrix": 5}, "model_attributes_type", ["aibrix"]),
        ({"aibrix": {"job_id": 5}}, "string_type", ["aibrix", "job_id"]),
        ({"aibrix": {"zz": 1}}, "extra_forbidden", ["aibrix", "zz"]),
        ({"aibrix": {"client": {"zz": 1}}}, "extra_forbidden", ["aibrix", "client", "zz"]),
        ({"aibrix": {"client": {"max_concurrency": 1025}}}, "less_than_equal", ["aibrix", "client", "max_concurrency"]),
        ({"aibrix": {"client": {"max_concurrency": 0}}}, "greater_than_equal", ["aibrix", "client", "max_concurrency"]),
        ({"aibrix": {"model_template": {"version": "1"}}}, "missing", ["aibrix", "model_template", "name"]),
        ({"aibrix": {"model_template": {"name": "t", "zz": 1}}}, "extra_forbidden", ["aibrix", "model_template", "zz"]),
        ({"aibrix": {"profile": {"name": "p", "zz": 1}}}, "extra_forbidden", ["aibrix", "profile", "zz"]),
        ({"aibrix": {"runtime": {"options": {}}}}, "missing", ["aibrix", "runtime", "target"]),
        (
            {"aibrix": {"resource_allocation": {"provision_resource_deadline": 1.5}}},
            "int_from_float",
            ["aibrix", "resource_allocation", "provision_resource_deadline"],
        ),
    ],
)
def test_a_malformed_request_is_refused_by_field(
    service: Service, fields: dict[str, Any], kind: str, where: list[str]
) -> None:
    check_invalid(service.post(**fields), kind, ["body", *where])


def test_a_body_that_is_no_request_is_refused(service: Service) -> None:
    headers = {"Content-Type": "application/json"}
    check_invalid(service.call("POST", "/v1/batches", data=b"{no", headers=headers), "json_invalid", ["body", 1])
    check_invalid(service.call("POST", "/v1/batches", json=[1]), "model_attributes_type", ["body"])
    no_file = {"endpoint": "/v1/chat/completions"}
    check_invalid(service.call("POST", "/v1/batches", json=no_file), "missing", ["body", "input_file_id"])


def test_an_unknown_runtime_target_is_refused(service: Service) -> None:
    refused = service.post(aibrix={"runtime": {"target": "Nowhere"}})
    error = refused.json()["error"]
    assert (refused.status_code, error | OWN) == (400, error)
    assert "'Nowhere' is not a known runtime target. Valid: ['External'" in error["message"]


@pytest.mark.parametrize(
    ("limit", "kind"), [("0", "greater_than_equal"), ("101", "less_than_equal"), ("x", "int_parsing")]
)
def test_a_wrong_limit_is_refused(service: Service, limit: str, kind: str) -> None:
    check_invalid(service.call("GET", f"/v1/batches?limit={limit}"), kind, ["query", "limit"])


# --- files ---


def test_an_uploaded_file_can_be_read_and_deleted(service: Service) -> None:
    content = "{}\n\u00fc\n"
    uploaded = service.send_file("in.jsonl", content)
    body = uploaded.json()
    assert (uploaded.status_code, set(body)) == (
        200,
        {"id", "object", "bytes", "created_at", "filename", "purpose", "status"},
    )
    size = len(content.encode())
    assert body | {"object": "file", "bytes": size, "filename": "in.jsonl", "purpose": "batch"} == body
    path = f"/v1/files/{body['id']}"
    assert service.call("GET", f"{path}/content").content == content.encode()
    shown = service.call("GET", path).json()
    assert shown | body == shown
    assert service.call("DELETE", path).json() == {"id": body["id"], "object": "file", "deleted": True}
    assert service.call("GET", f"{path}/content").status_code == 404


def test_what_is_no_batch_input_is_refused(service: Service) -> None:
    wrong = service.send_file("in.txt", "{}")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "file")
    check_invalid(service.send_file("in.jsonl", "{}", purpose="fun"), "enum", ["body", "purpose"])
    check_invalid(service.call("POST", "/v1/files", files={"purpose": (None, "batch")}), "missing", ["body", "file"])
