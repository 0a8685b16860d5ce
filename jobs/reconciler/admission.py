"""Admission: which pending jobs go to which pool now. One process at a time, so that no limit is exceeded."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from heapq import merge

from django.db import OperationalError, transaction

from jobs import queueing
from jobs.errors import UpstreamError, is_lock_timeout
from jobs.lifecycle.admission import Pick, admit
from jobs.lifecycle.claims import Bulkhead, Taken, database_now
from jobs.models import Job, Pool
from jobs.reconciler.calls import provisioner_of

_MOST_AT_ONCE = 200


def admission(slots: dict[Bulkhead, int], send_hint: Callable[[], None]) -> Taken:
    """One step of admission: pick, insert the provisions, and go on to their creates where there is room.

    Another process in the middle of its own step is waited for no longer than the lock timeout; a hint stands in.
    """
    if not queueing.admissible().exists():
        return Taken()
    began = time.monotonic()
    try:
        with transaction.atomic():
            queueing.lock_admission()
            # read only now: what committed while we waited for the lock must be seen
            now = database_now()
            picks = _picks(now)
            return admit(picks, slots, began, now) if picks else Taken()
    except OperationalError as error:
        if not is_lock_timeout(error):
            raise
        send_hint()
        return Taken()


def _picks(now: datetime) -> list[Pick]:
    rooms = queueing.room()
    policy = queueing.policy()
    queues = []
    for name in queueing.waiting_classes():
        accelerator = queueing.accelerator_of(name)
        places = sum(r.free for r in rooms if r.free > 0 and r.offers(accelerator, now))
        if places > 0:
            candidates = policy.candidates(name, min(places, _MOST_AT_ONCE))
            queues.append(candidates.select_for_update(skip_locked=True, no_key=True))
    picks: list[Pick] = []
    for job in merge(*queues, key=policy.key):
        room = next((r for r in rooms if r.free > 0 and r.offers(job.accelerator_type, now)), None)
        if room is None:
            continue
        room.free -= 1
        longest = max(r.pool.ready_timeout_seconds for r in rooms if _is_among(job, r.pool))
        picks.append(Pick(job, room.pool, _holds_resources(room.pool), longest))
        if len(picks) == _MOST_AT_ONCE:
            break
    return picks


def _holds_resources(pool: Pool) -> bool:
    try:
        return provisioner_of(pool).holds_resources
    except UpstreamError:
        return True  # its settings are broken: the create call will say so and disable the pool


def _is_among(job: Job, pool: Pool) -> bool:
    """Whether the pool could ever serve the job, however full it is now."""
    return not pool.accelerator_types or not job.accelerator_type or job.accelerator_type in pool.accelerator_types
