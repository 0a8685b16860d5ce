"""Looks on from a thread and a connection of its own: jobs by status, and how long anything has been stuck."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

import psycopg

_TERMINAL = "('completed', 'failed', 'expired', 'cancelled')"

_STATUSES = "SELECT status, count(*) FROM jobs_job GROUP BY status"

# Due, or its lease over, and nobody has taken it yet.
_OVERDUE = f"""
    SELECT 'job ' || id || ' (' || status || ')', 'due', extract(epoch FROM clock_timestamp() - claimable_at)
    FROM jobs_job WHERE status NOT IN {_TERMINAL} AND claimable_at < clock_timestamp()
    UNION ALL
    SELECT 'release of ' || name, 'due', extract(epoch FROM clock_timestamp() - claimable_at)
    FROM jobs_provision WHERE status = 'releasing' AND claimable_at < clock_timestamp()
    UNION ALL
    SELECT 'listing of pool ' || name, 'due',
           extract(epoch FROM clock_timestamp() - COALESCE(observe_lease_expires_at, observe_at))
    FROM jobs_pool WHERE COALESCE(observe_lease_expires_at, observe_at) < clock_timestamp()
    UNION ALL
    SELECT 'scan of the MDS''s list', 'due', extract(epoch FROM clock_timestamp() - COALESCE(lease_expires_at, due_at))
    FROM jobs_batchscan WHERE COALESCE(lease_expires_at, due_at) < clock_timestamp()
"""  # noqa: S608 - only constants are put in

# Nothing due and in nobody's hands: how long is for the one who looks to remember.
_FORGOTTEN = f"""
    SELECT 'job ' || id || ' (' || status || ')', 'nothing due'
    FROM jobs_job WHERE status NOT IN {_TERMINAL} AND status <> 'pending' AND claimable_at IS NULL
    UNION ALL
    SELECT 'release of ' || name, 'nothing due' FROM jobs_provision WHERE status = 'releasing' AND claimable_at IS NULL
    UNION ALL
    SELECT 'listing of pool ' || pool.name, 'nothing due' FROM jobs_pool AS pool
    WHERE COALESCE(observe_lease_expires_at, observe_at) IS NULL AND EXISTS (
        SELECT 1 FROM jobs_provision WHERE pool_id = pool.id AND status IN ('provisioning', 'ready')
    )
    UNION ALL
    SELECT 'job ' || job.id || ' (pending)', 'there is room' FROM jobs_job AS job
    WHERE job.status = 'pending' AND NOT job.hold AND job.cancel_requested_at IS NULL AND EXISTS (
        SELECT 1 FROM jobs_pool AS pool WHERE is_enabled
        AND COALESCE((capacity_retry_at -> job.accelerator_type ->> 'at')::float, 0) < extract(epoch FROM now())
        AND (SELECT count(*) FROM jobs_provision
             WHERE pool_id = pool.id AND status NOT IN ('released', 'written_off')) < max_live
        AND (SELECT count(*) FROM jobs_provision
             WHERE pool_id = pool.id AND status IN ('requested', 'provisioning')) < max_provisioning
    )
"""  # noqa: S608 - only constants are put in

_RESOURCES = "SELECT name FROM jobs_provision WHERE status IN ('provisioning', 'ready') ORDER BY name"
_BATCHES = f"""
    SELECT batch_id, id || ':' || attempt, input_file_id, endpoint
    FROM jobs_job WHERE batch_id <> '' AND status NOT IN {_TERMINAL} ORDER BY id
"""  # noqa: S608 - only constants are put in

_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class Followed:
    """A batch that a live job follows, and what another one of the same attempt would be made of."""

    id: str
    attempt: str  # `<job id>:<number>`
    input_file_id: str
    endpoint: str


class Watch:
    """Samples once a second until stopped. What it saw last is in its attributes."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._is_over = threading.Event()
        self._since: dict[tuple[str, str], float] = {}
        self.statuses: Counter[str] = Counter()
        self.resources: list[str] = []  # names held, that are not being released
        self.batches: list[Followed] = []
        self.stuck_seconds = 0.0  # the longest just now
        self.longest_stuck_seconds = 0.0
        self.longest_stuck = ""  # who, and how
        self.seen_at = 0.0  # of the last sample, on the monotonic clock

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End. A thread that hangs on a stopped database ends with the process."""
        self._is_over.set()
        self._thread.join(2 * _EVERY_SECONDS)

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True, connect_timeout=3) as connection:
                    while not self._is_over.wait(_EVERY_SECONDS):
                        self._sample(connection)
            except psycopg.Error:
                self._is_over.wait(_EVERY_SECONDS / 2)

    def _sample(self, connection: psycopg.Connection) -> None:
        self.statuses = Counter(dict(connection.execute(_STATUSES).fetchall()))
        self.resources = [row[0] for row in connection.execute(_RESOURCES).fetchall()]
        self.batches = [Followed(*row) for row in connection.execute(_BATCHES).fetchall()]
        stuck = [(float(seconds), who, how) for who, how, seconds in connection.execute(_OVERDUE).fetchall()]
        now = time.monotonic()
        forgotten = {(who, how) for who, how in connection.execute(_FORGOTTEN).fetchall()}
        self._since = {each: self._since.get(each, now) for each in forgotten}
        stuck += [(now - since, who, how) for (who, how), since in self._since.items()]
        self.stuck_seconds = max((seconds for seconds, _, _ in stuck), default=0.0)
        if self.stuck_seconds > self.longest_stuck_seconds:
            self.longest_stuck_seconds, who, how = max(stuck)
            self.longest_stuck = f"{who}, {how}"
        self.seen_at = now
