"""`inspect_job`: one job whole, the next step as the engine decides it, what upstreams say now; no secret, no write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from jobs.models import Job, Provision
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.redaction import HIDDEN, without_secrets
from jobs.statuses import TERMINAL
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.edge import Mishap
from tests.edge import Worker as Process
from tests.engine import passes_until, releasing, running_job, simulated_pool, submitting_job
from tests.factories import jobs_everywhere, make_job
from tests.invariants import row_versions
from tests.threads import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("patience")]


def inspected(job: Job | str, *flags: str) -> dict[str, Any]:
    out = StringIO()
    call_command("inspect_job", str(getattr(job, "pk", job)), "--json", *flags, stdout=out)
    return dict(json.loads(out.getvalue()))


def text_of(job: Job, *flags: str) -> str:
    out = StringIO()
    call_command("inspect_job", job.pk, *flags, stdout=out)
    return out.getvalue()


@pytest.fixture
def database() -> Iterator[psycopg.Connection[Any]]:
    connection.ensure_connection()
    session = connection.connection.info
    with psycopg.connect(session.dsn, password=session.password, autocommit=True) as database:
        yield database


def test_it_tells_the_rows_and_what_the_mds_and_the_provider_say_now(
    simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    simulated_pool(simulated_server, name="east")
    fake_mds.run_seconds = 1e6
    job = make_job(name="nightly")
    passes_until(lambda: Job.objects.get().batch_id)
    fake_mds.set_status(fake_mds.batches()[0].id, "in_progress")
    found = inspected(job)
    assert (found["job"]["id"], found["job"]["pool"], found["job"]["status"]) == (job.pk, "east", "scheduling")
    assert found["next"]["action"] in {"wait", "call poll"}
    assert "at the metadata service" in found["next"]["why"]
    assert [event["reason"] for event in found["events"]][:2] == ["accepted", "admitted"]
    assert found["mds"]["batch"]["status"] == "in_progress"
    (provision,) = found["provisions"]
    assert provision["provider"]["resource"]["state"] == "ready"
    text = text_of(job)
    for line in ("next: action: ", "why: Batch", "mds now: batch: {", "provider now: resource: {", "timeline:"):
        assert line in text


def test_every_status_can_be_told(fake_mds: FakeMds) -> None:
    for job in jobs_everywhere():
        found = inspected(job, "--no-calls")
        assert (found["next"]["action"] == "none") == (job.status in TERMINAL)
        assert "mds" not in found
        assert text_of(job, "--no-calls").startswith(f"{job.pk} ")


def test_a_call_that_is_due_a_change_and_a_claim_are_told_as_the_engine_decides_them(no_mds: None) -> None:
    assert inspected(submitting_job(), "--no-calls")["next"]["action"] == "call submit"
    late = make_job(queue_timeout_seconds=1, accepted_at=timezone.now() - timedelta(hours=1))
    change = inspected(late, "--no-calls")["next"]
    assert (change["action"], change["reasons"]) == ("change to expired", ["queue_timeout"])
    claimed = running_job(lease_expires_at=timezone.now() + timedelta(minutes=1))
    assert "in_hand_until" in inspected(claimed, "--no-calls")["next"]
    provision = releasing(last_error="not now")
    (told,) = inspected(provision.job, "--no-calls")["provisions"]
    assert (told["next"]["action"], told["next"]["why"]) == ("call release", "not now")


def test_upstreams_that_do_not_answer_or_know_nothing_are_told_as_they_are(
    simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    job = running_job(simulated_pool(simulated_server))
    found = inspected(job)
    assert found["mds"] == {"batch": None}, "unknown there"
    assert found["provisions"][0]["provider"] == {"resource": None}
    fake_mds.add_rule(Rule("get", status=500))
    simulated_server.add_rule(Rule("list", status=401, code="bad_key"))
    found = inspected(job)
    assert (found["mds"]["kind"], found["provisions"][0]["provider"]["kind"]) == ("transient", "invalid_credential")
    in_doubt = submitting_job(simulated_pool(simulated_server), submit_started_at=timezone.now())
    assert inspected(in_doubt)["mds"]["may_be_there_as"] == f"default:{in_doubt.pk}:1"


def test_secrets_are_never_shown(no_mds: None) -> None:
    job = running_job(provider_config={"env": [{"HF_TOKEN": "s3cret"}]}, template_spec={"apiKey": "s3cret"})
    Provision.objects.update(detail={"ssh_password": "s3cret", "host": "10.0.0.1"})
    for told in (text_of(job, "--no-calls"), json.dumps(inspected(job))):
        assert "s3cret" not in told
        assert "10.0.0.1" in told
    assert without_secrets({"max_tokens": 5, "token": 6}) == {"max_tokens": 5, "token": HIDDEN}


def test_it_writes_nothing_killed_in_the_middle_or_twice_at_once(
    database: psycopg.Connection[Any], simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    job = running_job(simulated_pool(simulated_server))
    before = row_versions(database)
    process = Process(Mishap("kill", "statement", 2, is_after=True), lambda: inspected(job))
    process.work()
    assert process.has_met
    first, second = at_once(lambda: inspected(job), lambda: inspected(job))
    assert {**first, "at": 0} == {**second, "at": 0}
    assert row_versions(database) == before


def test_what_others_wrote_makes_no_line_more_and_is_nothing_that_a_terminal_obeys(no_mds: None) -> None:
    job = make_job(name="a\x1b[2J\x9b", error_message="b\ntimeline:\n  1 forged\u202e")
    text = text_of(job)
    assert all(line.isprintable() for line in text.split("\n"))
    assert (text.count("\ntimeline:"), text.count("\n  1 forged")) == (1, 0)
    assert r"  name: a\x1b[2J\x9b" in text


def test_a_job_there_is_not_is_told() -> None:
    with pytest.raises(CommandError, match='no job "job_gone"'):
        inspected("job_gone")
