"""The fake MDS: its batches' life, what it can be told to do wrong, and what outlives its process."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import time_machine

from jobs.batch_client import Batch
from jobs.errors import UpstreamError, UpstreamKind
from jobs.reconciler import calls
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from planner_site.processes import free_port
from tests.batch_calls import DECISION, SUBMISSION, client_of

LIFE = ["validating", "in_progress", "finalizing", "completed", "completed"]


@pytest.fixture
def mds() -> Iterator[FakeMds]:
    with FakeMds() as running:
        yield running


@pytest.fixture
def in_background() -> Iterator[Callable[..., Future[Any]]]:
    with ThreadPoolExecutor(8) as executor:
        yield executor.submit


def post(mds: FakeMds, job_id: str = "here:one:1", timeout: float = 5, **fields: Any) -> requests.Response:
    request = {"input_file_id": "never-uploaded", "endpoint": "/v1/completions", "aibrix": {"job_id": job_id}}
    return requests.post(f"{mds.url}/v1/batches", json={**request, **fields}, timeout=timeout)


def create(mds: FakeMds, job_id: str = "here:one:1", **fields: Any) -> str:
    return str(post(mds, job_id, **fields).json()["id"])


def get(mds: FakeMds, batch_id: str, timeout: float = 5) -> Any:
    return requests.get(f"{mds.url}/v1/batches/{batch_id}", timeout=timeout).json()


def cancel(mds: FakeMds, batch_id: str) -> requests.Response:
    return requests.post(f"{mds.url}/v1/batches/{batch_id}/cancel", timeout=5)


def listed(mds: FakeMds, **params: str | int) -> dict[str, str]:
    answer = requests.get(f"{mds.url}/v1/batches", params=params, timeout=5).json()
    return {item["id"]: item["status"] for item in answer["data"]}


def test_each_get_moves_a_batch_one_step_on(mds: FakeMds) -> None:
    batch_id = create(mds)
    assert [get(mds, batch_id)["status"] for _ in LIFE] == LIFE
    assert get(mds, batch_id)["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert [batch.id for batch in mds.counted()] == [batch_id]
    assert mds.running() == []


def test_a_listing_moves_nothing(mds: FakeMds) -> None:
    batch_id = create(mds)
    assert [listed(mds)[batch_id] for _ in range(3)] == ["scheduling"] * 3


def test_a_batch_with_a_run_time_is_moved_by_the_clock(mds: FakeMds) -> None:
    mds.run_seconds = 100
    batch_id = create(mds)
    created_at = mds.batches()[0].created_at
    seen = []
    for seconds in (1, 6, 50, 95, 101):
        with time_machine.travel(created_at + seconds):
            seen.append(get(mds, batch_id)["status"])
    assert seen == ["scheduling", *LIFE[:-1]]


def test_a_batch_whose_time_has_come_is_over_at_the_first_look(mds: FakeMds) -> None:
    mds.run_seconds = 100
    batch_id = create(mds)
    with time_machine.travel(time.time() + 101):
        done = get(mds, batch_id)
    assert done["status"] == "completed"
    assert {"in_progress_at", "finalizing_at", "completed_at", "output_file_id", "usage"} <= set(done)


def test_a_deadline_ends_what_waits_as_expired_and_what_runs_as_completed_in_part(mds: FakeMds) -> None:
    mds.run_seconds = 1_000_000
    waiting = create(mds, completion_window="1h")
    mds.run_seconds = 10_000
    running = create(mds, completion_window="1h")
    with time_machine.travel(time.time() + 3599):
        assert get(mds, running)["status"] == "in_progress"
    with time_machine.travel(time.time() + 3601):
        assert get(mds, waiting)["status"] == "expired"
        partial = get(mds, running)
    assert partial["status"] == "completed"
    assert partial["request_counts"]["completed"] < partial["request_counts"]["total"]


def test_a_cancel_takes_its_time_or_none(mds: FakeMds) -> None:
    mds.run_seconds, mds.cancel_seconds = 100, 10
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        batch_id = create(mds)
        clock.shift(50)
        assert [cancel(mds, batch_id).json()["status"] for _ in range(2)] == ["cancelling", "cancelling"]
        assert mds.counted() == []
        assert [batch.id for batch in mds.running()] == [batch_id]
        clock.shift(6)
        assert get(mds, batch_id)["status"] == "finalizing"
        assert cancel(mds, batch_id).status_code == 409
        clock.shift(6)
        assert get(mds, batch_id)["status"] == "cancelled"
    assert mds.running() == []


def test_what_is_uncancelled_is_told_by_attempt(mds: FakeMds) -> None:
    first, twin, other = create(mds, "here:a:1"), create(mds, "here:a:1"), create(mds, "here:a:2")
    cancel(mds, create(mds, "here:b:1"))
    mds.run_seconds, mds.cancel_seconds = 100, 10
    too_late = create(mds, "here:c:1")
    mds.set_status(too_late, "in_progress")
    assert cancel(mds, too_late).status_code == 200
    mds.set_status(too_late, "completed")
    assert mds.uncancelled_by_attempt() == {"here:a:1": [twin, first], "here:a:2": [other], "here:c:1": [too_late]}


def test_an_upload_tells_how_many_lines_a_batch_has_and_what_it_writes(mds: FakeMds) -> None:
    lines = [json.dumps({"custom_id": f"c{number}", "body": {"model": "m"}}) for number in range(5)]
    sent = {"file": ("in.jsonl", "\n".join(lines) + "\n\n")}
    file = requests.post(f"{mds.url}/v1/files", files=sent, data={"purpose": "batch"}, timeout=5).json()
    batch_id = create(mds, input_file_id=file["id"])
    done = [get(mds, batch_id) for _ in LIFE][-1]
    assert done["request_counts"]["total"] == 5
    content = requests.get(f"{mds.url}/v1/files/{done['output_file_id']}/content", timeout=5).text
    assert [json.loads(line)["custom_id"] for line in content.splitlines()] == [f"c{number}" for number in range(5)]
    assert requests.get(f"{mds.url}/v1/files/{file['id']}/content", timeout=5).text == sent["file"][1]


def test_a_body_in_chunks_is_read_whole(mds: FakeMds) -> None:
    body = json.dumps({"input_file_id": "f", "endpoint": "/v1/completions"}).encode()
    chunks = iter([body[:7], body[7:]])
    assert requests.post(f"{mds.url}/v1/batches", data=chunks, timeout=5).status_code == 200
    assert len(mds.batches()) == 1


def test_connections_are_kept_and_end_with_the_server() -> None:
    with FakeMds() as mds:
        connection = http.client.HTTPConnection("127.0.0.1", int(mds.url.rpartition(":")[2]), timeout=5)
        connection.connect()
        kept = connection.sock
        for _ in range(3):
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b'{"status": "ok"}'
            assert connection.sock is kept
    with contextlib.closing(connection):
        assert kept.recv(1) == b"", "the server has hung up"


def test_thousands_of_batches_are_listed_in_pages_without_gap(mds: FakeMds) -> None:
    for number in range(3000):
        mds._batches.create(
            number, {"input_file_id": "f", "endpoint": "/v1/completions"}, run_seconds=0, ends="completed",
            missing_lines=0, unknown_lines=1, visible_at=0,
        )  # fmt: skip
    ids: list[str] = []
    while page := list(listed(mds, limit=100, after=ids[-1] if ids else "")):
        ids += page
    assert ids == [batch.id for batch in mds.batches()]
    assert len(ids) == 3000


def test_the_planners_client_follows_the_setting(fake_mds: FakeMds, settings: Any) -> None:
    assert calls.batch_client() is calls.batch_client()
    calls.batch_client().list_page()
    with FakeMds() as other:
        settings.PLANNER_MDS_URL = other.url
        calls.batch_client().list_page()
        assert (fake_mds.count("list"), other.count("list")) == (1, 1)


# --- what it can be told to do wrong ---


def test_a_batch_can_be_listed_late_and_is_known_at_once(mds: FakeMds) -> None:
    mds.add_rule(Rule("create", visible_after_seconds=30))
    late, other = create(mds), create(mds)
    assert list(listed(mds)) == [other]
    assert get(mds, late)["id"] == late
    assert [batch.id for batch in mds.batches()] == [other, late]
    with time_machine.travel(time.time() + 31):
        assert list(listed(mds)) == [other, late]


def test_a_batch_that_is_there_can_be_missed_for_a_while(mds: FakeMds) -> None:
    missed, other = create(mds, "here:missed:1"), create(mds, "here:other:1")
    for verb in ("get", "list"):
        mds.add_rule(Rule(verb, times=2, hides=True, name_prefix="here:missed"))
    assert [list(listed(mds)) for _ in range(3)] == [[other], [other], [other, missed]]
    assert get(mds, other)["id"] == other
    answers = [get(mds, missed) for _ in range(3)]
    assert [answer.get("error", {}).get("message") for answer in answers] == ["Batch not found"] * 2 + [None]
    assert answers[2]["status"] == "validating", "a get that missed it has moved nothing"


@pytest.mark.parametrize(("is_applied", "made"), [(True, 1), (False, 0)])
def test_an_error_may_come_before_or_after_the_effect(mds: FakeMds, is_applied: bool, made: int) -> None:
    mds.add_rule(Rule("create", status=500, is_applied=is_applied))
    assert post(mds).status_code == 500
    assert len(mds.batches()) == made


@pytest.mark.parametrize(("is_applied", "status"), [(True, "cancelled"), (False, "scheduling")])
def test_a_lost_answer_to_a_cancel_may_hide_that_it_was_taken(mds: FakeMds, is_applied: bool, status: str) -> None:
    batch_id = create(mds)
    mds.add_rule(Rule("cancel", drop=True, is_applied=is_applied))
    with pytest.raises(requests.ConnectionError):
        cancel(mds, batch_id)
    assert mds.batches()[0].status == status


@pytest.mark.parametrize("verb", ["create", "get", "list", "cancel"])
def test_it_can_ask_to_be_left_alone(mds: FakeMds, verb: str) -> None:
    batch_id = create(mds)
    mds.add_rule(Rule(verb, status=429, retry_after_seconds=7))
    calls_by_verb: dict[str, Callable[[], requests.Response]] = {
        "create": lambda: post(mds),
        "get": lambda: requests.get(f"{mds.url}/v1/batches/{batch_id}", timeout=5),
        "list": lambda: requests.get(f"{mds.url}/v1/batches", timeout=5),
        "cancel": lambda: cancel(mds, batch_id),
    }
    refused = calls_by_verb[verb]()
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    assert refused.json()["error"]["message"] == "as scripted"
    assert [batch.status for batch in mds.batches()] == ["scheduling"]


def test_a_forgotten_batch_is_neither_found_nor_listed(mds: FakeMds) -> None:
    kept, lost = create(mds), create(mds)
    mds.forget(lost)
    assert get(mds, lost)["error"]["message"] == "Batch not found"
    assert cancel(mds, lost).status_code == 404
    assert list(listed(mds)) == [kept]
    assert list(listed(mds, after=lost)) == [kept], "what was after it still is"


def test_a_status_can_be_one_nobody_knows_and_stays(mds: FakeMds) -> None:
    batch_id = create(mds)
    mds.set_status(batch_id, "paused")
    assert [get(mds, batch_id)["status"] for _ in range(2)] == ["paused"] * 2
    mds.set_status(batch_id, "in_progress")
    assert get(mds, batch_id)["status"] == "finalizing"


def test_a_status_can_go_backwards(mds: FakeMds) -> None:
    batch_id = create(mds)
    mds.add_rule(Rule("get", shows="in_progress"))
    assert [get(mds, batch_id)["status"] for _ in range(2)] == ["in_progress", "in_progress"]
    mds.set_status(batch_id, "scheduling")
    assert get(mds, batch_id)["status"] == "validating"


def test_a_list_can_be_stale_for_ever(mds: FakeMds) -> None:
    mds.add_rule(Rule("list", shows="scheduling", times=None, name_prefix="here:stale"))
    stale, other = create(mds, "here:stale:1"), create(mds, "here:other:1")
    for batch_id in (stale, other):
        mds.set_status(batch_id, "completed")
    assert [listed(mds) for _ in range(2)] == [{other: "completed", stale: "scheduling"}] * 2
    assert get(mds, stale)["status"] == "completed"


def test_a_batch_past_its_deadline_is_listed_as_if_it_waited_for_ever(mds: FakeMds) -> None:
    batch_id = create(mds, aibrix={"resource_allocation": {"provision_resource_deadline": 1_700_000_000}})
    assert get(mds, batch_id)["status"] == "expired"
    assert listed(mds) == {batch_id: "scheduling"}


@pytest.mark.parametrize("status", ["finalizing", "completed", "failed", "expired", "cancelled"])
def test_a_cancel_that_comes_too_late_is_refused(mds: FakeMds, status: str) -> None:
    batch_id = create(mds)
    mds.set_status(batch_id, status)
    refused = cancel(mds, batch_id)
    assert refused.status_code == 409
    assert refused.json()["error"]["message"].startswith("Cannot cancel a batch")
    assert mds.batches()[0].status == status


def test_a_cancel_can_be_refused_though_the_batch_runs(mds: FakeMds) -> None:
    batch_id = create(mds)
    mds.add_rule(Rule("cancel", status=409))
    assert [cancel(mds, batch_id).status_code for _ in range(2)] == [409, 200]


def test_a_completed_batch_can_lack_lines(mds: FakeMds) -> None:
    mds.add_rule(Rule("create", missing_lines=2))
    batch_id = create(mds)
    done = [get(mds, batch_id) for _ in LIFE][-1]
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 3, "completed": 1, "failed": 0})


@pytest.mark.parametrize("end", ["cancelled", "failed", "expired"])
def test_a_batch_can_end_otherwise_though_nobody_asked(mds: FakeMds, end: str) -> None:
    mds.add_rule(Rule("create", ends=end))
    batch_id = create(mds)
    done = [get(mds, batch_id) for _ in LIFE][-1]
    assert (done["status"], f"{end}_at" in done, "errors" in done) == (end, True, end == "failed")
    assert mds.count("cancel") == 0


def test_a_hung_call_goes_on_when_all_are_released(
    mds: FakeMds, in_background: Callable[..., Future[requests.Response]]
) -> None:
    mds.add_rule(Rule("create", delay_seconds=600, times=None))
    first = in_background(post, mds)
    assert mds.wait_until(lambda: mds.in_flight["create"] == 1)
    assert mds.batches() == []
    mds.release_all()
    assert first.result(5).status_code == 200
    second = in_background(post, mds)
    assert mds.wait_until(lambda: mds.in_flight["create"] == 1), "the rule is still in force"
    mds.clear()
    assert second.result(5).status_code == 200


@pytest.mark.parametrize("delay", ["delay_seconds", "answer_delay_seconds"])
def test_a_batch_can_land_though_its_caller_has_given_up(mds: FakeMds, delay: str) -> None:
    hung = mds.add_rule(Rule("create", **{delay: 600}))  # type: ignore[arg-type] # a name of a field
    with pytest.raises(requests.Timeout):
        post(mds, timeout=0.3)
    assert len(mds.batches()) == (0 if delay == "delay_seconds" else 1)
    mds.withdraw(hung)
    assert mds.wait_until(lambda: mds.in_flight["create"] == 0)
    assert len(mds.batches()) == 1


def test_an_answer_can_come_byte_by_byte(mds: FakeMds) -> None:
    batch_id = create(mds)
    mds.add_rule(Rule("get", drip_seconds=0.01))
    with pytest.raises(UpstreamError) as raised:
        client_of(mds.url, timeout=0.3).get(batch_id)
    assert raised.value.kind == UpstreamKind.TRANSIENT
    mds.add_rule(Rule("get", drip_seconds=600))
    with requests.get(f"{mds.url}/v1/batches/{batch_id}", stream=True, timeout=5) as answer:
        assert answer.raw.read(1) == b"{"
        mds.release_all()
        assert json.loads(b"{" + answer.raw.read())["id"] == batch_id


def test_an_unknown_verb_is_refused_before_it_matches_nothing(mds: FakeMds) -> None:
    with pytest.raises(ValueError, match="unknown verb 'delete'"):
        mds.add_rule(Rule("delete"))
    with pytest.raises(ValueError, match="unknown verb"):
        mds.count("creates")


def test_calls_are_counted_by_name(mds: FakeMds) -> None:
    batch_id = create(mds, "here:one:1")
    create(mds, "here:two:1")
    get(mds, batch_id)
    get(mds, "unknown")
    assert (mds.count("create"), mds.count("create", "here:one:1"), mds.count("get", "here:one:1")) == (2, 1, 1)
    assert [(call.verb, call.object_id, call.status) for call in mds.calls][-2:] == [
        ("get", batch_id, 200),
        ("get", "", 404),
    ]


def test_it_can_be_scripted_over_http(mds: FakeMds) -> None:
    lost, moved = create(mds), create(mds)
    order = {
        "rules": [{"on": "create", "status": 503, "name_prefix": "x"}],
        "run_seconds": 600,
        "cancel_seconds": 60,
        "status": {moved: "in_progress"},
        "forget": [lost],
    }
    assert requests.post(f"{mds.url}/script", json=order, timeout=5).status_code == 200
    assert [post(mds, job_id).status_code for job_id in ("x", "x")] == [503, 200]
    assert cancel(mds, moved).json()["status"] == "cancelling"
    assert get(mds, mds.batches()[0].id)["status"] == "scheduling", "600 seconds are not over"
    stats = requests.get(f"{mds.url}/stats", timeout=5).json()
    assert stats["batches"] == {"scheduling": 1, "cancelling": 1}
    assert (stats["calls"]["create"], stats["peak"]["create"]) == (4, 1)
    refused = requests.post(f"{mds.url}/script", json={"rules": [{"on": "delete"}], "run_seconds": 1}, timeout=5)
    assert (refused.status_code, mds.run_seconds) == (400, 600)


# --- what outlives it ---


@pytest.mark.processes
def test_a_killed_process_forgets_nothing(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "jobs.testing.fake_mds", "--port", str(port), "--run-seconds", "1000"]
    command += ["--ledger", str(tmp_path / "ledger")]
    client = client_of(f"http://127.0.0.1:{port}")
    seen: list[list[Batch]] = []
    for job_id in ("here:one:1", "here:two:1"):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert f":{port}" in process.stdout.readline()
                decision = dataclasses.replace(DECISION, job_id=job_id)
                client.create(dataclasses.replace(SUBMISSION, decision=decision))
                if seen:
                    client.cancel(seen[0][0].id)
                seen.append(client.list_page().batches)
            finally:
                os.kill(process.pid, signal.SIGKILL)
    assert [batch.job_id for batch in seen[1]] == ["here:two:1", "here:one:1"]
    with FakeMds(ledger_path=tmp_path / "ledger") as mds:
        assert [(batch.job_id, batch.status) for batch in mds.batches()] == [
            ("here:two:1", "scheduling"),
            ("here:one:1", "cancelled"),
        ]
        assert [batch.run_seconds for batch in mds.running()] == [1000]


def test_a_restarted_server_holds_what_it_held(tmp_path: Path) -> None:
    with FakeMds(ledger_path=tmp_path / "ledger") as mds:
        for job_id in ("here:done:1", "here:weird:1", "here:lost:1"):
            create(mds, job_id)
        lost, weird, done = mds.batches()
        for _ in LIFE:
            get(mds, done.id)
        mds.set_status(weird.id, "paused", request_counts={"total": 9, "completed": 1, "failed": 0})
        mds.forget(lost.id)
        sent = {"file": ("in.jsonl", "{}\n\u00fc")}
        requests.post(f"{mds.url}/v1/files", files=sent, data={"purpose": "batch"}, timeout=5)
        before, files, wire = mds.batches(), mds._batches.files, get(mds, weird.id)
    with FakeMds(ledger_path=tmp_path / "ledger") as mds:
        assert mds.batches() == before
        assert mds._batches.files == files
        assert get(mds, weird.id) == wire
        assert (wire["status"], wire["request_counts"]["total"]) == ("paused", 9)
