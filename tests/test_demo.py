"""The demo, as a newcomer runs it: real processes, real signals, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from planner_site import demo_data
from tests.checkouts import Checkout, outcome
from tests.waiting import eventually

pytestmark = [pytest.mark.processes, pytest.mark.mds]

DEMO = ("-m", "planner_site.demo")


def running_demo(checkout: Checkout) -> subprocess.Popen[str]:
    """A demo that says that it is up."""
    demo = checkout.start(*DEMO)
    assert demo.stderr
    said = []
    for line in demo.stderr:
        said.append(line)
        if "The planner runs at http://127.0.0.1:" in line:
            return demo
    raise AssertionError("".join(said))


def child(checkout: Checkout, *words: str) -> int:
    """The process with these words in its command line."""
    for pid in sorted(checkout.processes()):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        if all(word in command for word in words):
            return pid
    raise AssertionError(f"No process with {words}.")


def test_one_sample_job_runs_to_its_end_and_nothing_is_left(checkout: Checkout) -> None:
    code, output, errors = checkout.run(*DEMO, "--once")
    assert code == 0, errors
    job = json.loads(output.splitlines()[-1])
    assert job["status"] == "completed"
    assert job["provision"]["status"] == "released"
    lines = (checkout.folder / "docs" / "sample.jsonl").read_text().splitlines()
    assert job["requestCounts"] == {"total": len(lines), "completed": len(lines), "failed": 0}
    assert "completed, resources: released" in errors
    checkout.check_nothing_runs(timeout=0)


def test_a_killed_demo_is_taken_over_by_the_next(checkout: Checkout) -> None:
    first = running_demo(checkout)
    code, _, errors = checkout.run(*DEMO)
    assert code == 1
    assert f"pid {first.pid}" in errors

    first.kill()
    outcome(first)
    server = checkout.servers["demo"]
    eventually(lambda: checkout.processes() == server.processes(), 30, what="children die with the demo")
    assert server.pid()

    second = running_demo(checkout)
    assert checkout.run(*DEMO, "--stop")[0] == 0
    assert outcome(second)[0] != 0
    checkout.check_nothing_runs(timeout=0)


def test_it_has_jobs_to_look_at_and_ctrl_c_stops_everything(checkout: Checkout) -> None:
    demo = running_demo(checkout)
    assert demo.stderr
    url, token = next(filter(None, (re.search(r"URL=(\S+) TOKEN=(\S+)", line) for line in demo.stderr))).groups()
    alice = {"Authorization": f"Bearer {token}"}
    jobs = requests.get(f"{url}/api/v1/jobs", headers=alice, timeout=60).json()["jobs"]
    assert sorted(job["name"] for job in jobs) == sorted(demo_data.JOBS)
    assert [job["name"] for job in jobs if job["hold"]] == ["weekly digest"]
    assert [job["name"] for job in jobs if job["cancelRequestedAt"] != "0"] == ["wrong model"]
    environment = dict(re.findall(r"(\w+)='(.*?)'", next(line for line in demo.stderr if "manage.py" in line)))
    _, told, errors = checkout.run("manage.py", "doctor", "--json", environment=environment)
    failed = [check for check in json.loads(told)["checks"] if check["state"] == "fail"]
    assert failed == [], errors
    demo.send_signal(signal.SIGINT)
    code, _, errors = outcome(demo, timeout=90)
    assert code == 0, errors
    checkout.check_nothing_runs(timeout=0)


def test_a_part_that_ends_by_itself_ends_the_demo_and_its_log_is_named(checkout: Checkout) -> None:
    demo = running_demo(checkout)
    os.kill(child(checkout, "jobs.provisioners.simulated_server"), signal.SIGKILL)
    code, _, errors = outcome(demo, timeout=90)
    assert code == 1
    assert "The provider ended" in errors
    assert str(checkout.folder / ".data" / "demo" / "logs") in errors
    checkout.check_nothing_runs(timeout=0)


def test_a_missing_metadata_service_is_named_with_its_remedy(checkout: Checkout) -> None:
    (checkout.folder / ".venv-mds").unlink()
    code, output, errors = checkout.run(*DEMO, "--once")
    assert code == 1
    assert "run `make setup`" in errors
    assert output == ""
    checkout.check_nothing_runs(timeout=0)
