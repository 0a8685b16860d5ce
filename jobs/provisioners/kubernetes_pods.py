"""Placeholder pods: what is asked for, and what they tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Self

from jobs.provisioners.base import Resource, ResourceRequest, ResourceState

UPSTREAM = "Kubernetes"
PRIORITY = -10  # the lowest for which the Cluster Autoscaler adds nodes; any engine's is higher
MANAGED_BY_LABEL, MANAGED_BY = "app.kubernetes.io/managed-by", "batch-planner"
INSTALLATION_LABEL = "batch-planner/installation"
NAME_LABEL = "batch-planner/name"
_PROVISION_LABEL = "batch-planner/provision-id"
_JOB_LABEL = "batch-planner/job-id"
_REPLICAS = "batch-planner/replicas"
_EXPIRES = "batch-planner/expires-at"
_LONGEST_DEADLINE = 2**31 - 1
LOGIN_OPTIONS = frozenset({"base_url", "in_cluster", "kubeconfig", "context"})


@dataclass(frozen=True)
class PoolOptions:
    """How placeholders are to look, so that they fit where the engine's pods will: the pool's options, checked."""

    namespace: str = "default"  # where the metadata service makes the engine's pods
    region: str = ""
    accelerator_resource: str = "nvidia.com/gpu"
    requests: dict[str, str] = field(default_factory=dict)  # of each pod, besides its accelerators
    node_selector: dict[str, str] = field(default_factory=dict)
    accelerator_node_selectors: dict[str, dict[str, str]] = field(default_factory=dict)  # by accelerator type
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    priority_class: str = "batch-planner-placeholder"
    image: str = "registry.k8s.io/pause:3.10"

    @classmethod
    def of(cls, options: dict[str, Any]) -> Self:
        """Raises `ValueError` on an option that there is not, or of the wrong kind."""
        known = {each.name: each for each in fields(cls)}
        if unknown := options.keys() - known.keys() - LOGIN_OPTIONS:
            there_are = ", ".join(sorted(known.keys() | LOGIN_OPTIONS))
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are: {there_are}")
        given = {name: value for name, value in options.items() if name in known}
        for name, value in given.items():
            kind = str(known[name].type).partition("[")[0]
            if type(value).__name__ != kind:
                raise ValueError(f"{name} is to be a {kind}")
        return cls(**{"region": str(options.get("context") or "kubernetes"), **given})


def pod_name(name: str, index: int) -> str:
    """Of the so many-th replica; the same whoever creates it, so that no second one can be."""
    return f"{name}-{index}"


def manifest(request: ResourceRequest, name: str, marks: dict[str, str], options: PoolOptions) -> dict[str, Any]:
    """One placeholder, as large as an engine's pod. It ends by itself when the provision does, once it has a node."""
    kind = request.accelerator_type
    resources = dict(options.requests)
    if request.accelerator_count and kind.lower() != "cpu":  # as the metadata service has it for the engine's
        resources[options.accelerator_resource] = str(request.accelerator_count)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                **marks,
                NAME_LABEL: request.name,
                _PROVISION_LABEL: request.provision_id,
                _JOB_LABEL: request.job_id,
            },
            "annotations": {_REPLICAS: str(request.replicas), _EXPIRES: request.expires_at.isoformat()},
        },
        "spec": {
            "priorityClassName": options.priority_class,
            # as the class is to have them: with another class of that name the pod is refused
            "priority": PRIORITY,
            "preemptionPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": min(max(1, int(request.lifetime_seconds)), _LONGEST_DEADLINE),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "nodeSelector": options.node_selector | options.accelerator_node_selectors.get(kind, {}),
            "tolerations": options.tolerations,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65535,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "placeholder",
                    "image": options.image,
                    "resources": {"requests": resources, "limits": resources},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def priority_class(options: PoolOptions) -> dict[str, Any]:
    """The PriorityClass that placeholders need."""
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": options.priority_class, "labels": {MANAGED_BY_LABEL: MANAGED_BY}},
        "value": PRIORITY,
        "preemptionPolicy": "Never",
        "description": "Holds room for pods of ordinary priority, which push it aside.",
    }


@dataclass(frozen=True)
class Pod:
    """One placeholder as the cluster tells it."""

    name: str
    uid: str
    provision_name: str
    replicas: int
    created_at: str
    is_terminating: bool
    phase: str
    is_ready: bool
    node: str
    reason: str  # why it is not ready, or has failed
    message: str

    @classmethod
    def of(cls, item: dict[str, Any]) -> Self:
        """Raises `KeyError`, `TypeError`, `ValueError` or `AttributeError` on what is no pod of ours."""
        metadata, status = item["metadata"], item.get("status") or {}
        conditions = {each["type"]: each for each in status.get("conditions") or []}
        reason, message = _why(status, conditions)
        replicas = str((metadata.get("annotations") or {}).get(_REPLICAS, 1))
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            provision_name=metadata["labels"][NAME_LABEL],
            replicas=int(replicas) if replicas.isdecimal() else 1,  # anybody may have edited it since
            created_at=metadata["creationTimestamp"],
            is_terminating=metadata.get("deletionTimestamp") is not None,
            phase=str(status.get("phase", "")),
            is_ready=conditions.get("Ready", {}).get("status") == "True",
            node=(item.get("spec") or {}).get("nodeName") or "",
            reason=reason,
            message=message,
        )

    @property
    def state(self) -> ResourceState:
        """A pod that has ended, or is on its way out, holds nothing that could be counted on."""
        if self.is_terminating or self.phase in {"Failed", "Succeeded"}:
            return ResourceState.FAILED
        return ResourceState.READY if self.is_ready else ResourceState.PENDING


def _why(status: dict[str, Any], conditions: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """What keeps it: the scheduler's word, the kubelet's of its container, or that of its end."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return str(scheduled.get("reason", "")), str(scheduled.get("message", ""))
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return str(waiting.get("reason", "")), str(waiting.get("message", ""))
    return str(status.get("reason", "")), str(status.get("message", ""))


def resource_of(name: str, pods: Iterable[Pod], options: PoolOptions) -> Resource:
    """The pods of one name as one thing: ready when all that were asked for are.

    The oldest are the ones kept, whoever looks; what is on its way out counts only when there is no other.
    """
    ordered = sorted(pods, key=lambda pod: (pod.is_terminating, pod.created_at, pod.name))
    replicas = max(pod.replicas for pod in ordered)
    kept, others = ordered[:replicas], ordered[replicas:]
    states = {pod.state for pod in kept}
    told = next((pod for pod in kept if pod.state == ResourceState.FAILED), None)
    told = told or next((pod for pod in kept if pod.state == ResourceState.PENDING), kept[0])
    message = _sentence(told) if told.state != ResourceState.READY else ""
    if ResourceState.FAILED in states:
        state = ResourceState.FAILED
    elif len(kept) < replicas:
        state, message = ResourceState.FAILED, f"{len(kept)} of {replicas} placeholder pods are left"
    else:
        state = ResourceState.PENDING if ResourceState.PENDING in states else ResourceState.READY
    return Resource(
        name=name,
        state=state,
        external_ids=tuple(pod.uid for pod in kept),
        surplus_ids=tuple(pod.uid for pod in others if not pod.is_terminating),
        region=options.region,
        detail={
            "namespace": options.namespace,
            "status": told.reason or told.phase,
            "message": message,
            "nodes": sorted({pod.node for pod in kept if pod.node}),
        },
        message=message,
    )


def _sentence(pod: Pod) -> str:
    if pod.is_terminating:
        return f"Pod {pod.name} is being deleted"
    why = ": ".join(part for part in (pod.reason, pod.message) if part)
    return f"Pod {pod.name} is {pod.phase}" + (f": {why}" if why else "")
