"""RunPod's own ways: when a pod is ready, whose it is, what its refusals mean, and what is asked of it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import responses

from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners import get_provisioner
from jobs.provisioners.base import ResourceState, Runtime
from jobs.testing.script import Rule
from tests.providers.bench import wanted
from tests.providers.runpod import AUTHORIZED, ENVIRONMENT, RunPodBench, runpod
from tests.test_golden_payload import RUNTIMES

PODS = "https://rest.runpod.io/v1/pods"
KEY = ENVIRONMENT["RUNPOD_API_KEY"]
ADDRESS = {"publicIp": "203.0.113.7", "portMappings": {"22": 10341}}


@pytest.fixture
def bench() -> Iterator[RunPodBench]:
    with runpod() as running:
        yield running


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[responses.RequestsMock]:
    """RunPod's own address, answering as told."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RUNPOD_BASE_URL", raising=False)
    # nothing here is about time, and a busy machine needs more than a thirtieth of it
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "call_timeout": 10}
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


def pod(**fields: Any) -> dict[str, Any]:
    marks = {"ABP_INSTALLATION": "default", "ABP_REPLICAS": "1", "ABP_CREATED": "1"}
    return {"id": "p1", "name": "one-0", "desiredStatus": "RUNNING", "env": marks, "costPerHr": 2.5, **fields}


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ({}, ResourceState.PENDING),
        ({"publicIp": "203.0.113.7", "portMappings": None}, ResourceState.PENDING),
        ({"publicIp": "203.0.113.7", "portMappings": {"8000": 1}}, ResourceState.PENDING),
        ({"publicIp": "", "portMappings": {"22": 10341}}, ResourceState.PENDING),
        (ADDRESS, ResourceState.READY),
        ({**ADDRESS, "desiredStatus": "EXITED"}, ResourceState.FAILED),
        ({**ADDRESS, "desiredStatus": "TERMINATED"}, ResourceState.FAILED),
        ({**ADDRESS, "desiredStatus": "PONDERING"}, ResourceState.PENDING),
    ],
)
def test_a_pod_is_ready_with_an_address_and_a_port_for_ssh(
    vendor: responses.RequestsMock, told: dict[str, Any], state: ResourceState
) -> None:
    vendor.get(PODS, json=[pod(**told)])
    assert get_provisioner("runpod", {}).observe(["one"])["one"].state == state


def test_an_exited_pod_is_deleted_all_the_same(bench: RunPodBench) -> None:
    bench.provisioner().ensure(wanted())
    bench.make_failed("one")
    bench.provisioner().release("one")
    assert bench.held("one") == []


@pytest.mark.parametrize("status", [500, 400])
@pytest.mark.parametrize(
    "phrase",
    [
        "There are no instances currently available",
        "create pod: There are no longer any instances available with the requested specifications.",
        "This machine does not have the resources to deploy your pod. Please try a different machine",
    ],
)
def test_every_way_to_say_that_there_is_no_room_is_understood(
    vendor: responses.RequestsMock, status: int, phrase: str
) -> None:
    vendor.get(PODS, json=[])
    for body in ({"error": phrase, "status": status}, {"message": phrase}, [{"error": {"message": phrase}}], phrase):
        vendor.post(PODS, json=body, status=status)
        with pytest.raises(UpstreamError) as raised:
            get_provisioner("runpod", {}).ensure(wanted())
        assert (raised.value.kind, raised.value.code) == (UpstreamKind.CAPACITY, "no_capacity")
        vendor.remove(responses.POST, PODS)


@pytest.mark.parametrize("body", ["", "{}", "[]", '{"id": "p1"}', "<html>"])
def test_an_answer_that_cannot_be_read_may_have_made_a_pod(vendor: responses.RequestsMock, body: str) -> None:
    vendor.get(PODS, json=[])
    vendor.post(PODS, body=body, status=201)
    with pytest.raises(UpstreamError) as raised:
        get_provisioner("runpod", {}).ensure(wanted(installation="default"))
    assert raised.value.kind == UpstreamKind.AMBIGUOUS


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<html><h1>400 Bad Request</h1></html>", UpstreamKind.AMBIGUOUS),
        ("", UpstreamKind.AMBIGUOUS),
        ('{"error": "gpuTypeIds: not one of the allowed values"}', UpstreamKind.PERMANENT),
        ("gpuCount is too large", UpstreamKind.PERMANENT),
    ],
)
def test_a_refusal_without_words_is_not_the_providers_and_fails_no_job(
    vendor: responses.RequestsMock, body: str, kind: UpstreamKind
) -> None:
    vendor.get(PODS, json=[])
    vendor.post(PODS, body=body, status=400)
    with pytest.raises(UpstreamError) as raised:
        get_provisioner("runpod", {}).ensure(wanted())
    assert raised.value.kind == kind


def test_a_pod_of_our_name_that_tells_no_owner_is_ours_but_found_by_nobody_who_looks_for_orphans(
    vendor: responses.RequestsMock,
) -> None:
    """A listing without environments must not read as one without pods, nor have us delete what may be another's."""
    vendor.get(
        PODS, json=[pod(env=None), pod(id="p2", env={"ABP_INSTALLATION": "another"}), pod(id="p3", name="my pod")]
    )
    provisioner = get_provisioner("runpod", {})
    assert provisioner.observe(["one"])["one"].external_ids == ("p1",)
    assert provisioner.discover() == {}


def test_a_pod_that_somebody_renamed_is_found_all_the_same(vendor: responses.RequestsMock) -> None:
    marks = {**pod()["env"], "ABP_NAME": "one-0"}
    vendor.get(PODS, json=[pod(name="tom's pod", env=marks)])
    assert get_provisioner("runpod", {}).observe(["one"])["one"].external_ids == ("p1",)


def test_a_replica_that_vanished_breaks_the_resource(bench: RunPodBench) -> None:
    provisioner = bench.provisioner()
    first, *_ = provisioner.ensure(wanted(replicas=2)).external_ids
    requests.delete(f"{bench.server.url}/v1/pods/{first}", headers=AUTHORIZED, timeout=5).raise_for_status()
    found = provisioner.observe(["one"])["one"]
    assert (found.state, found.message) == (ResourceState.FAILED, "1 of 2 machines are there")


def test_what_is_asked_for_is_exactly_this(vendor: responses.RequestsMock) -> None:
    vendor.get(PODS, json=[])
    vendor.post(PODS, json=pod(id="p0"), status=201)
    vendor.post(PODS, json=pod(id="p1", name="one-1"), status=201)
    options = {
        "gpu_types": {"H100": ["NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe"]},
        "cloud_type": "COMMUNITY",
        "data_centers": ["EU-RO-1"],
        "pod": {"containerDiskInGb": 100, "name": "of no effect"},
    }
    request = wanted(
        installation="default",
        accelerator_count=2,
        replicas=2,
        template_spec={"engine": {"image": "vllm/vllm-openai:v0.9"}},
        expires_at=datetime.fromtimestamp(1_893_456_000, UTC),
    )
    get_provisioner("runpod", options).ensure(request)
    first, second = (json.loads(call.request.body or "") for call in vendor.calls if call.request.method == "POST")
    assert (first.pop("name"), second["name"]) == ("one-0", "one-1")
    (start,) = first.pop("dockerStartCmd")
    assert "sshd" in start
    assert int(first["env"].pop("ABP_CREATED"))
    assert first == {
        "computeType": "GPU",
        "cloudType": "COMMUNITY",
        "supportPublicIp": True,
        "gpuTypeIds": ["NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe"],
        "gpuCount": 2,
        "imageName": "vllm/vllm-openai:v0.9",
        "containerDiskInGb": 100,
        "dataCenterIds": ["EU-RO-1"],
        "ports": ["8000/http", "22/tcp"],
        "dockerEntrypoint": ["bash", "-c"],
        "env": {
            "PUBLIC_KEY": ENVIRONMENT["RUNPOD_SSH_PUBLIC_KEY"],
            "ABP_INSTALLATION": "default",
            "ABP_NAME": "one-0",
            "ABP_PROVISION_ID": "provision-of-one",
            "ABP_EXPIRES": "1893456000",
            "ABP_REPLICAS": "2",
        },
    }
    assert {call.request.headers["Authorization"] for call in vendor.calls} == {f"Bearer {KEY}"}


def test_the_mds_is_told_how_to_reach_the_engine(vendor: responses.RequestsMock) -> None:
    vendor.get(PODS, json=[pod(**ADDRESS)])
    provisioner = get_provisioner("runpod", {})
    engine = {"image": "vllm/vllm-openai:v0.9", "serveArgs": ["--max-model-len=8192"]}
    request = wanted(model="org/small-1b", template_spec={"engine": engine})
    told = provisioner.runtime(request, provisioner.observe(["one"])["one"])
    assert told == Runtime("RunPod", RUNTIMES["RunPod"])


# --- the key ---


def test_a_key_is_shown_nowhere_though_the_provider_repeats_it(vendor: responses.RequestsMock) -> None:
    vendor.get(PODS, json={"error": f"invalid key {KEY}"}, status=401)
    with pytest.raises(UpstreamError) as raised:
        get_provisioner("runpod", {}).discover()
    assert str(raised.value) == "RunPod answered 401: invalid key ***"


def test_a_key_is_read_anew_from_its_file(vendor: responses.RequestsMock, tmp_path: Path) -> None:
    vendor.get(PODS, json=[])
    key = tmp_path / "key"
    provisioner = get_provisioner("runpod", {"api_key_file": str(key)})
    with pytest.raises(UpstreamError, match="cannot be read from file") as raised:
        provisioner.discover()
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL
    for text in ("first\n", "second\n"):
        key.write_text(text)
        provisioner.discover()
    assert [call.request.headers["Authorization"] for call in vendor.calls] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"api_key": KEY}, KEY, "api_key_env"),
        ({"api_key_env": "NOWHERE"}, KEY, "no key in environment variable NOWHERE"),
        ({}, "two words", "is no key"),
    ],
)
def test_a_pool_without_a_proper_key_says_what_to_do(
    vendor: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], key: str, message: str
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", key)
    with pytest.raises(UpstreamError, match=message) as raised:
        get_provisioner("runpod", options).discover()
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL
    assert key not in str(raised.value)
    assert len(vendor.calls) == 0


def test_a_netrc_replaces_no_key(
    vendor: responses.RequestsMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor.get(PODS, json=[])
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    get_provisioner("runpod", {}).discover()
    assert vendor.calls[0].request.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("options", [{"pod": [1]}, {"gpu_types": "H100"}, {"data_centers": "EU"}, {"cloud_type": 1}])
def test_options_of_the_wrong_kind_are_refused_before_any_call(options: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as raised:
        get_provisioner("runpod", options)
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL


# --- the probe ---


@contextmanager
def machine(greeting: bytes) -> Iterator[tuple[str, int, list[int]]]:
    """Something that takes connections, greets, and counts them."""
    taken: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    taken.append(1)
                    connection.sendall(greeting)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        host, port = listener.getsockname()
        yield host, port, taken
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    ("greeting", "state", "asked"),
    [(b"SSH-2.0-OpenSSH_9.6\r\n", ResourceState.READY, 1), (b"", ResourceState.PENDING, 2)],
)
def test_a_pool_can_ask_whether_ssh_answers(
    bench: RunPodBench, greeting: bytes, state: ResourceState, asked: int
) -> None:
    provisioner = bench.provisioner(probe_ssh=True)
    bench.stay_pending()
    provisioner.ensure(wanted())
    with machine(greeting) as (host, port, taken):
        bench.server.ssh_address = (host, port)
        bench.make_ready("one")
        assert [provisioner.observe(["one"])["one"].state for _ in range(2)] == [state] * 2
        assert len(taken) == asked, "what has answered is not asked again"


def test_a_pod_whose_ssh_hangs_costs_no_more_than_the_call_timeout(bench: RunPodBench) -> None:
    bench.stay_pending()
    bench.provisioner().ensure(wanted())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bench.server.ssh_address = silent.getsockname()
        bench.make_ready("one")
        found = bench.provisioner(call_timeout=0.5, probe_ssh=True).observe(["one"])["one"]
    assert (found.state, found.message) == (ResourceState.PENDING, "Its ssh server does not answer yet.")


# --- the double ---


def test_the_double_refuses_who_has_no_key_and_a_body_without_what_is_needed(bench: RunPodBench) -> None:
    pods = f"{bench.server.url}/v1/pods"
    assert requests.get(pods, timeout=5).status_code == 401
    assert requests.get(pods, headers={"Authorization": "Bearer wrong"}, timeout=5).json() == {"error": {}}
    assert requests.post(pods, json={"name": "one-0"}, headers=AUTHORIZED, timeout=5).status_code == 400


def test_the_double_filters_by_exact_name_and_shows_one_pod(bench: RunPodBench) -> None:
    for name in ("one", "one-more"):
        bench.provisioner().ensure(wanted(name))
    pods = f"{bench.server.url}/v1/pods"
    (found,) = requests.get(pods, params={"name": "one-0"}, headers=AUTHORIZED, timeout=5).json()
    assert found["name"] == "one-0"
    assert "machine" not in found
    assert requests.get(f"{pods}/{found['id']}", headers=AUTHORIZED, timeout=5).json() == found
    bench.server.add_rule(Rule("delete", status=500, is_applied=True))
    assert requests.delete(f"{pods}/{found['id']}", headers=AUTHORIZED, timeout=5).status_code == 500
    assert requests.get(f"{pods}/{found['id']}", headers=AUTHORIZED, timeout=5).status_code == 404
