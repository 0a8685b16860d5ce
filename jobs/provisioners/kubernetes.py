"""Kubernetes: room in a cluster, held by placeholder pods that the engine's own pods push aside.

The metadata service makes the engine's pods, of ordinary priority. Placeholders of the same size and of the lowest
priority that still makes a cluster autoscaler add nodes stand on the room until then, and vanish when it is taken.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners.base import Resource, ResourceRequest, Runtime, looking_up
from jobs.provisioners.kubernetes_pods import (
    INSTALLATION_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    NAME_LABEL,
    UPSTREAM,
    Pod,
    PoolOptions,
    manifest,
    pod_name,
    priority_class,
    resource_of,
)
from jobs.transport import unreadable

if TYPE_CHECKING:
    from jobs.provisioners.kubernetes_api import ClusterApi

_NO_CLASS = "no PriorityClass with name"
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class KubernetesProvisioner:
    """One namespace of one cluster; one placeholder pod for each replica. Its options: docs/providers/kubernetes.md."""

    holds_resources = True
    hands_over = True

    def __init__(
        self, options: dict[str, Any], *, connect_timeout: float, call_timeout: float, installation: str
    ) -> None:
        self._options = PoolOptions.of(options)
        if not _LABEL_VALUE.fullmatch(installation):
            raise ValueError(f"the installation {installation!r} is no value that a label can have")
        self._login = options
        self._connect_timeout = connect_timeout
        self._call_timeout = call_timeout
        self._marks = {MANAGED_BY_LABEL: MANAGED_BY, INSTALLATION_LABEL: installation}

    def ensure(self, request: ResourceRequest) -> Resource:
        """Look for the pods by their label; create those that are missing."""
        until = self._until()
        found = self._list(request.name)
        present = {pod.name for pod in found}
        names = [pod_name(request.name, index) for index in range(request.replicas)]
        missing = [name for name in names if name not in present][: max(0, request.replicas - len(found))]
        made = [self._create(manifest(request, name, self._marks, self._options), until) for name in missing]
        found += [pod for pod in made if pod is not None]
        if None in made:  # somebody else has made some of them meanwhile
            found = self._list(request.name)
            if len(found) < request.replicas:
                message = f"{UPSTREAM}: there are pods named {request.name} that are not ours"
                raise UpstreamError(UpstreamKind.CONFLICT, message, code="name_taken")
        return resource_of(request.name, found, self._options)

    def observe(self, names: Collection[str]) -> dict[str, Resource]:
        """Those of the names that are there, from one listing of all that bears our mark."""
        wanted = set(names)
        return {name: resource for name, resource in self.discover().items() if name in wanted}

    def release(self, name: str, only: Collection[str] | None = None) -> None:
        """Delete every pod of that name, or only these, at once; one that cannot be deleted spares no other."""
        until = self._until()
        failure: UpstreamError | None = None
        for pod in self._list(name):
            if only is not None and pod.uid not in only:
                continue
            try:
                self._api.delete_pod(self._options.namespace, pod.name, pod.uid, until=until)
            except UpstreamError as error:
                # a conflict: what has this name now is another pod
                if error.kind not in {UpstreamKind.NOT_FOUND, UpstreamKind.CONFLICT}:
                    failure = failure or error
        if failure is not None:
            raise failure

    def discover(self) -> dict[str, Resource]:
        """Everything there that bears our installation's mark."""
        by_name: dict[str, list[Pod]] = {}
        for pod in self._list():
            by_name.setdefault(pod.provision_name, []).append(pod)
        return {name: resource_of(name, pods, self._options) for name, pods in by_name.items()}

    def runtime(self, request: ResourceRequest, resource: Resource) -> Runtime | None:
        """The metadata service makes a Deployment; it takes no options."""
        return Runtime("Kubernetes")

    # --- calls ---

    @cached_property
    def _api(self) -> ClusterApi:
        # here, on the thread of the first call: the client takes a second to import, and providers are made inside the
        # admission's transaction
        from jobs.provisioners.kubernetes_api import ClusterApi

        return ClusterApi(self._login, connect_timeout=self._connect_timeout)

    def _until(self, share: float = 1) -> float:
        """The end of what begins now; that the client gets ready, once, is not counted."""
        _ = self._api
        return time.monotonic() + share * self._call_timeout

    @looking_up()
    def _list(self, name: str = "") -> list[Pod]:
        # Half the time at most, so that what follows a slow look-up still has a fair share.
        until = self._until(1 / 2)
        labels = self._marks | {NAME_LABEL: name}
        return [_read(item) for item in self._api.list_pods(self._options.namespace, labels, until=until)]

    def _create(self, body: dict[str, Any], until: float) -> Pod | None:
        """The new pod, or None if there is one of that name."""
        try:
            answer = self._create_with_class(body, until)
        except UpstreamError as error:
            if error.kind != UpstreamKind.CONFLICT:
                raise
            return None
        return _read(answer, creates=True)

    def _create_with_class(self, body: dict[str, Any], until: float) -> dict[str, Any]:
        """The answer to the create, before which its PriorityClass is made if there is none."""
        create = partial(self._api.create_pod, self._options.namespace, body, until=until)
        try:
            return create()
        except UpstreamError as error:
            if _NO_CLASS not in str(error):
                raise
        self._create_priority_class(until)
        try:
            return create()
        except UpstreamError as error:
            if _NO_CLASS not in str(error):
                raise
            # the cluster's admission looks in a cache, which follows
            raise UpstreamError(UpstreamKind.TRANSIENT, str(error), code="new_priority_class") from error

    def _create_priority_class(self, until: float) -> None:
        try:
            self._api.create_priority_class(priority_class(self._options), until=until)
        except UpstreamError as error:
            if error.kind == UpstreamKind.INVALID_CREDENTIAL:
                message = (
                    f"{UPSTREAM}: there is no PriorityClass {self._options.priority_class}, and it may not be created "
                    "with this credential: create it as docs/providers/kubernetes.yaml has it"
                )
                raise UpstreamError(error.kind, message, code="no_priority_class") from error
            if error.kind == UpstreamKind.PERMANENT:  # of the pool's own making, and no job's
                raise UpstreamError(UpstreamKind.INVALID_CREDENTIAL, str(error), code=error.code) from error
            if error.kind != UpstreamKind.CONFLICT:
                raise


def _read(item: Any, *, creates: bool = False) -> Pod:
    try:
        return Pod.of(item)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise unreadable(UPSTREAM, creates=creates) from error
