"""What an upstream says is passed on to whoever sees the job, without the addresses in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jobs.errors import without_addresses
from jobs.models import Job
from tests.answers import batch, error, resource
from tests.api_client import ApiClient
from tests.engine import claimed, provisioning_job, recorded, running_job, submitting_job
from tests.openai_client import OpenAIClient

SAID = (
    "no such image: POST https://rest.internal.example:8443/v1/pods?key=s3cret (10.0.3.7:443), "
    "HTTPConnectionPool(host='mds.internal', port=8090)"
)
LEFT = "no such image: POST (address) ((address)), HTTPConnectionPool((address))"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (SAID, LEFT),
        ('see "http://a.example/x"; then', 'see "(address)"; then'),
        ("line 3: 1.5 of 2.0.1 at 12:30", "line 3: 1.5 of 2.0.1 at 12:30"),
        ("[fd00::7]:8080 refused", "(address) refused"),
    ],
)
def test_addresses_are_left_out_and_nothing_else(said: str, left: str) -> None:
    assert without_addresses(said) == left


# Each a job in some state, and what then comes back from upstream.
WAYS: dict[str, tuple[Callable[[], Job], Any]] = {
    "a create is refused": (provisioning_job, error("permanent", SAID)),
    "a create is delayed": (provisioning_job, error("transient", SAID)),
    "a pool has none": (provisioning_job, error("capacity", SAID)),
    "a pool is disabled": (provisioning_job, error("invalid_credential", SAID)),
    "a resource is pending": (provisioning_job, resource("r", "pending", message=SAID)),
    "a resource has failed": (provisioning_job, resource("r", "failed", message=SAID)),
    "a submit is refused": (submitting_job, error("permanent", SAID)),
    "a submit is in doubt": (submitting_job, error("ambiguous", SAID)),
    "a poll fails": (running_job, error("transient", SAID)),
    "a batch has failed": (
        running_job,
        batch(
            "failed",
            errors=[{"code": "x", "message": SAID}],
            raw={"errors": {"data": [{"code": "x", "message": SAID, "line": 3}]}},
        ),
    ),
}


@pytest.mark.django_db
@pytest.mark.parametrize(("make", "answer"), WAYS.values(), ids=list(WAYS))
def test_no_front_door_shows_an_address(make: Callable[[], Job], answer: Any) -> None:
    job = make()
    (claim,) = claimed().claims
    recorded(claim, answer)
    console, openai = ApiClient(job.owner), OpenAIClient(job.owner)
    shown = [
        console.get(f"/jobs/{job.pk}"),
        console.get("/jobs"),
        console.get("/provisions"),
        console.get("/queue"),
        openai.get(f"/batches/{job.pk}"),
        console.client.get(f"/jobs/{job.pk}"),
    ]
    told = "\n".join(answer.content.decode() for answer in shown)
    assert all(answer.status_code == 200 for answer in shown)
    assert "no such image" in told, "the words themselves are for everybody"
    assert [secret for secret in ("internal", "s3cret", "10.0.3.7") if secret in told] == []
