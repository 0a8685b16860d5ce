"""The Kubernetes provider and the API server that stands in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import requests

from jobs.provisioners.kubernetes import KubernetesProvisioner
from jobs.provisioners.kubernetes_pods import INSTALLATION_LABEL, MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL
from jobs.testing.fake_kubernetes import FakeKubernetes
from jobs.testing.provider_server import Refusal
from jobs.testing.script import NO_RULE, Rule
from tests.providers.bench import CALL_TIMEOUT, ServerBench


class KubernetesBench(ServerBench):
    """One pod holds one replica."""

    server: FakeKubernetes
    # of capacity it says no word: the pod waits
    refusals: ClassVar[tuple[Refusal, ...]] = tuple(each for each in FakeKubernetes.refusals if each != "capacity")

    def provisioner(
        self, installation: str = "here", call_timeout: float = CALL_TIMEOUT, **options: Any
    ) -> KubernetesProvisioner:
        """Its address is an option."""
        return KubernetesProvisioner(
            {"base_url": self.server.url, **options},
            connect_timeout=1,
            call_timeout=call_timeout,
            installation=installation,
        )

    def duplicate(self, name: str) -> None:
        """Names are unique there, so it has another one and our labels."""
        self.hold(name, f"-x{len(self.held(name))}")

    def hold(self, name: str, suffix: str = "-0", installation: str = "here") -> None:
        """One pod, made by nobody."""
        labels = {MANAGED_BY_LABEL: MANAGED_BY, INSTALLATION_LABEL: installation, NAME_LABEL: name}
        pod = {"metadata": {"name": name + suffix, "labels": labels}, "spec": {"containers": [{}]}}
        self.server.hold(NO_RULE, name, 1, namespace="default", pod_name=name + suffix, pod=pod)

    def begin_deleting(self, object_id: str) -> None:
        """A finalizer holds it for an hour."""
        self.server.add_rule(Rule("delete", linger_seconds=3600))
        (held,) = (held for held in self.server.live() if held.id == object_id)
        url = f"{self.server.url}/api/v1/namespaces/default/pods/{held.facts['pod_name']}"
        requests.delete(url, timeout=5).raise_for_status()

    def pods(self, name: str | None = None) -> list[dict[str, Any]]:
        """The pods held under a name, as they were asked for."""
        return [held.facts["pod"] for held in self.server.live(name)]


@contextmanager
def kubernetes() -> Iterator[KubernetesBench]:
    """A bench on a server of its own."""
    with FakeKubernetes() as server:
        yield KubernetesBench(server)
