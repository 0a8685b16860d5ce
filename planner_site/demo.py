"""`make demo`: the whole planner on this machine, with sample data; or one sample job from its start to its end."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Any

from planner_site.local import (
    CHECKOUT,
    SAMPLE,
    Client,
    LocalError,
    LocalPlanner,
    data_folder,
    only_one,
    say,
    stop_on,
    stop_running,
)
from planner_site.postgres_home import EmbeddedServerError
from planner_site.processes import ServiceError

PURPOSE = "demo"
READY_SECONDS = 3
ONCE_SECONDS = 180
FOR_COMMANDS = ("DATABASE_URL", "PLANNER_MDS_URL", "PLANNER_INSTALLATION", "DJANGO_HTTPS")


def run_once(demo: LocalPlanner, seconds: float = ONCE_SECONDS) -> dict[str, Any]:
    """Run the sample job to `completed` and its resources to `released`; return it as the API shows it."""
    client = Client(demo.url)
    client.log_in()
    job_id = client.create_job(client.upload_sample())
    say(f"Job {job_id}")
    deadline = time.monotonic() + seconds
    shown = ""
    while True:
        job = client.call("GET", f"/jobs/{job_id}")
        provision = (job.get("provision") or {}).get("status", "none")
        if (now := f"{job['status']}, resources: {provision}") != shown:
            say(f"  {now}")
            shown = now
        if job["status"] == "completed" and provision == "released":
            return job
        if job["status"] in {"failed", "expired", "cancelled", "resource_failed", "submit_failed"}:
            raise LocalError(f"The job ended {job['status']}: {job.get('errorMessage')}")
        demo.check_running()
        if time.monotonic() > deadline:
            raise LocalError(f"The job was not done in {seconds:.0f} s; it is {shown}.")
        time.sleep(0.1)


def _create_jobs(demo: LocalPlanner) -> None:
    """Jobs to look at. The queue is held meanwhile: none may run before it is cancelled or held."""
    from planner_site import demo_data

    alice, oscar = Client(demo.url), Client(demo.url)
    alice.log_in()
    oscar.log_in("oscar")
    oscar.call("POST", "/queue/hold", json={"reason": "The demo's jobs are being made."})
    file_id = alice.upload_sample()
    *_, unwanted, held = [alice.create_job(file_id, name) for name in demo_data.JOBS]
    alice.call("POST", f"/jobs/{unwanted}/cancel", json={"reason": "the template names the wrong model"})
    oscar.call("POST", f"/jobs/{held}/hold", json={"reason": demo_data.HOLD_REASON})
    oscar.call("POST", "/queue/resume", json={})


def _run_until_told_to_stop(demo: LocalPlanner) -> None:
    from planner_site import demo_data

    _create_jobs(demo)
    say(f"\nThe planner runs at {demo.url}/\n")
    for name, role, what in demo_data.PEOPLE:
        say(f"  {name:8}{demo_data.password(name):14}{role or 'superuser':12}{what if role else ''}")
    say(f"\nPages at /jobs/, admin at /admin/, REST at /api/v1/ and /v1/; sample input: {SAMPLE.relative_to(CHECKOUT)}")
    say(f"For scripts, as alice:  export URL={demo.url} TOKEN={demo_data.token('alice')}")
    shown = " ".join(f"{name}='{os.environ[name]}'" for name in FOR_COMMANDS)
    say(f"For manage.py, in this folder:  export {shown}")
    say("Ctrl-C stops everything.")
    while True:
        time.sleep(1)
        demo.check_running()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m planner_site.demo", description="The whole planner, on loopback.")
    parser.add_argument("--once", action="store_true", help="run one sample job, print it as JSON, and end")
    parser.add_argument("--stop", action="store_true", help="end the demo, bench or soak that runs from this checkout")
    options = parser.parse_args()
    if options.stop:
        for purpose in (PURPOSE, "bench", "soak"):
            stop_running(purpose)
        return 0
    signal.signal(signal.SIGTERM, stop_on)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by default in the background of a script
    job = None
    try:
        with only_one(PURPOSE), LocalPlanner(PURPOSE, ready_seconds=READY_SECONDS) as demo:
            demo.start()
            if options.once:
                job = run_once(demo)
            else:
                _run_until_told_to_stop(demo)
    except KeyboardInterrupt:
        return 0
    except (LocalError, ServiceError, EmbeddedServerError) as error:
        say(f"The demo failed. {error}\nLogs: {data_folder(PURPOSE) / 'logs'}")
        return 1
    print(json.dumps(job), flush=True)  # noqa: T201 - what `--once` is for
    return 0


if __name__ == "__main__":
    sys.exit(main())
