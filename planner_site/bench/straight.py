"""The limit: plain work straight with `requests` and psycopg, from 2 processes of 4 threads. `DATABASE_URL` is read."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import threading
from typing import Any

import psycopg
from psycopg.rows import dict_row

from planner_site.bench import plain

PROCESSES = 2
THREADS = 4


def main() -> int:
    """Work on every job that waits, then end."""
    parser = argparse.ArgumentParser(description="The limit that the pipeline is measured against.")
    parser.add_argument("--url", required=True, help="of the provider and the metadata service")
    url = parser.parse_args().url
    with psycopg.connect(os.environ["DATABASE_URL"], row_factory=dict_row) as connection:
        jobs = connection.execute("SELECT * FROM jobs_job ORDER BY accepted_at, id").fetchall()
    context = multiprocessing.get_context("fork")
    turn = context.Value("i", 0)
    processes = [context.Process(target=_process, args=(url, jobs, turn)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)


def _process(url: str, jobs: list[dict[str, Any]], turn: Any) -> None:
    threads = [threading.Thread(target=_thread, args=(url, jobs, turn)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _thread(url: str, jobs: list[dict[str, Any]], turn: Any) -> None:
    session = plain.new_session()
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        while True:
            with turn.get_lock():
                number = turn.value
                turn.value += 1
            if number >= len(jobs):
                return
            plain.run(jobs[number], url, session, connection.execute)


if __name__ == "__main__":
    sys.exit(main())
