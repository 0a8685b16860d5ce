"""`reconcile`: passes by hand bring everything to its end, whoever dies in the middle and whoever else is at it."""

from __future__ import annotations

from collections import Counter
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from jobs.models import Job
from jobs.provisioners.simulated_server import SimulatedServer
from jobs.testing.fake_mds import FakeMds
from tests.edge import Mishap
from tests.edge import Worker as Process
from tests.engine import is_quiet, simulated_pool
from tests.factories import make_job
from tests.quiescence import check_quiescent
from tests.threads import at_once

pytestmark = pytest.mark.django_db(transaction=True)


def reconcile(*flags: str) -> str:
    out = StringIO()
    call_command("reconcile", "--until-idle", "--timeout", "40s", *flags, stdout=out)
    return out.getvalue()


@pytest.fixture(autouse=True)
def jobs(simulated_server: SimulatedServer, fake_mds: FakeMds) -> None:
    simulated_pool(simulated_server)
    for _ in range(3):
        make_job()


def check_ended(server: SimulatedServer, mds: FakeMds) -> None:
    assert Counter(Job.objects.values_list("status", flat=True)) == {"completed": 3}
    check_quiescent(server, mds)


def test_it_works_until_all_is_over(simulated_server: SimulatedServer, fake_mds: FakeMds) -> None:
    assert "calls recorded" in reconcile()
    check_ended(simulated_server, fake_mds)


def test_killed_in_the_middle_and_run_again_it_ends_the_same(
    simulated_server: SimulatedServer, fake_mds: FakeMds
) -> None:
    process = Process(Mishap("kill", "statement", 30, is_after=True), reconcile)
    process.work()
    assert process.has_met
    assert not is_quiet()
    reconcile()
    check_ended(simulated_server, fake_mds)


def test_two_at_once_share_the_work(simulated_server: SimulatedServer, fake_mds: FakeMds) -> None:
    at_once(reconcile, reconcile)
    check_ended(simulated_server, fake_mds)


def test_what_does_not_end_is_given_up_and_told_of() -> None:
    Job.objects.update(hold=True)
    with pytest.raises(CommandError, match="3 jobs and 0 releases are left"):
        call_command("reconcile", "--until-idle", "--timeout", "0s", stdout=StringIO())
