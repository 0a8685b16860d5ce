"""What a metadata service that answers nothing costs the others: creates in another pool, and cancels.

Every kind of call to it hangs until its time-out, all the time: submits, looks at running batches, cancels, listings.
Beside that, one job after another goes to a healthy pool and is cancelled while it is being provisioned.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from typing import Any

from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from planner_site.bench.figures import Figure, Figures, percentile
from planner_site.local import Client, LocalError, LocalPlanner, data_folder, say

JOBS = 20
RUNNING_JOBS = 12  # before the hang begins: their looks hang from then on, the cancels of every third, too
ENDLESS_SECONDS = 86_400  # resources are never ready, batches never over, calls never answered
LONGEST_SECONDS = 240  # of one sample, so that even a bad figure is a figure
_HUNG, _HEALTHY = "hung", "simulated"  # names of pools


def measure(purpose: str, scale: float) -> Figures:
    """On one host with 1 worker and with 4."""
    figures: Figures = {}
    for workers in (1, 4):
        found = waits(purpose, max(2, round(JOBS * scale)), workers)
        for what, seen in zip(("create", "cancel"), found, strict=True):
            spread = {"p50": round(percentile(seen, 50), 1), "max": round(max(seen), 1), "n": len(seen)}
            name = f"hanging_mds_{what}_{workers}_workers_p95_ms"
            figures[name] = Figure(percentile(seen, 95), "ms", at_most=1000, detail=spread)
    return figures


def waits(purpose: str, jobs: int, workers: int) -> tuple[list[float], list[float]]:
    """Milliseconds from each POST's answer to the create's arrival, and from each cancel's answer to `cancelled`."""
    os.environ["PLANNER_WORKERS"] = str(workers)
    with (
        FakeMds(run_seconds=ENDLESS_SECONDS) as mds,
        LocalPlanner(purpose, ready_seconds=ENDLESS_SECONDS, mds_url=mds.url) as planner,
    ):
        planner.start()
        from django.db import connection

        from planner_site.demo_data import job_request

        file_id, template = _prepare()
        client = Client(planner.url)
        client.log_in()
        hung = job_request(file_id) | {"model_template_name": template}
        running = [_create(client, hung) for _ in range(RUNNING_JOBS)]
        for job_id in running:
            _seconds_until(_has_status(job_id, "scheduling"), planner)
        say(f"{jobs} jobs beside a metadata service that hangs, workers: {workers} ...")
        creates, cancels = [], []
        for verb in sorted(mds.verbs):
            mds.add_rule(Rule(verb, times=None, delay_seconds=ENDLESS_SECONDS))
        for job_id in running[::3]:
            _cancel(client, job_id)
        for _ in range(jobs):
            _create(client, hung)  # so that submits go on hanging
            job_id = _create(client, job_request(file_id))
            answered_at = time.time()
            creates.append(1000 * (_created_at(purpose, job_id, planner) - answered_at))
            _seconds_until(_has_status(job_id, "provisioning"), planner)
            _pause()
            _cancel(client, job_id)
            cancels.append(1000 * _seconds_until(_has_status(job_id, "cancelled"), planner))
            _pause()
        mds.script({"clear": True})
        connection.close()
    return creates, cancels


def _prepare() -> tuple[str, str]:
    """A pool whose jobs go straight to the metadata service, and room in the other; an input file, a template."""
    from jobs.models import DeploymentTemplate, Pool
    from planner_site.demo_data import file_row

    Pool.objects.filter(name=_HEALTHY).update(max_live=1000, max_provisioning=1000, absence_confirm_seconds=0.2)
    Pool.objects.create(name=_HUNG, provider="passthrough", accelerator_types=["L4"], max_live=10_000)
    template = DeploymentTemplate.objects.get()
    spec = template.spec | {"accelerator": {"type": "L4", "count": 1}}
    DeploymentTemplate.objects.create(model=template.model, name=f"{template.name}-l4", spec=spec)
    return file_row().pk, f"{template.name}-l4"


def _create(client: Client, body: dict[str, Any]) -> str:
    return str(client.call("POST", "/jobs", json=body)["id"])


def _cancel(client: Client, job_id: str) -> None:
    client.call("POST", f"/jobs/{job_id}/cancel")


def _created_at(purpose: str, job_id: str, planner: LocalPlanner) -> float:
    """When the provider created the job's resource, by its own ledger."""
    ledger = data_folder(purpose) / "provider" / "ledger.jsonl"
    found: list[float] = []

    def is_there() -> bool:
        for line in ledger.read_bytes().splitlines() if ledger.exists() else ():
            entry = json.loads(line)
            if entry["event"] == "created" and entry["fields"]["facts"]["job_id"] == job_id:
                found.append(entry["at"])
        return bool(found)

    _seconds_until(is_there, planner)
    return found[0]


def _has_status(job_id: str, status: str) -> Callable[[], bool]:
    from jobs.models import Job

    return lambda: Job.objects.filter(pk=job_id, status=status).exists()


def _seconds_until(condition: Callable[[], bool], planner: LocalPlanner) -> float:
    began = time.monotonic()
    while not condition():
        planner.check_running()
        if time.monotonic() - began > LONGEST_SECONDS:
            raise LocalError(f"A job did not move on within {LONGEST_SECONDS} s beside a hanging metadata service.")
        time.sleep(0.005)
    return time.monotonic() - began


def _pause() -> None:
    time.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - uneven, so as not to keep step with any timer
