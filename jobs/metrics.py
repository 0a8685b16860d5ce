"""What only a process knows of itself, counted as it happens; what rows tell is read on scrape (`collector`).

Processes that serve one port together share a folder, named in PROMETHEUS_MULTIPROC_DIR before they start; without one
a process counts for itself. Why so: docs/decisions/metrics.md.
"""

from __future__ import annotations

import fcntl
import hmac
import ipaddress
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from django.conf import settings
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from jobs import metric_folder
from jobs.errors import UpstreamError

MDS = "mds"  # the target that is no pool
FOLDER = metric_folder.VARIABLE


class Slot:
    """The number of this process among those of a folder: the lowest that nobody living has.

    With it the process takes over the figures of the one that had it before: workers come and go, and by process id
    there would be more and more files, each read by every scrape.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._pid = 0
        self._number = 0
        self._lock: TextIO | None = None

    def __call__(self) -> int:
        """The number; another one after a fork."""
        if self._pid != os.getpid():
            self._take()
        return self._number

    def _take(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            lock = (self._folder / f"{number}.lock").open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
            else:
                self._pid, self._number, self._lock = os.getpid(), number, lock
                return


if os.environ.get(FOLDER):
    values.ValueClass = values.MultiProcessValue(Slot(os.environ[FOLDER]))  # type: ignore[no-untyped-call] # the library's own
disable_created_metrics()  # type: ignore[no-untyped-call] # the library's own

_own = CollectorRegistry()

_CALL_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 40)
_WAIT_BUCKETS = (1, 5, 15, 60, 300, 900, 1800, 3600, 4 * 3600, 24 * 3600)

JOB_TRANSITIONS = Counter(
    "planner_job_transitions_total", "Jobs that changed their status.", ["from_status", "to_status"], registry=_own
)
PROVISION_TRANSITIONS = Counter(
    "planner_provision_transitions_total", "Provisions that changed their status.", ["pool", "to_status"], registry=_own
)
ACCEPT_TO_SUBMIT = Histogram(
    "planner_accept_to_submit_seconds",
    "From the accept of a job to its first batch.",
    ["pool"],
    buckets=_WAIT_BUCKETS,
    registry=_own,
)
REQUEST_TO_READY = Histogram(
    "planner_request_to_ready_seconds",
    "From the request of a resource to its readiness.",
    ["pool"],
    buckets=_WAIT_BUCKETS,
    registry=_own,
)
CALL_SECONDS = Histogram(
    "planner_outside_call_seconds",
    "Outside calls of the engine and of uploads and downloads, by pool or mds.",
    ["target", "operation"],
    buckets=_CALL_BUCKETS,
    registry=_own,
)
CALL_ERRORS = Counter(
    "planner_outside_call_errors_total",
    "Outside calls that failed, by the class of the failure.",
    ["target", "operation", "error"],
    registry=_own,
)
PASS_SECONDS = Histogram(
    "planner_pass_seconds",
    "Passes of the workers.",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 90),
    registry=_own,
)
ROWS_CLAIMED = Counter("planner_rows_claimed_total", "Jobs and releases taken in hand by passes.", registry=_own)
STALE_RESULTS = Counter(
    "planner_stale_results_total", "Results that came late and were not written.", ["operation"], registry=_own
)
HINTS_SENT = Counter("planner_wakeups_sent_total", "Hints sent.", registry=_own)
HINTS_COALESCED = Counter(
    "planner_wakeups_coalesced_total", "Hints that were taken together with another one.", registry=_own
)
ORPHANS_FOUND = Counter(
    "planner_orphans_found_total", "Findings of the orphan sweep, by pool or mds.", ["where"], registry=_own
)
HTTP_SECONDS = Histogram(
    "planner_http_request_seconds",
    "Requests answered by the web, to the first byte.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=_own,
)
HTTP_RESPONSES = Counter(
    "planner_http_responses_total", "Answers of the web.", ["method", "route", "status"], registry=_own
)


@contextmanager
def outside_call(target: str, operation: str) -> Iterator[None]:
    """Count one call, how long it took, and what went wrong."""
    began = time.perf_counter()
    try:
        yield
    except Exception as error:
        kind = error.kind.value if isinstance(error, UpstreamError) else "defect"
        CALL_ERRORS.labels(target, operation, kind).inc()
        raise
    finally:
        CALL_SECONDS.labels(target, operation).observe(time.perf_counter() - began)


def registry(*more: Collector, folder: str | None = None) -> CollectorRegistry:
    """What is to be shown: of all processes of the folder (this process's own by default), and what else is given."""
    shown = CollectorRegistry()
    if folder := folder or os.environ.get(FOLDER):
        Path(folder).mkdir(parents=True, exist_ok=True)
        MultiProcessCollector(shown, folder)  # type: ignore[no-untyped-call] # the library's own
    else:
        shown.register(_own)
    for collector in more:
        shown.register(collector)
    return shown


def may_read(address: str, authorization: str) -> bool:
    """Whether one at this address, with this `Authorization`, may see the figures: by either setting."""
    token = settings.PLANNER_METRICS_TOKEN
    if token and hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
        return True
    with suppress(ValueError):
        seen = ipaddress.ip_address(address)
        seen = getattr(seen, "ipv4_mapped", None) or seen
        return any(seen in ipaddress.ip_network(network) for network in settings.PLANNER_METRICS_NETWORKS)
    return False
