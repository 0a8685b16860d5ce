"""Lines of an input file: what the MDS would refuse a whole batch for is refused before anything is rented for it."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest

from jobs import conf, input_lines
from jobs.errors import InvalidRequest
from jobs.input_lines import Requests, check_lines
from tests.batch_file import BODY, line, lines

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": BODY,
    "/v1/completions": {"model": "m", "prompt": "Say"},
    "/v1/embeddings": {"model": "m", "input": ["a", "b"]},
    "/v1/rerank": {"model": "m", "query": "q", "documents": []},
}


def checked(content: bytes) -> Requests:
    return check_lines(BytesIO(content))


def refusal(content: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        checked(content)
    assert caught.value.field == "file"
    return caught.value.reason


@pytest.mark.parametrize("endpoint", conf.ENDPOINTS)
def test_it_works(endpoint: str) -> None:
    whole = line(url=f"https://api.example.org{endpoint}", method="post", body=BODIES[endpoint])
    assert checked(whole + b"\n  \n" + line(url=endpoint, body=BODIES[endpoint])) == Requests(2, endpoint)


def without(endpoint: str, name: str, value: Any = None) -> bytes:
    return line(url=endpoint, body=BODIES[endpoint] | {name: value})


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"[1]\n", "not a JSON object"),
        (b"{\n", "not a JSON object"),
        (b"\xff\xfe\n", "not a JSON object"),
        (b"[" * 100_000 + b"\n", "not a JSON object"),
        (line(custom_id=1), "custom_id is missing or not a string"),
        (line(method=None), "method is missing or not a string"),
        (line(method="SEND"), "method is not one of DELETE, GET, PATCH, POST, PUT"),
        (line(url={}), "url is missing or not a string"),
        (line(url="/v1/videos"), f"url does not end in one of {', '.join(conf.ENDPOINTS)}"),
        (line(url="/v1/embeddings"), "url is for /v1/embeddings, of the lines before for /v1/chat/completions"),
        (line(body="x"), "body is missing or not an object"),
        (line(body={"messages": []}), "body.model is missing"),
        (line(body={"model": "m", "messages": "hi"}), "body.messages is missing or not a list"),
    ],
)
def test_the_first_bad_line_is_named(bad: bytes, problem: str) -> None:
    assert refusal(line() + b"\n" + bad + b"also bad\n") == f"line 3: {problem}"


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (without("/v1/completions", "prompt"), "body.prompt is missing or not a string or a list"),
        (without("/v1/embeddings", "input", 5), "body.input is missing or not a string or a list"),
        (without("/v1/rerank", "query", []), "body.query is missing or not a string"),
        (without("/v1/rerank", "documents", "d"), "body.documents is missing or not a list"),
    ],
)
def test_what_a_body_needs_its_endpoint_says(bad: bytes, problem: str) -> None:
    assert refusal(bad) == f"line 1: {problem}"


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n"])
def test_an_empty_file_is_refused(content: bytes) -> None:
    assert refusal(content) == "is empty"


def test_too_many_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf, "MAX_FILE_LINES", 3)
    assert checked(lines(3)).count == 3
    assert refusal(lines(4)) == "has more than 3 requests"


def test_too_long_a_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_lines, "MAX_LINE_BYTES", 200)
    assert refusal(line() + line(custom_id="x" * 200)) == "line 2: longer than 200 bytes"
