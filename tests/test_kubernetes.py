"""Kubernetes' own ways: what a placeholder asks for, when it holds, what refusals mean, and how one logs in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners import get_provisioner
from jobs.provisioners.base import ResourceState, Runtime
from jobs.provisioners.kubernetes import KubernetesProvisioner
from jobs.provisioners.kubernetes_pods import LOGIN_OPTIONS, NAME_LABEL, PoolOptions
from jobs.testing.fake_kubernetes import FakeKubernetes
from jobs.testing.provider_server import Refusal
from jobs.testing.script import Rule
from tests.providers.bench import wanted
from tests.providers.kubernetes import KubernetesBench, kubernetes
from tests.test_golden_payload import RUNTIMES

ROOT = Path(__file__).parent.parent
POOL = {
    "requests": {"cpu": "8", "memory": "64Gi"},
    "node_selector": {"pool": "batch"},
    "accelerator_node_selectors": {"H100": {"nvidia.com/gpu.product": "H100"}, "L4": {"nvidia.com/gpu.product": "L4"}},
    "tolerations": [{"key": "batch", "operator": "Exists", "effect": "NoSchedule"}],
}


@pytest.fixture
def bench() -> Iterator[KubernetesBench]:
    with kubernetes() as running:
        yield running


def test_a_placeholder_asks_for_what_the_engines_pod_will(bench: KubernetesBench) -> None:
    expires_at = datetime.now(UTC) + timedelta(hours=2)
    bench.provisioner(**POOL).ensure(wanted("abp-1", accelerator_count=4, replicas=2, expires_at=expires_at))
    first, second = bench.pods("abp-1")
    assert [first["metadata"]["name"], second["metadata"]["name"]] == ["abp-1-0", "abp-1-1"]
    assert 7190 <= first["spec"].pop("activeDeadlineSeconds") <= 7200, "it ends by itself if we are gone"
    resources = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "4"}
    assert first["spec"] == {
        "priorityClassName": "batch-planner-placeholder",
        "priority": -10,
        "preemptionPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": {"pool": "batch", "nvidia.com/gpu.product": "H100"},
        "tolerations": [{"key": "batch", "operator": "Exists", "effect": "NoSchedule"}],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65535, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "placeholder",
                "image": "registry.k8s.io/pause:3.10",
                "resources": {"requests": resources, "limits": resources},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }
    assert first["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "batch-planner",
        "batch-planner/installation": "here",
        "batch-planner/name": "abp-1",
        "batch-planner/provision-id": "provision-of-abp-1",
        "batch-planner/job-id": "job_1",
    }


@pytest.mark.parametrize("wish", [{"accelerator_type": "cpu"}, {"accelerator_type": "", "accelerator_count": 0}])
def test_a_job_without_accelerators_gets_none(bench: KubernetesBench, wish: dict[str, Any]) -> None:
    bench.provisioner().ensure(wanted(**wish))
    (pod,) = bench.pods()
    assert pod["spec"]["containers"][0]["resources"] == {"requests": {}, "limits": {}}


def test_a_pod_that_no_node_has_room_for_waits_with_the_schedulers_reason(bench: KubernetesBench) -> None:
    bench.server.capacity = 1
    provisioner = bench.provisioner()
    assert provisioner.ensure(wanted("first")).state == ResourceState.READY
    waiting = provisioner.ensure(wanted("second"))
    assert (waiting.state, waiting.detail["status"]) == (ResourceState.PENDING, "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in waiting.detail["message"]
    provisioner.release("first")
    placed = provisioner.observe(["second"])["second"]
    assert (placed.state, placed.detail["nodes"], placed.detail["message"]) == (ResourceState.READY, ["node-1"], "")


def test_all_pods_are_ready_or_none_is_counted_on(bench: KubernetesBench) -> None:
    bench.server.capacity = 2
    provisioner = bench.provisioner()
    assert provisioner.ensure(wanted(replicas=3)).state == ResourceState.PENDING
    bench.server.capacity = None
    assert provisioner.observe(["one"])["one"].state == ResourceState.READY
    (_, evicted, _) = bench.server.live()
    bench.server.drop(Rule("delete"), evicted.id)
    left = provisioner.observe(["one"])["one"]
    assert (left.state, left.message) == (ResourceState.FAILED, "2 of 3 placeholder pods are left")


def test_an_evicted_pod_says_why(bench: KubernetesBench) -> None:
    provisioner = bench.provisioner()
    provisioner.ensure(wanted())
    bench.make_failed("one")
    assert provisioner.observe(["one"])["one"].message == "Pod one-0 is Failed: Evicted: simulated failure"


def test_a_pod_that_was_forgotten_ends_at_its_deadline(bench: KubernetesBench) -> None:
    provisioner = bench.provisioner()
    provisioner.ensure(wanted(expires_at=datetime.now(UTC) + timedelta(seconds=60)))
    bench.server.ledger.pass_time(61)
    found = provisioner.observe(["one"])["one"]
    assert (found.state, found.detail["status"]) == (ResourceState.FAILED, "DeadlineExceeded")


def test_the_priority_class_is_made_once_and_is_the_one_of_the_manifest(bench: KubernetesBench) -> None:
    for name in ("one", "two"):
        bench.provisioner().ensure(wanted(name))
    assert bench.server.count("create_class") == 1
    manifests = yaml.safe_load_all((ROOT / "docs" / "providers" / "kubernetes.yaml").read_text())
    documented = {each["kind"]: each for each in manifests}["PriorityClass"]
    assert bench.server.classes == {"batch-planner-placeholder": documented}


def test_without_leave_to_make_the_priority_class_it_says_what_to_do(bench: KubernetesBench) -> None:
    bench.server.may_create_classes = False
    with pytest.raises(UpstreamError, match=r"no PriorityClass batch-planner-placeholder.*docs/providers") as raised:
        bench.provisioner().ensure(wanted())
    assert (raised.value.kind, raised.value.code) == (UpstreamKind.INVALID_CREDENTIAL, "no_priority_class")


@pytest.mark.parametrize("spoiled", [{"value": 1000}, {"preemptionPolicy": "PreemptLowerPriority"}])
def test_a_priority_that_would_push_others_aside_is_refused(bench: KubernetesBench, spoiled: dict[str, Any]) -> None:
    bench.server.classes["mine"] = {"value": -10, "preemptionPolicy": "Never", **spoiled}
    with pytest.raises(UpstreamError, match="must not be provided") as raised:
        bench.provisioner(priority_class="mine").ensure(wanted())
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL
    assert bench.held("one") == []


def test_a_pod_of_that_name_that_is_not_ours_is_never_taken_for_ours(bench: KubernetesBench) -> None:
    bench.provisioner("elsewhere").ensure(wanted(installation="elsewhere"))
    with pytest.raises(UpstreamError) as raised:
        bench.provisioner().ensure(wanted())
    assert (raised.value.kind, raised.value.code) == (UpstreamKind.CONFLICT, "name_taken")
    bench.provisioner().release("one")
    assert len(bench.held("one")) == 1


def test_a_pod_that_took_the_place_of_a_deleted_one_is_spared(
    bench: KubernetesBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    provisioner = bench.provisioner()
    provisioner.ensure(wanted())
    listed = provisioner._list("one")
    provisioner.release("one")
    provisioner.ensure(wanted())
    again = bench.held("one")
    monkeypatch.setattr(provisioner, "_list", lambda _: listed)
    provisioner.release("one")
    assert bench.held("one") == again


def test_pods_that_others_have_marked_as_ours_spoil_no_listing(bench: KubernetesBench) -> None:
    bench.hold("one")
    bench.hold("two")
    ours, theirs = (pod["metadata"] for pod in bench.pods())
    ours["annotations"] = {"batch-planner/replicas": "many"}
    del theirs["labels"][NAME_LABEL]
    assert set(bench.provisioner().discover()) == {"one"}


def forbidden(message: str) -> tuple[int, Any]:
    return 403, {
        "kind": "Status",
        "message": f'pods "one-0" is forbidden: {message}',
        "reason": "Forbidden",
        "code": 403,
    }


def conflict(reason: str) -> tuple[int, Any]:
    return 409, {"kind": "Status", "message": "the object has been modified", "reason": reason, "code": 409}


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        (forbidden('User "planner" cannot create resource "pods"'), UpstreamKind.INVALID_CREDENTIAL, "Forbidden"),
        (forbidden('violates PodSecurity "restricted:latest"'), UpstreamKind.INVALID_CREDENTIAL, "Forbidden"),
        (forbidden("exceeded quota: gpus"), UpstreamKind.CAPACITY, "quota"),
        (forbidden("maximum cpu usage per Container is 2, but limit is 8"), UpstreamKind.PERMANENT, "Forbidden"),
        (conflict("Conflict"), UpstreamKind.TRANSIENT, "Conflict"),  # two writers of one quota
        (
            (404, {"message": 'namespaces "gone" not found', "reason": "NotFound"}),
            UpstreamKind.INVALID_CREDENTIAL,
            "NotFound",
        ),
        ((400, {"message": "bad", "reason": "BadRequest"}), UpstreamKind.PERMANENT, "BadRequest"),
        ((404, b"<html>"), UpstreamKind.AMBIGUOUS, "http_404"),
        ((504, b"upstream request timeout"), UpstreamKind.AMBIGUOUS, "http_504"),
        ((201, b"<html>"), UpstreamKind.AMBIGUOUS, "unreadable_answer"),
        ((201, {"kind": "Pod"}), UpstreamKind.AMBIGUOUS, "unreadable_answer"),
    ],
)
def test_what_an_answer_to_a_create_means(
    bench: KubernetesBench, words: tuple[int, Any], kind: UpstreamKind, code: str
) -> None:
    provisioner = bench.provisioner()
    provisioner.discover()
    bench.server.refusals = {Refusal.BROKEN: words}  # type: ignore[misc] # this server's own
    bench.refuse_next("create", Refusal.BROKEN)
    with pytest.raises(UpstreamError) as raised:
        provisioner.ensure(wanted())
    assert (raised.value.kind, raised.value.code) == (kind, code)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tolerance": []}, "unknown: tolerance; there are: .*tolerations"),
        ({"tolerations": {}}, "tolerations is to be a list"),
        ({"namespace": 5}, "namespace is to be a str"),
    ],
)
def test_options_that_nobody_reads_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UpstreamError, match=said) as raised:
        get_provisioner("kubernetes", options)
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL


def test_every_option_is_documented() -> None:
    told = (ROOT / "docs" / "providers" / "kubernetes.md").read_text()
    options = {each.name for each in fields(PoolOptions)} | LOGIN_OPTIONS
    assert {name for name in options if f"\n| `{name}` |" not in told} == set()


def test_options_that_make_no_pod_disable_the_pool_and_fail_no_job(bench: KubernetesBench) -> None:
    with pytest.raises(UpstreamError) as raised:
        bench.provisioner(tolerations=[{"colour": "red"}]).ensure(wanted())
    assert (raised.value.kind, raised.value.code) == (UpstreamKind.INVALID_CREDENTIAL, "wrong_options")


def test_the_engine_is_left_to_the_metadata_service(bench: KubernetesBench) -> None:
    provisioner = bench.provisioner()
    runtime = provisioner.runtime(wanted(), provisioner.ensure(wanted()))
    assert runtime == Runtime("Kubernetes", RUNTIMES["Kubernetes"])
    assert provisioner.hands_over


# --- logging in ---


def kubeconfig(path: Path, user: str = "first", **servers: str) -> str:
    """A file with a context for each server; the last one is the current."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url}} for name, url in servers.items()],
        "users": [{"name": "planner", "user": {"token": user}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "planner"}} for name in servers],
        "current-context": list(servers)[-1],
    }
    path.write_text(json.dumps(config))
    return str(path)


def logged_in(**options: Any) -> KubernetesProvisioner:
    return KubernetesProvisioner(options, connect_timeout=1, call_timeout=5, installation="here")


def test_several_clusters_are_several_pools(bench: KubernetesBench, tmp_path: Path) -> None:
    with FakeKubernetes() as other:
        path = kubeconfig(tmp_path / "config", east=bench.server.url, west=other.url)
        east, west = logged_in(kubeconfig=path, context="east"), logged_in(kubeconfig=path)
        assert (east.ensure(wanted("one")).region, west.ensure(wanted("two")).region) == ("east", "kubernetes")
        assert (len(bench.server.live()), len(other.live("two"))) == (1, 1)


def test_a_credential_that_was_renewed_is_read_anew_and_one_that_was_not_is_refused(
    bench: KubernetesBench, tmp_path: Path
) -> None:
    provisioner = logged_in(kubeconfig=kubeconfig(tmp_path / "config", here=bench.server.url))
    provisioner.discover()
    bench.refuse_next("list", Refusal.INVALID_CREDENTIAL)
    with pytest.raises(UpstreamError) as raised:
        provisioner.discover()
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL
    kubeconfig(tmp_path / "config", user="second", here=bench.server.url)
    bench.refuse_next("list", Refusal.INVALID_CREDENTIAL)
    assert provisioner.discover() == {}


def test_inside_a_cluster_the_service_account_is_used(
    bench: KubernetesBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("token", "secret"), ("ca.crt", "certificate")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    with pytest.raises(UpstreamError) as raised:
        logged_in(in_cluster=True).discover()
    assert raised.value.kind == UpstreamKind.TRANSIENT, "it has a credential, and nobody listens"


@pytest.mark.parametrize("options", [{"kubeconfig": "/nowhere/config"}, {"in_cluster": True}])
def test_without_a_credential_the_pool_is_of_no_use(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UpstreamError, match="credential cannot be used") as raised:
        logged_in(**options).discover()
    assert (raised.value.kind, raised.value.code) == (UpstreamKind.INVALID_CREDENTIAL, "no_credential")
