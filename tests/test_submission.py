"""From rows to requests: what a provider is asked for, and what the MDS is sent; frozen before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.conf import times
from jobs.lifecycle.scans import external_job_id, parse_job_id
from jobs.models import Job, Provision
from jobs.provisioners.base import ResourceState, Runtime
from jobs.reconciler.admission import admission
from jobs.reconciler.submission import ready_resource, resource_request, snake_case, submission
from tests.engine import places
from tests.factories import make_job, make_pool

DEADLINE = datetime(2026, 1, 2, 3, 4, 5, 900_000, tzinfo=UTC)


def a_job(**fields: Any) -> Job:
    given = {
        "id": "job_1",
        "attempt": 2,
        "model": "org/small-1b",
        "endpoint": "/v1/chat/completions",
        "deadline_at": DEADLINE,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "metadata": {"team": "x"},
        "client": {"max_concurrency": 4},
        "template_name": "small",
        "template_version": "v1",
        "template_spec": {"modelSource": {"uri": "org/small-1b"}, "engineArgs": {"maxModelLen": 1}},
    }
    return Job(**given | fields)


def a_provision(**fields: Any) -> Provision:
    given: dict[str, Any] = {
        "name": "abp-1",
        "spec": {"accelerator_type": "H100", "accelerator_count": 4, "replicas": 2, "options": {"zone": "b"}},
        "region": "eu-1",
        "expires_at": DEADLINE + timedelta(seconds=times().lease_margin),
        "external_ids": ["x1"],
        "detail": {"host": "h"},
    }
    return Provision(**given | fields)


def test_the_mds_is_sent_what_was_frozen() -> None:
    provision = a_provision()
    sent = submission(a_job(), provision, Runtime("External", {"a": 1}))
    assert (sent.input_file_id, sent.endpoint, sent.completion_window) == ("file-1", "/v1/chat/completions", "24h")
    decision = sent.decision
    assert (decision.job_id, decision.model, decision.provision_id) == (
        "default:job_1:2",
        "org/small-1b",
        str(provision.id),
    )
    assert (decision.accelerator_type, decision.replicas, decision.endpoint_cluster) == ("H100", 2, "eu-1")
    assert (decision.runtime_target, decision.runtime_options) == ("External", {"a": 1})
    assert (decision.template_name, decision.template_version) == ("small", "v1")
    assert decision.template_spec == {"model_source": {"uri": "org/small-1b"}, "engine_args": {"maxModelLen": 1}}
    assert decision.client == {"max_concurrency": 4}


def test_the_callers_metadata_is_the_callers_own() -> None:
    assert submission(a_job(), a_provision(), None).metadata == {"team": "x"}


def test_the_batch_ends_with_the_job_in_whole_unix_seconds() -> None:
    deadline = submission(a_job(), a_provision(), None).decision.provision_resource_deadline
    assert isinstance(deadline, int)
    assert deadline == int(DEADLINE.timestamp())


@pytest.mark.django_db
@pytest.mark.parametrize("window_seconds", [60, 3600, 30 * 86_400])
def test_a_batch_never_outlives_the_resource_it_was_rented(window_seconds: int) -> None:
    """Whatever the window, from admission on: the batch's end leaves a margin before the resource's."""
    pool = make_pool(provider="passthrough")
    make_job(completion_window_seconds=window_seconds)
    admission(places(), lambda: None)
    job, provision = Job.objects.get(), pool.provisions.get()
    assert job.deadline_at is not None
    batch_ends = submission(job, provision, None).decision.provision_resource_deadline
    assert provision.expires_at.timestamp() - batch_ends >= times().lease_margin
    assert abs(batch_ends - job.deadline_at.timestamp()) < 1
    assert job.deadline_at - provision.requested_at >= timedelta(seconds=window_seconds), "nor is the window cut"


def test_a_pools_maximum_lifetime_cuts_no_window_short() -> None:
    """The batch is stopped and begun again on another resource: for the MDS its job's deadline counts."""
    provision = a_provision(expires_at=DEADLINE - timedelta(hours=5))
    assert submission(a_job(), provision, None).decision.provision_resource_deadline == int(DEADLINE.timestamp())


def test_without_a_runtime_the_choice_is_the_mds_own() -> None:
    decision = submission(a_job(), a_provision(), None).decision
    assert (decision.runtime_target, decision.runtime_options) == ("", {})


def test_a_provider_is_asked_for_what_was_frozen_at_admission() -> None:
    provision = a_provision(create_started_at=DEADLINE - timedelta(hours=1))
    asked = resource_request(a_job(accelerator_type="A100", replicas=9), provision)
    assert asked.lifetime_seconds == 3600 + times().lease_margin
    assert (asked.name, asked.installation, asked.job_id) == ("abp-1", "default", "job_1")
    assert (asked.accelerator_type, asked.accelerator_count, asked.replicas) == ("H100", 4, 2)
    assert (asked.options, asked.expires_at, asked.provision_id) == (
        {"zone": "b"},
        provision.expires_at,
        str(provision.id),
    )


def test_a_ready_resource_is_the_one_last_observed() -> None:
    ready = ready_resource(a_provision())
    assert (ready.name, ready.state, ready.external_ids) == ("abp-1", ResourceState.READY, ("x1",))
    assert (ready.region, ready.detail) == ("eu-1", {"host": "h"})


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"modelSource": [{"accelType": 1}]}, {"model_source": [{"accel_type": 1}]}),
        ({"engineArgs": {"maxNumSeqs": {"aB": 1}}}, {"engine_args": {"maxNumSeqs": {"aB": 1}}}),
        ({"engine_args": {"aB": 1}}, {"engine_args": {"aB": 1}}),
        ({"already_snake": "keepMe"}, {"already_snake": "keepMe"}),
        ([1, "aB", None], [1, "aB", None]),
    ],
)
def test_keys_are_spelled_as_the_mds_spells_them(given: Any, sent: Any) -> None:
    assert snake_case(given) == sent
    assert snake_case(sent) == sent, "saying it twice changes nothing"


@given(st.integers(1, 10**6))
def test_our_name_at_the_mds_reads_back(attempt: int) -> None:
    job = a_job(attempt=attempt)
    assert parse_job_id(external_job_id(job)) == (job.id, attempt)
