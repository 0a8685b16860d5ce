"""One soak on a planner that runs: trouble, then quiet, then the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

from django.conf import settings
from django.db import connection
from django_q.models import Schedule

from jobs.conf import times
from jobs.models import Pool
from planner_site import demo_data
from planner_site.local import Client, LocalPlanner, data_folder, say
from planner_site.soak.chaos import HOSTS, Chaos
from planner_site.soak.crew import Roster
from planner_site.soak.evidence import gather, is_quiet
from planner_site.soak.load import Load, orders
from planner_site.soak.plan import plan
from planner_site.soak.verdict import Verdict, judge
from planner_site.soak.watch import Watch

_QUIET_SECONDS = 300.0
_ANSWER_SECONDS = 60.0  # for the last clients, once everything is healthy
_TICK_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_SAY_EVERY_SECONDS = 3.0
_SHOWN_FINDINGS = 20
_MOST_LIVE = 45
_READY_TIMEOUT_SECONDS = 20
_OBSERVE_SECONDS = 0.5
_ABSENCE_SECONDS = 1.0
_SWEEP_MINUTES = 1


class Run:
    """Inside a `with`: leaving it lets everything that is stopped go on. `result` is asked for once."""

    def __init__(self, planner: LocalPlanner, *, seed: int, jobs: int, seconds: float) -> None:
        self._planner = planner
        self._seed, self._jobs, self._seconds = seed, jobs, seconds
        folder = data_folder("soak")
        self._ledgers = (folder / "provider" / "ledger.jsonl", folder / "mds" / "ledger.jsonl")
        _prepare_rows()
        client = Client(planner.url)
        client.log_in()
        job = demo_data.job_request(client.upload_sample())
        self._load = Load(planner.url, demo_data.token("alice"), job, orders(seed, jobs, seconds))
        self._watch = Watch(planner.postgres.url)
        urls = {"mds": settings.PLANNER_MDS_URL, "provider": planner.provider_url}
        self._chaos = Chaos(planner, self._watch, urls, [Roster(planner.services[name].log) for name in HOSTS])
        connection.close()  # of the database that is going to be killed
        self._stack = ExitStack()
        self._began = self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._chaos)
        self._watch.start()
        self._stack.callback(self._watch.stop)
        self._load.start()
        self._stack.callback(self._load.stop)
        return self

    def __exit__(self, *_: object) -> None:
        connection.close()
        self._stack.close()

    def result(self) -> dict[str, Any]:
        """What is printed at the end."""
        self._make_trouble()
        say("No more trouble: everything is started and behaves again; waiting for quiescence ...")
        self._chaos.heal()
        healed_at = time.monotonic()
        self._await(lambda: not self._load.unanswered, _ANSWER_SECONDS)
        # what was stopped may come back, and what was sent late may land, for so long
        settled_at = healed_at + times().lease + times().submit_settle + 2 * times().scan_interval
        is_over = self._await(
            lambda: time.monotonic() > settled_at and is_quiet(*self._ledgers),
            healed_at + _QUIET_SECONDS - time.monotonic(),
        )
        quiet_after = round(time.monotonic() - healed_at, 1) if is_over else None
        verdict = judge(gather(self._load, *self._ledgers))
        self._say_findings(verdict)
        return self._told(verdict, quiet_after)

    def _make_trouble(self) -> None:
        actions = plan(self._seed, self._seconds, len(HOSTS), times())
        say(f"{self._jobs} jobs in {self._seconds:.0f} s, and {len(actions)} troubles; SEED={self._seed} repeats them.")
        for action in actions:
            self._tick_until(self._began + action.at)
            self._chaos.do(action)
        self._tick_until(self._began + self._seconds)

    def _tick_until(self, moment: float) -> None:
        while time.monotonic() < moment:
            self._tick()

    def _await(self, condition: Callable[[], bool], seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                return False
            self._tick_until(time.monotonic() + _LOOK_SECONDS)
        return True

    def _tick(self) -> None:
        self._chaos.tick()
        if time.monotonic() - self._said_at >= _SAY_EVERY_SECONDS:
            self._said_at = time.monotonic()
            self._say_progress()
        time.sleep(_TICK_SECONDS)

    def _say_progress(self) -> None:
        now = time.monotonic()
        seen = now - self._watch.seen_at < 2 * _SAY_EVERY_SECONDS
        jobs = "  ".join(f"{status} {count}" for status, count in sorted(self._watch.statuses.items()))
        chaos = self._chaos
        say(
            f"{now - self._began:5.0f} s  {jobs if seen else 'the database does not answer'}"
            f"  | kills {chaos.kills.total()}  stops {chaos.stops.total()}  faults {chaos.faults.total()}"
            f"  | stuck {self._watch.stuck_seconds:.1f} s"
        )

    def _say_findings(self, verdict: Verdict) -> None:
        for kind in ("lost", "leaked", "duplicates", "illegal"):
            found: list[str] = getattr(verdict, kind)
            for sentence in found[:_SHOWN_FINDINGS]:
                say(f"{kind}: {sentence}")
        for sentence in self._load.refused[:_SHOWN_FINDINGS]:
            say(f"refused: {sentence}")
        if self._load.unanswered:
            say(f"{self._load.unanswered} calls of clients were never answered.")

    def _told(self, verdict: Verdict, quiet_after: float | None) -> dict[str, Any]:
        chaos, load, watch = self._chaos, self._load, self._watch
        return {
            "jobs": self._jobs,
            "accepted": sum(len(ids) for ids in load.accepted.values()),
            "ended": verdict.ended,
            "lost": len(verdict.lost),
            "leaked": len(verdict.leaked),
            "duplicates": len(verdict.duplicates),
            "illegal": len(verdict.illegal),
            "duplicates_cancelled": verdict.duplicates_cancelled,
            "longest_duplicate_seconds": round(verdict.longest_duplicate_seconds, 1),
            "failed": verdict.failed,
            "cancels": len(load.cancels),
            "refused": len(load.refused),
            "unanswered": load.unanswered,
            "answers": dict(load.answers),
            "longest_stuck_seconds": round(watch.longest_stuck_seconds, 1),
            "longest_stuck": watch.longest_stuck,
            "quiet_after_seconds": quiet_after,
            "kills_done": chaos.kills.total(),
            "kills": dict(chaos.kills),
            "stops": dict(chaos.stops),
            "faults": dict(chaos.faults),
            "missed": dict(chaos.missed),
            "restarts": dict(chaos.restarts),
            "seconds": round(time.monotonic() - self._began, 1),
            "seed": self._seed,
        }


def _prepare_rows() -> None:
    """Room for many jobs, quick looks, a sweep each minute."""
    Pool.objects.update(
        max_live=_MOST_LIVE,
        max_provisioning=_MOST_LIVE,
        ready_timeout_seconds=_READY_TIMEOUT_SECONDS,
        observe_interval_seconds=_OBSERVE_SECONDS,
        absence_confirm_seconds=_ABSENCE_SECONDS,
    )
    Schedule.objects.filter(name="release_orphans").update(minutes=_SWEEP_MINUTES)
