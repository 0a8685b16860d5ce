"""The lines of an input file, each checked for what the MDS would refuse the whole batch for, its resource rented.

Pure: bytes in, and what they are in all. Nothing is read into memory as a whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import IO, Any

from jobs import conf
from jobs.errors import InvalidFile, InvalidRequest

MAX_LINE_BYTES = 10 * 1024 * 1024  # one line is held in memory to be checked
MOST_PROBLEMS = 10  # bad lines that are told; what is behind them is not read

_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH"})
_WORDS: dict[type, str] = {str: "a string", list: "a list"}
# What the body of a request has to have, besides its model.
_MEMBERS: dict[str, dict[str, tuple[type, ...]]] = {
    "/v1/chat/completions": {"messages": (list,)},
    "/v1/completions": {"prompt": (str, list)},
    "/v1/embeddings": {"input": (str, list)},
    "/v1/rerank": {"query": (str,), "documents": (list,)},
}


@dataclass(frozen=True)
class Requests:
    """What a file holds: so many requests, all for one endpoint."""

    count: int
    endpoint: str


def check_lines(content: IO[bytes]) -> Requests:
    """Read a file to its end; raises `InvalidRequest`, or `InvalidFile`, which names the first bad lines."""
    count, number, endpoint = 0, 0, ""
    problems: list[str] = []
    while len(problems) < MOST_PROBLEMS and (line := content.readline(MAX_LINE_BYTES + 1)):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            problems.append(f"line {number}: longer than {MAX_LINE_BYTES} bytes")
            break
        if not line.strip():
            continue
        try:
            endpoint = _endpoint_of(line, endpoint)
        except _BadLine as bad:
            problems.append(f"line {number}: {bad}")
        count += 1
        if count > conf.MAX_FILE_LINES:
            raise InvalidRequest("file", f"has more than {conf.MAX_FILE_LINES} requests")
    if problems:
        raise InvalidFile(problems)
    if count == 0:
        raise InvalidRequest("file", "is empty")
    return Requests(count, endpoint)


class _BadLine(Exception):
    """Why a line is refused."""


def _endpoint_of(line: bytes, expected: str) -> str:
    """The endpoint that a request is for: the `expected` one, if there is one."""
    request = _request(line)
    for key in ("custom_id", "method", "url"):
        if not isinstance(request.get(key), str):
            raise _BadLine(f"{key} is missing or not a string")
    if request["method"].upper() not in _METHODS:
        raise _BadLine(f"method is not one of {', '.join(sorted(_METHODS))}")
    endpoint = next((each for each in conf.ENDPOINTS if request["url"].endswith(each)), "")
    if not endpoint:
        raise _BadLine(f"url does not end in one of {', '.join(conf.ENDPOINTS)}")
    if expected and endpoint != expected:
        raise _BadLine(f"url is for {endpoint}, of the lines before for {expected}")
    _check_body(request.get("body"), endpoint)
    return endpoint


def _request(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line.decode())
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise _BadLine("not a JSON object")
    return request


def _check_body(body: Any, endpoint: str) -> None:
    if not isinstance(body, dict):
        raise _BadLine("body is missing or not an object")
    if "model" not in body:
        raise _BadLine("body.model is missing")
    for name, kinds in _MEMBERS[endpoint].items():
        if not isinstance(body.get(name), kinds):
            raise _BadLine(f"body.{name} is missing or not {' or '.join(_WORDS[kind] for kind in kinds)}")
