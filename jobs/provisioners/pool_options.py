"""What an adapter for a cloud takes from its pool's options and the environment. A secret is only ever named there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jobs.errors import UpstreamError, UpstreamKind

_MASK = "***"
_SHOWN_CHARACTERS = 300  # of what a provider says


def setting(options: dict[str, Any], name: str, variable: str, default: str = "") -> str:
    """The pool's own option, else the environment variable, else the default."""
    value = options.get(name) or os.environ.get(variable) or default
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text")
    return value


def name_list(options: dict[str, Any], name: str, variable: str) -> list[str]:
    """A list of names: the pool's own option, else the environment variable, with commas between."""
    value = options.get(name) or os.environ.get(variable, "").split(",")
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{name} must be a list of names")
    return [each.strip() for each in value if each.strip()]


def mapping(options: dict[str, Any], name: str) -> dict[str, Any]:
    """An option that is an object; empty if it is not given."""
    value = options.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object")
    return value


def unusable(message: str, code: str) -> UpstreamError:
    """Something is not set up: of the kind that fails no job, for nothing works there until an operator acts."""
    return UpstreamError(UpstreamKind.INVALID_CREDENTIAL, message, code=code)


class ApiKey:
    """A key by reference: the option `api_key_env` names a variable, `api_key_file` a file; read anew at every use,
    so that a key may be replaced while the planner runs. It is shown nowhere.
    """

    def __init__(self, options: dict[str, Any], *, upstream: str, variable: str) -> None:
        """`variable` is read if the pool names neither. A pool that holds the key itself is refused."""
        if "api_key" in options:
            raise unusable(
                f"{upstream}: a pool names its key in api_key_env or api_key_file, and holds none", "api_key"
            )
        self._upstream = upstream
        self._file = str(options.get("api_key_file") or "")
        self._variable = str(options.get("api_key_env") or variable)

    @property
    def reference(self) -> str:
        """Where the key is."""
        return f"file {self._file}" if self._file else f"environment variable {self._variable}"

    def read(self) -> str:
        """The key. Raises `UpstreamError` if there is none that could be sent."""
        try:
            text = Path(self._file).read_text() if self._file else os.environ.get(self._variable, "")
        except (OSError, ValueError) as error:
            message = f"{self._upstream}: the key cannot be read from {self.reference} ({type(error).__name__})"
            raise unusable(message, "no_api_key") from error
        key = text.strip()
        if not key:
            raise unusable(f"{self._upstream}: there is no key in {self.reference}", "no_api_key")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise unusable(f"{self._upstream}: what {self.reference} holds is no key", "no_api_key")
        return key

    def hidden_in(self, text: str) -> str:
        """What the provider said, short, and without the key should it have been so kind as to repeat it."""
        return text.replace(self.read(), _MASK)[:_SHOWN_CHARACTERS]
