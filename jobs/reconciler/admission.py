"""Admission: which pending jobs go to which pool now. One process at a time, so that no limit is exceeded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from django.db import OperationalError, transaction

from jobs import limits, queueing
from jobs.errors import UpstreamError, is_lock_timeout
from jobs.lifecycle.admission import Pick, admit
from jobs.lifecycle.claims import Bulkhead, Taken, database_now
from jobs.models import Pool
from jobs.placement import Wanted, wanted_by
from jobs.queue_merge import Merged, waiting_classes
from jobs.reconciler.calls import provisioner_of

_MOST_AT_ONCE = 200
_MOST_SKIPPED = 1000  # jobs that no limit will ever let through, per step


def admission(slots: dict[Bulkhead, int], send_hint: Callable[[], None]) -> Taken:
    """One step of admission: pick, insert the provisions, and go on to their creates where there is room.

    Another process in the middle of its own step is waited for no longer than the lock timeout; a hint stands in.
    """
    if not queueing.has_admissible():
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
    rooms = limits.Rooms()
    if rooms.queue.hold:
        return []
    chosen = _chosen(rooms, now)
    # not those whom somebody else has in hand, or has cancelled or held meanwhile: their turn comes again
    locked = queueing.lock_admissible(chosen)
    picks = []
    for job_id, pool in chosen.items():
        job = locked.get(job_id)
        if job is not None:
            longest = max(each.pool.ready_timeout_seconds for each in rooms.suited(wanted_by(job)))
            picks.append(Pick(job, pool, *_manner(pool), longest))
    return picks


def _chosen(rooms: limits.Rooms, now: datetime) -> dict[str, Pool]:
    """Ids of jobs with the pools they go to, in the order of the queue, as far as there is room."""
    classes = _open_classes(rooms, now)
    merged = Merged(queueing.policy(), classes, partial(_is_free, rooms))
    chosen: dict[str, Pool] = {}
    skipped = 0
    for queued in merged:
        queue, size = queued.queue, queued.accelerators
        wanted = classes[queue.queue_class]
        suited = rooms.suited(wanted)
        owner = rooms.of_owner(queue.owner_id)
        if not (owner.could_ever_fit(size) and any(pool.room.could_ever_fit(size) for pool in suited)):
            # it waits for somebody to change a limit, and holds up nobody meanwhile
            skipped += 1
            if skipped == _MOST_SKIPPED:
                break
            continue
        if not owner.fits(size):
            merged.drop(queue)
            continue
        in_order = _in_order(suited, queued.lost_in)
        offering = [pool for pool in in_order if pool.offers(wanted.accelerator_type, now)]
        best = next((pool for pool in offering if pool.room.fits(size)), None)
        if best is None:
            # nobody behind it passes it by in the pools it waits for, or a large job would wait for ever
            for pool in offering:
                if pool.room.could_ever_fit(size):
                    pool.room.close()
            merged.drop_class(queue.queue_class)
            continue
        merged.take(queued)
        owner.take(size)
        best.room.take(size)
        chosen[queued.place.id] = best.pool
        if len(chosen) == _MOST_AT_ONCE:
            break
    return chosen


def _in_order(suited: list[limits.PoolRoom], lost_in: Sequence[int]) -> list[limits.PoolRoom]:
    """Of the same priority those come last that have lost the job's resource most often."""
    if not lost_in:
        return suited
    return sorted(suited, key=lambda pool: (-pool.pool.priority, lost_in.count(pool.pool.id)))


def _open_classes(rooms: limits.Rooms, now: datetime) -> dict[str, Wanted]:
    """Those for which a pool has any room at all: the jobs of the others are not read, nor those of owners without."""
    pools = [pool for pool in rooms.pools if pool.room.jobs >= 1]

    def is_open(wanted: Wanted) -> bool:
        return any(wanted.suits(pool.pool) and pool.offers(wanted.accelerator_type, now) for pool in pools)

    return {name: wanted for name, wanted in waiting_classes().items() if is_open(wanted)} if pools else {}


def _is_free(rooms: limits.Rooms, owner_id: int) -> bool:
    return rooms.of_owner(owner_id).jobs >= 1 and rooms.hold_on(owner_id) is None


def _manner(pool: Pool) -> tuple[bool, bool]:
    """Whether its provider holds resources, and whether it hands them over."""
    try:
        provisioner = provisioner_of(pool)
    except UpstreamError:
        return True, False  # its settings are broken: the create call will say so and disable the pool
    return provisioner.holds_resources, provisioner.hands_over
