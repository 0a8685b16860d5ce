"""What is named like a secret is not shown, wherever a document is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

HIDDEN = "•••"
# `max_tokens` and the like are counts
_SECRET = re.compile(r"token(?!s)|secret|passw|credential|authorization|(api|private|access)_?key", re.IGNORECASE)


def without_secrets(value: Any) -> Any:
    """The same document, with `HIDDEN` in the place of every value whose name is a secret's."""
    if isinstance(value, dict):
        return {key: HIDDEN if _SECRET.search(str(key)) else without_secrets(item) for key, item in value.items()}
    return [without_secrets(item) for item in value] if isinstance(value, list | tuple) else value


def secrets_in(value: Any) -> Iterator[str]:
    """The names in a document that hold a secret, rather than where it is: `..._env` and `..._file` are references."""
    if isinstance(value, dict):
        for key, item in value.items():
            if _SECRET.search(str(key)) and not str(key).lower().endswith(("_env", "_file")):
                yield str(key)
            else:
                yield from secrets_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from secrets_in(item)
