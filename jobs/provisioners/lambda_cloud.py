"""Lambda Cloud: instances in somebody's account, one per replica, over its API v1.

It allows one request a second and one launch in twelve, and ends nothing by itself: a name and tags tell whose an
instance is, and until when.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from jobs.errors import OVER_QUOTA, UpstreamError, UpstreamKind
from jobs.provisioners.base import Resource, ResourceRequest, ResourceState, Runtime, looking_up
from jobs.provisioners.machines import Machine, machine_name, number, parse_name, resource, resources
from jobs.provisioners.paced import Pace, Pacer
from jobs.provisioners.pool_options import ApiKey, mapping, name_list, setting, unusable
from jobs.provisioners.ssh import ENGINE_PORT, SshProbe, engine_options
from jobs.transport import Answer, Transport, retry_after_seconds, unreadable

_UPSTREAM = "Lambda Cloud"
_BASE_URL = "https://cloud.lambda.ai/api/v1"
_SSH_PORT = 22
_CODES = {
    "global/invalid-api-key": UpstreamKind.INVALID_CREDENTIAL,
    "global/account-inactive": UpstreamKind.INVALID_CREDENTIAL,
    "global/quota-exceeded": UpstreamKind.CAPACITY,
    "provider/quota-exceeded": UpstreamKind.CAPACITY,
    "instance-operations/launch/insufficient-capacity": UpstreamKind.CAPACITY,
    "global/invalid-parameters": UpstreamKind.PERMANENT,
    "global/object-does-not-exist": UpstreamKind.NOT_FOUND,
    "global/duplicate": UpstreamKind.AMBIGUOUS,  # there is one already: the next look-up finds it
}
_KINDS = {
    400: UpstreamKind.PERMANENT,
    401: UpstreamKind.INVALID_CREDENTIAL,
    403: UpstreamKind.INVALID_CREDENTIAL,
    429: UpstreamKind.RATE_LIMITED,
}
_BROKEN = {"unhealthy", "preempted", "terminating"}  # the last two although nobody asked: it is lost
# Provision and replica, when it expires, and whose it is: all that is left if tags are not told.
_NAME = re.compile(r"(?P<machine>.+)-x\d+-(?P<owner>[0-9a-f]{8})")


class LambdaCloudProvisioner:
    """One Lambda Cloud account. Options: docs/providers/lambda_cloud.md."""

    holds_resources = True
    hands_over = False
    request_interval_seconds = 1.1  # one a second is allowed
    create_interval_seconds = 12.5  # one in twelve seconds

    def __init__(
        self, options: dict[str, Any], *, connect_timeout: float, call_timeout: float, installation: str
    ) -> None:
        self._options = options
        self._instance_types = mapping(options, "instance_types")
        self._launch_fields = mapping(options, "launch")
        self._regions = name_list(options, "regions", "LAMBDA_CLOUD_REGION")
        self._key = ApiKey(options, upstream=_UPSTREAM, variable="LAMBDA_CLOUD_API_KEY")
        base_url = setting(options, "base_url", "LAMBDA_CLOUD_BASE_URL", _BASE_URL)
        self._transport = Transport(base_url, upstream=_UPSTREAM, connect_timeout=connect_timeout, token=self._key.read)
        self._call_timeout = call_timeout
        self._installation = installation
        self._owner = _digest(installation, 8)
        self._probe = SshProbe() if options.get("probe_ssh") else None
        self.pace = self._pace(f"{base_url} {self._key.reference}")
        self._pacer = Pacer(self.pace, _UPSTREAM)

    def _pace(self, account: str) -> Pace | None:
        """As the options have it: the account's own limits, or none with 0."""
        request = float(self._options.get("request_interval_seconds", self.request_interval_seconds))
        create = float(self._options.get("create_interval_seconds", self.create_interval_seconds))
        return Pace(f"lambda_cloud {_digest(account, 32)}", request, create, create / 3) if request and create else None

    def ensure(self, request: ResourceRequest) -> Resource:
        """Look the instances up; launch those that are missing, one in each turn."""
        began = time.monotonic()
        until = began + self._call_timeout
        found = self._of(request.name, self._list())
        missing = sorted(set(range(request.replicas)) - {machine.replica for machine in found})
        if not missing:
            return resource(request.name, found)
        body = self._new_instance(request, until)
        for replica in missing:
            if replica != missing[0] and self._pacer.has_one_create_per_call:
                raise self._pacer.next_create()
            self._pacer.await_create(began)
            found.append(self._launch(request, replica, body, until))
        with suppress(UpstreamError):  # what was launched stands, whatever a further look has to say
            seen = self._of(request.name, self._list(until))
            found = seen + [machine for machine in found if machine.id not in {each.id for each in seen}]
        return resource(request.name, found)

    def observe(self, names: Collection[str]) -> dict[str, Resource]:
        """Those of the names that are there, from one listing."""
        wanted = set(names)
        return resources(machine for machine in self._list() if machine.provision in wanted)

    def release(self, name: str, only: Collection[str] | None = None) -> None:
        """Terminate every instance of that name, or only these, one by one; a failure spares no other."""
        until = time.monotonic() + self._call_timeout
        failure: UpstreamError | None = None
        for machine in self._of(name, self._list(is_probed=False)):
            if only is not None and machine.id not in only:
                continue
            try:
                # several in one call share one answer, which does not tell what became of each
                self._call("POST", "/instance-operations/terminate", until, body={"instance_ids": [machine.id]})
            except UpstreamError as error:
                if error.kind != UpstreamKind.NOT_FOUND and error.code != "http_404":
                    failure = failure or error
        if failure is not None:
            raise failure

    def discover(self) -> dict[str, Resource]:
        """Every instance that bears our installation's mark."""
        return resources(self._list(is_probed=False))

    def runtime(self, request: ResourceRequest, resource: Resource) -> Runtime | None:
        """The MDS logs in to the first instance and starts the engine there."""
        reached = {name: resource.detail[name] for name in ("host", "ssh_port", "ssh_user", "http_base_url")}
        return Runtime("LambdaCloud", reached | engine_options(request))

    def _of(self, name: str, machines: list[Machine]) -> list[Machine]:
        return [machine for machine in machines if machine.provision == name]

    @looking_up()
    def _list(self, until: float | None = None, *, is_probed: bool = True) -> list[Machine]:
        # Half the time at most, so that what follows a slow look-up still has a fair share.
        until = until or time.monotonic() + self._call_timeout / 2
        data = self._call("GET", "/instances", until)
        try:
            named = [(self._identity(each), each) for each in data if each["status"] != "terminated"]
            ours = [(identity, each) for identity, each in named if identity is not None]
            addresses = {str(each["id"]): (str(each["ip"]), _SSH_PORT) for _, each in ours if each.get("ip")}
            answering = set(addresses)
            if self._probe is not None and is_probed:
                answering = self._probe.answering(addresses, until)
            return [_machine(each, identity, answering) for identity, each in ours]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unreadable(_UPSTREAM, creates=False) from error

    def _identity(self, instance: dict[str, Any]) -> tuple[str, int] | None:
        """The provision and the replica; None if it is not ours.

        By its tags, for somebody may have renamed it in Lambda's console; by its name's own mark if no tags are told.
        """
        tags = _tags(instance)
        if tags.get("abp:installation", self._installation) != self._installation:
            return None
        if "abp:installation" in tags and "abp:name" in tags:
            return parse_name(tags["abp:name"])
        match = _NAME.fullmatch(str(instance.get("name") or ""))
        return parse_name(match["machine"]) if match and match["owner"] == self._owner else None

    def _new_instance(self, request: ResourceRequest, until: float) -> dict[str, Any]:
        """What all replicas have in common."""
        keys = name_list(self._options, "ssh_keys", "LAMBDA_CLOUD_SSH_KEYS")
        if not keys:
            message = f"{_UPSTREAM}: the MDS could not log in: set LAMBDA_CLOUD_SSH_KEYS, or the option ssh_keys"
            raise unusable(message, "no_ssh_key")
        count, accelerator = request.accelerator_count, request.accelerator_type
        instance_type = self._instance_types.get(f"{count}x {accelerator}", f"gpu_{count}x_{accelerator.lower()}")
        return {
            **self._launch_fields,
            "region_name": self._regions[0] if len(self._regions) == 1 else self._region(instance_type, until),
            "instance_type_name": instance_type,
            "ssh_key_names": keys[:1],  # it takes exactly one
        }

    @looking_up()
    def _region(self, instance_type: str, until: float) -> str:
        """Where there is room, as far as is known; of the accepted regions the first."""
        types = self._call("GET", "/instance-types", until)
        try:
            offered = [each["name"] for each in types[instance_type]["regions_with_capacity_available"]]
        except (KeyError, TypeError):
            offered = []
        for region in self._regions or offered:
            if region in offered:
                return str(region)
        message = f"{_UPSTREAM} offers no {instance_type} now in {', '.join(self._regions) or 'any region'}"
        raise UpstreamError(UpstreamKind.CAPACITY, message, code="no_capacity")

    def _launch(self, request: ResourceRequest, replica: int, body: dict[str, Any], until: float) -> Machine:
        expires, created = int(request.expires_at.timestamp()), time.time_ns()
        tags = {
            "abp:installation": request.installation,
            "abp:name": machine_name(request.name, replica),
            "abp:provision": request.provision_id,
            "abp:expires": str(expires),
            "abp:replicas": str(request.replicas),
            "abp:created": str(created),
        }
        own = {
            "name": f"{machine_name(request.name, replica)}-x{expires}-{_digest(request.installation, 8)}",
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        data = self._call("POST", "/instance-operations/launch", until, creates=True, body=body | own)
        try:
            (instance_id,) = data["instance_ids"]
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(_UPSTREAM, creates=True) from error
        return Machine(
            id=str(instance_id),
            provision=request.name,
            replica=replica,
            replicas=request.replicas,
            created=created,
            state=ResourceState.PENDING,
            region=body["region_name"],
            detail={"status": "booting"},
        )

    def _call(
        self, method: str, path: str, until: float, *, creates: bool = False, body: dict[str, Any] | None = None
    ) -> Any:
        """The answer's data, whatever it holds; raises what its error says."""
        if not creates:  # that has waited for its own moment
            self._pacer.await_request(until)
        response = self._transport.call(method, path, until=until, creates=creates, body=body)
        broken = UpstreamKind.AMBIGUOUS if creates else UpstreamKind.TRANSIENT
        answer = response.json()
        if not 200 <= response.status_code < 300:
            raise self._error(response, answer, broken)
        if not isinstance(answer, dict) or "data" not in answer:
            raise unreadable(_UPSTREAM, creates=creates)
        return answer["data"]

    def _error(self, response: Answer, answer: Any, broken: UpstreamKind) -> UpstreamError:
        status = response.status_code
        told = answer.get("error") if isinstance(answer, dict) else None
        told = told if isinstance(told, dict) else {}
        code = str(told.get("code") or f"http_{status}")
        kind = _CODES.get(code) or _KINDS.get(status, broken)
        if kind == UpstreamKind.PERMANENT and not told.get("code"):
            kind = broken  # not Lambda's word, which alone may fail a job
        said = self._key.hidden_in(" ".join(str(told[part]) for part in ("message", "suggestion") if told.get(part)))
        message = f"{_UPSTREAM}: {said}" if said else f"{_UPSTREAM} answered {status}"
        if code.endswith("/quota-exceeded"):
            code = OVER_QUOTA
        return UpstreamError(kind, message, code=code, retry_after_seconds=retry_after_seconds(response))


def _tags(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in instance.get("tags") or []}


def _machine(instance: dict[str, Any], identity: tuple[str, int], answering: set[str]) -> Machine:
    instance_id, status, ip = str(instance["id"]), str(instance["status"]), instance.get("ip")
    provision, replica = identity
    tags, instance_type = _tags(instance), instance.get("instance_type") or {}
    state, message = ResourceState.PENDING, ""
    if status in _BROKEN:
        state, message = ResourceState.FAILED, f"Instance {instance_id} is {status}."
    elif status == "active" and instance_id in answering:
        state = ResourceState.READY
    elif status == "active":
        message = "Its ssh server does not answer yet." if ip else "It has no address yet."
    detail: dict[str, Any] = {"status": status, "instance_type": instance_type.get("name")}
    if instance_type.get("price_cents_per_hour") is not None:
        detail["price_per_hour"] = instance_type["price_cents_per_hour"] / 100
    if ip:
        http_base_url = f"http://{ip}:{ENGINE_PORT}"
        detail |= {"host": ip, "ssh_port": _SSH_PORT, "ssh_user": "ubuntu", "http_base_url": http_base_url}
    return Machine(
        id=instance_id,
        provision=provision,
        replica=replica,
        replicas=number(tags.get("abp:replicas"), 1),
        created=number(tags.get("abp:created")),
        state=state,
        is_terminating=status == "terminating",
        region=str((instance.get("region") or {}).get("name") or ""),
        detail=detail,
        message=message,
    )


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
