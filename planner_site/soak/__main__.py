"""`make soak`: real processes under load, killed, stopped and restarted; then what was lost, leaked or doubled.

Progress goes to stderr. The last line of stdout is one JSON object; the exit code is 1 unless nothing was lost, leaked,
doubled or illegal, every client was answered as it should be, all jobs were accepted, and all came to rest.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from typing import Any

from planner_site.local import LocalError, LocalPlanner, data_folder, only_one, say, stop_on
from planner_site.local_providers import LOCAL_PROVIDERS, SIMULATED, LocalProvider
from planner_site.postgres_home import EmbeddedServerError
from planner_site.processes import ServiceError, free_port
from planner_site.soak.verdict import objections

PURPOSE = "soak"
MINUTES, JOBS = 3.0, 300
READY_SECONDS = 1.5
RUN_SECONDS = 15.0  # of a batch


def soak(*, provider: LocalProvider, seed: int, jobs: int, seconds: float) -> dict[str, Any]:
    """One soak of so many seconds of trouble; the result as it is printed."""
    mds_port = free_port()
    mds_url = f"http://127.0.0.1:{mds_port}"
    folder = data_folder(PURPOSE)
    with LocalPlanner(
        PURPOSE,
        provider=provider,
        ready_seconds=READY_SECONDS,
        mds_url=mds_url,
        hosts=2,
        settings_module="planner_site.soak.settings",
    ) as planner:
        (folder / "mds").mkdir()
        mds = planner.service(
            "fake MDS", "-m", "jobs.testing.fake_mds", "--port", str(mds_port),
            "--ledger", str(folder / "mds" / "ledger.jsonl"), "--run-seconds", str(RUN_SECONDS),
        )  # fmt: skip
        mds.wait_until_answers(f"{mds_url}/healthz", timeout_seconds=30)
        planner.start()
        from planner_site.soak.run import Run

        with Run(planner, seed=seed, jobs=jobs, seconds=seconds) as run:
            return run.result()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m planner_site.soak", description="Kill everything, lose nothing.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"how long (default {MINUTES:g})")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"submitted in that time (default {JOBS})")
    parser.add_argument("--provider", choices=sorted(LOCAL_PROVIDERS), default=SIMULATED.name, help="rented from")
    parser.add_argument("--seed", type=int, help="repeat the plan of an earlier soak")
    given = parser.parse_args()
    seed = int(time.time()) % 1_000_000 if given.seed is None else given.seed
    signal.signal(signal.SIGTERM, stop_on)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by default in the background of a script
    try:
        with only_one(PURPOSE):
            result = soak(
                provider=LOCAL_PROVIDERS[given.provider], seed=seed, jobs=given.jobs, seconds=60 * given.minutes
            )
    except KeyboardInterrupt:
        say("Interrupted: nothing is judged.")
        return 1
    except (LocalError, ServiceError, EmbeddedServerError) as error:
        say(f"The soak failed. {error}\nLogs: {data_folder(PURPOSE) / 'logs'}")
        return 1
    return report(result)


def report(result: dict[str, Any]) -> int:
    """Print it, and why it is not good; the exit code."""
    wrong = objections(result)
    for objection in wrong:
        say(f"Not passed: {objection}.")
    print(json.dumps(result), flush=True)  # noqa: T201 - the result
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
