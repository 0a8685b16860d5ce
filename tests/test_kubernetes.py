"""Kubernetes' own ways: what a placeholder asks for, when it holds, what refusals mean, and how one logs in."""

from __future__ import annotations

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
from jobs.provisioners.kubernetes_pods import LOGIN_OPTIONS, NAME_LABEL, PoolOptions
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
    ours_is_wrong = datetime.now(UTC) - timedelta(hours=2)
    bench.provisioner(**POOL).ensure(
        wanted("abp-1", accelerator_count=4, replicas=2, expires_at=ours_is_wrong, lifetime_seconds=7200.5)
    )
    first, second = bench.pods("abp-1")
    assert [first["metadata"]["name"], second["metadata"]["name"]] == ["abp-1-0", "abp-1-1"]
    resources = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "4"}
    assert first["spec"] == {
        "priorityClassName": "batch-planner-placeholder",
        "priority": -10,
        "preemptionPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "activeDeadlineSeconds": 7200,  # it ends by itself if we are gone
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
    provisioner.ensure(wanted(lifetime_seconds=60))
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


def test_a_priority_class_that_the_cluster_has_not_taken_notice_of_yet_disables_no_pool(bench: KubernetesBench) -> None:
    """Its admission looks in a cache of its own."""
    unseen = forbidden("no PriorityClass with name batch-planner-placeholder was found")
    answer_next(bench, "create", unseen, unseen)
    with pytest.raises(UpstreamError, match="no PriorityClass") as raised:
        bench.provisioner().ensure(wanted())
    assert raised.value.kind == UpstreamKind.TRANSIENT
    assert bench.provisioner().ensure(wanted()).state == ResourceState.READY


def test_a_name_that_no_priority_class_can_have_disables_the_pool_and_fails_no_job(bench: KubernetesBench) -> None:
    problem = {"message": 'PriorityClass "My Class" is invalid: metadata.name', "reason": "Invalid"}
    answer_next(bench, "create_class", (422, problem))
    with pytest.raises(UpstreamError, match="is invalid") as raised:
        bench.provisioner().ensure(wanted())
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL


def test_the_role_that_is_documented_allows_what_is_done_and_no_more(bench: KubernetesBench) -> None:
    provisioner = bench.provisioner()
    provisioner.ensure(wanted())
    provisioner.observe(["one"])
    provisioner.release("one")
    provisioner.discover()
    manifests = yaml.safe_load_all((ROOT / "docs" / "providers" / "kubernetes.yaml").read_text())
    documented = {each["kind"]: each for each in manifests}["Role"]
    done = sorted({call.verb for call in bench.server.calls} - {"create_class"})
    assert [{**rule, "verbs": sorted(rule["verbs"])} for rule in documented["rules"]] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": done}
    ]


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
        ((400, b"<html>"), UpstreamKind.AMBIGUOUS, "http_400"),  # a proxy's word fails no job
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
    answer_next(bench, "create", words)
    with pytest.raises(UpstreamError) as raised:
        provisioner.ensure(wanted())
    assert (raised.value.kind, raised.value.code) == (kind, code)


def answer_next(bench: KubernetesBench, on: str, *words: tuple[int, Any]) -> None:
    """The next calls are answered with these statuses and bodies, and do nothing."""
    for refusal, told in zip(Refusal, words, strict=False):
        bench.server.refusals = {**bench.server.refusals, refusal: told}  # type: ignore[misc] # this server's own
        bench.refuse_next(on, refusal)


@pytest.mark.parametrize(
    "words",
    [
        (404, {"message": "the server could not find the requested resource", "reason": "NotFound"}),
        (400, b"<html>"),
        (410, {"message": "The provided continue parameter is too old", "reason": "Expired"}),
        (200, b'{"kind": "PodList", "items": ['),
        (200, {"kind": "PodList", "metadata": {"continue": "a5f", "remainingItemCount": 7}, "items": []}),
    ],
)
def test_no_listing_but_a_whole_one_tells_of_absence_and_none_fails_a_job(
    bench: KubernetesBench, words: tuple[int, Any]
) -> None:
    provisioner = bench.provisioner()
    for call in (lambda: provisioner.ensure(wanted()), lambda: provisioner.observe(["one"])):
        answer_next(bench, "list", words)
        with pytest.raises(UpstreamError) as raised:
            call()
        assert raised.value.kind == UpstreamKind.TRANSIENT
    assert bench.held("one") == []


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
