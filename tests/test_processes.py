"""Child processes: they die with their parent, and say why they failed."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from planner_site.processes import Service, ServiceError, free_port
from tests.waiting import eventually

pytestmark = pytest.mark.processes

FOLDER = Path(__file__).resolve().parent.parent

_PARENT = """
import sys, time
from pathlib import Path
from planner_site.processes import Service
idle = [sys.executable, "-c", "import time; time.sleep(60)"]
service = Service("child", idle, log=Path(sys.argv[1]), folder=Path("/"))
print(service.pid, flush=True)
time.sleep(60)
"""

_STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
print(os.getpid(), flush=True)
time.sleep(60)
"""


def ends(pid: int) -> None:
    eventually(lambda: not Path(f"/proc/{pid}/cwd").exists(), what=f"end of {pid}")


def test_a_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path / "log")], cwd=FOLDER, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}/cwd").exists()
    parent.kill()
    parent.communicate()
    ends(child)


def test_a_child_that_ignores_sigterm_is_killed_with_its_group(tmp_path: Path) -> None:
    service = Service("stubborn", [sys.executable, "-c", _STUBBORN], log=tmp_path / "log", folder=tmp_path)
    pids = eventually(lambda: len(found := (tmp_path / "log").read_text().split()) == 2 and found)
    service.stop(grace_seconds=0.2)
    for pid in pids:
        ends(int(pid))
    service.stop()  # again is harmless
    assert not service.is_running()


def test_a_child_that_ends_by_itself_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    service = Service(
        "short", [sys.executable, "-c", "raise SystemExit('no luck')"], log=tmp_path / "log", folder=tmp_path
    )
    with pytest.raises(ServiceError, match=r"(?s)The short ended with 1\..*log, ends:.*no luck"):
        service.wait_until_answers(f"http://127.0.0.1:{free_port()}/", timeout_seconds=30)
    service.stop()


def test_a_child_that_never_answers_is_given_up(tmp_path: Path) -> None:
    service = Service(
        "mute", [sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "log", folder=tmp_path
    )
    with pytest.raises(ServiceError, match="did not answer in 0 s"):
        service.wait_until_answers(f"http://127.0.0.1:{free_port()}/", timeout_seconds=0.2)
    service.stop()


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) < port + 100


@pytest.mark.mds
def test_the_metadata_service_answers(mds: str) -> None:
    assert requests.get(f"{mds}/healthz", timeout=5).json() == {"status": "ok"}
    assert requests.get(f"{mds}/v1/batches", timeout=5).json()["object"] == "list"
