"""How quickly jobs are accepted: POST /api/v1/jobs from 32 clients at once, under gunicorn as it is configured.

The reference, `bare`, is served by the same gunicorn and inserts one row. Neither asks for a login: the planner runs in
its `dev` mode. What a token costs on top is told besides. No workers run: the jobs stay in the queue.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from planner_site.bench.backlog import forget_jobs
from planner_site.bench.figures import Figure, Figures, percentile
from planner_site.bench.usage import Usage
from planner_site.local import CHECKOUT, LocalError, LocalPlanner, say
from planner_site.processes import free_port

CLIENTS = 32
CLIENT_PROCESSES = 2
SECONDS = 10.0
WARM_UP_SECONDS = 2.0
ROUNDS = 3
_UNUSED_URL = "http://127.0.0.1:9"  # nothing is called
_CAPACITY = "1000000"  # of the queue: nothing is refused


@dataclass(frozen=True)
class Run:
    """One round of one side."""

    per_second: float
    p95_ms: float
    cpu_ms_per_job: Mapping[str, float]  # by process tree
    idle_share: float
    clients_cpu_share: float  # of one processor


def measure(purpose: str, scale: float) -> Figures:
    """The planner against the bare view, side after side, round after round."""
    seconds = max(1.0, SECONDS * scale)
    runs: dict[str, list[Run]] = {}
    with LocalPlanner(purpose, provider_url=_UNUSED_URL, mds_url=_UNUSED_URL, hosts=0) as planner:
        planner.start()
        from django.db import connection

        from planner_site import demo_data

        body = json.dumps(demo_data.job_request(demo_data.file_row().pk))
        token = f"Authorization: Bearer {demo_data.token('alice')}"
        settings: dict[str, tuple[dict[str, str], list[str]]] = {
            "planner": ({"PLANNER_AUTH_MODE": "dev"}, []),
            "bare view": ({"DJANGO_SETTINGS_MODULE": "planner_site.bench.bare_settings"}, []),
            "planner with a token": ({}, [token]),
        }
        urls = {
            name: planner.web(name, port=free_port(), environment={"PLANNER_QUEUE_CAPACITY": _CAPACITY, **own})
            for name, (own, _) in settings.items()
        }
        for _ in range(ROUNDS if scale >= 1 else 1):
            for name, (_, headers) in settings.items():
                forget_jobs()
                say(f"{CLIENTS} clients, {name} ...")
                roots = {"web": [planner.services[name].pid], "postgres": [planner.postgres.pid() or 0]}
                runs.setdefault(name, []).append(_run(roots, urls[name], headers, body, seconds))
        connection.close()
    rates = {name: statistics.median(run.per_second for run in found) for name, found in runs.items()}
    detail = {name: _seen(found) for name, found in runs.items()}
    return {"accept_ratio": Figure(rates["planner"], "1/s", rates["bare view"], at_least=0.6, detail=detail)}


def _seen(runs: list[Run]) -> dict[str, object]:
    return {
        "1/s": [round(run.per_second) for run in runs],
        "p95 ms": [round(run.p95_ms) for run in runs],
        "CPU ms per job": {name: round(spent, 2) for name, spent in runs[-1].cpu_ms_per_job.items()},
        "idle": [f"{run.idle_share:.0%}" for run in runs],
        "clients' CPU": [f"{run.clients_cpu_share:.0%}" for run in runs],
    }


def _run(roots: Mapping[str, Sequence[int]], url: str, headers: list[str], body: str, seconds: float) -> Run:
    from jobs.models import Job

    command = [sys.executable, "-m", "planner_site.bench.clients", "--url", f"{url}/api/v1/jobs"]
    command += ["--clients", str(CLIENTS // CLIENT_PROCESSES), "--seconds", str(seconds)]
    command += ["--warm-up", str(min(WARM_UP_SECONDS, seconds)), *(f"--header={header}" for header in headers)]

    def clients(_: int) -> dict[str, Any]:
        done = subprocess.run(command, cwd=CHECKOUT, input=body, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own program
        if done.returncode:
            raise LocalError("The clients failed; what they said is above.")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    before = Usage.of(roots)
    with ThreadPoolExecutor(CLIENT_PROCESSES) as threads:
        seen = list(threads.map(clients, range(CLIENT_PROCESSES)))
    used = Usage.of(roots).since(before)
    jobs = Job.objects.count()
    if any(set(one["statuses"]) != {"200"} for one in seen):
        raise LocalError(f"Jobs were not accepted: {[one['statuses'] for one in seen]}.")
    latencies = [latency for one in seen for latency in one["latencies"]]
    return Run(
        per_second=len(latencies) / seconds,
        p95_ms=1000 * percentile(latencies, 95),
        cpu_ms_per_job={name: 1000 * spent / jobs for name, spent in used.trees.items()},
        idle_share=used.idle_share,
        clients_cpu_share=sum(one["cpu_seconds"] for one in seen) / seconds,
    )
