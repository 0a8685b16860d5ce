"""What every provider promises, run over all of them against the double of its outside.

A new provider needs a `Double` of its own and one row in DOUBLES.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import pytest
import requests

from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners.base import Provisioner, Resource, ResourceRequest, ResourceState
from jobs.provisioners.passthrough import PassthroughProvisioner
from jobs.provisioners.simulated import SimulatedProvisioner
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.script import Rule

CALL_TIMEOUT = 2.0


class Double(Protocol):
    """A provider's outside, as the suite needs to see and spoil it."""

    def provisioner(self, installation: str = "here", call_timeout: float = CALL_TIMEOUT) -> Provisioner:
        """The provider, pointed at this double."""

    def held(self, name: str) -> list[str]:
        """The ids held under a name, oldest first."""

    def listings(self) -> int:
        """How many listings were asked for."""

    def duplicate(self, name: str) -> None:
        """Create one more object of that name behind the provider's back."""

    def stay_pending(self) -> None:
        """What is created next does not become ready."""

    def make_ready(self, name: str) -> None:
        """What is held under the name becomes ready."""

    def make_failed(self, name: str) -> None:
        """What is held under the name breaks."""

    def begin_deleting(self, object_id: str) -> None:
        """One object is on its way out and still listed."""

    def refuse_next_create(self, kind: UpstreamKind) -> None:
        """The next create is refused, in the provider's own words, and makes nothing."""

    def lose_next_create_answer(self) -> None:
        """The next create is carried out, and its answer never arrives."""

    def fail_next_delete(self, *, is_gone: bool) -> None:
        """The next delete fails; `is_gone`: because there is nothing left to delete."""

    def hang(self, on: str) -> None:
        """From now on `create`, `list` or `delete` gets no answer within any timeout."""

    def stop(self) -> None:
        """Nothing listens any more."""


SIMULATED_REFUSALS = {
    UpstreamKind.PERMANENT: (400, None),
    UpstreamKind.INVALID_CREDENTIAL: (401, None),
    UpstreamKind.CAPACITY: (409, None),
    UpstreamKind.RATE_LIMITED: (429, 7),
    UpstreamKind.AMBIGUOUS: (500, None),
}


class SimulatedDouble:
    def __init__(self, server: SimulatedServer) -> None:
        self.server = server
        self.stop = server.stop

    def provisioner(self, installation: str = "here", call_timeout: float = CALL_TIMEOUT) -> Provisioner:
        options = {"base_url": self.server.url}
        return SimulatedProvisioner(options, connect_timeout=1, call_timeout=call_timeout, installation=installation)

    def held(self, name: str) -> list[str]:
        return [held.id for held in self.server.live(name)]

    def listings(self) -> int:
        return self.server.count("list")

    def duplicate(self, name: str) -> None:
        requests.post(f"{self.server.url}/resources", json={"name": name}, timeout=5).raise_for_status()

    def stay_pending(self) -> None:
        self.server.ready_seconds = 3600

    def make_ready(self, name: str) -> None:
        self.server.make_ready(name)

    def make_failed(self, name: str) -> None:
        self.server.fail(name)

    def begin_deleting(self, object_id: str) -> None:
        self.server.add_rule(Rule("delete", linger_seconds=3600))
        requests.delete(f"{self.server.url}/resources/{object_id}", timeout=5).raise_for_status()

    def refuse_next_create(self, kind: UpstreamKind) -> None:
        status, retry_after_seconds = SIMULATED_REFUSALS[kind]
        self.server.add_rule(Rule("create", status=status, retry_after_seconds=retry_after_seconds))

    def lose_next_create_answer(self) -> None:
        self.server.add_rule(Rule("create", drop=True, is_applied=True))

    def fail_next_delete(self, *, is_gone: bool) -> None:
        self.server.add_rule(Rule("delete", status=404 if is_gone else 500))

    def hang(self, on: str) -> None:
        self.server.add_rule(Rule(on, delay_seconds=600, times=None))


@contextmanager
def simulated() -> Iterator[SimulatedDouble]:
    with SimulatedServer() as server:
        yield SimulatedDouble(server)


DOUBLES: dict[str, Callable[[], AbstractContextManager[Double]]] = {
    "simulated": simulated,
}


@pytest.fixture(params=DOUBLES)
def double(request: pytest.FixtureRequest) -> Iterator[Double]:
    with DOUBLES[request.param]() as running:
        yield running


@pytest.fixture
def provisioner(double: Double) -> Provisioner:
    return double.provisioner()


def wanted(name: str = "one", **fields: Any) -> ResourceRequest:
    defaults: dict[str, Any] = {
        "name": name,
        "installation": "here",
        "provision_id": f"provision-of-{name}",
        "job_id": "job_1",
        "accelerator_type": "H100",
        "accelerator_count": 1,
        "replicas": 1,
        "expires_at": datetime(2030, 1, 1, tzinfo=UTC),
    }
    return ResourceRequest(**{**defaults, **fields})


def test_it_works(double: Double, provisioner: Provisioner) -> None:
    assert provisioner.holds_resources
    made = provisioner.ensure(wanted())
    assert (made.name, made.state) == ("one", ResourceState.READY)
    assert list(made.external_ids) == double.held("one")
    assert provisioner.observe(["one"]) == {"one": made}
    provisioner.release("one")
    assert double.held("one") == []
    assert provisioner.observe(["one"]) == {}


def test_ensuring_again_creates_nothing_more(double: Double, provisioner: Provisioner) -> None:
    assert provisioner.ensure(wanted()) == provisioner.ensure(wanted())
    assert len(double.held("one")) == 1


def test_a_resource_is_pending_until_it_is_ready(double: Double, provisioner: Provisioner) -> None:
    double.stay_pending()
    assert provisioner.ensure(wanted()).state == ResourceState.PENDING
    assert provisioner.observe(["one"])["one"].state == ResourceState.PENDING
    double.make_ready("one")
    assert provisioner.observe(["one"])["one"].state == ResourceState.READY


def test_a_broken_resource_is_failed_and_still_there(double: Double, provisioner: Provisioner) -> None:
    provisioner.ensure(wanted())
    double.make_failed("one")
    broken = provisioner.observe(["one"])["one"]
    assert broken.state == ResourceState.FAILED
    assert broken.message
    assert provisioner.ensure(wanted()).state == ResourceState.FAILED
    assert len(double.held("one")) == 1


def test_a_resource_on_its_way_out_is_of_no_use(double: Double, provisioner: Provisioner) -> None:
    provisioner.ensure(wanted())
    double.begin_deleting(double.held("one")[0])
    assert provisioner.observe(["one"])["one"].state == ResourceState.FAILED


def test_an_object_on_its_way_out_is_neither_kept_nor_surplus(double: Double, provisioner: Provisioner) -> None:
    for _ in range(3):
        double.duplicate("one")
    first, second, third = double.held("one")
    double.begin_deleting(first)
    found = provisioner.observe(["one"])["one"]
    assert (found.state, found.external_ids, found.surplus_ids) == (ResourceState.READY, (second,), (third,))
    double.begin_deleting(third)
    assert provisioner.observe(["one"])["one"].surplus_ids == ()


def test_observing_takes_one_listing_and_answers_only_what_was_asked(double: Double, provisioner: Provisioner) -> None:
    for name in ("one", "two", "three"):
        provisioner.ensure(wanted(name))
    before = double.listings()
    assert set(provisioner.observe(["one", "two", "never-made"])) == {"one", "two"}
    assert double.listings() == before + 1


def test_releasing_is_repeatable_and_touches_no_other_name(double: Double, provisioner: Provisioner) -> None:
    for name in ("one", "one-more"):
        provisioner.ensure(wanted(name))
    for _ in range(2):
        provisioner.release("one")
    provisioner.release("never-made")
    assert (double.held("one"), len(double.held("one-more"))) == ([], 1)


def test_a_release_that_finds_it_gone_is_done(double: Double, provisioner: Provisioner) -> None:
    provisioner.ensure(wanted())
    double.fail_next_delete(is_gone=True)
    provisioner.release("one")
    assert len(double.held("one")) == 1, "the double only pretended"


def test_one_failing_delete_spares_no_other_object(double: Double, provisioner: Provisioner) -> None:
    for _ in range(3):
        double.duplicate("one")
    double.fail_next_delete(is_gone=False)
    with pytest.raises(UpstreamError) as raised:
        provisioner.release("one")
    assert raised.value.kind == UpstreamKind.TRANSIENT
    assert len(double.held("one")) == 1
    provisioner.release("one")
    assert double.held("one") == []


def test_the_oldest_object_is_kept_and_the_rest_is_surplus(double: Double, provisioner: Provisioner) -> None:
    provisioner.ensure(wanted())
    for _ in range(2):
        double.duplicate("one")
    oldest, *rest = double.held("one")
    found = provisioner.observe(["one"])["one"]
    assert (found.external_ids, set(found.surplus_ids)) == ((oldest,), set(rest))
    assert provisioner.ensure(wanted()) == found
    provisioner.release("one", keep=found.external_ids)
    assert double.held("one") == [oldest]
    assert provisioner.observe(["one"])["one"].surplus_ids == ()


def test_discovery_finds_what_bears_our_mark_and_nothing_else(double: Double, provisioner: Provisioner) -> None:
    for name in ("one", "two"):
        provisioner.ensure(wanted(name))
    stranger = double.provisioner("elsewhere")
    stranger.ensure(wanted("theirs", installation="elsewhere"))
    assert set(provisioner.discover()) == {"one", "two"}
    assert set(stranger.discover()) == {"theirs"}


def test_a_create_whose_answer_was_lost_is_found_and_not_repeated(double: Double, provisioner: Provisioner) -> None:
    double.lose_next_create_answer()
    with pytest.raises(UpstreamError) as raised:
        provisioner.ensure(wanted())
    assert raised.value.kind == UpstreamKind.AMBIGUOUS
    assert list(provisioner.ensure(wanted()).external_ids) == double.held("one")
    assert len(double.held("one")) == 1


@pytest.mark.parametrize(
    "kind",
    [
        UpstreamKind.PERMANENT,
        UpstreamKind.INVALID_CREDENTIAL,
        UpstreamKind.CAPACITY,
        UpstreamKind.RATE_LIMITED,
        UpstreamKind.AMBIGUOUS,
    ],
)
def test_a_refused_create_says_what_may_be_done_next(
    double: Double, provisioner: Provisioner, kind: UpstreamKind
) -> None:
    double.refuse_next_create(kind)
    with pytest.raises(UpstreamError) as raised:
        provisioner.ensure(wanted())
    assert raised.value.kind == kind
    assert "http" not in str(raised.value).replace("http_", ""), "messages show no address"
    assert raised.value.retry_after_seconds == (7 if kind == UpstreamKind.RATE_LIMITED else None)
    assert double.held("one") == []
    assert provisioner.ensure(wanted()).state == ResourceState.READY


def every_call(provisioner: Provisioner) -> list[Callable[[], Any]]:
    return [
        lambda: provisioner.ensure(wanted()),
        lambda: provisioner.observe(["one"]),
        lambda: provisioner.release("one"),
        provisioner.discover,
    ]


def test_nothing_but_upstream_errors_comes_out_of_an_outage(double: Double, provisioner: Provisioner) -> None:
    double.stop()
    for call in every_call(provisioner):
        with pytest.raises(UpstreamError) as raised:
            call()
        assert raised.value.kind == UpstreamKind.TRANSIENT
        assert "127.0.0.1" not in str(raised.value)


@pytest.mark.parametrize("on", ["list", "create", "delete"])
def test_a_hanging_provider_costs_no_more_than_the_call_timeout(double: Double, on: str) -> None:
    provisioner = double.provisioner(call_timeout=0.5)
    ensure, _, release, _ = every_call(provisioner)
    if on == "delete":
        for _ in range(3):
            double.duplicate("one")
    double.hang(on)
    started = time.monotonic()
    with pytest.raises(UpstreamError) as raised:
        (release if on == "delete" else ensure)()
    assert time.monotonic() - started < 0.95
    assert raised.value.kind == (UpstreamKind.AMBIGUOUS if on == "create" else UpstreamKind.TRANSIENT)


def test_threads_share_an_instance_and_a_doubled_ensure_can_be_trimmed(
    double: Double, provisioner: Provisioner
) -> None:
    together = threading.Barrier(4, timeout=5)

    def ensure(_: int) -> Resource:
        together.wait()
        return provisioner.ensure(wanted())

    with ThreadPoolExecutor(4) as executor:
        made = list(executor.map(ensure, range(4)))
    assert {resource.name for resource in made} == {"one"}
    found = provisioner.observe(["one"])["one"]
    provisioner.release("one", keep=found.external_ids)
    assert double.held("one") == list(found.external_ids)


def test_the_runtime_is_told_without_a_call(double: Double, provisioner: Provisioner) -> None:
    request = wanted()
    resource = provisioner.ensure(request)
    double.stop()
    runtime = provisioner.runtime(request, resource)
    assert runtime is None or runtime.target


def test_what_is_ready_has_all_that_the_next_step_needs(double: Double, provisioner: Provisioner) -> None:
    """Ready means that a batch can be submitted, by what a listing tells alone."""
    request = wanted()
    double.stay_pending()
    provisioner.ensure(request)
    double.make_ready("one")
    resource = provisioner.observe(["one"])["one"]
    double.stop()
    assert (resource.state, list(resource.external_ids)) == (ResourceState.READY, double.held("one"))
    assert resource.region
    provisioner.runtime(request, resource)


# --- the provider that holds nothing ---


def test_the_passthrough_is_ready_at_once_and_holds_nothing() -> None:
    provisioner = PassthroughProvisioner({}, connect_timeout=1, call_timeout=1, installation="here")
    assert not provisioner.holds_resources
    request = wanted()
    resource = provisioner.ensure(request)
    assert resource == Resource(name="one", state=ResourceState.READY)
    provisioner.release("one", keep=["anything"])
    assert provisioner.observe(["one"]) == provisioner.discover() == {}
    assert provisioner.runtime(request, resource) is None
