"""Lambda Cloud's own ways: its codes, its marks, what is asked of it, and how far apart."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
import responses

from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners import get_provisioner
from jobs.provisioners.base import ResourceState, Runtime
from jobs.testing.script import Rule
from tests.providers.bench import wanted
from tests.providers.lambda_cloud import AT_ANY_PACE, ENVIRONMENT, LambdaCloudBench, lambda_cloud
from tests.test_golden_payload import RUNTIMES

API = "https://cloud.lambda.ai/api/v1"
LAUNCH, TERMINATE = f"{API}/instance-operations/launch", f"{API}/instance-operations/terminate"
OWNER = hashlib.sha256(b"default").hexdigest()[:8]
REGION = {"regions": ["us-east-1"]}


@pytest.fixture
def bench() -> Iterator[LambdaCloudBench]:
    with lambda_cloud() as running:
        yield running


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[responses.RequestsMock]:
    """Lambda Cloud's own address, answering as told."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("LAMBDA_CLOUD_BASE_URL", "LAMBDA_CLOUD_REGION"):
        monkeypatch.delenv(name, raising=False)
    # nothing here is about time, and a busy machine needs more than a thirtieth of it
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "call_timeout": 10}
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def instance(**fields: Any) -> dict[str, Any]:
    return {
        "id": "i1",
        "name": f"one-0-x1893456000-{OWNER}",
        "status": "active",
        "ip": "203.0.113.9",
        "region": {"name": "us-east-1"},
        "instance_type": {"name": "gpu_1x_h100_pcie", "price_cents_per_hour": 249},
        **fields,
    }


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({"status": "booting", "ip": None}, ResourceState.PENDING),
        ({"status": "booting"}, ResourceState.PENDING),
        ({"ip": None}, ResourceState.PENDING),
        ({}, ResourceState.READY),
        ({"status": "unhealthy"}, ResourceState.FAILED),
        ({"status": "terminating"}, ResourceState.FAILED),
        ({"status": "preempted"}, ResourceState.FAILED),
        ({"status": "pondering"}, ResourceState.PENDING),
    ],
)
def test_an_instance_is_ready_when_it_is_active_and_has_an_address(
    vendor: responses.RequestsMock, told: dict[str, Any], state: ResourceState
) -> None:
    vendor.get(f"{API}/instances", json={"data": [instance(**told)]})
    assert get_provisioner("lambda_cloud", AT_ANY_PACE).observe(["one"])["one"].state == state


def test_an_instance_that_is_terminated_is_gone(vendor: responses.RequestsMock) -> None:
    vendor.get(f"{API}/instances", json={"data": [instance(status="terminated")]})
    assert get_provisioner("lambda_cloud", AT_ANY_PACE).observe(["one"]) == {}


@pytest.mark.parametrize(
    ("status", "code", "kind", "shown"),
    [
        (400, "instance-operations/launch/insufficient-capacity", UpstreamKind.CAPACITY, None),
        (400, "global/quota-exceeded", UpstreamKind.CAPACITY, "quota"),
        (503, "provider/quota-exceeded", UpstreamKind.CAPACITY, "quota"),
        (400, "global/invalid-parameters", UpstreamKind.PERMANENT, None),
        (403, "global/account-inactive", UpstreamKind.INVALID_CREDENTIAL, None),
        (401, "global/invalid-api-key", UpstreamKind.INVALID_CREDENTIAL, None),
        (404, "global/object-does-not-exist", UpstreamKind.NOT_FOUND, None),
        (400, "global/duplicate", UpstreamKind.AMBIGUOUS, None),
        (400, "something/new", UpstreamKind.PERMANENT, None),
        (429, "something/new", UpstreamKind.RATE_LIMITED, None),
        (500, "provider/internal-unavailable", UpstreamKind.AMBIGUOUS, None),
    ],
)
def test_a_refused_launch_is_told_by_its_code(
    vendor: responses.RequestsMock, status: int, code: str, kind: UpstreamKind, shown: str | None
) -> None:
    vendor.get(f"{API}/instances", json={"data": []})
    error = {"code": code, "message": "No.", "suggestion": f"Ask again with {ENVIRONMENT['LAMBDA_CLOUD_API_KEY']}."}
    vendor.post(LAUNCH, json={"error": error}, status=status)
    with pytest.raises(UpstreamError) as raised:
        get_provisioner("lambda_cloud", AT_ANY_PACE | REGION).ensure(wanted())
    assert (raised.value.kind, raised.value.code) == (kind, shown or code)
    assert str(raised.value) == "Lambda Cloud: No. Ask again with ***."


def test_a_refusal_without_a_code_is_not_the_providers_and_fails_no_job(vendor: responses.RequestsMock) -> None:
    vendor.get(f"{API}/instances", json={"data": []})
    vendor.post(LAUNCH, body="<html><h1>400 Bad Request</h1></html>", status=400)
    with pytest.raises(UpstreamError) as raised:
        get_provisioner("lambda_cloud", AT_ANY_PACE | REGION).ensure(wanted())
    assert (raised.value.kind, raised.value.code) == (UpstreamKind.AMBIGUOUS, "http_400")


@pytest.mark.parametrize("body", ["", "{}", "<html>", '{"data": {}}', '{"data": {"instance_ids": []}}'])
def test_an_answer_that_cannot_be_read_may_have_launched(vendor: responses.RequestsMock, body: str) -> None:
    vendor.get(f"{API}/instances", json={"data": []})
    vendor.post(LAUNCH, body=body)
    with pytest.raises(UpstreamError) as raised:
        get_provisioner("lambda_cloud", AT_ANY_PACE | REGION).ensure(wanted())
    assert raised.value.kind == UpstreamKind.AMBIGUOUS


def test_a_look_after_the_launch_that_fails_takes_nothing_back(vendor: responses.RequestsMock) -> None:
    vendor.get(f"{API}/instances", json={"data": []})
    vendor.get(f"{API}/instances", status=503)
    vendor.post(LAUNCH, json={"data": {"instance_ids": ["i7"]}})
    made = get_provisioner("lambda_cloud", AT_ANY_PACE | REGION).ensure(wanted(installation="default"))
    assert (made.state, made.external_ids) == (ResourceState.PENDING, ("i7",))


def test_what_is_asked_for_is_exactly_this(vendor: responses.RequestsMock) -> None:
    vendor.get(f"{API}/instances", json={"data": []})
    vendor.post(LAUNCH, json={"data": {"instance_ids": ["i7"]}})
    options = {"instance_types": {"8x H100": "gpu_8x_h100_sxm5"}, "launch": {"image": {"family": "x"}, "name": "mine"}}
    expires_at = datetime.fromtimestamp(1_893_456_000, UTC)
    request = wanted(installation="default", accelerator_count=8, expires_at=expires_at)
    get_provisioner("lambda_cloud", AT_ANY_PACE | REGION | options).ensure(request)
    (sent,) = (json.loads(call.request.body or "") for call in vendor.calls if call.request.method == "POST")
    tags = {tag["key"]: tag["value"] for tag in sent.pop("tags")}
    assert int(tags.pop("abp:created"))
    assert tags == {
        "abp:installation": "default",
        "abp:name": "one-0",
        "abp:provision": "provision-of-one",
        "abp:expires": "1893456000",
        "abp:replicas": "1",
    }
    assert sent == {
        "name": f"one-0-x1893456000-{OWNER}",
        "region_name": "us-east-1",
        "instance_type_name": "gpu_8x_h100_sxm5",
        "ssh_key_names": ["planner"],
        "image": {"family": "x"},
    }


@pytest.mark.parametrize(
    ("accepted", "region"), [([], "us-west-1"), (["eu-1", "asia-1"], "asia-1"), (["eu-1", "eu-2"], None)]
)
def test_of_several_regions_one_with_room_is_taken(
    vendor: responses.RequestsMock, accepted: list[str], region: str | None
) -> None:
    offered = [{"name": "us-west-1"}, {"name": "asia-1"}]
    types = {"gpu_1x_h100": {"instance_type": {}, "regions_with_capacity_available": offered}}
    vendor.get(f"{API}/instances", json={"data": []})
    vendor.get(f"{API}/instance-types", json={"data": types})
    vendor.post(LAUNCH, json={"data": {"instance_ids": ["i7"]}})
    provisioner = get_provisioner("lambda_cloud", {**AT_ANY_PACE, "regions": accepted})
    if region:
        assert provisioner.ensure(wanted()).region == region
    else:
        with pytest.raises(UpstreamError, match="no gpu_1x_h100 now in eu-1, eu-2") as raised:
            provisioner.ensure(wanted())
        assert raised.value.kind == UpstreamKind.CAPACITY


def test_marks_are_read_from_the_name_if_no_tags_are_told(bench: LambdaCloudBench) -> None:
    bench.server.has_tags = False
    provisioner = bench.provisioner()
    made = provisioner.ensure(wanted())
    bench.provisioner("elsewhere").ensure(wanted("theirs", installation="elsewhere"))
    assert provisioner.discover() == {"one": made}
    provisioner.release("theirs")
    assert bench.held("theirs")
    provisioner.release("one")
    assert bench.held("one") == []


def test_an_instance_that_somebody_renamed_is_found_by_its_tags(vendor: responses.RequestsMock) -> None:
    tags = [{"key": "abp:installation", "value": "default"}, {"key": "abp:name", "value": "one-0"}]
    vendor.get(f"{API}/instances", json={"data": [instance(name="tom", tags=tags), instance(name="ann", tags=[])]})
    assert get_provisioner("lambda_cloud", AT_ANY_PACE).observe(["one"])["one"].external_ids == ("i1",)


def test_a_tag_of_another_installation_contradicts_the_name(vendor: responses.RequestsMock) -> None:
    tags = [{"key": "abp:installation", "value": "another"}]
    vendor.get(f"{API}/instances", json={"data": [instance(tags=tags)]})
    assert get_provisioner("lambda_cloud", AT_ANY_PACE).discover() == {}


def test_instances_are_terminated_one_by_one(vendor: responses.RequestsMock) -> None:
    named = [instance(id=f"i{number}", name=f"one-{number}-x1893456000-{OWNER}") for number in range(3)]
    vendor.get(f"{API}/instances", json={"data": named})
    vendor.post(TERMINATE, json={"error": {"code": "global/object-does-not-exist", "message": "No."}}, status=404)
    vendor.post(TERMINATE, json={"data": {"terminated_instances": []}})
    get_provisioner("lambda_cloud", AT_ANY_PACE).release("one", only=["i0", "i2"])
    sent = [json.loads(call.request.body or "") for call in vendor.calls if call.request.method == "POST"]
    assert sent == [{"instance_ids": ["i0"]}, {"instance_ids": ["i2"]}]


def test_the_mds_is_told_how_to_reach_the_engine(vendor: responses.RequestsMock) -> None:
    vendor.get(f"{API}/instances", json={"data": [instance()]})
    provisioner = get_provisioner("lambda_cloud", AT_ANY_PACE)
    ready = provisioner.observe(["one"])["one"]
    assert provisioner.runtime(wanted(model="org/small-1b"), ready) == Runtime("LambdaCloud", RUNTIMES["LambdaCloud"])
    assert ready.detail["price_per_hour"] == 2.49


@pytest.mark.parametrize("answer", ["", "{}", '{"data": {"id": 1}}', '{"data": [{"id": 1}, "x"]}', '{"data": null}'])
def test_an_answer_that_cannot_be_read_is_no_listing(vendor: responses.RequestsMock, answer: str) -> None:
    vendor.get(f"{API}/instances", body=answer)
    with pytest.raises(UpstreamError) as raised:
        get_provisioner("lambda_cloud", AT_ANY_PACE).observe(["one"])
    assert raised.value.kind == UpstreamKind.TRANSIENT


def test_nobody_is_asked_without_a_key_for_ssh(bench: LambdaCloudBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMBDA_CLOUD_SSH_KEYS")
    with pytest.raises(UpstreamError, match="LAMBDA_CLOUD_SSH_KEYS") as raised:
        bench.provisioner().ensure(wanted())
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL


# --- the pace of one call ---

PACED = {"request_interval_seconds": 0.1, "create_interval_seconds": 0.6}


def moments(bench: LambdaCloudBench, *verbs: str) -> list[float]:
    return [call.at for call in bench.server.calls if call.verb in verbs]


def test_a_call_makes_one_launch_at_a_fixed_moment_and_the_rest_has_its_own_turn(bench: LambdaCloudBench) -> None:
    provisioner = bench.provisioner(**PACED)
    for launched in (1, 2):
        with pytest.raises(UpstreamError) as raised:
            provisioner.ensure(wanted(replicas=3))
        assert (raised.value.kind, raised.value.retry_after_seconds) == (UpstreamKind.RATE_LIMITED, 0.6)
        assert len(bench.held("one")) == launched
    assert provisioner.ensure(wanted(replicas=3)).state == ResourceState.READY
    (looked, *_), launched_at = moments(bench, "list"), moments(bench, "create")
    assert launched_at[0] - looked > 0.6 / 3 - 0.05


def test_a_look_up_that_is_too_slow_misses_its_launch_and_makes_nothing(bench: LambdaCloudBench) -> None:
    bench.server.add_rule(Rule("list", answer_delay_seconds=0.6))
    with pytest.raises(UpstreamError) as raised:
        bench.provisioner(**PACED).ensure(wanted())
    assert raised.value.kind == UpstreamKind.RATE_LIMITED
    assert bench.held("one") == []


def test_the_requests_of_one_call_leave_their_interval(bench: LambdaCloudBench) -> None:
    for _ in range(3):
        bench.duplicate("one")
    before = len(bench.server.calls)
    bench.provisioner(**PACED).release("one")
    sent = list(bench.server.calls)[before:]
    assert [call.verb for call in sent] == ["list", "delete", "delete", "delete"]
    assert min(later.at - earlier.at for earlier, later in itertools.pairwise(sent)) > 0.05


# --- the double ---


def test_the_double_refuses_what_comes_too_soon_when_told_to(bench: LambdaCloudBench) -> None:
    bench.server.script({"request_interval_seconds": 3600})
    assert bench.provisioner().discover() == {}
    with pytest.raises(UpstreamError) as raised:
        bench.provisioner().discover()
    assert raised.value.kind == UpstreamKind.RATE_LIMITED


def test_the_double_takes_no_launch_too_soon_after_another(bench: LambdaCloudBench) -> None:
    bench.server.script({"launch_interval_seconds": 3600})
    bench.provisioner().ensure(wanted())
    with pytest.raises(UpstreamError) as raised:
        bench.provisioner().ensure(wanted("two"))
    assert (raised.value.kind, bench.held("two")) == (UpstreamKind.RATE_LIMITED, [])


def test_the_double_refuses_who_has_no_key_and_shows_one_instance(bench: LambdaCloudBench) -> None:
    api = f"{bench.server.url}/api/v1"
    (instance_id,) = bench.provisioner().ensure(wanted()).external_ids
    key = {"Authorization": f"Bearer {ENVIRONMENT['LAMBDA_CLOUD_API_KEY']}"}
    assert requests.get(f"{api}/instances/{instance_id}", headers=key, timeout=5).json()["data"]["status"] == "active"
    assert requests.get(f"{api}/instances/none", headers=key, timeout=5).status_code == 404
    assert "gpu_1x_h100" in requests.get(f"{api}/instance-types", headers=key, timeout=5).json()["data"]
    assert requests.get(f"{api}/instances", timeout=5).json()["error"]["code"] == "global/invalid-api-key"
