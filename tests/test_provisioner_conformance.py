"""What every provider promises, run over all of them against the double of its outside.

A new provider needs a bench of its own, in `tests/providers/`, and one row in BENCHES.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest

from jobs import request_ids
from jobs.errors import UpstreamError, UpstreamKind
from jobs.provisioners.base import Provisioner, Resource, ResourceState
from jobs.provisioners.passthrough import PassthroughProvisioner
from jobs.testing.provider_server import Refusal
from tests.providers.bench import Bench, wanted
from tests.providers.kubernetes import KubernetesBench, kubernetes
from tests.providers.lambda_cloud import LambdaCloudBench, lambda_cloud
from tests.providers.runpod import RunPodBench, runpod
from tests.providers.simulated import SimulatedBench, simulated

BENCHES: dict[str, tuple[type[Bench], Callable[[], AbstractContextManager[Bench]]]] = {
    "simulated": (SimulatedBench, simulated),
    "runpod": (RunPodBench, runpod),
    "lambda_cloud": (LambdaCloudBench, lambda_cloud),
    "kubernetes": (KubernetesBench, kubernetes),
}

# What may be done next, and the code that says why, where it is the same for all providers.
KINDS: dict[Refusal, UpstreamKind] = {
    Refusal.INVALID_REQUEST: UpstreamKind.PERMANENT,
    Refusal.INVALID_CREDENTIAL: UpstreamKind.INVALID_CREDENTIAL,
    Refusal.CAPACITY: UpstreamKind.CAPACITY,
    Refusal.QUOTA: UpstreamKind.CAPACITY,
    Refusal.RATE_LIMITED: UpstreamKind.RATE_LIMITED,
    Refusal.BROKEN: UpstreamKind.AMBIGUOUS,  # of a create; anything else may be repeated
}


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with BENCHES[request.param][1]() as running:
        yield running


@pytest.fixture
def provisioner(bench: Bench) -> Provisioner:
    return bench.provisioner()


def test_it_works(bench: Bench, provisioner: Provisioner) -> None:
    assert provisioner.holds_resources
    made = provisioner.ensure(wanted())
    assert (made.name, made.state) == ("one", ResourceState.READY)
    assert list(made.external_ids) == bench.held("one")
    assert provisioner.observe(["one"]) == {"one": made}
    provisioner.release("one")
    assert bench.held("one") == []
    assert provisioner.observe(["one"]) == {}


def test_every_call_bears_the_id_of_what_it_is_made_for(bench: Bench, provisioner: Provisioner) -> None:
    with request_ids.bound("req-7"):
        provisioner.ensure(wanted())
        provisioner.observe(["one"])
        provisioner.discover()
        provisioner.release("one")
    told = bench.request_ids()
    assert len(told) >= 5
    assert set(told) == {"req-7"}


def test_ensuring_again_creates_nothing_more(bench: Bench, provisioner: Provisioner) -> None:
    assert provisioner.ensure(wanted()) == provisioner.ensure(wanted())
    assert len(bench.held("one")) == 1


def test_a_resource_is_pending_until_it_is_ready(bench: Bench, provisioner: Provisioner) -> None:
    bench.stay_pending()
    assert provisioner.ensure(wanted()).state == ResourceState.PENDING
    assert provisioner.observe(["one"])["one"].state == ResourceState.PENDING
    bench.make_ready("one")
    assert provisioner.observe(["one"])["one"].state == ResourceState.READY


def test_a_broken_resource_is_failed_and_still_there(bench: Bench, provisioner: Provisioner) -> None:
    provisioner.ensure(wanted())
    bench.make_failed("one")
    broken = provisioner.observe(["one"])["one"]
    assert broken.state == ResourceState.FAILED
    assert broken.message
    assert provisioner.ensure(wanted()).state == ResourceState.FAILED
    assert len(bench.held("one")) == 1


def test_what_vanished_is_absent(bench: Bench, provisioner: Provisioner) -> None:
    provisioner.ensure(wanted())
    bench.vanish("one")
    assert provisioner.observe(["one"]) == {}
    provisioner.release("one")


def test_several_replicas_are_one_resource(bench: Bench, provisioner: Provisioner) -> None:
    request = wanted(replicas=3)
    made = provisioner.ensure(request)
    assert (made.state, made.surplus_ids) == (ResourceState.READY, ())
    assert len(made.external_ids) == (3 if bench.has_object_per_replica else 1)
    assert provisioner.observe(["one"]) == {"one": made} == provisioner.discover()
    provisioner.release("one")
    assert bench.held("one") == []


def test_several_replicas_are_completed_and_never_doubled(bench: Bench, provisioner: Provisioner) -> None:
    request = wanted(replicas=3)
    bench.stay_pending()
    bench.lose_next_create_answer()
    with pytest.raises(UpstreamError) as raised:
        provisioner.ensure(request)
    assert raised.value.kind == UpstreamKind.AMBIGUOUS
    made = provisioner.ensure(request)
    assert made.state == ResourceState.PENDING
    assert sorted(made.external_ids) == sorted(bench.held("one"))
    assert len(made.external_ids) == (3 if bench.has_object_per_replica else 1)
    bench.make_ready("one")
    assert provisioner.observe(["one"])["one"].state == ResourceState.READY


def test_a_resource_on_its_way_out_is_of_no_use(bench: Bench, provisioner: Provisioner) -> None:
    provisioner.ensure(wanted())
    bench.begin_deleting(bench.held("one")[0])
    assert provisioner.observe(["one"])["one"].state == ResourceState.FAILED


def test_an_object_on_its_way_out_is_neither_kept_nor_surplus(bench: Bench, provisioner: Provisioner) -> None:
    for _ in range(3):
        bench.duplicate("one")
    first, second, third = bench.held("one")
    bench.begin_deleting(first)
    found = provisioner.observe(["one"])["one"]
    assert (found.state, found.external_ids, found.surplus_ids) == (ResourceState.READY, (second,), (third,))
    bench.begin_deleting(third)
    assert provisioner.observe(["one"])["one"].surplus_ids == ()


def test_observing_takes_one_listing_and_answers_only_what_was_asked(bench: Bench, provisioner: Provisioner) -> None:
    for name in ("one", "two", "three"):
        provisioner.ensure(wanted(name))
    before = bench.listings()
    assert set(provisioner.observe(["one", "two", "never-made"])) == {"one", "two"}
    assert bench.listings() == before + 1


def test_releasing_is_repeatable_and_touches_no_other_name(bench: Bench, provisioner: Provisioner) -> None:
    for name in ("one", "one-more"):
        provisioner.ensure(wanted(name))
    for _ in range(2):
        provisioner.release("one")
    provisioner.release("never-made")
    assert (bench.held("one"), len(bench.held("one-more"))) == ([], 1)


def test_a_release_that_finds_it_gone_is_done(bench: Bench, provisioner: Provisioner) -> None:
    provisioner.ensure(wanted())
    bench.fail_next_delete(is_gone=True)
    provisioner.release("one")
    assert len(bench.held("one")) == 1, "it only pretended"


def test_one_failing_delete_spares_no_other_object(bench: Bench, provisioner: Provisioner) -> None:
    for _ in range(3):
        bench.duplicate("one")
    bench.fail_next_delete(is_gone=False)
    with pytest.raises(UpstreamError) as raised:
        provisioner.release("one")
    assert raised.value.kind == UpstreamKind.TRANSIENT
    assert len(bench.held("one")) == 1
    provisioner.release("one")
    assert bench.held("one") == []


def test_the_oldest_object_is_kept_and_the_rest_is_surplus(bench: Bench, provisioner: Provisioner) -> None:
    provisioner.ensure(wanted())
    for _ in range(2):
        bench.duplicate("one")
    oldest, *rest = bench.held("one")
    found = provisioner.observe(["one"])["one"]
    assert (found.external_ids, set(found.surplus_ids)) == ((oldest,), set(rest))
    assert provisioner.ensure(wanted()) == found
    provisioner.release("one", only=found.surplus_ids)
    assert bench.held("one") == [oldest]
    assert provisioner.observe(["one"])["one"].surplus_ids == ()


def test_a_removal_of_surplus_spares_what_was_made_since(bench: Bench, provisioner: Provisioner) -> None:
    for _ in range(2):
        bench.duplicate("one")
    oldest, second = bench.held("one")
    found = provisioner.observe(["one"])["one"]
    bench.duplicate("one")
    *_, since = bench.held("one")
    provisioner.release("one", only=())
    assert bench.held("one") == [oldest, second, since]
    provisioner.release("one", only=found.surplus_ids)
    assert bench.held("one") == [oldest, since]


def test_discovery_finds_what_bears_our_mark_and_nothing_else(bench: Bench, provisioner: Provisioner) -> None:
    for name in ("one", "two"):
        provisioner.ensure(wanted(name))
    stranger = bench.provisioner("elsewhere")
    stranger.ensure(wanted("theirs", installation="elsewhere"))
    assert set(provisioner.discover()) == {"one", "two"}
    assert set(stranger.discover()) == {"theirs"}


def test_what_is_called_as_long_as_it_can_be_is_taken_and_found_again(bench: Bench) -> None:
    """Each double refuses a name, a tag or a label beyond what its vendor takes."""
    installation, identity = "i" * 63, uuid.uuid4()
    name = f"abp-{identity.hex[:20]}"
    marks = {"installation": installation, "provision_id": str(identity), "job_id": f"job_{identity}"}
    provisioner = bench.provisioner(installation)
    provisioner.ensure(wanted(name, replicas=2, **marks))
    assert set(provisioner.observe([name])) == set(provisioner.discover()) == {name}


def test_a_create_whose_answer_was_lost_is_found_and_not_repeated(bench: Bench, provisioner: Provisioner) -> None:
    bench.lose_next_create_answer()
    with pytest.raises(UpstreamError) as raised:
        provisioner.ensure(wanted())
    assert raised.value.kind == UpstreamKind.AMBIGUOUS
    assert list(provisioner.ensure(wanted()).external_ids) == bench.held("one")
    assert len(bench.held("one")) == 1


@pytest.mark.parametrize("bench", ["runpod", "lambda_cloud"], indirect=True)
def test_replicas_made_before_the_room_ran_out_are_given_back(
    bench: RunPodBench | LambdaCloudBench, provisioner: Provisioner
) -> None:
    """Where an object is made after the other, and a lack of room is told."""
    bench.server.capacity = 2
    with pytest.raises(UpstreamError) as raised:
        provisioner.ensure(wanted(replicas=3))
    assert (raised.value.kind, len(bench.held("one"))) == (UpstreamKind.CAPACITY, 2)
    provisioner.release("one")
    assert bench.held("one") == []


@pytest.mark.parametrize(
    ("bench", "refusal"),
    [(name, refusal) for name, (kind, _) in BENCHES.items() for refusal in kind.refusals],
    indirect=["bench"],
)
def test_a_refusal_says_what_may_be_done_next(bench: Bench, provisioner: Provisioner, refusal: Refusal) -> None:
    retry_after_seconds = 7 if refusal == Refusal.RATE_LIMITED else None
    bench.refuse_next("create", refusal, retry_after_seconds)
    with pytest.raises(UpstreamError) as raised:
        provisioner.ensure(wanted())
    assert raised.value.kind == KINDS[refusal]
    assert (raised.value.code == "quota") == (refusal == Refusal.QUOTA)
    assert "http" not in str(raised.value).replace("http_", ""), "messages show no address"
    assert raised.value.retry_after_seconds == retry_after_seconds
    assert bench.held("one") == []
    assert provisioner.ensure(wanted()).state == ResourceState.READY


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Refusal.INVALID_REQUEST, UpstreamKind.TRANSIENT),  # it asks for nothing of a job's, so none is at fault
        (Refusal.INVALID_CREDENTIAL, UpstreamKind.INVALID_CREDENTIAL),
        (Refusal.RATE_LIMITED, UpstreamKind.RATE_LIMITED),
        (Refusal.BROKEN, UpstreamKind.TRANSIENT),
    ],
)
def test_a_refused_look_up_creates_nothing_and_is_no_listing(
    bench: Bench, provisioner: Provisioner, refusal: Refusal, kind: UpstreamKind
) -> None:
    for call in every_call(provisioner):
        bench.refuse_next("list", refusal)
        with pytest.raises(UpstreamError) as raised:
            call()
        assert raised.value.kind == kind
    assert bench.held("one") == []


def every_call(provisioner: Provisioner) -> list[Callable[[], Any]]:
    return [
        lambda: provisioner.ensure(wanted()),
        lambda: provisioner.observe(["one"]),
        lambda: provisioner.release("one"),
        provisioner.discover,
    ]


def test_nothing_but_upstream_errors_comes_out_of_an_outage(bench: Bench, provisioner: Provisioner) -> None:
    bench.stop()
    for call in every_call(provisioner):
        with pytest.raises(UpstreamError) as raised:
            call()
        assert raised.value.kind == UpstreamKind.TRANSIENT
        assert "127.0.0.1" not in str(raised.value)


@pytest.mark.parametrize("on", ["list", "create", "delete"])
def test_a_hanging_provider_costs_no_more_than_the_call_timeout(bench: Bench, on: str) -> None:
    provisioner = bench.provisioner(call_timeout=0.5)
    ensure, _, release, _ = every_call(provisioner)
    if on == "delete":
        for _ in range(3):
            bench.duplicate("one")
    provisioner.discover()  # a vendor's client is imported by its first call, once in the life of a process
    bench.hang(on)
    started = time.monotonic()
    with pytest.raises(UpstreamError) as raised:
        (release if on == "delete" else ensure)()
    assert time.monotonic() - started < 0.95
    assert raised.value.kind == (UpstreamKind.AMBIGUOUS if on == "create" else UpstreamKind.TRANSIENT)


def test_threads_share_an_instance_and_a_doubled_ensure_can_be_trimmed(bench: Bench, provisioner: Provisioner) -> None:
    together = threading.Barrier(4, timeout=5)

    def ensure(_: int) -> Resource:
        together.wait()
        return provisioner.ensure(wanted())

    with ThreadPoolExecutor(4) as executor:
        made = list(executor.map(ensure, range(4)))
    assert {resource.name for resource in made} == {"one"}
    found = provisioner.observe(["one"])["one"]
    provisioner.release("one", only=found.surplus_ids)
    assert bench.held("one") == list(found.external_ids)


def test_the_runtime_is_told_without_a_call(bench: Bench, provisioner: Provisioner) -> None:
    request = wanted()
    resource = provisioner.ensure(request)
    bench.stop()
    runtime = provisioner.runtime(request, resource)
    assert runtime is None or runtime.target


def test_what_is_ready_has_all_that_the_next_step_needs(bench: Bench, provisioner: Provisioner) -> None:
    """Ready means that a batch can be submitted, by what a listing tells alone."""
    request = wanted()
    bench.stay_pending()
    provisioner.ensure(request)
    bench.make_ready("one")
    resource = provisioner.observe(["one"])["one"]
    bench.stop()
    assert (resource.state, list(resource.external_ids)) == (ResourceState.READY, bench.held("one"))
    assert resource.region
    provisioner.runtime(request, resource)


# --- the provider that holds nothing: it has no outside, and no bench ---


def test_the_passthrough_is_ready_at_once_and_holds_nothing() -> None:
    provisioner = PassthroughProvisioner({}, connect_timeout=1, call_timeout=1, installation="here")
    assert not provisioner.holds_resources
    request = wanted()
    resource = provisioner.ensure(request)
    assert resource == Resource(name="one", state=ResourceState.READY)
    provisioner.release("one", only=["anything"])
    assert provisioner.observe(["one"]) == provisioner.discover() == {}
    assert provisioner.runtime(request, resource) is None
