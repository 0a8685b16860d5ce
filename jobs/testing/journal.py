"""The file in which a double keeps what happened, so that it outlives the process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


class Journal:
    """Events, one JSON object a line, appended and never changed. Without a path nothing is kept.

    A last line that a kill cut short did not happen, and is dropped at the next write.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._whole_bytes = 0

    def replay(self) -> Iterator[dict[str, Any]]:
        """Every event so far, oldest first; reading changes nothing. To be read to its end before any write."""
        if self._path is not None and self._path.exists():
            for line in self._path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    yield json.loads(line)
                    self._whole_bytes += len(line)

    def append(self, event: dict[str, Any]) -> None:
        """Write one event; it survives a kill of the process from then on."""
        if self._path is None:
            return
        if self._file is None:
            # Unbuffered: each event is one write, on disk's side of the process before anybody hears of it.
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(self._whole_bytes)
        self._whole_bytes += self._file.write(json.dumps(event).encode() + b"\n")

    def close(self) -> None:
        """Close the file; what was written stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
