"""How a provider is found by its name in the settings, and what a pool that names none says."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import responses

from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners import get_provisioner
from jobs.provisioners.base import Provisioner
from jobs.provisioners.simulated import SimulatedProvisioner
from planner_site.local_providers import LOCAL_PROVIDERS, LocalProvider


def test_the_same_provider_and_options_give_the_same_instance() -> None:
    first = get_provisioner("simulated", {"base_url": "http://127.0.0.1:1", "a": 1})
    assert get_provisioner("simulated", {"a": 1, "base_url": "http://127.0.0.1:1"}) is first
    assert get_provisioner("simulated", {"base_url": "http://127.0.0.1:2", "a": 1}) is not first


def test_every_configured_provider_can_be_made(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_SIMULATED_URL", "http://127.0.0.1:1")
    made: dict[str, Provisioner] = {name: get_provisioner(name, {}) for name in settings.PLANNER_PROVIDERS}
    assert {name for name, provisioner in made.items() if not provisioner.holds_resources} == {"passthrough"}


@pytest.mark.parametrize("provider", LOCAL_PROVIDERS.values(), ids=LOCAL_PROVIDERS)
def test_a_planner_on_this_machine_can_rent_from_it(provider: LocalProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in provider.environment.items():
        monkeypatch.setenv(name, value)
    assert get_provisioner(provider.name, provider.options("http://127.0.0.1:1")).holds_resources
    assert find_spec(provider.double)


def test_an_unknown_provider_is_refused_by_name() -> None:
    with pytest.raises(UpstreamError, match=r"unknown provider 'nimbus'.*passthrough") as raised:
        get_provisioner("nimbus", {})
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL


def test_a_provider_that_cannot_be_imported_is_refused(settings: Any) -> None:
    settings.PLANNER_PROVIDERS = {"nimbus": "jobs.provisioners.nimbus.Nimbus"}
    with pytest.raises(UpstreamError, match="nimbus") as raised:
        get_provisioner("nimbus", {})
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL


def test_a_simulated_pool_without_an_address_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANNER_SIMULATED_URL", raising=False)
    with pytest.raises(UpstreamError, match="PLANNER_SIMULATED_URL") as raised:
        get_provisioner("simulated", {"of": "nobody"})
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL


@pytest.mark.parametrize("answer", ["[]", "{}", '{"resources": [{"id": 1}]}', "<html>"])
@responses.activate
def test_an_answer_that_cannot_be_read_is_no_listing(answer: str) -> None:
    responses.get("http://127.0.0.1:1/resources", body=answer)
    options = {"base_url": "http://127.0.0.1:1"}
    provisioner = SimulatedProvisioner(options, connect_timeout=1, call_timeout=1, installation="here")
    with pytest.raises(UpstreamError) as raised:
        provisioner.observe(["one"])
    assert raised.value.kind == UpstreamKind.TRANSIENT


def test_options_of_the_wrong_kind_stop_their_pool_and_nothing_else() -> None:
    with pytest.raises(UpstreamError) as raised:
        get_provisioner("simulated", {"base_url": 5})
    assert raised.value.kind == UpstreamKind.INVALID_CREDENTIAL
