"""Input files as people upload them: lines that are requests."""

from __future__ import annotations

import json
from typing import Any

BODY = {"model": "m", "messages": []}


def line(number: int = 0, **fields: Any) -> bytes:
    """One request; a field of None is there, and null."""
    request = {"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": BODY}
    return json.dumps(request | fields).encode() + b"\n"


def lines(count: int) -> bytes:
    """A file of so many requests."""
    return b"".join(line(number) for number in range(count))
