"""The soak's verdict can be guilty on each count, its plan can be repeated, and it ends as it should."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.conf import Times
from jobs.testing.fake_mds import FakeMds
from planner_site.process_tree import waits_at
from planner_site.soak import faults
from planner_site.soak.__main__ import report
from planner_site.soak.chaos import Chaos
from planner_site.soak.crew import Roster
from planner_site.soak.load import Load, Order, orders
from planner_site.soak.plan import KILLS, STOPS, Action, plan
from planner_site.soak.verdict import LONGEST_LIFE_OF_A_DUPLICATE_SECONDS, BatchFound, Event, Evidence, JobFound, judge
from planner_site.soak.watch import Watch
from tests.checkouts import Checkout, outcome
from tests.peers import Peer
from tests.waiting import eventually

AT = datetime(2026, 1, 1, tzinfo=UTC)
COMPLETED = JobFound("job_1", "completed", "batch-1", is_cancel_requested=False, event_count=6, ended={"completed": AT})


def event(sequence: int, old: str, new: str, batch_id: str = "") -> Event:
    """One of the one job's."""
    return Event("job_1", sequence, old, new, AT, batch_id)


HISTORY = [
    event(1, "", "pending"),
    event(2, "pending", "provisioning"),
    event(3, "provisioning", "submitting"),
    event(4, "submitting", "", batch_id="batch-1"),
    event(5, "submitting", "scheduling"),
    event(6, "scheduling", "completed"),
]
BATCH = BatchFound("batch-1", "soak:job_1:1", "completed", visible_at=100, ended_at=120)
CLEAN = Evidence(
    accepted={"key-1": frozenset({"job_1"})},
    cancels=frozenset(),
    jobs={"job_1": COMPLETED},
    events=HISTORY,
    batches=[BATCH],
    resources=[],
    unreleased=[],
    at=1000,
)


def found(**fields: Any) -> Evidence:
    """What is clean, but for these."""
    return dataclasses.replace(CLEAN, **fields)


def counts(evidence: Evidence) -> tuple[int, int, int, int]:
    verdict = judge(evidence)
    guilty = (len(verdict.lost), len(verdict.leaked), len(verdict.duplicates), len(verdict.illegal))
    assert verdict.is_clean == (guilty == (0, 0, 0, 0))
    return guilty


def another_batch(status: str, lived: float | None, job_id: str = "soak:job_1:1") -> BatchFound:
    """One that no job followed."""
    return BatchFound("batch-2", job_id, status, visible_at=100, ended_at=None if lived is None else 100 + lived)


def job(**fields: Any) -> dict[str, JobFound]:
    """The one job, but for these."""
    return {"job_1": dataclasses.replace(COMPLETED, **fields)}


def test_what_is_clean_is_found_clean() -> None:
    assert counts(CLEAN) == (0, 0, 0, 0)
    assert judge(CLEAN).ended == {"completed": 1}


def test_an_accepted_job_that_is_not_there_is_lost() -> None:
    assert counts(found(accepted={"key-1": frozenset({"job_1"}), "key-2": frozenset({"job_2"})})) == (1, 0, 0, 0)


def test_a_job_that_has_not_ended_is_lost() -> None:
    assert counts(found(jobs=job(status="scheduling", event_count=5, ended={}), events=HISTORY[:5])) == (1, 0, 0, 0)


def test_an_accepted_cancel_that_is_not_there_is_lost() -> None:
    assert counts(found(cancels=frozenset({"job_1"}))) == (1, 0, 0, 0)
    assert counts(found(cancels=frozenset({"job_1"}), jobs=job(is_cancel_requested=True))) == (0, 0, 0, 0)


def test_what_the_provider_holds_or_no_row_has_released_is_leaked() -> None:
    assert counts(found(resources=["a", "b"], unreleased=["b", "c"])) == (0, 3, 0, 0)


def test_one_key_with_two_jobs_is_a_duplicate() -> None:
    jobs = {"job_1": COMPLETED, "job_2": dataclasses.replace(COMPLETED, id="job_2")}
    events = [*HISTORY, *(dataclasses.replace(each, job_id="job_2") for each in HISTORY)]
    evidence = found(accepted={"key-1": frozenset({"job_1", "job_2"})}, jobs=jobs, events=events)
    assert counts(evidence) == (0, 0, 1, 0)


@pytest.mark.parametrize(
    ("status", "lived", "duplicates", "cancelled"),
    [
        ("completed", 5, 1, 0),
        ("failed", 5, 1, 0),
        ("in_progress", None, 1, 0),
        ("cancelled", 59, 0, 1),
        ("cancelled", 61, 1, 1),
    ],
)
def test_a_batch_that_no_job_followed_must_be_cancelled_in_time(
    status: str, lived: float | None, duplicates: int, cancelled: int
) -> None:
    evidence = found(batches=[BATCH, another_batch(status, lived)])
    assert counts(evidence) == (0, 0, duplicates, 0)
    assert judge(evidence).duplicates_cancelled == cancelled
    assert judge(evidence).longest_duplicate_seconds == (CLEAN.at - 100 if lived is None else lived)


def test_a_batch_that_goes_on_after_its_job_is_a_duplicate() -> None:
    running = dataclasses.replace(BATCH, status="in_progress", ended_at=None)
    cancelled = job(status="cancelled", ended={"cancelled": AT}, event_count=7, is_cancel_requested=True)
    events = [*HISTORY[:5], event(6, "scheduling", "cancelling"), event(7, "cancelling", "cancelled")]
    assert counts(found(jobs=cancelled, events=events, batches=[running])) == (0, 0, 1, 0)


@pytest.mark.parametrize(("status", "duplicates"), [("completed", 1), ("failed", 0), ("cancelled", 0)])
def test_of_two_attempts_only_the_last_may_have_completed(status: str, duplicates: int) -> None:
    followed = [
        *HISTORY[:5],
        event(6, "scheduling", "", batch_id="batch-2"),
        event(7, "scheduling", "completed"),
    ]
    last = dataclasses.replace(another_batch("completed", 5))
    first = dataclasses.replace(BATCH, status=status)
    jobs = job(batch_id="batch-2", event_count=7)
    assert counts(found(jobs=jobs, events=followed, batches=[first, last])) == (0, 0, duplicates, 0)


@pytest.mark.parametrize(("lived", "duplicates"), [(59, 0), (61, 1)])
@pytest.mark.parametrize(
    "later",
    [
        pytest.param([("scheduling", "", "batch-2"), ("scheduling", "completed", "")], id="another one followed"),
        pytest.param(
            [
                ("scheduling", "pending", "batch-1"),
                ("pending", "provisioning", ""),
                ("provisioning", "submitting", ""),
                ("submitting", "scheduling", "batch-2"),
                ("scheduling", "completed", ""),
            ],
            id="back in the queue",
        ),
    ],
)
def test_a_batch_that_its_job_has_left_must_be_over_in_time(
    later: list[tuple[str, str, str]], lived: float, duplicates: int
) -> None:
    """However long it ran before that."""
    left_at = AT + timedelta(hours=1)
    events = HISTORY[:5]
    for number, (old, new, batch_id) in enumerate(later, start=6):
        at = AT + timedelta(hours=2) if new == "completed" else left_at + timedelta(seconds=10 * (number - 6))
        events = [*events, Event("job_1", number, old, new, at, batch_id)]
    ended_at = left_at.timestamp() + lived
    batches = [
        BatchFound("batch-1", "soak:job_1:1", "cancelled", visible_at=AT.timestamp(), ended_at=ended_at),
        BatchFound("batch-2", "soak:job_1:2", "completed", visible_at=ended_at, ended_at=ended_at + 1),
    ]
    jobs = job(batch_id="batch-2", event_count=len(events), ended={"completed": AT + timedelta(hours=2)})
    evidence = found(jobs=jobs, events=events, batches=batches)
    assert counts(evidence) == (0, 0, duplicates, 0)
    assert judge(evidence).longest_duplicate_seconds == lived


def test_a_batch_that_goes_on_after_the_end_of_its_job_must_be_over_in_time() -> None:
    ended_late = dataclasses.replace(BATCH, visible_at=AT.timestamp() - 10, ended_at=AT.timestamp() + 61)
    assert counts(found(batches=[ended_late])) == (0, 0, 1, 0)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([each for each in HISTORY if each.sequence != 4], id="a gap"),
        pytest.param([*HISTORY[:2], event(3, "provisioning", "scheduling"), *HISTORY[3:4], *HISTORY[5:]], id="a leap"),
        pytest.param([*HISTORY[:4], event(5, "pending", "scheduling"), HISTORY[5]], id="from elsewhere"),
        pytest.param(HISTORY[:5], id="an end without an event"),
        pytest.param([], id="no timeline"),
        pytest.param([*HISTORY, event(7, "completed", "failed")], id="two ends"),
    ],
)
def test_a_timeline_that_the_table_does_not_allow_is_illegal(events: list[Event]) -> None:
    assert counts(found(events=events))[3] > 0


@pytest.mark.parametrize(
    "ended", [{}, {"failed": AT}, {"completed": AT, "failed": AT}, {"completed": AT + timedelta(seconds=1)}]
)
def test_an_end_whose_time_is_not_the_only_one_is_illegal(ended: dict[str, datetime]) -> None:
    assert counts(found(jobs=job(ended=ended))) == (0, 0, 0, 1)


def test_a_cancel_that_nobody_asked_for_is_illegal() -> None:
    cancelled = job(status="cancelled", ended={"cancelled": AT})
    events = [*HISTORY[:5], event(6, "scheduling", "cancelled")]
    batches = [dataclasses.replace(BATCH, status="cancelled")]
    assert counts(found(jobs=cancelled, events=events, batches=batches)) == (0, 0, 0, 1)


@pytest.mark.parametrize("batches", [[], [dataclasses.replace(BATCH, status="cancelled")]])
def test_a_completed_job_without_a_completed_batch_is_illegal(batches: list[BatchFound]) -> None:
    assert counts(found(batches=batches)) == (0, 0, 0, 1)


TOLD = {
    **dict.fromkeys(("lost", "leaked", "duplicates", "illegal", "refused", "unanswered"), 0),
    **{"jobs": 300, "accepted": 300, "quiet_after_seconds": 12.5},
}


@pytest.mark.parametrize(
    ("told", "code", "why"),
    [
        ({}, 0, ""),
        ({"lost": 1}, 1, "lost is 1"),
        ({"leaked": 1}, 1, "leaked is 1"),
        ({"duplicates": 1}, 1, "duplicates is 1"),
        ({"illegal": 1}, 1, "illegal is 1"),
        ({"refused": 2}, 1, "refused is 2"),
        ({"unanswered": 1}, 1, "unanswered is 1"),
        ({"accepted": 299}, 1, "299 of 300 jobs were accepted"),
        ({"quiet_after_seconds": None}, 1, "it never came to rest"),
    ],
)
def test_a_soak_passes_only_if_all_was_accepted_answered_and_came_to_rest(
    told: dict[str, Any], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(TOLD | told) == code
    output, errors = capsys.readouterr()
    assert json.loads(output) == TOLD | told
    assert errors == (f"Not passed: {why}.\n" if why else "")


def test_the_same_seed_makes_the_same_plan() -> None:
    first, second, other = (plan(seed, 180, 2, Times()) for seed in (1, 1, 2))
    assert first == second != other
    assert orders(1, 20, 60) == orders(1, 20, 60) != orders(2, 20, 60)


def test_three_minutes_bring_every_kind_of_kill_and_stop() -> None:
    planned = Counter((action.verb, action.what) for action in plan(3, 180, 2, Times()))
    assert {what for verb, what in planned if verb == "kill"} == set(KILLS)
    assert {what for verb, what in planned if verb == "stop"} == set(STOPS)
    assert sum(count for (verb, _), count in planned.items() if verb == "kill") >= 25
    stops = [action for action in plan(3, 180, 2, Times()) if action.verb == "stop" and action.what == "worker"]
    assert all(action.seconds > Times().lease for action in stops)


def test_what_may_become_a_duplicate_outlives_the_time_within_which_it_is_to_be_cancelled() -> None:
    """Else it would end by itself, and nobody could say whether it would have been found in time."""
    creates = [
        rule
        for name, order in faults.scripts(Times()).items()
        for rule in order.get("rules", [])
        if name.startswith("mds:") and rule["on"] == "create" and not rule.get("retry_after_seconds")
    ]
    assert len(creates) > 10
    for rule in creates:
        listed_for = rule["run_seconds"] - rule.get("visible_after_seconds", 0)
        assert listed_for > LONGEST_LIFE_OF_A_DUPLICATE_SECONDS, rule


def test_the_fakes_know_every_misbehaviour_of_the_plan(fake_mds: FakeMds, simulated_server: Any) -> None:
    for name, order in faults.scripts(Times()).items():
        server = fake_mds if name.startswith("mds:") else simulated_server
        server.script(order)
    assert name


class Web:
    """Answers each POST as told, and remembers the keys."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.keys: list[bytes] = []

    def __call__(self, request: bytes) -> bytes | None:
        key = re.search(rb"Idempotency-Key: (.*)\r\n", request)
        self.keys.append(key[1] if key else b"")
        return self.answers.pop(0)


def answer(status: str, **body: Any) -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    return head.encode() + content


def served(web: Web, **order: Any) -> Load:
    """What one client was answered."""
    fields: dict[str, Any] = {"cancel_after": None, "is_impatient": False, "is_repeated": False, **order}
    with Peer(web, closes=True) as peer:
        load = Load(peer.url, "token", {}, [Order(key="key-1", at=0, **fields)])
        load.start()
        try:
            eventually(lambda: not load.unanswered)
        finally:
            load.stop()
    assert web.answers == []
    return load


def test_a_client_asks_with_the_same_key_until_it_is_answered() -> None:
    web = Web(None, answer("503 Service Unavailable"), answer("429 Too Many Requests"), answer("200 OK", id="job_1"))
    load = served(web)
    assert web.keys == [b"key-1"] * 4
    assert load.accepted == {"key-1": {"job_1"}}
    assert load.answers == {"none": 1, "503": 1, "429": 1, "200": 1}


def test_a_second_job_for_the_same_key_does_not_go_unseen() -> None:
    load = served(Web(answer("200 OK", id="job_1"), answer("200 OK", id="job_2")), is_repeated=True)
    assert load.accepted == {"key-1": {"job_1", "job_2"}}


def test_a_client_insists_on_its_cancel() -> None:
    load = served(Web(answer("200 OK", id="job_1"), None, answer("200 OK", id="job_1")), cancel_after=0)
    assert load.cancels == {"job_1"}


def test_a_cancel_that_came_too_late_is_no_cancel() -> None:
    load = served(Web(answer("200 OK", id="job_1"), answer("409 Conflict")), cancel_after=0)
    assert (load.cancels, load.refused) == (set(), [])


def test_what_no_client_should_be_told_is_kept() -> None:
    assert served(Web(answer("400 Bad Request"))).refused == ["key-1: 400 {}"]


def test_roles_are_read_from_the_log_and_what_has_ended_is_left_out(tmp_path: Path) -> None:
    tree = subprocess.Popen([sys.executable, "-c", _TREE], stdout=subprocess.PIPE, text=True)
    try:
        assert tree.stdout
        parent, sentinel, first, second, gone = (int(word) for word in tree.stdout.readline().split())
        log = tmp_path / "log"
        log.write_text(f"INFO p ready for work at {first}\nINFO p ready for work at {gone}\nINFO p pushing tasks at ")
        roster = Roster(log)
        crew = roster.crew(tree.pid)
        assert (crew.parent, crew.sentinel, crew.workers, crew.pusher) == (parent, sentinel, (first,), 0)
        with log.open("a") as end:
            end.write(f"{second}\n")
        assert roster.crew(tree.pid).who("pusher") == [second]
        assert roster.crew(tree.pid).who("monitor") == []
        assert set(waits_at(first)) == {first}
    finally:
        os.killpg(os.getpgid(parent), signal.SIGKILL)
        tree.kill()
        tree.communicate()


NOBODY = 2**22 + 1  # above every pid that Linux gives


class DyingPostgres:
    """It has been killed and is still there at the first looks."""

    def __init__(self) -> None:
        self.looks = 3
        self.starts = 0

    def pid(self) -> int | None:
        return NOBODY if self.looks else None

    def processes(self) -> set[int]:
        self.looks = max(0, self.looks - 1)
        return {NOBODY} if self.looks else set()

    def start(self) -> None:
        assert not self.looks, "the one before still runs"
        self.starts += 1


def test_a_database_killed_just_before_the_end_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    postgres = DyingPostgres()
    planner: Any = SimpleNamespace(postgres=postgres, services={})
    chaos = Chaos(planner, Watch(""), {}, [])
    monkeypatch.setattr(chaos, "_is_recovering", lambda: False)
    chaos.do(Action(at=0, verb="kill", what="postgres by SIGKILL", seconds=60))
    chaos.heal()
    assert (postgres.starts, chaos.kills.total()) == (1, 1)


def test_what_was_put_off_past_the_end_is_counted_as_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    chaos = Chaos(SimpleNamespace(postgres=DyingPostgres(), services={}), Watch(""), {}, [])  # type: ignore[arg-type]
    actions = [Action(0, "kill", "postgres by SIGKILL"), Action(0, "stop", "worker"), Action(0, "stop", "worker")]
    monkeypatch.setattr(chaos, "_is_recovering", lambda: True)  # nothing goes down in its turn
    monkeypatch.setattr(chaos, "_is_done", lambda action: not chaos.stops)  # and the second stop finds no victim
    for action in actions:
        chaos.do(action)
    chaos.heal()
    assert (chaos.kills, chaos.stops) == (Counter(), Counter({"worker": 1}))
    assert chaos.missed == Counter({"kill postgres by SIGKILL": 1, "stop worker": 1})


def test_whole_parts_go_down_in_turn_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    planner: Any = SimpleNamespace(postgres=DyingPostgres(), services={})
    chaos = Chaos(planner, Watch(""), {}, [])
    monkeypatch.setattr(chaos, "_is_recovering", lambda: True)
    chaos.do(Action(at=0, verb="kill", what="postgres by SIGKILL", seconds=60))
    assert chaos.kills.total() == 0
    monkeypatch.setattr("planner_site.soak.chaos._TURN_SECONDS", 0)
    chaos.do(Action(at=0, verb="kill", what="postgres by SIGKILL", seconds=60))
    assert chaos.kills.total() == 1


def test_what_waits_for_its_turn_is_a_whole_part() -> None:
    waiting = {(action.verb, action.what) for action in plan(3, 600, 2, Times()) if action.is_in_turn}
    assert {("kill", "postgres at once"), ("kill", "mds"), ("kill", "host's groups"), ("stop", "cluster")} <= waiting
    assert not waiting & {("kill", "worker"), ("kill", "pusher"), ("stop", "worker"), ("kill", "web")}


# A supervisor, a cluster's parent in a session of its own, its sentinel, two children that live and one that does not.
_TREE = """
import os, signal, time
reader, writer = os.pipe()
def forked(child):
    pid = os.fork()
    if pid == 0:
        child()
        time.sleep(60)
    return pid
def sentinel():
    pids = [forked(lambda: None) for _ in range(3)]
    os.kill(pids[2], signal.SIGKILL)
    os.waitpid(pids[2], 0)
    os.write(writer, " ".join(map(str, [os.getppid(), os.getpid(), *pids])).encode())
def parent():
    os.setsid()
    forked(sentinel)
forked(parent)
print(os.read(reader, 1000).decode(), flush=True)
time.sleep(60)
"""


@pytest.mark.processes
def test_a_soak_that_is_interrupted_leaves_nothing_behind(checkout: Checkout) -> None:
    soak = checkout.start("-m", "planner_site.soak", "--jobs", "30", "--seed", "1")
    assert soak.stderr
    said = []
    for line in soak.stderr:
        said.append(line)
        if "| kills 1 " in line:
            break
    soak.send_signal(signal.SIGINT)
    code, output, errors = outcome(soak, timeout=90)
    assert code == 1, "".join(said) + errors
    assert "Interrupted" in errors
    assert output == ""
    checkout.check_nothing_runs(timeout=0)
