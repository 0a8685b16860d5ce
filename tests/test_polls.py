"""How often a batch is looked at."""

from __future__ import annotations

from datetime import timedelta

from jobs.conf import times
from jobs.lifecycle.decisions import decide, poll_interval
from jobs.lifecycle.steps import Wait
from tests.test_decisions import LONG_AGO, NOW, a_job, a_provision


def test_polls_get_rarer_with_the_age_of_a_batch_within_bounds() -> None:
    spans = []
    for age in (0.0, 50 * times().poll_max, 86_400.0):
        job = a_job(status="in_progress", submitting_at=NOW - timedelta(seconds=age), batch_seen_at=NOW)
        spans.append(poll_interval(job).total_seconds())
    for span, expected in zip(spans, (times().poll_min, times().poll_max, times().poll_far), strict=True):
        assert 0.9 * expected <= span <= 1.1 * expected


def test_an_old_batch_that_is_about_to_end_is_looked_at_soon() -> None:
    old = {"submitting_at": NOW - timedelta(days=1), "batch_seen_at": NOW}
    finalizing = a_job(status="finalizing", finalizing_at=NOW, **old)
    missing = a_job(status="in_progress", batch_missing_at=NOW, **old)
    cancelling = a_job(status="cancelling", batch_id="b", stop_sent_at=NOW, **old)
    assert poll_interval(finalizing).total_seconds() <= 1.1 * times().poll_min
    assert poll_interval(missing).total_seconds() <= 1.1 * times().poll_max
    step = decide(cancelling, a_provision(status="ready"), NOW)
    assert isinstance(step, Wait)
    assert step.until is not None
    assert step.until <= NOW + timedelta(seconds=1.1 * times().poll_max)


def test_an_attempt_after_one_that_was_finalized_is_young() -> None:
    job = a_job(status="in_progress", finalizing_at=NOW - timedelta(hours=5), submitting_at=NOW, batch_seen_at=NOW)
    assert poll_interval(job).total_seconds() <= 1.1 * times().poll_min


def test_the_next_look_is_not_after_the_end_of_the_resources_lifetime() -> None:
    job = a_job(status="in_progress", batch_id="b", batch_seen_at=NOW, submitting_at=LONG_AGO)
    ends_at = NOW + timedelta(seconds=1)
    assert decide(job, a_provision(status="ready", lifetime_ends_at=ends_at), NOW) == Wait(ends_at)


def test_the_next_look_at_an_old_batch_is_not_after_it_must_have_ended() -> None:
    deadline = NOW + timedelta(seconds=1) - timedelta(seconds=times().deadline_grace)
    job = a_job(status="in_progress", batch_id="b", deadline_at=deadline, batch_seen_at=NOW, submitting_at=LONG_AGO)
    assert decide(job, a_provision(status="ready"), NOW) == Wait(NOW + timedelta(seconds=1))
