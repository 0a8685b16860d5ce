"""POST /jobs/{id}/cancel and /provisions: what is asked for, and what is refused with the state in the answer."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from jobs.models import JobEvent
from jobs.statuses import LIVE, TERMINAL, JobStatus, ProvisionStatus
from tests.api_client import ApiClient, api, assert_refused
from tests.factories import make_job, make_provision, make_user

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("status", sorted(LIVE - {JobStatus.CANCELLING}))
def test_a_cancel_answers_the_whole_job_cancelling(status: JobStatus) -> None:
    job = make_job(status=status)

    answer = ApiClient(job.owner).post(f"/jobs/{job.pk}/cancel").json()

    assert answer["status"] == "cancelling"
    assert answer["cancelRequestedAt"] == answer["cancellingAt"] != "0"
    assert answer["cancelledAt"] == "0"
    assert answer["events"][-1]["label"] == "Cancel requested"
    assert answer["events"][-1]["status"] == "cancelling"
    assert answer == ApiClient(job.owner).get(f"/jobs/{job.pk}").json()
    job.refresh_from_db()
    assert job.status == status


@pytest.mark.parametrize("body", ["", "{}", "null", '{"reason": "no longer needed"}', '{"id": "x"}'])
def test_a_cancel_takes_an_empty_body(body: str) -> None:
    job = make_job()
    response = ApiClient(job.owner).post(f"/jobs/{job.pk}/cancel", body)
    assert response.status_code == 200
    assert JobEvent.objects.get(reason="cancel_requested").message == ("no longer needed" if "reason" in body else "")


def test_a_second_cancel_changes_nothing() -> None:
    job = make_job()
    client = ApiClient(job.owner)
    first = client.post(f"/jobs/{job.pk}/cancel").json()
    assert client.post(f"/jobs/{job.pk}/cancel").json() == first


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_cancel_of_a_job_that_is_over_is_refused_with_the_job(status: JobStatus) -> None:
    job = make_job(status=status)
    client = ApiClient(job.owner)

    body = assert_refused(client.post(f"/jobs/{job.pk}/cancel"), 409, 10, f"already {status}")

    assert body["details"] == [{"job": client.get(f"/jobs/{job.pk}").json()}]


@pytest.mark.parametrize("reason", [5, "nul\0", "x" * 1001])
def test_a_reason_that_is_no_text_is_refused(reason: Any) -> None:
    job = make_job()
    response = ApiClient(job.owner).post(f"/jobs/{job.pk}/cancel", {"reason": reason})
    assert_refused(response, 400, 3, field="reason")


def test_a_provision_is_listed_and_read_the_same() -> None:
    provision = make_provision(make_job(status="in_progress"), status="ready", region="west", external_ids=["i-1"])
    client = api("viewer")
    page = client.get("/provisions").json()
    assert page["provisions"] == [client.get(f"/provisions/{provision.pk}").json()]
    assert (page["firstId"], page["lastId"], page["hasMore"]) == (str(provision.pk), str(provision.pk), False)
    (row,) = page["provisions"]
    assert row["jobId"] == provision.job_id
    assert (row["status"], row["region"], row["externalIds"]) == ("ready", "west", ["i-1"])
    assert row["readyAt"] == str(int(provision.ready_at.timestamp()))  # type: ignore[union-attr]
    assert row["releasedAt"] == "0"


def test_the_providers_own_words_are_for_operators() -> None:
    provision = make_provision(last_error_code="quota", last_error="https://internal said no")
    path = f"/provisions/{provision.pk}"
    assert api("operator").get(path).json()["errorMessage"] == "https://internal said no"
    shown = api("viewer").get(path).json()
    assert (shown["errorCode"], shown["errorMessage"]) == ("quota", "")


def test_provisions_are_paged_and_filtered() -> None:
    provisions = [make_provision(status="releasing") for _ in range(3)]
    make_provision()
    client = api("viewer")
    first = client.get("/provisions", status="releasing", limit=2).json()
    rest = client.get("/provisions", status="releasing", limit=2, after=first["lastId"]).json()
    shown = [row["id"] for row in first["provisions"] + rest["provisions"]]
    assert shown == [str(provision.pk) for provision in reversed(provisions)]
    assert (first["hasMore"], rest["hasMore"]) == (True, False)
    assert client.get("/provisions", after=str(uuid.uuid4())).json()["provisions"] == []
    assert client.get("/provisions", after="no uuid").json()["provisions"] == []
    assert_refused(client.get("/provisions", status="running"), 400, 3, field="status")


def test_an_operator_releases_a_provision() -> None:
    provision = make_provision(make_job(status="in_progress"), status="ready")
    client = api("operator")

    answer = client.post(f"/provisions/{provision.pk}/release", {"reason": "maintenance"}).json()

    assert answer["status"] == "ready"
    assert answer["releaseRequestedAt"] != "0"
    assert answer["releaseRequestedBy"] == client.user.email
    assert JobEvent.objects.get(actor=client.user.email).message == "maintenance"


@pytest.mark.parametrize("status", [ProvisionStatus.RELEASED, ProvisionStatus.WRITTEN_OFF])
def test_a_release_of_what_is_gone_is_refused_with_the_provision(status: ProvisionStatus) -> None:
    provision = make_provision(make_job(status="cancelled"), status=status.value)
    client = api("operator")
    body = assert_refused(client.post(f"/provisions/{provision.pk}/release"), 409, 10)
    assert body["details"] == [{"provision": client.get(f"/provisions/{provision.pk}").json()}]


# Who may do what. Anonymous is 401 everywhere; what one may not see does not exist.
READ_JOB = ("GET", "/jobs/{job}")
CANCEL = ("POST", "/jobs/{job}/cancel")
READ_PROVISION = ("GET", "/provisions/{provision}")
RELEASE = ("POST", "/provisions/{provision}/release")
MATRIX = {
    "anonymous": {READ_JOB: 401, CANCEL: 401, READ_PROVISION: 401, RELEASE: 401},
    "": {READ_JOB: 404, CANCEL: 404, READ_PROVISION: 404, RELEASE: 404},
    "submitter": {READ_JOB: 404, CANCEL: 404, READ_PROVISION: 404, RELEASE: 404},
    "viewer": {READ_JOB: 200, CANCEL: 403, READ_PROVISION: 200, RELEASE: 403},
    "owner": {READ_JOB: 200, CANCEL: 200, READ_PROVISION: 200, RELEASE: 403},
    "operator": {READ_JOB: 200, CANCEL: 200, READ_PROVISION: 200, RELEASE: 200},
    "superuser": {READ_JOB: 200, CANCEL: 200, READ_PROVISION: 200, RELEASE: 200},
}
GRPC = {401: 16, 403: 7, 404: 5}


@pytest.mark.parametrize(
    ("who", "call", "status"), [(who, call, status) for who, row in MATRIX.items() for call, status in row.items()]
)
def test_who_may_do_what(who: str, call: tuple[str, str], status: int) -> None:
    job = make_job(make_user(), status="in_progress")
    provision = make_provision(job, status="ready")
    user = {"anonymous": None, "owner": job.owner}.get(who) if who in {"anonymous", "owner"} else make_user(who)
    client = ApiClient(user)
    method, path = call
    path = path.format(job=job.pk, provision=provision.pk)

    response = client.get(path) if method == "GET" else client.post(path)

    if status == 200:
        assert response.status_code == 200, response.content
        assert response.json()["id"] in {job.pk, str(provision.pk)}
    else:
        assert_refused(response, status, GRPC[status])


@pytest.mark.parametrize("who", ["", "submitter", "viewer", "owner", "operator"])
@pytest.mark.parametrize("path", ["/jobs", "/provisions"])
def test_lists_hold_what_one_may_see(who: str, path: str) -> None:
    job = make_job(make_user(), status="in_progress")
    make_provision(job, status="ready")
    user = job.owner if who == "owner" else make_user(who)
    rows = ApiClient(user).get(path).json()[path[1:]]
    assert len(rows) == (1 if who in {"viewer", "owner", "operator"} else 0)


@pytest.mark.parametrize("job_id", ["job_nope", "x" * 300, "a%00b", "%F0%9F%98%80", "%ff", "..", "'"])
def test_an_unknown_id_is_not_found(job_id: str) -> None:
    client = api("operator")
    assert_refused(client.get(f"/jobs/{job_id}"), 404, 5)
    assert_refused(client.post(f"/jobs/{job_id}/cancel"), 404, 5)
    assert_refused(client.get(f"/provisions/{job_id}"), 404, 5)
    assert_refused(client.post(f"/provisions/{job_id}/release"), 404, 5)
