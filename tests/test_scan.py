"""The scan of the MDS's list: what was sent is found, what was not is sent again, what nobody wants is stopped."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from jobs.batch_client import Batch, BatchClient
from jobs.conf import times
from jobs.errors import UpstreamError
from jobs.lifecycle.claims import database_now
from jobs.lifecycle.scans import ScanAnswer, ScanCall, claim_scan, external_job_id, parse_job_id, record_scan
from jobs.models import BatchScan, Job, JobEvent
from jobs.reconciler import calls
from jobs.reconciler.submission import submission
from tests.answers import batch, error, page
from tests.clock import pass_time
from tests.engine import claimed, long_ago, running_job, submitting_job
from tests.factories import make_job
from tests.flow import upload
from tests.waiting import eventually

pytestmark = pytest.mark.django_db


def doubtful(**fields: Any) -> Job:
    """Sent, perhaps; the answer was lost just now."""
    sent = {"submit_started_at": long_ago(1), "submit_ended_at": timezone.now(), "due_at": None}
    return submitting_job(**sent | fields)


def ours(job: Job, batch_id: str = "b1", status: str = "in_progress", *, attempt: int | None = None) -> Batch:
    """A batch that bears this job's name."""
    job.attempt = job.attempt if attempt is None else attempt
    return batch(status, batch_id, job_id=external_job_id(job), created_at=timezone.now())


def turn() -> ScanCall:
    """The scan's next call, due now."""
    pass_time(1)
    BatchScan.objects.update(due_at=long_ago())
    call = claim_scan()
    assert call is not None
    return call


def reading(*, stops: bool = False) -> ScanCall:
    """Its next page, or its next stops: when it is the other's turn, that comes to nothing."""
    for _ in range(2):
        call = turn()
        if bool(call.stop) == stops:
            return call
        record_scan(call, error("transient"))
    raise AssertionError(f"two turns, and none to {'stop' if stops else 'read'}")


def read(*batches: Batch, **fields: Any) -> None:
    """A page of the list with these batches on it, newest first."""
    record_scan(reading(), ScanAnswer(page=page(*batches, **fields)))


def scan() -> BatchScan:
    return BatchScan.objects.get()


def settled_long_ago() -> None:
    pass_time(times().submit_settle)


def test_a_lost_answer_is_found_and_not_repeated() -> None:
    job = doubtful()
    read(ours(job))
    job.refresh_from_db()
    assert (job.status, job.batch_id, job.attempt, job.batch_view) == ("submitting", "b1", 1, None)
    assert JobEvent.objects.filter(job=job).latest("sequence").reason == "batch_adopted"
    pass_time(1)
    (claim,) = claimed().claims
    assert claim.kind == "poll", "the list's word on a status is not to be trusted"


def test_one_scan_settles_every_doubt() -> None:
    jobs = [doubtful() for _ in range(3)]
    read(*(ours(job, f"b{number}") for number, job in enumerate(jobs)))
    assert [Job.objects.get(pk=job.pk).batch_id for job in jobs] == ["b0", "b1", "b2"]


def test_nothing_found_is_believed_only_after_the_settle_time() -> None:
    job = doubtful()
    read()
    job.refresh_from_db()
    assert (job.attempt, job.submit_started_at is not None) == (1, True)
    settled_long_ago()
    read()
    job.refresh_from_db()
    assert (job.status, job.attempt, job.submit_started_at, job.batch_id) == ("submitting", 2, None, "")
    pass_time(1)
    (claim,) = claimed().claims
    assert (claim.kind, external_job_id(claim.job)[-2:]) == ("submit", ":2")


def test_a_scan_that_began_within_the_settle_time_proves_nothing_however_late_it_ends() -> None:
    job = doubtful()
    call = reading()
    settled_long_ago()
    record_scan(call, ScanAnswer(page=page()))
    job.refresh_from_db()
    assert job.attempt == 1


@pytest.mark.parametrize("status", ["submitting", "cancelling"])
def test_a_cancelled_job_whose_batch_was_never_made_is_cancelled(status: str) -> None:
    job = doubtful(cancel_requested_at=timezone.now(), status=status)
    settled_long_ago()
    read()
    job.refresh_from_db()
    assert job.provision is not None
    assert (job.status, job.provision.status) == ("cancelled", "releasing")


def test_a_cancelled_job_whose_batch_is_found_stops_it_first() -> None:
    job = doubtful(cancel_requested_at=timezone.now(), status="cancelling")
    read(ours(job))
    pass_time(1)
    (claim,) = claimed().claims
    assert (claim.kind, claim.job.batch_id) == ("cancel", "b1")


def test_of_several_the_furthest_is_taken_and_the_rest_are_stopped() -> None:
    job = doubtful()
    read(ours(job, "newest", "scheduling"), ours(job, "second", "in_progress"), ours(job, "oldest", "in_progress"))
    job.refresh_from_db()
    assert job.batch_id == "oldest"
    assert set(scan().unwanted) == {"newest", "second"}


def test_a_batch_of_an_older_attempt_is_stopped_and_never_adopted() -> None:
    job = doubtful(attempt=2)
    read(ours(job, "old", attempt=1))
    job.refresh_from_db()
    assert (job.batch_id, scan().unwanted) == ("", ["old"])


def test_a_batch_seen_before_another_attempt_began_is_not_adopted() -> None:
    job = doubtful()
    read(ours(job, "old"), has_more=True)
    Job.objects.update(attempt=2)
    read(batch(batch_id="last"))
    job.refresh_from_db()
    assert job.batch_id == ""


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_a_batch_whose_job_is_over_is_stopped(status: str) -> None:
    read(ours(make_job(status=status), "late"))
    assert scan().unwanted == ["late"]


def test_a_second_batch_of_a_running_job_is_stopped_and_its_own_is_not() -> None:
    job = running_job()
    read(ours(job, "twin"), ours(job, "b1"))
    assert scan().unwanted == ["twin"]


@pytest.mark.parametrize(("seen", "unwanted"), [("in_progress", ["b1"]), (None, ["b1"]), ("cancelled", [])])
def test_a_jobs_own_batch_is_stopped_if_the_job_ended_without_its_end(seen: str | None, unwanted: list[str]) -> None:
    """The MDS did not know it for a while, so that its job was ended; now it knows it again, and it runs."""
    job = make_job(status="cancelled", batch_id="b1", batch_view=seen and {"id": "b1", "status": seen})
    read(ours(job, "b1"))
    assert scan().unwanted == unwanted


def test_what_is_not_ours_is_left_alone() -> None:
    job = make_job(status="completed")
    theirs = external_job_id(job).replace("default:", "elsewhere:", 1)
    read(
        batch(job_id=theirs),
        batch(job_id=""),
        batch(job_id="default:job_unknown:1"),
        batch(job_id=f"default:{job.id}"),
        batch(job_id=f"default:{job.id}:{'9' * 5000}"),
    )
    assert scan().unwanted == []


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("default:job_1:2", ("job_1", 2)),
        ("default:eu:job_1:3", None),
        ("default2:job_1:2", None),
        ("default:job_1:", None),
        ("default::1", None),
        ("default:job_1:x", None),
        ("job_1:1", None),
        ("", None),
    ],
)
def test_our_name_is_matched_whole(name: str, parsed: tuple[str, int] | None) -> None:
    assert parse_job_id(name) == parsed


def test_a_job_in_somebody_elses_hands_is_not_settled() -> None:
    job = doubtful(lease_expires_at=timezone.now() + timedelta(hours=1))
    settled_long_ago()
    read(ours(job))
    job.refresh_from_db()
    assert (job.batch_id, job.attempt, scan().unwanted) == ("", 1, [])


# --- how far, and from where ---


def test_the_scan_goes_on_where_it_was_and_settles_only_at_its_end() -> None:
    job = doubtful()
    read(ours(job, "b1"), ours(make_job(), "last"), has_more=True)
    job.refresh_from_db()
    assert (job.batch_id, scan().after) == ("", "last")
    lost = reading()
    assert lost.after == "last"
    pass_time(times().lease)  # its worker was killed: the next one reads the same page
    again = claim_scan()
    assert again is not None
    assert again.after == "last"
    record_scan(lost, ScanAnswer(page=page()))
    job.refresh_from_db()
    assert job.batch_id == "", "a late answer writes nothing"
    record_scan(again, ScanAnswer(page=page(batch(batch_id="other"))))
    job.refresh_from_db()
    assert (job.batch_id, scan().began_at, scan().after) == ("b1", None, "")


def test_the_scan_ends_below_the_oldest_doubt() -> None:
    job = doubtful(submit_started_at=long_ago(600))
    margin, started_at = timedelta(seconds=times().scan_margin), job.submit_started_at
    assert started_at is not None
    BatchScan.objects.create(covered_to=timezone.now())
    reached = batch(batch_id="reached", created_at=started_at - margin / 2)
    read(reached, has_more=True)
    assert scan().began_at is not None
    below = batch(batch_id="below", created_at=started_at - timedelta(minutes=1))
    read(below, has_more=True)
    assert scan().began_at is None


def test_a_scan_without_doubts_reaches_what_the_last_one_saw() -> None:
    newest = timezone.now() - timedelta(minutes=10)
    read(batch(batch_id="a", created_at=newest))
    covered_to = scan().covered_to
    assert covered_to is not None
    pass_time(1)
    margin = timedelta(seconds=times().scan_margin)
    read(batch(batch_id="b", created_at=covered_to - margin / 2), has_more=True)
    assert scan().began_at is not None
    read(batch(batch_id="c", created_at=covered_to - timedelta(minutes=1)), has_more=True)
    assert scan().began_at is None


def test_the_first_scan_reaches_a_day_back() -> None:
    read(batch(batch_id="a", created_at=long_ago(86_000)), has_more=True)
    assert scan().began_at is not None
    read(batch(batch_id="b", created_at=long_ago(87_000)), has_more=True)
    assert scan().began_at is None


@pytest.mark.parametrize("skew_seconds", [-3600, 3600])
def test_the_clock_of_the_mds_need_not_be_ours(skew_seconds: int) -> None:
    skew = timedelta(seconds=skew_seconds)
    now = timezone.now()
    read(batch(batch_id="a", created_at=now + skew), server_at=now + skew)
    # as many minutes later as many batches later: the range in between is more than one page
    read(batch(batch_id="z", created_at=now + skew + timedelta(minutes=9)), has_more=True, server_at=now + skew)
    assert scan().began_at is not None, "not down yet to what the last scan saw"
    read(batch(batch_id="b", created_at=now + skew - timedelta(minutes=9)), has_more=True, server_at=now + skew)
    assert scan().began_at is None


def test_an_empty_page_after_a_full_one_proves_nothing() -> None:
    job = doubtful()
    settled_long_ago()
    read(batch(batch_id="gone", created_at=timezone.now()), has_more=True)
    read()
    job.refresh_from_db()
    assert (job.attempt, job.batch_id) == (1, "")
    assert reading().after == "", "from the top again"


def test_while_the_mds_is_away_every_doubt_stays() -> None:
    job = doubtful()
    settled_long_ago()
    pauses = []
    for retries in (1, 2, 3):
        record_scan(turn(), error("transient", "down"))
        assert (scan().retry_count, scan().last_error) == (retries, "down")
        due_at = scan().due_at
        assert due_at is not None
        pauses.append(due_at - database_now())
    assert pauses == sorted(pauses)
    job.refresh_from_db()
    assert (job.status, job.attempt, job.submit_started_at is not None) == ("submitting", 1, True)


def test_scans_are_as_far_apart_as_set_and_closer_while_somebody_waits() -> None:
    read()
    due_at = scan().due_at
    assert due_at is not None
    assert due_at - timezone.now() > timedelta(seconds=times().poll_max)
    doubtful()
    read()
    due_at = scan().due_at
    assert due_at is not None
    assert due_at - timezone.now() <= timedelta(seconds=times().poll_max)


def test_one_worker_scans_at_a_time() -> None:
    assert claim_scan() is not None
    assert claim_scan() is None


# --- stopping ---


def test_what_is_found_is_stopped_at_once_by_the_next_call() -> None:
    read()
    job = running_job(batch_id="b1")
    for _ in range(2):
        read(ours(job, "b2"), ours(job))
        due_at = scan().due_at
        assert due_at is not None
        assert due_at <= database_now()
        call = claim_scan()
        assert call is not None
        assert call.stop == ("b2",)
        record_scan(call, ScanAnswer(stopped=call.stop))


@pytest.mark.parametrize("stopped", [(), ("b2",)])
def test_a_list_that_shows_what_is_over_as_running_for_ever_makes_no_haste(stopped: tuple[str, ...]) -> None:
    """Between two reads there is a wait, whatever became of the stop in between."""
    job = running_job(batch_id="b1")
    read(ours(job, "b2"), ours(job))
    call = claim_scan()
    assert call is not None
    record_scan(call, ScanAnswer(stopped=stopped))
    due_at, read_at = scan().due_at, scan().ended_at
    assert due_at is not None
    assert read_at is not None
    assert due_at - read_at >= timedelta(seconds=times().poll_max)


def test_stopping_and_reading_take_turns_and_what_cannot_be_stopped_comes_last() -> None:
    BatchScan.objects.create(unwanted=[f"b{number}" for number in range(6)])
    tried = []
    for _ in range(4):
        call = turn()
        tried.append(call.stop)
        record_scan(call, ScanAnswer(stopped=call.stop[:1]) if call.stop else ScanAnswer(page=page()))
    stops = [stop for stop in tried if stop]
    assert stops == [("b0", "b1", "b2", "b3"), ("b4", "b5", "b1", "b2")]
    assert scan().unwanted == ["b3", "b5", "b1", "b2"]
    due_at = scan().due_at
    assert due_at is not None
    soon = timezone.now() + timedelta(seconds=times().poll_max)
    assert due_at <= soon, "what is left is stopped at the pace of the polls, an MDS is not to be hammered"


@pytest.fixture
def real(mds: str, settings: Any) -> Any:
    """The planner's client of the real MDS."""
    settings.PLANNER_MDS_URL = mds
    # on a busy machine it needs more than a thirtieth of its time
    settings.PLANNER_TIMES = {**settings.PLANNER_TIMES, "call_timeout": 5, "connect_timeout": 2}
    return BatchClient(mds, connect_timeout=5, call_timeout=20, create_timeout=20)


@pytest.mark.mds
def test_the_real_mds_shows_what_was_sent_and_stops_what_nobody_wants(mds: str, real: BatchClient) -> None:
    """A batch whose answer was lost, and one of an attempt that no longer counts."""
    job = doubtful(input_file_id=upload(mds, 5_000), model="m", attempt=2)
    assert job.provision is not None
    job.provision.spec = {"accelerator_type": "H100", "accelerator_count": 1, "replicas": 1, "options": {}}
    wanted = real.create(submission(job, job.provision, None))
    job.attempt = 1
    unwanted = real.create(submission(job, job.provision, None))
    pages = reading()
    record_scan(pages, calls.scan(pages))
    job.refresh_from_db()
    assert job.batch_id == wanted.id
    assert scan().unwanted == [unwanted.id]

    def is_stopped() -> bool:
        """A cancel takes its time there, and only a look that shows the end will do."""
        stopping = reading(stops=True)
        assert stopping.stop == (unwanted.id,)
        record_scan(stopping, calls.scan(stopping))
        return scan().unwanted == []

    eventually(is_stopped, 20, 0.1)
    assert real.get(unwanted.id).status == "cancelled"
    assert real.get(wanted.id).status not in {"cancelling", "cancelled"}
    calls.stop_batch(wanted.id)  # which may be refused while it is being validated


def test_a_batch_that_cannot_be_stopped_spares_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mds:
        asked: list[str] = []  # noqa: RUF012 - one test's own

        def get(self, batch_id: str) -> Batch:
            self.asked.append(batch_id)
            if batch_id == "broken":
                raise error("transient")
            if batch_id == "unknown":
                raise error("not_found")
            return batch("completed", batch_id)

    monkeypatch.setattr(calls, "batch_client", lambda: Mds())
    answer = calls.scan(ScanCall(1, "", ("broken", "unknown", "over")))
    assert (answer.stopped, Mds.asked) == (("unknown", "over"), ["broken", "unknown", "over"])
    with pytest.raises(UpstreamError):
        calls.scan(ScanCall(1, "", ("broken",)))


def test_a_batch_that_is_over_is_not_stopped_again_by_every_scan() -> None:
    job = make_job(status="completed", batch_id="recorded")
    read(ours(job, "twin", status="cancelled"))
    assert scan().unwanted == []


def test_a_finding_that_the_database_refuses_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = doubtful(), doubtful()
    read(ours(bad, "b" * 200), ours(good, "b2"))
    bad.refresh_from_db()
    good.refresh_from_db()
    assert (good.batch_id, bad.batch_id, bad.crashes) == ("b2", "", 1)
    assert "settled one by one" in caplog.text


def test_a_stop_counts_only_when_a_look_shows_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mds:
        def __init__(self) -> None:
            self.statuses = ["in_progress", "cancelling", "cancelling", "cancelled"]

        def get(self, batch_id: str) -> Batch:
            return batch(self.statuses.pop(0), batch_id)

        def cancel(self, batch_id: str) -> Batch:
            return batch("cancelled", batch_id)

    mds = Mds()
    monkeypatch.setattr(calls, "batch_client", lambda: mds)
    call = ScanCall(1, "", ("b1",))
    assert calls.scan(call).stopped == ()
    assert calls.scan(call).stopped == ("b1",)
    assert mds.statuses == []


def test_batches_without_a_time_do_not_end_the_scan() -> None:
    job = doubtful()
    settled_long_ago()
    read(replace(ours(job, "b9", attempt=7), created_at=None), has_more=True)
    job.refresh_from_db()
    assert (job.attempt, scan().began_at is not None) == (1, True)


def test_a_job_that_the_scan_ends_is_not_claimed_again() -> None:
    job = doubtful(status="cancelling", cancel_requested_at=long_ago(), due_at=long_ago())
    settled_long_ago()
    read(has_more=False)
    job.refresh_from_db()
    version = job.version
    claimed()
    job.refresh_from_db()
    assert (job.status, job.due_at, job.version) == ("cancelled", None, version)
