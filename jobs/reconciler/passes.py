"""A pass: the short loop a worker runs when something may be due. It ends when nothing more can be done now."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from django.db import Error, OperationalError, connection

from jobs import metrics, request_ids
from jobs.conf import times
from jobs.errors import UpstreamError, is_database_away, is_lock_timeout
from jobs.lifecycle.claims import Bulkhead, Claim, Finished, Taken, step
from jobs.lifecycle.due import has_suspect
from jobs.lifecycle.observations import Observation, claim_observations, record_observation
from jobs.lifecycle.scans import ScanAnswer, ScanCall, claim_scan, record_scan
from jobs.lifecycle.steps import CallKind
from jobs.models import Pool
from jobs.provisioners.base import Resource
from jobs.reconciler import calls, pacing
from jobs.reconciler.admission import admission
from jobs.reconciler.bulkheads import Bulkheads
from jobs.reconciler.heartbeat import Heartbeat
from jobs.reconciler.stale import undo_of
from jobs.statuses import MDS_CANCEL, MDS_FOLLOW, MDS_SUBMIT, NO_CALL

logger = logging.getLogger(__name__)

_NO_CALL_SHARE = 200  # rows that need no call, per transaction
_SUBMIT: Bulkhead = ("job", MDS_SUBMIT)
_SCAN: Bulkhead = ("scan", 0)
_UNDO: Bulkhead = ("undo", 0)


def run_pass(send_hint: Callable[[], None], is_stopping: Callable[[], bool] = lambda: False) -> int:
    """Work until nothing more can be done now; returns the number of calls recorded.

    `send_hint` wakes other workers when there is more than one pass can take. Bounded: `Times.no_calls_after` plus
    the longest call still under way.
    """
    with request_ids.bound(f"pass-{request_ids.new()}"), metrics.PASS_SECONDS.time():
        return _Pass(send_hint, is_stopping).run()


class _Pass:
    def __init__(self, send_hint: Callable[[], None], is_stopping: Callable[[], bool]) -> None:
        self.send_hint = send_hint
        self.is_stopping = is_stopping
        self.bulkheads = Bulkheads()
        self.finished: list[Finished] = []
        self.stale: list[Finished] = []
        self.observed: list[tuple[Observation, Any]] = []
        self.scanned: list[tuple[ScanCall, Any]] = []
        self.pools: list[int] = []
        self.began = time.monotonic()
        self.is_ending = False  # no further call is started
        self.closed: set[Bulkhead] | None = None  # once it winds down: shares that hang, which get no further call
        self.is_alone = True  # with jobs that may have killed their worker, one at a time; they come first
        self.recorded = 0
        self._hinted_at = self._admitted_at = self._loaded_at = float("-inf")
        self._looked_at = self.began  # a job that has just been accepted goes first
        self.heartbeat = Heartbeat()

    def run(self) -> int:
        is_busy, failures = True, 0
        while is_busy or self.bulkheads.in_flight():
            try:
                is_busy, failures = self._turn(), 0
            except Error as error:
                if not is_database_away(error):
                    raise
                # the database is away or somebody is in the way; results are kept, leases run out by themselves
                logger.warning("database: %s", str(error).strip().partition("\n")[0])
                connection.close()
                failures += 1
                # one more turn at any age: who was stopped in the middle has late results to take back
                is_young = failures == 1 or self._age() < times().no_calls_after
                is_busy = is_young and not self.is_stopping()
                self.bulkheads.wait(times().beat)
        self.heartbeat.end(self.recorded)
        return self.recorded

    def _age(self) -> float:
        return time.monotonic() - self.began

    def _turn(self) -> bool:
        """Record, claim, start, wait. True if there is more to do at once."""
        self._wind_down()
        self._load_pools()
        self._record_looks()  # before the claims: what a listing told makes jobs due
        taken = self._alone() if self.is_alone else self._claim()
        is_time = time.monotonic() - self._looked_at >= times().timer_floor
        if not self.is_alone and not self.is_ending and (is_time or not self.bulkheads.in_flight()):
            self._look_around()
        self.heartbeat.beat(self.recorded)
        if self.is_ending and not self.bulkheads.in_flight() and self._age() >= times().no_calls_after:
            return False  # what cannot be recorded even now, for somebody holds its row, is left to its lease
        if self.bulkheads.in_flight() or taken.left or self.observed or self.scanned:
            self.bulkheads.wait(times().tick)
            return True
        return bool(self.finished) or ((taken.is_moved or self.is_alone) and not self.is_ending)

    def _wind_down(self) -> None:
        """Stop starting calls: on SIGTERM; at an age; or, past the age for long calls, once none is under way.

        Shares that hang stop first, so that they have ended when the quick ones stop: then the pass is over at once,
        and no upstream's silence keeps this worker from the others' work.
        """
        if self.is_ending:
            return
        age = self._age()
        is_late = age >= times().no_calls_after - 2 * times().call_timeout
        if age >= times().no_long_calls_after and (is_late or not self.bulkheads.in_flight(_SUBMIT)):
            self.closed = (self.closed or set()) | self.bulkheads.slower_than(times().hang)
        is_drained = self.closed is not None and not any(self.bulkheads.in_flight(key) for key in self.closed)
        if self.is_stopping() or is_drained or age >= times().no_calls_after:
            self.is_ending = True
            self.send_hint()

    def _alone(self) -> Taken:
        """One suspect at a time with nothing else in hand: if it kills the worker, it takes nobody along."""
        if self.finished or self.bulkheads.in_flight():
            return self._record({})
        suspect = Taken()
        if not self.is_ending and self._age() < times().safety_net:
            suspect = self._suspect()
            self._start(suspect)
        self.is_alone = suspect.has_more
        return suspect if self.is_alone else self._claim()

    def _suspect(self) -> Taken:
        if not has_suspect():
            return Taken()
        try:
            suspect = step([], self._free(), lone=True)
            metrics.ROWS_CLAIMED.inc(suspect.claimed)
            return suspect
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise
            return Taken()  # giving it up takes the scan's row, which is in somebody's hands: another pass's affair

    def _claim(self) -> Taken:
        """Admit, record and claim; wake others when there is more than this pass can take."""
        now = time.monotonic()
        admitted = Taken()
        if not self.is_ending and now - self._admitted_at >= times().safety_net / 10:
            self._admitted_at = now
            admitted = admission(self._free(), self.send_hint)
            is_started = bool(admitted.claims)
            self._start(admitted)
            if is_started and not self.finished:
                return admitted  # their answers come in a moment, and are recorded with what else is due by then
        taken = self._record(self._free())
        if taken.is_moved:
            self._admitted_at = float("-inf")  # there may be room in a pool again
        if taken.has_more and now - self._hinted_at >= times().timer_floor:
            self._hinted_at = now
            self.send_hint()
        taken.is_moved |= admitted.is_moved
        return taken

    def _record(self, free: dict[Bulkhead, int]) -> Taken:
        """One transaction: the results that have come, and what is due."""
        finished = self.finished
        taken = step(finished, free)
        self.finished = taken.left
        self.recorded += len(finished) - len(taken.left)
        self._start(taken)  # first of all: an error below must not leave these claims to their leases
        self.stale += taken.stale
        metrics.ROWS_CLAIMED.inc(taken.claimed)
        for stale in taken.stale:
            metrics.STALE_RESULTS.labels(stale.claim.kind).inc()
        while self.stale:
            self._undo(self.stale[-1])
            self.stale.pop()
        return taken

    def _free(self) -> dict[Bulkhead, int]:
        if self.is_ending:
            return {("job", NO_CALL): _NO_CALL_SHARE}
        keys: list[Bulkhead] = [("job", MDS_FOLLOW), ("job", MDS_CANCEL)]
        if self._age() < times().no_long_calls_after:
            keys.append(_SUBMIT)
        for pool_id in self.pools:
            keys += [("job", pool_id), ("release", pool_id)]
        keys = [key for key in keys if key not in (self.closed or ())]
        return {("job", NO_CALL): _NO_CALL_SHARE, **self.bulkheads.free(keys)}

    def _load_pools(self) -> None:
        if time.monotonic() - self._loaded_at < times().safety_net / 10:
            return
        self._loaded_at = time.monotonic()
        self.pools = list(Pool.objects.values_list("id", flat=True))

    def _start(self, taken: Taken) -> None:
        within = times().lease - times().send_margin
        for claim in taken.claims:
            call, then = pacing.of_claim(claim, partial(calls.perform, claim)), partial(self._finish, claim)
            self.bulkheads.start(claim.bulkhead, call, then, seconds=within, late=calls.too_late(claim.kind))
        taken.claims = []

    def _finish(self, claim: Claim, answer: Any) -> None:
        self.finished.append(Finished(claim, answer))

    def _undo(self, stale: Finished) -> None:
        """Our row has moved on: take back outside what it can no longer want."""
        logger.warning("job %s: a late %s changes nothing here", stale.claim.job.id, stale.claim.kind)
        call = undo_of(stale)
        if call is not None:
            then = partial(_log_failed_undo, stale)
            self.bulkheads.start(_UNDO, call, then, seconds=times().lease, late=calls.too_late(stale.claim.kind))
        elif stale.claim.kind == CallKind.SUBMIT:
            self.send_hint()

    def _record_looks(self) -> None:
        """What observations and the scan have told, but for what is in somebody else's hands now."""
        for look in list(self.observed):
            if _is_recorded("an observation", partial(record_observation, *look)):
                self.observed.remove(look)
        for page in list(self.scanned):
            if _is_recorded("a page of the MDS's list", partial(record_scan, *page)):
                self.scanned.remove(page)

    def _look_around(self) -> None:
        """Observation of pools and the scan of the MDS's list, each with a lease of its own."""
        self._looked_at = time.monotonic()
        for observation in claim_observations(
            [pool_id for pool_id in self.pools if self._is_idle(("observe", pool_id))]
        ):
            key = ("observe", observation.pool.id)
            call = pacing.in_turn(observation.pool, partial(calls.observe, observation))
            self._look(key, call, partial(self._observed, observation))
        if self._is_idle(_SCAN):
            scan = claim_scan()
            if scan is not None:
                self._look(_SCAN, partial(calls.scan, scan), partial(self._scanned, scan))

    def _look(self, key: Bulkhead, call: Callable[[], Any], then: Callable[[Any], None]) -> None:
        within = times().look_lease - times().send_margin
        self.bulkheads.start(key, call, then, seconds=within, late=calls.too_late())

    def _is_idle(self, key: Bulkhead) -> bool:
        return not self.bulkheads.in_flight(key) and key not in (self.closed or ())

    def _observed(self, observation: Observation, answer: Any) -> None:
        if isinstance(answer, dict):
            self._remove_surplus(observation, answer.values())
        if isinstance(answer, dict | UpstreamError):
            self.observed.append((observation, answer))
        else:
            logger.error("pool %s: observing failed in our own code", observation.pool.name, exc_info=answer)

    def _remove_surplus(self, observation: Observation, listed: Iterable[Resource]) -> None:
        """Each in a turn of its own, for the listing's was over with it. The next listing tells of what is left."""
        pool = observation.pool
        key = ("observe", pool.id)
        if self.is_ending or key in (self.closed or ()):
            return
        for resource in listed:
            if resource.surplus_ids:
                requests = pacing.releasing(len(resource.surplus_ids))
                call = pacing.in_turn(pool, partial(calls.remove_surplus, observation, resource), requests=requests)
                self._look(key, call, partial(_log_surplus_left, pool))

    def _scanned(self, scan: ScanCall, answer: Any) -> None:
        if isinstance(answer, ScanAnswer | UpstreamError):
            self.scanned.append((scan, answer))
        else:
            logger.error("the scan failed in our own code", exc_info=answer)


def _is_recorded(what: str, record: Callable[[], Any]) -> bool:
    """Whether there is no more to do: what our own code cannot record takes no pass along, its lease runs out."""
    try:
        record()
    except Exception as error:
        if is_lock_timeout(error):
            return False
        if is_database_away(error):
            raise
        logger.exception("%s could not be recorded", what)
    return True


def _log_failed_undo(stale: Finished, answer: Any) -> None:
    if isinstance(answer, Exception):
        logger.error("job %s: could not take back a late %s: %s", stale.claim.job.id, stale.claim.kind, answer)


def _log_surplus_left(pool: Pool, answer: Any) -> None:
    if isinstance(answer, UpstreamError):
        logger.warning("pool %s: surplus objects are left to the next listing: %s", pool.name, answer)
    elif isinstance(answer, Exception):
        logger.error("pool %s: deleting surplus objects failed in our own code", pool.name, exc_info=answer)
