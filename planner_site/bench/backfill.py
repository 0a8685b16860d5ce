"""The backfill: how quickly it imports many batches that are over, and how much memory it takes for them.

Its process is another one than the fake metadata service's. Memory counts from the moment it asks for the first page:
what Django takes before is no growth.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from jobs.testing.fake_mds import FakeMds
from planner_site.bench.figures import Figure, Figures
from planner_site.local import CHECKOUT, LocalError, LocalPlanner, say

BATCHES = 10_000
LOOK_SECONDS = 0.02
_UNUSED_URL = "http://127.0.0.1:9"  # no provider is called
_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)
_MEGABYTE = 1024  # kB


def measure(purpose: str, scale: float) -> Figures:
    """One run over all batches."""
    count = max(10, round(BATCHES * scale))
    with (
        FakeMds(run_seconds=0.001) as mds,  # each batch is over when it is listed
        LocalPlanner(purpose, provider_url=_UNUSED_URL, mds_url=mds.url, hosts=0) as planner,
    ):
        planner.start()
        from django.db import connection

        from jobs.models import Job, JobEvent

        say(f"{count} batches of another client's ...")
        _submit(mds.url, count)
        say("Importing them ...")
        told, before, peak = _import(mds)
        if Job.objects.count() != count or told["imported"] != count:
            raise LocalError(f"{Job.objects.count()} of {count} batches were imported: {told}")
        detail = {
            "batches": count,
            "events": JobEvent.objects.count(),
            "seconds": told["seconds"],
            "resident": f"{before:.0f} MB at the first page, {peak:.0f} MB at most",
        }
        connection.close()
    return {
        "backfill_memory_growth": Figure(peak - before, "MB", at_most=50, detail=detail),
        "backfill_per_second": Figure(told["batches_per_second"], "1/s"),
    }


def _submit(url: str, count: int) -> None:
    with requests.Session() as session:
        session.trust_env = False
        for number in range(count):
            body = {
                "input_file_id": f"file-{number}",
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": {"created_by": "alice", "display_name": f"nightly {number}", "note": "x" * 200},
            }
            session.post(f"{url}/v1/batches", json=body, timeout=30).raise_for_status()


def _import(mds: FakeMds) -> tuple[dict[str, Any], float, float]:
    """What it told, and its resident megabytes before the first page and at most."""
    command = [sys.executable, "manage.py", "backfill_jobs", "--json"]
    before = peak = 0.0
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command line
        while process.poll() is None:
            is_begun = "list" in mds.stats()["calls"] if not peak else True
            with suppress(OSError):
                found = _RESIDENT.search(Path(f"/proc/{process.pid}/status").read_text())
                resident = int(found[1]) / _MEGABYTE if found else 0.0
                if is_begun:
                    peak = max(peak, resident)
                else:
                    before = resident
            time.sleep(LOOK_SECONDS)
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise LocalError("backfill_jobs failed; what it said is above.")
    told: dict[str, Any] = json.loads(output)
    return told, before, max(before, peak)
