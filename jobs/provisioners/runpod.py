"""RunPod: pods in somebody's account, one per replica, over its REST API v1.

That has no idempotency and no tags: a pod is found again by its name, and known as ours by what is in its environment.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners.base import Resource, ResourceRequest, ResourceState, Runtime, looking_up
from jobs.provisioners.machines import Machine, machine_name, number, parse_name, resource, resources
from jobs.provisioners.pool_options import ApiKey, mapping, name_list, setting, unusable
from jobs.provisioners.ssh import ENGINE_PORT, SshProbe, engine_options
from jobs.transport import Answer, Transport, retry_after_seconds, unreadable

_UPSTREAM = "RunPod"
_BASE_URL = "https://rest.runpod.io/v1"
_IMAGE = "vllm/vllm-openai:latest"
_KINDS = {
    400: UpstreamKind.PERMANENT,
    401: UpstreamKind.INVALID_CREDENTIAL,
    403: UpstreamKind.INVALID_CREDENTIAL,
    422: UpstreamKind.PERMANENT,
    429: UpstreamKind.RATE_LIMITED,
}
# RunPod has no code for it: it answers 500, or sometimes 400, in one of these phrases.
_NO_CAPACITY = ("no instances currently available", "no longer any instances available", "not have the resources")
# The image serves an engine; the MDS starts that over ssh, for which there must be a server that knows its key.
_START = """
command -v sshd > /dev/null || (apt-get update && apt-get install -y --no-install-recommends openssh-server) &&
mkdir -p /run/sshd ~/.ssh && chmod 700 ~/.ssh && echo "$PUBLIC_KEY" > ~/.ssh/authorized_keys &&
chmod 600 ~/.ssh/authorized_keys && ssh-keygen -A && exec /usr/sbin/sshd -D
"""


class RunPodProvisioner:
    """One RunPod account. Options: docs/providers/runpod.md."""

    holds_resources = True
    hands_over = False

    def __init__(
        self, options: dict[str, Any], *, connect_timeout: float, call_timeout: float, installation: str
    ) -> None:
        self._public_key = setting(options, "ssh_public_key", "RUNPOD_SSH_PUBLIC_KEY")
        self._cloud_type = setting(options, "cloud_type", "RUNPOD_CLOUD_TYPE", "SECURE")
        self._image = setting(options, "image", "RUNPOD_IMAGE", _IMAGE)
        self._data_centers = name_list(options, "data_centers", "RUNPOD_DATA_CENTERS")
        self._gpu_types = mapping(options, "gpu_types")
        self._pod = mapping(options, "pod")  # further fields of a new pod
        mapping(self._pod, "env")
        self._key = ApiKey(options, upstream=_UPSTREAM, variable="RUNPOD_API_KEY")
        base_url = setting(options, "base_url", "RUNPOD_BASE_URL", _BASE_URL)
        self._transport = Transport(base_url, upstream=_UPSTREAM, connect_timeout=connect_timeout, token=self._key.read)
        self._call_timeout = call_timeout
        self._installation = installation
        self._probe = SshProbe() if options.get("probe_ssh") else None

    def ensure(self, request: ResourceRequest) -> Resource:
        """Look the pods up; create those that are missing."""
        until = time.monotonic() + self._call_timeout
        found = [machine for machine in self._list() if machine.provision == request.name]
        for replica in sorted(set(range(request.replicas)) - {machine.replica for machine in found}):
            body = self._new_pod(request, replica)
            response = self._transport.call("POST", "/pods", until=until, creates=True, body=body)
            self._check(response, broken=UpstreamKind.AMBIGUOUS)
            made = self._machines([response.json()], until, creates=True)
            if [(machine.provision, machine.replica) for machine in made] != [(request.name, replica)]:
                raise unreadable(_UPSTREAM, creates=True)
            found += made
        return resource(request.name, found)

    def observe(self, names: Collection[str]) -> dict[str, Resource]:
        """Those of the names that are there, from one listing."""
        wanted = set(names)
        return resources(machine for machine in self._list() if machine.provision in wanted)

    def release(self, name: str, only: Collection[str] | None = None) -> None:
        """Delete every pod of that name, or only these; one that cannot be deleted spares no other."""
        until = time.monotonic() + self._call_timeout
        failure: UpstreamError | None = None
        for machine in self._list(is_probed=False):
            if machine.provision != name or (only is not None and machine.id not in only):
                continue
            try:
                response = self._transport.call("DELETE", f"/pods/{quote(machine.id, safe='')}", until=until)
                if response.status_code != 404:
                    self._check(response)
            except UpstreamError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def discover(self) -> dict[str, Resource]:
        """Every pod whose environment bears our installation's mark."""
        return resources(self._list(is_ours_proven=True, is_probed=False))

    def runtime(self, request: ResourceRequest, resource: Resource) -> Runtime | None:
        """The MDS logs in to the first pod and starts the engine there."""
        reached = {name: resource.detail[name] for name in ("host", "ssh_port", "ssh_user", "http_base_url")}
        return Runtime("RunPod", reached | engine_options(request))

    @looking_up()
    def _list(self, *, is_ours_proven: bool = False, is_probed: bool = True) -> list[Machine]:
        # Half the time at most, so that what follows a slow look-up still has a fair share.
        until = time.monotonic() + self._call_timeout / 2
        response = self._transport.call("GET", "/pods", until=until, params={"includeMachine": "true"})
        self._check(response)
        pods = response.json()
        if not isinstance(pods, list):
            raise unreadable(_UPSTREAM, creates=False)
        return self._machines(pods, until, is_ours_proven=is_ours_proven, is_probed=is_probed)

    def _machines(
        self,
        pods: list[Any],
        until: float,
        *,
        creates: bool = False,
        is_ours_proven: bool = False,
        is_probed: bool = True,
    ) -> list[Machine]:
        """Ours among the pods, of a listing or of the answer to a create."""
        try:
            ours = [pod for pod in pods if self._is_ours(pod, is_proven=is_ours_proven)]
            addresses = {str(pod["id"]): address for pod in ours if (address := _ssh_address(pod))}
            answering = set(addresses)
            if self._probe is not None and is_probed:
                answering = self._probe.answering(addresses, until)
            return [_machine(pod, addresses.get(str(pod["id"])), answering) for pod in ours]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unreadable(_UPSTREAM, creates=creates) from error

    def _is_ours(self, pod: dict[str, Any], *, is_proven: bool) -> bool:
        """By its name, which nobody can guess, unless its environment contradicts; or proven by that alone.

        A listing without environments must not read as one without pods.
        """
        mark = (pod.get("env") or {}).get("ABP_INSTALLATION")
        return _identity(pod) is not None and (
            mark == self._installation if is_proven else mark in (None, self._installation)
        )

    def _new_pod(self, request: ResourceRequest, replica: int) -> dict[str, Any]:
        if not self._public_key:
            message = f"{_UPSTREAM}: the MDS could not log in: set RUNPOD_SSH_PUBLIC_KEY, or the option ssh_public_key"
            raise unusable(message, "no_ssh_key")
        gpu_types = self._gpu_types.get(request.accelerator_type, request.accelerator_type)
        image = (request.template_spec.get("engine") or {}).get("image")
        body: dict[str, Any] = {
            **self._pod,
            "name": machine_name(request.name, replica),
            "computeType": "GPU",
            "cloudType": self._cloud_type,
            "gpuTypeIds": [gpu_types] if isinstance(gpu_types, str) else list(gpu_types),
            "gpuCount": request.accelerator_count,
            "imageName": image or self._image,
            "ports": [f"{ENGINE_PORT}/http", "22/tcp"],
            "dockerEntrypoint": ["bash", "-c"],
            "dockerStartCmd": [_START],
            "env": {
                **mapping(self._pod, "env"),
                "PUBLIC_KEY": self._public_key,
                "ABP_INSTALLATION": request.installation,
                "ABP_NAME": machine_name(request.name, replica),
                "ABP_PROVISION_ID": request.provision_id,
                "ABP_EXPIRES": str(int(request.expires_at.timestamp())),
                "ABP_REPLICAS": str(request.replicas),
                "ABP_CREATED": str(time.time_ns()),
            },
        }
        if self._cloud_type == "COMMUNITY":
            body["supportPublicIp"] = True
        if self._data_centers:
            body["dataCenterIds"] = self._data_centers
        return body

    def _check(self, response: Answer, *, broken: UpstreamKind = UpstreamKind.TRANSIENT) -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
        said = self._key.hidden_in(_words(response))
        kind, code = _KINDS.get(status, broken), f"http_{status}"
        if kind == UpstreamKind.PERMANENT and not said:
            kind = broken  # not RunPod's word, which alone may fail a job
        if (status == 400 or status >= 500) and any(phrase in said.lower() for phrase in _NO_CAPACITY):
            kind, code = UpstreamKind.CAPACITY, "no_capacity"
        message = f"{_UPSTREAM} answered {status}: {said}" if said else f"{_UPSTREAM} answered {status}"
        raise UpstreamError(kind, message, code=code, retry_after_seconds=retry_after_seconds(response))


def _identity(pod: dict[str, Any]) -> tuple[str, int] | None:
    """The provision and the replica; somebody may have renamed the pod in RunPod's console."""
    return parse_name(str((pod.get("env") or {}).get("ABP_NAME") or pod.get("name") or ""))


def _ssh_address(pod: dict[str, Any]) -> tuple[str, int] | None:
    """Where its ssh server can be reached: both are told only some time after it runs."""
    port = (pod.get("portMappings") or {}).get("22")
    return (str(pod["publicIp"]), int(port)) if pod.get("publicIp") and port else None


def _machine(pod: dict[str, Any], address: tuple[str, int] | None, answering: set[str]) -> Machine:
    pod_id, status = str(pod["id"]), str(pod["desiredStatus"])
    provision, replica = _identity(pod) or ("", 0)
    marks = pod.get("env") or {}
    state, message = ResourceState.PENDING, ""
    if status in {"EXITED", "TERMINATED"}:
        state, message = ResourceState.FAILED, f"Pod {pod_id} is {status}."
    elif status == "RUNNING" and pod_id in answering:
        state = ResourceState.READY
    elif status == "RUNNING":
        message = "It has no address yet." if address is None else "Its ssh server does not answer yet."
    detail: dict[str, Any] = {"status": status, "price_per_hour": pod.get("costPerHr")}
    if address is not None:
        detail |= {
            "host": address[0],
            "ssh_port": address[1],
            "ssh_user": "root",
            "http_base_url": f"https://{pod_id}-{ENGINE_PORT}.proxy.runpod.net",
        }
    return Machine(
        id=pod_id,
        provision=provision,
        replica=replica,
        replicas=number(marks.get("ABP_REPLICAS"), 1),
        created=number(marks.get("ABP_CREATED")),
        state=state,
        is_terminating=status == "TERMINATED",
        region=str((pod.get("machine") or {}).get("dataCenterId") or "runpod"),
        detail=detail,
        message=message,
    )


def _words(response: Answer) -> str:
    """What it says of an error: `{"error": …}`, `{"message": …}`, a list of such, or a text, by no rule."""
    body = response.json()
    while isinstance(body, list | dict) and body:
        body = body[0] if isinstance(body, list) else body.get("message") or body.get("error") or body.get("detail")
    if isinstance(body, str):
        return body
    return "" if body is not None or response.body[:1] in b"<{[" else response.body.decode(errors="replace").strip()
