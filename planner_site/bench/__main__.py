"""`make bench`: figures measured on this machine, each beside its reference. The last line is one JSON object."""

from __future__ import annotations

import argparse
import json
import signal
import sys

from planner_site.bench import (
    accept,
    backfill,
    cleanup,
    hanging,
    latency,
    mds,
    memory,
    pipeline,
    scale_out,
    size,
    waiting,
)
from planner_site.bench.figures import Figures, table
from planner_site.local import LocalError, data_folder, only_one, say, stop_on
from planner_site.postgres_home import EmbeddedServerError
from planner_site.processes import ServiceError

PURPOSE = "bench"
MEASUREMENTS = {
    "pipeline": pipeline.measure,
    "latency": latency.measure,
    "mds": mds.measure,
    "size": size.measure,
    "waiting": waiting.measure,
    "memory": memory.measure,
    "accept": accept.measure,
    "scale_out": scale_out.measure,
    "hanging_mds": hanging.measure,
    "cleanup": cleanup.measure,
    "backfill": backfill.measure,
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m planner_site.bench", description="Figures of this machine.")
    parser.add_argument("--only", type=_names, default=list(MEASUREMENTS), help=f"some of {','.join(MEASUREMENTS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of everything, for a quick look")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stop_on)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by default in the background of a script
    figures: Figures = {}
    try:
        with only_one(PURPOSE):
            for name in options.only:
                say(f"--- {name} ---")
                figures |= MEASUREMENTS[name](PURPOSE, options.scale)
    except KeyboardInterrupt:
        return 1
    except (LocalError, ServiceError, EmbeddedServerError) as error:
        say(f"The bench failed. {error}\nLogs: {data_folder(PURPOSE) / 'logs'}")
        return 1
    print(table(figures))  # noqa: T201 - the result
    print(json.dumps({name: figure.as_json() for name, figure in figures.items()}), flush=True)  # noqa: T201 - the result
    return 0


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(MEASUREMENTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: there are {', '.join(MEASUREMENTS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
