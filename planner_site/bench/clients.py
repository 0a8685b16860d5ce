"""Clients that send one POST over and over on kept connections, and cost so little that they are not what is measured.

Raw sockets, one process for many clients; it prints what it saw as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import selectors
import socket
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PIECE_BYTES = 65536


@dataclass
class _Client:
    connection: socket.socket
    sent_at: float = 0
    received: bytes = b""

    def send(self, request: bytes) -> None:
        """The next request; small enough for the socket to take at once."""
        self.sent_at = time.monotonic()
        self.connection.sendall(request)

    def answer(self) -> int | None:
        """The status of an answer that is whole, else None. Raises `ConnectionError` if there will be none."""
        piece = self.connection.recv(_PIECE_BYTES)
        if not piece:
            raise ConnectionError("the server hung up")
        self.received += piece
        end = self.received.find(b"\r\n\r\n")
        length = _LENGTH.search(self.received[:end]) if end >= 0 else None
        if length is None or len(self.received) < end + 4 + int(length[1]):
            return None
        status = int(self.received[9:12])
        self.received = b""
        return status


def main() -> None:
    """Warm up, then measure."""
    parser = argparse.ArgumentParser(description="Clients of the accept measurement.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--header", action="append", default=[], help="one more header, as it is sent")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--warm-up", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    address = urlsplit(given.url)
    body = sys.stdin.buffer.read()
    lines = [
        f"POST {address.path} HTTP/1.1",
        f"Host: {address.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *given.header,
    ]
    request = "\r\n".join([*lines, "", ""]).encode() + body
    clients = [
        _Client(socket.create_connection((address.hostname or "", address.port or 80))) for _ in range(given.clients)
    ]
    json.dump(_measured(clients, request, given.warm_up, given.seconds), sys.stdout)


def _measured(clients: list[_Client], request: bytes, warm_up: float, seconds: float) -> dict[str, object]:
    """`latencies` in seconds of all that were answered while it was measured, by `statuses`; the CPU seconds spent.

    The warm-up goes on until each client has been answered once.
    """
    chosen = selectors.DefaultSelector()
    for client in clients:
        chosen.register(client.connection, selectors.EVENT_READ, client)
        client.send(request)
    cold = {client.connection for client in clients}
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    began, cpu = time.monotonic() + warm_up, 0.0
    while (now := time.monotonic()) < began + seconds:
        if cold or now < began:
            began, cpu = max(began, now), _cpu_seconds()
        for key, _ in chosen.select(timeout=0.1):
            answered: _Client = key.data
            status = answered.answer()
            if status is None:
                continue
            if not cold and now >= began:
                latencies.append(time.monotonic() - answered.sent_at)
            statuses[status] = statuses.get(status, 0) + 1
            cold.discard(answered.connection)
            answered.send(request)
    return {"latencies": latencies, "statuses": statuses, "cpu_seconds": _cpu_seconds() - cpu}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
