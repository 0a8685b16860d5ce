"""Whole jobs on a real MDS: an installation of its own, inputs uploaded there, and what became of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from jobs import planner
from jobs.batch_client import Batch, BatchClient
from jobs.lifecycle.scans import parse_job_id
from jobs.models import Job, JobEvent
from jobs.provisioners.simulated_server import SimulatedServer
from tests.batch_file import lines
from tests.factories import make_file, make_template, make_user

ENDPOINT = "/v1/chat/completions"
_OVER = {"completed", "failed", "expired", "cancelled"}


def upload(mds: str, count: int) -> str:
    """Upload an input of so many requests to an MDS; its id."""
    return upload_content(mds, lines(count))


def upload_content(mds: str, content: bytes) -> str:
    """Upload any bytes to an MDS, which does not look at them; their id."""
    sent = {"file": ("in.jsonl", content)}
    answer = requests.post(f"{mds}/v1/files", files=sent, data={"purpose": "batch"}, timeout=30)
    return str(answer.json()["id"])


@dataclass
class Planner:
    """One installation of its own on the shared MDS."""

    mds: str
    server: SimulatedServer

    def job(self, lines: int = 2, **fields: Any) -> Job:
        """A job over an input of so many lines; the MDS does about a hundred a second."""
        user, template = make_user(), make_template()
        file = make_file(user, id=upload(self.mds, lines), request_count=lines)
        request = planner.JobRequest(
            input_file_id=file.id, endpoint=ENDPOINT, model_id=template.model_id, template_name=template.name, **fields
        )
        return planner.enqueue(user, request)

    def batches(self) -> list[Batch]:
        """What the MDS has of this installation, newest first, as GET tells it."""
        client = BatchClient(self.mds, connect_timeout=5, call_timeout=30, create_timeout=30)
        ids, after = [], ""
        while True:
            page = client.list_page(after)
            ids += [batch.id for batch in page.batches if parse_job_id(batch.job_id) is not None]
            if not page.has_more:
                return [client.get(batch_id) for batch_id in ids]
            after = page.batches[-1].id

    def running(self) -> set[str]:
        """The ids of those batches of this installation that are not over."""
        return {batch.id for batch in self.batches() if batch.status not in _OVER}

    def assert_clean(self) -> None:
        assert self.server.live() == []
        assert self.running() == set()


def now(job: Job) -> Job:
    job.refresh_from_db()
    return job


def has_status(job: Job, *statuses: str) -> Callable[[], bool]:
    return lambda: now(job).status in statuses


def path(job: Job) -> list[str]:
    """The statuses the job went through."""
    moves = JobEvent.objects.filter(job=job).exclude(to_status="").order_by("sequence")
    return list(moves.values_list("to_status", flat=True))
