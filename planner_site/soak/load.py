"""The clients of a soak: they submit jobs over REST, cancel some, and repeat what was not answered."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import requests

_CLIENTS = 12
_CANCELLED_SHARE = 0.2
_IMPATIENT_SHARE = 0.1  # hang up before the answer can have come, and ask again
_REPEATED_SHARE = 0.1  # ask again after the answer has come
_LONGEST_BEFORE_CANCEL_SECONDS = 25.0
_TIMEOUT_SECONDS = 5.0
_HANG_UP_SECONDS = 0.02
_PAUSE_SECONDS = 0.5
_DISPATCH_SECONDS = 0.05
_LAST_SUBMIT = 0.9  # of the time there is


@dataclass(frozen=True)
class Order:
    """What one client does: submit at `at`, and cancel so long after the answer, or never."""

    key: str
    at: float
    cancel_after: float | None
    is_impatient: bool
    is_repeated: bool


def orders(seed: int, jobs: int, seconds: float) -> list[Order]:
    """What all clients do, in order; the same for the same seed."""
    chance = random.Random(f"{seed}:load")  # noqa: S311 - to be repeated, not to be secret
    moments = sorted(chance.uniform(0, seconds * _LAST_SUBMIT) for _ in range(jobs))
    return [
        Order(
            key=f"soak-{number}",
            at=at,
            cancel_after=_cancel_after(chance),
            is_impatient=chance.random() < _IMPATIENT_SHARE,
            is_repeated=chance.random() < _REPEATED_SHARE,
        )
        for number, at in enumerate(moments)
    ]


def _cancel_after(chance: random.Random) -> float | None:
    after, is_cancelled = chance.uniform(0, _LONGEST_BEFORE_CANCEL_SECONDS), chance.random() < _CANCELLED_SHARE
    return after if is_cancelled else None


class Load:
    """All clients at work. What they were answered is in `accepted`, `cancels` and `refused`."""

    def __init__(self, url: str, token: str, job: dict[str, Any], todo: list[Order]) -> None:
        """`job` is the body of every POST; each has a name of its own."""
        self._api = f"{url}/api/v1"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._job = job
        self._clients = ThreadPoolExecutor(_CLIENTS, thread_name_prefix="client")
        self._dispatcher = threading.Thread(target=self._dispatch, name="clients", daemon=True)
        self._is_over = threading.Event()
        self._local = threading.local()
        self._lock = threading.Lock()
        self._number = itertools.count()  # no two calls of one moment are compared any further
        self._calls = [(order.at, next(self._number), partial(self._submit, order)) for order in todo]
        self._began = 0.0
        self.unanswered = len(self._calls)
        self.accepted: dict[str, set[str]] = {}  # the job ids answered, by key: one each
        self.cancels: set[str] = set()  # jobs whose cancel was accepted
        self.refused: list[str] = []  # what no client should ever be told
        self.answers: Counter[str] = Counter()  # by status; "none" for calls without an answer

    def start(self) -> None:
        """Begin."""
        self._began = time.monotonic()
        self._dispatcher.start()

    def stop(self) -> None:
        """Give up what is not answered."""
        self._is_over.set()
        self._clients.shutdown(cancel_futures=True)

    def _dispatch(self) -> None:
        while not self._is_over.wait(_DISPATCH_SECONDS):
            with self._lock:
                while self._calls and self._calls[0][0] <= time.monotonic() - self._began:
                    self._clients.submit(self._serve, heapq.heappop(self._calls)[2])

    def _serve(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # a client that breaks must not look like one that was served
            self.refused.append(f"a client broke: {error!r}")
        finally:
            with self._lock:
                self.unanswered -= 1

    def _submit(self, order: Order) -> None:
        body, headers = self._job | {"name": order.key}, {"Idempotency-Key": order.key}
        if order.is_impatient:
            self._ask("/jobs", body, headers, timeout=_HANG_UP_SECONDS)
        job_id = ""
        for _ in range(2 if order.is_repeated else 1):
            answer = self._insist("/jobs", body, headers)
            if answer is None:
                return
            if not answer.ok:
                self.refused.append(f"{order.key}: {answer.status_code} {answer.text[:200]}")
                return
            job_id = str(answer.json()["id"])
            with self._lock:
                self.accepted.setdefault(order.key, set()).add(job_id)
        if order.cancel_after is not None:
            at = time.monotonic() - self._began + order.cancel_after
            with self._lock:
                heapq.heappush(self._calls, (at, next(self._number), partial(self._cancel, job_id)))
                self.unanswered += 1

    def _cancel(self, job_id: str) -> None:
        answer = self._insist(f"/jobs/{job_id}/cancel", {}, {})
        if answer is None or answer.status_code == requests.codes.conflict:  # it was over before
            return
        with self._lock:
            if answer.ok:
                self.cancels.add(job_id)
            else:
                self.refused.append(f"cancel of {job_id}: {answer.status_code} {answer.text[:200]}")

    def _insist(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> requests.Response | None:
        """Ask until there is an answer that asking again would not change; None if the soak is over before."""
        while not self._is_over.is_set():
            answer = self._ask(path, body, headers, timeout=_TIMEOUT_SECONDS)
            if answer is not None and answer.status_code != requests.codes.too_many and answer.status_code < 500:
                return answer
            self._is_over.wait(_PAUSE_SECONDS)
        return None

    def _ask(
        self, path: str, body: dict[str, Any], headers: dict[str, str], *, timeout: float
    ) -> requests.Response | None:
        """One call; None if it was not answered."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False  # a proxy of the environment has no business on loopback
        try:
            response: requests.Response = self._local.session.post(
                f"{self._api}{path}", json=body, headers=self._headers | headers, timeout=timeout
            )
        except requests.RequestException:
            self._count("none")
            return None
        self._count(str(response.status_code))
        return response

    def _count(self, answer: str) -> None:
        with self._lock:
            self.answers[answer] += 1
