"""How one logs in to a cluster, and what becomes of a pool whose credential is gone, late or renewed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners.kubernetes import KubernetesProvisioner
from jobs.testing.fake_kubernetes import FakeKubernetes
from jobs.testing.provider_server import Refusal
from tests.providers.bench import wanted
from tests.providers.kubernetes import KubernetesBench, kubernetes


@pytest.fixture
def bench() -> Iterator[KubernetesBench]:
    with kubernetes() as running:
        yield running


def kubeconfig(path: Path, user: dict[str, Any] | None = None, **servers: str) -> str:
    """A file with a context for each server; the last one is the current."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url}} for name, url in servers.items()],
        "users": [{"name": "planner", "user": {"token": "first"} if user is None else user}],
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
    """What was renewed may be a certificate, of which nothing tells but that it is taken."""
    provisioner = logged_in(kubeconfig=kubeconfig(tmp_path / "config", here=bench.server.url))
    provisioner.discover()
    for _ in range(2):
        bench.refuse_next("list", Refusal.INVALID_CREDENTIAL)
    with pytest.raises(UpstreamError) as raised:
        provisioner.discover()
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL
    bench.refuse_next("list", Refusal.INVALID_CREDENTIAL)
    assert provisioner.discover() == {}


def test_a_plugin_that_gives_no_credential_delays_and_disables_no_pool(bench: KubernetesBench, tmp_path: Path) -> None:
    """Without one the API server would be asked by nobody, and say that nobody may."""
    plugin, said = tmp_path / "plugin", tmp_path / "said"
    plugin.write_text(f"#!/bin/sh\ncat {said}\n")
    plugin.chmod(0o700)
    run = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "interactiveMode": "Never"}
    provisioner = logged_in(kubeconfig=kubeconfig(tmp_path / "config", {"exec": run}, here=bench.server.url))

    def assert_delayed() -> None:
        with pytest.raises(UpstreamError, match="no credential") as raised:
            provisioner.discover()
        assert (raised.value.kind, str(tmp_path) in str(raised.value)) == (UpstreamKind.TRANSIENT, False)

    assert_delayed()
    status = {"token": "first", "expirationTimestamp": "2020-01-01T00:00:00Z"}
    said.write_text(json.dumps({"apiVersion": run["apiVersion"], "kind": "ExecCredential", "status": status}))
    assert provisioner.discover() == {}
    said.unlink()
    bench.refuse_next("list", Refusal.INVALID_CREDENTIAL)
    assert_delayed()


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
