"""Carries out the plan: kills, stops and continues processes, scripts the fakes, and starts again what stays down.

All of it on the main thread: the children die with the thread that started them.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import requests
from django.conf import settings

from planner_site.local import LocalPlanner
from planner_site.process_tree import children, parents
from planner_site.processes import Service, answers
from planner_site.soak import faults
from planner_site.soak.crew import Crew, Roster
from planner_site.soak.plan import Action
from planner_site.soak.watch import Followed, Watch

MDS, PROVIDER, WEB = "fake MDS", "provider", "web"
HOSTS = ("workers", "workers 2")

_TRIES = 50  # for a victim: a worker in a call, say, that there is not at each moment
_TRY_AGAIN_SECONDS = 0.1
_TURN_SECONDS = 10.0  # the longest a part waits for its turn to go down
_ANSWER_SECONDS = 1.0
_END_SECONDS = 10.0
_GRACE_SECONDS = 20.0  # from SIGTERM on, longer than the planner's own


class Chaos:
    """Inside a `with`: leaving it lets everything that is stopped go on."""

    def __init__(self, planner: LocalPlanner, watch: Watch, urls: Mapping[str, str], rosters: Sequence[Roster]) -> None:
        """`urls` of the doubles, `mds` and `provider`; one roster for each of `HOSTS`."""
        self._planner = planner
        self._watch = watch
        self._urls = urls
        self._rosters = rosters
        self._stopped: set[int] = set()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._down: set[str] = set()  # parts that are to stay down for a while
        self.kills: Counter[str] = Counter()
        self.stops: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()  # asked for and not done, or not yet
        self.restarts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._continue(set(self._stopped))

    def do(self, action: Action) -> None:
        """Carry out one action in its turn, or try again in a moment if there is no victim."""
        self.missed[_named(action)] += 1
        self._wait_or_try(action, time.monotonic() + _TURN_SECONDS)

    def tick(self) -> None:
        """What has become due since: continue, restart."""
        now = time.monotonic()
        due = [act for at, act in self._later if at <= now]
        self._later = [(at, act) for at, act in self._later if at > now]
        for act in due:
            act()
        self._keep()

    def heal(self) -> None:
        """Everything runs and behaves again."""
        self._continue(set(self._stopped))
        self._later.clear()
        # it may have been killed a moment ago, and still be there
        if "postgres" in self._down or self._planner.postgres.pid() is None:
            _until(lambda: not self._planner.postgres.processes(), _END_SECONDS)
            self._start_postgres()
        self._down.clear()
        self._keep()
        for url in self._urls.values():
            _until(partial(_is_sent, f"{url}/script", {"clear": True}), _END_SECONDS)

    # --- trying ---

    def _wait_or_try(self, action: Action, until: float) -> None:
        """A machine too slow to bring one part back in good time gets the next trouble all the same."""
        if action.is_in_turn and self._is_recovering() and time.monotonic() < until:
            self._soon(_TRY_AGAIN_SECONDS, partial(self._wait_or_try, action, until))
        else:
            self._try(action, 1)

    def _is_recovering(self) -> bool:
        """Whether PostgreSQL, the MDS or a host of workers is down, stopped or not yet at work again."""
        parts = {MDS, *HOSTS}
        return (
            bool(self._down & {"postgres", *parts})
            or bool(self._stopped & self._planner.postgres.processes())
            or not all(self._is_at_work(name) for name in parts)
        )

    def _is_at_work(self, name: str) -> bool:
        service = self._planner.services[name]
        if not service.is_running() or service.pid in self._stopped:
            return False
        if name == MDS:
            return answers(f"{self._urls['mds']}/healthz")
        crew = self._rosters[HOSTS.index(name)].crew(service.pid)
        return bool(crew.pusher and crew.workers) and crew.parent not in self._stopped

    def _try(self, action: Action, tries: int) -> None:
        if self._is_done(action):
            {"kill": self.kills, "stop": self.stops, "fault": self.faults}[action.verb][action.what] += 1
            self.missed -= Counter([_named(action)])
        elif tries < _TRIES:
            elsewhere = replace(action, host=(action.host + 1) % len(HOSTS))  # perhaps its host is down
            self._soon(_TRY_AGAIN_SECONDS, partial(self._try, elsewhere, tries + 1))

    def _is_done(self, action: Action) -> bool:
        if action.verb == "fault":
            return self._is_told(action)
        if action.verb == "stop":
            return self._is_stopped(action)
        return self._is_killed(action)

    def _soon(self, seconds: float, act: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, act))

    # --- kills ---

    def _is_killed(self, action: Action) -> bool:
        match action.what:
            case "postgres at once":
                return self._is_postgres_killed(signal.SIGQUIT, action.seconds)
            case "postgres by SIGKILL":
                return self._is_postgres_killed(signal.SIGKILL, action.seconds)
            case "supervisor":
                return self._is_part_killed(HOSTS[action.host], action.seconds)
            case "host's groups":
                return self._is_host_killed(action)
            case "host by SIGTERM":
                return self._is_part_ended(HOSTS[action.host], action.seconds)
            case "web" | "provider" | "mds":
                return self._is_part_killed(_PARTS[action.what], action.seconds)
            case "web by SIGTERM":
                return self._is_part_ended(WEB, action.seconds)
        pids = self._victims(action)
        if action.what == "cluster's group" and pids:
            return self._is_group_killed(pids[0])
        return bool(pids) and _is_signalled(pids[:1], signal.SIGKILL)

    def _victims(self, action: Action) -> list[int]:
        """Whom an action is about, the first of them first; a single process, but for the groups."""
        if action.what == "web worker":
            return _picked(children(self._planner.services[WEB].pid, parents()), action.pick)
        if action.what in _PARTS:
            return _group(self._planner.services[_PARTS[action.what]])
        service = self._planner.services[HOSTS[action.host]]
        crew = self._rosters[action.host].crew(service.pid) if service.is_running() else Crew()
        pids = [pid for pid in crew.who(action.what) if pid not in self._stopped]
        return pids if action.what == "cluster" else _picked(pids, action.pick)

    def _is_part_killed(self, name: str, down_seconds: float) -> bool:
        """Kill a part's process group, and start it again after a while."""
        service = self._planner.services[name]
        if not service.is_running():
            return False
        with suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGKILL)
        self._stay_down(name, down_seconds)
        return True

    def _is_part_ended(self, name: str, down_seconds: float) -> bool:
        """Ask a part to end, and start it again after a while, or when its grace is over."""
        service = self._planner.services[name]
        if not service.is_running() or name in self._down:
            return False
        service.ask_to_stop()
        self._down.add(name)
        began = time.monotonic()

        def start_when_ended() -> None:
            if service.is_running() and time.monotonic() < began + _GRACE_SECONDS:
                self._soon(_TRY_AGAIN_SECONDS, start_when_ended)
            else:
                self._stay_down(name, down_seconds)

        start_when_ended()
        return True

    def _is_host_killed(self, action: Action) -> bool:
        """Both groups of a host, the cluster's first, so that the supervisor has no time to notice."""
        name = HOSTS[action.host]
        service = self._planner.services[name]
        if not service.is_running():
            return False
        crew = self._rosters[action.host].crew(service.pid)
        if crew.parent:
            self._is_group_killed(crew.parent)
        return self._is_part_killed(name, action.seconds)

    def _is_group_killed(self, leader: int) -> bool:
        try:
            os.killpg(leader, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _stay_down(self, name: str, seconds: float) -> None:
        self._down.add(name)
        self._soon(seconds, partial(self._down.discard, name))

    def _keep(self) -> None:
        """Start what has ended, as a service manager would; a database that was killed, after its own pause."""
        if self._planner.postgres.pid() is None:
            return  # without it the workers end at once
        for name, service in self._planner.services.items():
            if name not in self._down and not service.is_running():
                self.restarts[name] += 1
                service.start_again()
                self._stay_down(name, _ANSWER_SECONDS)  # should it end at once, it is not started without a pause

    # --- the database ---

    def _is_postgres_killed(self, how: signal.Signals, down_seconds: float) -> bool:
        postgres = self._planner.postgres
        leader = postgres.pid()
        if leader is None or "postgres" in self._down:
            return False
        victims = {leader} if how == signal.SIGQUIT else postgres.processes()
        _is_signalled(victims, how)
        self._down.add("postgres")
        self._soon(down_seconds, self._start_postgres_when_ended)
        return True

    def _start_postgres_when_ended(self) -> None:
        if self._planner.postgres.processes():
            self._soon(_TRY_AGAIN_SECONDS, self._start_postgres_when_ended)
        else:
            self._start_postgres()

    def _start_postgres(self) -> None:
        self._planner.postgres.start()
        self._down.discard("postgres")
        self.restarts["postgres"] += 1

    # --- stops ---

    def _is_stopped(self, action: Action) -> bool:
        pids = self._planner.postgres.processes() if action.what == "postgres" else set(self._victims(action))
        if not pids or not _is_signalled(pids, signal.SIGSTOP):
            return False
        self._stopped |= pids
        self._soon(action.seconds, partial(self._continue, pids))
        return True

    def _continue(self, pids: Iterable[int]) -> None:
        pids = set(pids) & self._stopped
        self._stopped -= pids
        _is_signalled(pids, signal.SIGCONT)

    # --- faults ---

    def _is_told(self, action: Action) -> bool:
        """Told once: whatever it is told while it is stopped it would do, all at once, when it goes on."""
        whom, _, _ = action.what.partition(":")
        service = self._planner.services[_PARTS[whom]]
        if service.pid in self._stopped or not service.is_running():
            return False
        requests_to_send = self._requests(action)
        return bool(requests_to_send) and all(
            _is_sent(self._urls[whom] + path, body) for path, body in requests_to_send
        )

    def _requests(self, action: Action) -> list[tuple[str, dict[str, Any]]]:
        """Paths and bodies; none if there is nothing just now that it could be done to."""
        match action.what:
            case faults.VANISH | faults.BREAK:
                found = _picked(self._watch.resources, action.pick)
                return [("/script", {"vanish" if action.what == faults.VANISH else "fail": found})] if found else []
            case faults.CANCEL_UNASKED:
                return [(f"/v1/batches/{batch.id}/cancel", {}) for batch in _picked(self._watch.batches, action.pick)]
            case faults.SEND_AGAIN:
                return [each for batch in _picked(self._watch.batches, action.pick) for each in _again(batch)]
        return [("/script", action.order)]


_PARTS = {"web": WEB, "provider": PROVIDER, "mds": MDS}


def _named(action: Action) -> str:
    return f"{action.verb} {action.what}"


def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for it, but no longer than that."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(_TRY_AGAIN_SECONDS)


def _picked(found: list[Any], pick: float) -> list[Any]:
    """One of them, by a number from 0 up to 1; none of none."""
    return [found[int(pick * len(found))]] if found else []


def _again(batch: Followed) -> list[tuple[str, dict[str, Any]]]:
    """Another batch of the same attempt, which runs for as long as a duplicate may live."""
    name = f"{settings.PLANNER_INSTALLATION}:{batch.attempt}"
    rule = {"on": "create", "name_prefix": name, "run_seconds": faults.LONG_RUN_SECONDS}
    body = {"input_file_id": batch.input_file_id, "endpoint": batch.endpoint, "completion_window": "1h"}
    return [("/script", {"rules": [rule]}), ("/v1/batches", body | {"aibrix": {"job_id": name}})]


def _group(service: Service) -> list[int]:
    """All processes of a part's group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(entry.name)) == service.pid:
                found.append(int(entry.name))
    return found


def _is_signalled(pids: Iterable[int], number: signal.Signals) -> bool:
    """Send it; whether anybody was there to get it."""
    reached = False
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            reached = True
    return reached


def _is_sent(url: str, body: dict[str, Any]) -> bool:
    """POST it; whether it has reached the other side, or may have."""
    try:
        with requests.Session() as session:
            session.trust_env = False
            return session.post(url, json=body, timeout=_ANSWER_SECONDS).ok
    except requests.ReadTimeout:
        return True
    except requests.RequestException:
        return False
