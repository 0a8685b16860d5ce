"""The simulated provider's server: what it holds, bills, remembers and can be told to do wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
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

from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.ledger import Ledger
from jobs.testing.script import Rule


@pytest.fixture
def server() -> Iterator[SimulatedServer]:
    with SimulatedServer() as running:
        yield running


@pytest.fixture
def in_background() -> Iterator[Callable[..., Future[Any]]]:
    with ThreadPoolExecutor(8) as executor:
        yield executor.submit


def create(server: SimulatedServer, name: str = "one", **fields: Any) -> requests.Response:
    return requests.post(f"{server.url}/resources", json={"name": name, **fields}, timeout=5)


def listed(server: SimulatedServer, **params: str) -> list[dict[str, Any]]:
    answer = requests.get(f"{server.url}/resources", params=params, timeout=5)
    items: list[dict[str, Any]] = answer.json()["resources"]
    return items


def delete(server: SimulatedServer, object_id: str) -> int:
    return requests.delete(f"{server.url}/resources/{object_id}", timeout=5).status_code


def test_it_works(server: SimulatedServer) -> None:
    created = create(server, accelerator_type="H100", accelerator_count=2, replicas=3, installation="here")
    assert created.status_code == 201
    assert [item["id"] for item in listed(server)] == [created.json()["id"]]
    assert listed(server)[0] | {"status": "ready", "accelerator_count": 2, "installation": "here"} == listed(server)[0]
    assert delete(server, created.json()["id"]) == 204
    assert listed(server) == []
    assert delete(server, created.json()["id"]) == 404
    assert requests.get(f"{server.url}/healthz", timeout=5).json() == {"status": "ok"}


def test_names_are_not_unique_and_can_be_filtered_by(server: SimulatedServer) -> None:
    ids = [create(server, name).json()["id"] for name in ("one", "two", "one")]
    assert [item["id"] for item in listed(server, name="one")] == [ids[0], ids[2]]
    assert [item["sequence"] for item in listed(server)] == [1, 2, 3]


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "one", "replicas": "many"}, [], "text"])
def test_a_malformed_create_is_refused_and_stores_nothing(server: SimulatedServer, body: Any) -> None:
    assert requests.post(f"{server.url}/resources", json=body, timeout=5).status_code == 400
    assert server.live() == []
    assert server.in_flight["create"] == 0


@pytest.mark.parametrize("path", ["/", "/resource", "/script"])
def test_an_unknown_path_is_not_found(server: SimulatedServer, path: str) -> None:
    assert requests.get(server.url + path, timeout=5).status_code == 404


def test_an_object_becomes_ready_when_its_time_has_come(server: SimulatedServer) -> None:
    server.ready_seconds = 60
    create(server)
    assert listed(server)[0]["status"] == "pending"
    with time_machine.travel(time.time() + 61):
        assert listed(server)[0]["status"] == "ready"


def test_an_object_can_stay_pending_until_told(server: SimulatedServer) -> None:
    server.add_rule(Rule("create", is_never_ready=True))
    create(server)
    with time_machine.travel(time.time() + 86_400):
        assert listed(server)[0]["status"] == "pending"
    server.make_ready("one")
    assert listed(server)[0]["status"] == "ready"


def test_a_broken_object_stays_listed_and_billed(server: SimulatedServer) -> None:
    create(server)
    server.fail("one")
    assert listed(server)[0]["status"] == "failed"
    assert server.ledger.bill().objects_live == 1


def test_a_vanished_object_is_gone(server: SimulatedServer) -> None:
    create(server)
    server.vanish("one")
    assert listed(server) == []
    assert server.live() == []


def test_capacity_holds_under_concurrent_creates(
    server: SimulatedServer, in_background: Callable[..., Future[Any]]
) -> None:
    server.capacity = 3
    answers = [in_background(create, server, f"n{number}") for number in range(8)]
    assert sorted(answer.result().status_code for answer in answers) == [201] * 3 + [409] * 5
    assert len(server.live()) == 3
    assert delete(server, server.live()[0].id) == 204
    assert create(server).status_code == 201


def test_a_refusal_leaves_nothing_and_says_when_to_come_back(server: SimulatedServer) -> None:
    server.add_rule(Rule("create", status=429, code="rate_limited", retry_after_seconds=7))
    refused = create(server)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
    assert refused.json()["error"]["code"] == "rate_limited"
    assert server.live() == []
    assert create(server).status_code == 201


@pytest.mark.parametrize(("is_applied", "left"), [(True, 1), (False, 0)])
def test_an_error_may_come_before_or_after_the_effect(server: SimulatedServer, is_applied: bool, left: int) -> None:
    server.add_rule(Rule("create", status=500, is_applied=is_applied))
    assert create(server).status_code == 500
    assert len(server.live()) == left


def test_an_answer_can_be_lost_after_the_effect(server: SimulatedServer) -> None:
    server.add_rule(Rule("create", drop=True, is_applied=True))
    with pytest.raises(requests.ConnectionError):
        create(server)
    assert len(server.live("one")) == 1


def test_a_held_call_acts_once_its_rule_is_withdrawn(
    server: SimulatedServer, in_background: Callable[..., Future[Any]]
) -> None:
    rule = server.add_rule(Rule("create", delay_seconds=60))
    answer = in_background(create, server)
    assert server.wait_until(lambda: server.in_flight["create"] == 1)
    assert server.live() == []
    server.withdraw(rule)
    assert answer.result(5).status_code == 201


def test_an_effect_can_come_long_before_its_answer(
    server: SimulatedServer, in_background: Callable[..., Future[Any]]
) -> None:
    server.add_rule(Rule("create", answer_delay_seconds=60))
    answer = in_background(create, server)
    assert server.wait_until(lambda: len(server.live()) == 1)
    assert not answer.done()
    server.script({"clear": True})
    assert answer.result(5).status_code == 201


def test_a_new_object_can_be_listed_late(server: SimulatedServer) -> None:
    server.add_rule(Rule("create", visible_after_seconds=30))
    create(server)
    assert listed(server) == []
    assert len(server.live()) == 1
    with time_machine.travel(time.time() + 31):
        assert len(listed(server)) == 1


def test_a_deleted_object_can_linger_and_cost(server: SimulatedServer) -> None:
    server.add_rule(Rule("delete", linger_seconds=30))
    object_id = create(server).json()["id"]
    assert [delete(server, object_id), delete(server, object_id)] == [204, 204]
    assert listed(server)[0]["status"] == "terminating"
    with time_machine.travel(time.time() + 31):
        assert delete(server, object_id) == 404
        assert listed(server) == []
        assert server.ledger.bill().object_seconds == pytest.approx(30, abs=5)


def test_a_deleted_object_can_look_as_if_nobody_had_deleted_it(server: SimulatedServer) -> None:
    server.add_rule(Rule("delete", linger_seconds=30))
    server.add_rule(Rule("list", shows="ready", name_prefix="one"))
    assert delete(server, create(server).json()["id"]) == 204
    assert [listed(server)[0]["status"] for _ in range(2)] == ["ready", "terminating"]


def test_an_object_that_is_there_can_be_missed_for_a_while(server: SimulatedServer) -> None:
    for name in ("one", "two"):
        create(server, name)
    server.add_rule(Rule("list", times=2, hides=True, name_prefix="one"))
    assert [item["name"] for item in listed(server, name="two")] == ["two"], "this listing is none of the rule's"
    assert listed(server, name="one") == []
    assert [[item["name"] for item in listed(server)] for _ in range(2)] == [["two"], ["one", "two"]]
    assert len(server.live("one")) == 1


def test_a_delete_can_answer_404_and_leave_it_there(server: SimulatedServer) -> None:
    object_id = create(server).json()["id"]
    server.add_rule(Rule("delete", status=404))
    assert (delete(server, object_id), len(server.live())) == (404, 1)
    server.add_rule(Rule("delete", status=500, is_applied=True))
    assert (delete(server, object_id), len(server.live())) == (500, 0)


def test_a_status_can_be_one_nobody_knows_or_go_backwards(server: SimulatedServer) -> None:
    for name in ("one", "two"):
        create(server, name)
    for status in ("hibernating", "pending"):
        server.add_rule(Rule("list", shows=status, name_prefix="one"))
    seen = [{item["name"]: item["status"] for item in listed(server)} for _ in range(3)]
    assert [statuses["one"] for statuses in seen] == ["hibernating", "pending", "ready"]
    assert [statuses["two"] for statuses in seen] == ["ready"] * 3
    server.add_rule(Rule("create", shows="odd"))
    assert create(server, "three").json()["status"] == "odd"


def test_an_object_can_land_though_its_caller_has_given_up(server: SimulatedServer) -> None:
    hung = server.add_rule(Rule("create", delay_seconds=600))
    with pytest.raises(requests.Timeout):
        requests.post(f"{server.url}/resources", json={"name": "one"}, timeout=0.3)
    assert server.live() == []
    server.withdraw(hung)
    assert server.wait_until(lambda: len(server.live()) == 1)


def test_an_answer_can_come_byte_by_byte(server: SimulatedServer) -> None:
    create(server)
    server.add_rule(Rule("list", drip_seconds=600))
    with requests.get(f"{server.url}/resources", stream=True, timeout=5) as answer:
        assert answer.raw.read(1) == b"{"
        server.clear()
        assert json.loads(b"{" + answer.raw.read())["resources"][0]["name"] == "one"


def test_a_rule_meets_only_its_own_calls_and_only_so_often(server: SimulatedServer) -> None:
    server.add_rule(Rule("create", status=503, name_prefix="a", accelerator_type="H100", times=2))
    tried = [("b", "H100"), ("a1", "L4"), ("a1", "H100"), ("a2", "H100"), ("a3", "H100")]
    assert [create(server, name, accelerator_type=kind).status_code for name, kind in tried] == [
        201,
        201,
        503,
        503,
        201,
    ]


def test_a_rule_without_times_stays(server: SimulatedServer) -> None:
    server.add_rule(Rule("list", status=500, times=None))
    assert [requests.get(f"{server.url}/resources", timeout=5).status_code for _ in range(3)] == [500, 500, 500]


def test_calls_and_peaks_are_recorded(server: SimulatedServer, in_background: Callable[..., Future[Any]]) -> None:
    rule = server.add_rule(Rule("create", delay_seconds=60, times=None))
    answers = [in_background(create, server, f"n{number}") for number in range(3)]
    assert server.wait_until(lambda: server.in_flight["create"] == 3)
    server.withdraw(rule)
    ids = {answer.result(5).json()["id"] for answer in answers}
    delete(server, "sim-unknown")
    assert (server.peak["create"], server.peak["delete"]) == (3, 1)
    assert {call.object_id for call in server.calls if call.verb == "create"} == ids
    assert (server.calls[-1].verb, server.calls[-1].status) == ("delete", 404)
    stats = requests.get(f"{server.url}/stats", timeout=5).json()
    assert (stats["calls"], stats["peak"]["create"]) == ({"create": 3, "delete": 1}, 3)
    assert stats["bill"]["objects_live"] == 3


def test_the_bill_counts_every_accelerator_until_it_is_gone(server: SimulatedServer) -> None:
    server.price = 2.0
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        object_id = create(server, accelerator_count=4, replicas=2).json()["id"]
        create(server, "two")
        clock.shift(1800)
        assert server.ledger.bill().cost_per_hour == 18
        delete(server, object_id)
        clock.shift(1800)
        bill = server.ledger.bill()
    assert (bill.objects_created, bill.objects_live) == (2, 1)
    assert (bill.object_seconds, bill.cost, bill.cost_per_hour) == (1800 + 3600, 8 + 2, 2)


def test_it_can_be_scripted_over_http(server: SimulatedServer) -> None:
    for name in ("lost", "broken", "other"):
        create(server, name)
    server.add_rule(Rule("create", status=500))
    order = {
        "clear": True,
        "rules": [{"on": "create", "status": 503, "name_prefix": "x"}],
        "capacity": 3,
        "ready_seconds": 60,
        "vanish": ["lost"],
        "fail": ["broken"],
    }
    assert requests.post(f"{server.url}/script", json=order, timeout=5).status_code == 200
    assert [create(server, name).status_code for name in ("x", "x", "y")] == [503, 201, 409]
    assert [(item["name"], item["status"]) for item in listed(server)] == [
        ("broken", "failed"),
        ("other", "ready"),
        ("x", "pending"),
    ]


@pytest.mark.parametrize("order", [{"rules": [{"on": "create", "colour": 1}], "capacity": 0}, {"capacty": 0}, [1]])
def test_a_script_it_does_not_understand_is_refused_whole(server: SimulatedServer, order: Any) -> None:
    assert requests.post(f"{server.url}/script", json=order, timeout=5).status_code == 400
    assert create(server).status_code == 201


def test_a_call_in_flight_at_the_stop_does_nothing(tmp_path: Path, in_background: Callable[..., Future[Any]]) -> None:
    with SimulatedServer(ledger_path=tmp_path / "ledger") as server:
        server.add_rule(Rule("create", delay_seconds=60))
        answer = in_background(create, server)
        assert server.wait_until(lambda: server.in_flight["create"] == 1)
    with pytest.raises(requests.ConnectionError):
        answer.result(5)
    assert Ledger(tmp_path / "ledger").live() == []


def test_a_restarted_server_holds_what_it_held(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with SimulatedServer(ledger_path=path) as server:
        for name in ("kept", "broken", "deleted"):
            create(server, name)
        server.fail("broken")
        delete(server, server.live("deleted")[0].id)
        before, bill = server.live(), server.ledger.bill()
    with SimulatedServer(ledger_path=path) as server:
        assert server.live() == before
        assert server.ledger.bill().objects_created == bill.objects_created == 3
        assert server.ledger.bill().object_seconds >= bill.object_seconds
        assert create(server).json()["id"] == "sim-000004"
    events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert events == ["created", "created", "created", "changed", "deleted", "created"]


def test_an_event_cut_short_by_a_kill_did_not_happen(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with SimulatedServer(ledger_path=path) as server:
        create(server, "whole")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"at": 1, "event": "crea')
    assert [held.name for held in Ledger(path).live()] == ["whole"]
    assert path.read_bytes() != whole, "reading a ledger changes nothing"
    with SimulatedServer(ledger_path=path) as server:
        create(server, "next")
    assert [held.name for held in Ledger(path).live()] == ["whole", "next"]


@pytest.mark.processes
def test_a_killed_process_forgets_nothing(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jobs.provisioners.simulated_server", "--port", str(port)]
    command += ["--ledger", str(tmp_path / "ledger"), "--capacity", "1", "--price", "3", "--ready-seconds", "0"]
    for expected in (201, 409):  # the one place is still taken after the kill
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert f":{port}" in process.stdout.readline()
                answer = requests.post(f"http://127.0.0.1:{port}/resources", json={"name": "one"}, timeout=5)
                assert answer.status_code == expected
            finally:
                os.kill(process.pid, signal.SIGKILL)
    assert Ledger(tmp_path / "ledger").live()[0].price_per_hour == 3
