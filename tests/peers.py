"""A TCP listener that misbehaves: what no HTTP mock can show about connections."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from typing import Self


class Peer:
    """A listener that reads each request and then answers (None: stays silent) and perhaps closes."""

    def __init__(self, answer: Callable[[bytes], bytes | None], *, closes: bool = False) -> None:
        self.connections = 0
        self._answer = answer
        self._closes = closes
        self._kept: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._kept.append(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while request := read_request(connection):
                if answer := self._answer(request):
                    connection.sendall(answer)
                if self._closes:
                    connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for connection in self._kept:
            connection.close()


def read_request(connection: socket.socket) -> bytes:
    """One whole request, head and body; empty when the other side has closed."""
    request = b""
    while True:
        head, end, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if end and len(body) >= (int(length[1]) if length else 0):
            return request
        if not (received := connection.recv(65536)):
            return b""
        request += received


def silence(request: bytes) -> None:
    """The answer of a peer that hangs, or that closes without a word."""


def constant(answer: bytes) -> Callable[[bytes], bytes]:
    return lambda request: answer
