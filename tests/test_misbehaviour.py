"""Upstreams that misbehave, also in ways no error tells of: all jobs end, and nothing is left (G1 to G4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest
from django.conf import settings

from jobs import planner
from jobs.models import Job
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.reconciler import orphans
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.engine import is_quiet, simulated_pool, ticking_until
from tests.factories import make_job
from tests.quiescence import check_quiescent

pytestmark = pytest.mark.django_db(transaction=True)


def run_to_quiescence(provider: SimulatedServer, mds: FakeMds, *, is_swept: bool = False) -> set[str]:
    """Passes, with time passing between them, until nothing is wrong; fails with what still is. What was swept."""
    swept: set[str] = set()

    def is_quiescent() -> bool:
        provider.ledger.pass_time(1)  # as it has for the rows
        if is_swept and is_quiet():
            swept.update(finding.name for finding in orphans.sweep(seconds=60, grace_seconds=0).findings)
        try:
            check_quiescent(provider, mds)
        except AssertionError:
            return False
        return True

    try:
        ticking_until(is_quiescent)
    except AssertionError:
        check_quiescent(provider, mds)
        raise
    return swept


CREATED = {
    "listed late": Rule("create", visible_after_seconds=0.5),
    "unanswered and listed late": Rule("create", visible_after_seconds=0.5, drop=True, is_applied=True),
    "an error after the effect": Rule("create", status=500, is_applied=True),
    "lands after its caller gave up": Rule("create", delay_seconds=1),
    "an answer byte by byte": Rule("create", drip_seconds=0.02),
    "no capacity": Rule("create", status=409, code="capacity"),
    "asked to wait": Rule("create", status=429, retry_after_seconds=1),
    "never ready": Rule("create", is_never_ready=True),
    "an unknown status": Rule("create", shows="odd"),
}
LISTED = {
    "an unknown status": Rule("list", shows="odd", times=2),
    "a status that goes backwards": Rule("list", shows="pending", times=3),
    "missed for a while": Rule("list", hides=True, times=6),
    "asked to wait": Rule("list", status=429, retry_after_seconds=1, times=2),
    "broken": Rule("list", status=500, times=3),
}
DELETED = {
    "not found though there": Rule("delete", status=404, times=2),
    "an error after the effect": Rule("delete", status=500, is_applied=True),
    "broken": Rule("delete", status=500, times=3),
    "listed for a while": Rule("delete", linger_seconds=0.5),
    "listed as ready for a while": Rule("list", shows="ready", times=None),
}


@pytest.mark.parametrize("rules", [CREATED, LISTED, DELETED], ids=["created", "listed", "deleted"])
def test_a_provider_that_misbehaves_leaves_nothing(
    rules: dict[str, Rule], simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    """Each job meets another of the rules, or all meet all of them."""
    # absence is believed only after longer than what is there may go unlisted
    simulated_pool(simulated_server, ready_timeout_seconds=20, absence_confirm_seconds=0.6)
    jobs = [make_job() for _ in rules]
    added = [simulated_server.add_rule(dataclasses.replace(rule)) for rule in rules.values()]
    swept = run_to_quiescence(simulated_server, fake_mds, is_swept=rules is CREATED)
    # what lands late does so by the machine's own clock: after the lease, then, since the rows' time is so much faster
    assert len(swept) <= 1
    assert unmet(added) == []
    assert list(Job.objects.values_list("status", "crashes")) == [("completed", 0)] * len(jobs)


SUBMITTED: dict[str, tuple[list[Rule], str, str]] = {
    "listed late": ([Rule("create", visible_after_seconds=0.5)], "completed", ""),
    "unanswered and listed late": (
        [Rule("create", visible_after_seconds=0.5, drop=True, is_applied=True)],
        "completed",
        "",
    ),
    "an error after the effect": ([Rule("create", status=500, is_applied=True)], "completed", ""),
    "gave up and made it": ([Rule("create", status=408, is_applied=True)], "completed", ""),
    "lands after its caller gave up": ([Rule("create", delay_seconds=2)], "completed", ""),
    "an answer byte by byte": ([Rule("create", drip_seconds=0.02)], "completed", ""),
    "asked to wait": ([Rule("create", status=429, retry_after_seconds=1)], "completed", ""),
    "unavailable": ([Rule("create", status=503, times=2)], "completed", ""),
    "cancelled though nobody asked": ([Rule("create", ends="cancelled")], "completed", ""),
    "cancelled each time": ([Rule("create", ends="cancelled", times=4)], "failed", "cancelled_upstream"),
    "failed": ([Rule("create", ends="failed")], "failed", "inference_failed"),
    "expired": ([Rule("create", ends="expired")], "expired", "deadline"),
    "lines are missing": ([Rule("create", missing_lines=1)], "failed", "incomplete_output"),
    "missed once": ([Rule("get", hides=True)], "completed", ""),
    "asked to wait when looked at": ([Rule("get", status=429, retry_after_seconds=1, times=2)], "completed", ""),
    "an unknown status": ([Rule("get", shows="odd", times=2)], "completed", ""),
    "goes backwards": ([Rule("get", shows="finalizing"), Rule("get", shows="scheduling")], "completed", ""),
}


def test_an_mds_that_misbehaves_gets_one_batch_that_counts(
    simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    simulated_pool(simulated_server, max_live=50, max_provisioning=50)
    added = [fake_mds.add_rule(Rule("list", status=500, times=3))]
    fake_mds.add_rule(Rule("list", shows="scheduling", times=None))  # it learns of nothing ever
    for case, (rules, _, _) in SUBMITTED.items():
        added += meet(fake_mds, make_job(name=case), rules)
    run_to_quiescence(simulated_server, fake_mds)
    assert unmet(added) == []
    ended = {job.name: (job.status, job.error_code, job.crashes) for job in Job.objects.all()}
    assert ended == {case: (status, code, 0) for case, (_, status, code) in SUBMITTED.items()}


CANCELLED = {
    "refused though it runs": Rule("cancel", status=409),
    "an error after the effect": Rule("cancel", status=500, is_applied=True),
    "asked to wait": Rule("cancel", status=429, retry_after_seconds=1, times=2),
    "not found though it runs": Rule("cancel", status=404, times=2),
    "an unknown status": Rule("cancel", shows="odd"),
    "says that it still runs": Rule("cancel", shows="in_progress"),
}


def test_a_cancel_that_the_mds_takes_badly_is_honoured(simulated_server: SimulatedServer, fake_mds: FakeMds) -> None:
    fake_mds.run_seconds = 600
    simulated_pool(simulated_server)
    added = []
    for case, rule in CANCELLED.items():
        added += meet(fake_mds, make_job(name=case), [rule])
    ticking_until(lambda: not Job.objects.filter(batch_id="").exists())
    for job in Job.objects.all():
        planner.cancel(job.owner, job.id)
    run_to_quiescence(simulated_server, fake_mds)
    assert unmet(added) == []
    ended = {job.name: (job.status, job.crashes) for job in Job.objects.all()}
    assert ended == dict.fromkeys(CANCELLED, ("cancelled", 0))


def test_a_cancel_that_comes_too_late_ends_as_the_batch_did(
    simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    simulated_pool(simulated_server)
    for status in ("finalizing", "completed"):
        make_job(name=status)
    ticking_until(lambda: not Job.objects.filter(batch_id="").exists())
    for job in Job.objects.all():
        fake_mds.set_status(job.batch_id, job.name)
        planner.cancel(job.owner, job.id)
    run_to_quiescence(simulated_server, fake_mds)
    assert [job.status for job in Job.objects.all()] == ["completed", "completed"]


def test_a_resource_or_a_batch_that_vanishes_costs_an_attempt(
    simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    fake_mds.run_seconds = 600
    simulated_pool(simulated_server)
    no_resource, no_batch = make_job(), make_job()
    ticking_until(lambda: not Job.objects.filter(batch_id="").exists())
    fake_mds.run_seconds = 0
    no_resource.refresh_from_db()
    no_batch.refresh_from_db()
    assert no_resource.provision is not None
    simulated_server.vanish(no_resource.provision.name)
    fake_mds.forget(no_batch.batch_id)
    run_to_quiescence(simulated_server, fake_mds)
    assert list(Job.objects.values_list("status", "attempt")) == [("completed", 2)] * 2


def test_a_batch_that_was_missing_until_its_job_was_cancelled_without_it_is_stopped_when_it_is_back(
    simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    fake_mds.run_seconds = 600
    simulated_pool(simulated_server)
    job = make_job()
    ticking_until(lambda: Job.objects.get().batch_id != "")
    missing = [fake_mds.add_rule(Rule(verb, status=404, times=None)) for verb in ("get", "cancel")]
    planner.cancel(job.owner, job.id)
    ticking_until(lambda: Job.objects.get().status == "cancelled")
    assert len(fake_mds.running()) == 1
    for rule in missing:
        fake_mds.withdraw(rule)
    run_to_quiescence(simulated_server, fake_mds)
    assert [batch.status for batch in fake_mds.batches()] == ["cancelled"]


def meet(mds: FakeMds, job: Job, rules: list[Rule]) -> list[Rule]:
    """The job's batches meet copies of these rules, and no other's do."""
    name = f"{settings.PLANNER_INSTALLATION}:{job.id}:"
    return [mds.add_rule(dataclasses.replace(rule, name_prefix=name)) for rule in rules]


def unmet(rules: Iterable[Rule]) -> list[Rule]:
    """Those of the rules that had less to say than they were made for: the test would show nothing of them."""
    return [rule for rule in rules if rule.times]
