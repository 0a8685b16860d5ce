"""Deleting files: at the MDS first, so that none is there without its owner, and never one that a job still needs."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile

from jobs import files, planner
from jobs.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from jobs.models import InputFile, Job, JobEvent
from jobs.statuses import LIVE, TERMINAL, JobStatus
from jobs.testing.fake_mds import FakeMds
from jobs.testing.script import Rule
from tests.batch_file import line
from tests.factories import make_file, make_job, make_user
from tests.threads import elsewhere, stopped, until_waiting


def uploaded(user: User) -> InputFile:
    return files.upload(user, SimpleUploadedFile("in.jsonl", line()))


@pytest.mark.django_db
def test_it_works(fake_mds: FakeMds) -> None:
    file = uploaded(make_user())
    other = uploaded(file.owner)
    files.delete(file.owner, file.pk)
    assert list(InputFile.objects.all()) == [other]
    with pytest.raises(NotFound):
        files.delete(file.owner, file.pk)
    assert fake_mds.count("discard") == 1


@pytest.mark.django_db
@pytest.mark.parametrize("status", sorted(LIVE))
def test_a_file_is_kept_while_any_job_that_is_not_over_uses_it(status: JobStatus, fake_mds: FakeMds) -> None:
    file = uploaded(make_user())
    make_job(make_user("operator"), status=status, input_file_id=file.pk)
    with pytest.raises(Conflict):
        files.delete(file.owner, file.pk)
    assert InputFile.objects.get() == file
    assert fake_mds.count("discard") == 0


@pytest.mark.django_db
@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_job_that_is_over_needs_its_input_no_more(status: JobStatus, fake_mds: FakeMds) -> None:
    file = uploaded(make_user())
    make_job(file.owner, status=status, input_file_id=file.pk)
    files.delete(file.owner, file.pk)
    assert not InputFile.objects.exists()


@pytest.mark.django_db
def test_a_file_the_mds_does_not_have_is_forgotten(fake_mds: FakeMds) -> None:
    file = make_file()
    files.delete(file.owner, file.pk)
    assert not InputFile.objects.exists()


FAILURES: dict[str, dict[str, Any]] = {
    "refused": {"status": 500},
    "not done": {"drop": True},
    "done, but the answer is lost": {"drop": True, "is_applied": True},
}


@pytest.mark.django_db
@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
def test_a_file_whose_deletion_the_mds_does_not_confirm_keeps_its_owner_and_makes_no_job(
    failure: dict[str, Any], fake_mds: FakeMds
) -> None:
    file = uploaded(make_user())
    fake_mds.add_rule(Rule("discard", **failure))
    with pytest.raises(Unavailable):
        files.delete(file.owner, file.pk)
    is_kept_until_it_is_deleted(file)


@pytest.mark.django_db
def test_a_killed_deletion_leaves_no_file_without_its_owner(fake_mds: FakeMds, monkeypatch: pytest.MonkeyPatch) -> None:
    file = uploaded(make_user())
    with monkeypatch.context() as killed:
        killed.setattr(files, "_remove", Mock(side_effect=SystemExit))
        with pytest.raises(SystemExit):
            files.delete(file.owner, file.pk)
    is_kept_until_it_is_deleted(file)


def is_kept_until_it_is_deleted(file: InputFile) -> None:
    assert list(files.visible_files(file.owner)) == [file]
    with pytest.raises(InvalidRequest, match=r"input_dataset: .* is being deleted"):
        accepting(file)()
    files.delete(file.owner, file.pk)
    assert not InputFile.objects.exists()


# --- what jobs have written ---


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("file_id", "left"), [("out-1", {"output_file_id": "", "error_file_id": "err-1"}), ("err-1", {"error_file_id": ""})]
)
def test_a_deleted_output_is_forgotten_by_its_job(file_id: str, left: dict[str, str], fake_mds: FakeMds) -> None:
    job = make_job(status="completed", output_file_id="out-1", error_file_id="err-1")
    files.delete(job.owner, file_id)
    job.refresh_from_db()
    assert {name: getattr(job, name) for name in left} == left
    event = JobEvent.objects.get(job=job, reason="file_deleted")
    assert (event.sequence, event.actor, event.data) == (job.event_count, job.owner.email, {"file_id": file_id})
    with pytest.raises(NotFound):
        files.readable_file(job.owner, file_id)


@pytest.mark.django_db
def test_an_output_the_mds_may_still_have_stays_with_its_job(fake_mds: FakeMds) -> None:
    job = make_job(status="completed", output_file_id="out-1")
    fake_mds.add_rule(Rule("discard", status=500))
    with pytest.raises(Unavailable):
        files.delete(job.owner, "out-1")
    job.refresh_from_db()
    assert (job.output_file_id, job.event_count) == ("out-1", 1)


@pytest.mark.django_db
def test_an_output_of_a_job_that_is_not_over_is_kept(fake_mds: FakeMds) -> None:
    job = make_job(status="finalizing", output_file_id="out-1")
    with pytest.raises(Conflict):
        files.delete(job.owner, "out-1")
    assert fake_mds.count("discard") == 0


# --- who ---


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("role", "error"), [("viewer", Forbidden), ("submitter", NotFound), ("", NotFound), ("operator", None)]
)
@pytest.mark.parametrize("which", ["input", "output"])
def test_whose_files_one_may_delete(which: str, role: str, error: type[Exception] | None, fake_mds: FakeMds) -> None:
    file = uploaded(make_user())
    make_job(file.owner, status="completed", input_file_id=file.pk, output_file_id="out-1")
    file_id = file.pk if which == "input" else "out-1"
    if error is None:
        files.delete(make_user(role), file_id)
        return
    with pytest.raises(error):
        files.delete(make_user(role), file_id)
    assert InputFile.objects.get() == file
    assert Job.objects.get().output_file_id == "out-1"


# --- races with jobs that are being accepted ---


def accepting(file: InputFile) -> Any:
    request = planner.JobRequest(input_file_id=file.pk, endpoint="/v1/chat/completions")
    return lambda: planner.enqueue(file.owner, request)


@pytest.mark.django_db(transaction=True)
def test_a_deletion_waits_for_the_job_that_is_being_accepted_with_it(fake_mds: FakeMds) -> None:
    file = uploaded(make_user())
    with stopped(accepting(file)) as accept:
        deletion = elsewhere(lambda: files.delete(file.owner, file.pk))
        until_waiting(1)
        assert accept.result().status == "pending"
        with pytest.raises(Conflict):
            deletion.result(30)
    assert InputFile.objects.get() == file
    assert fake_mds.count("discard") == 0


@pytest.mark.django_db(transaction=True)
def test_no_job_is_accepted_with_a_file_that_is_being_deleted(fake_mds: FakeMds) -> None:
    file = uploaded(make_user())
    with stopped(lambda: files.delete(file.owner, file.pk), after="UPDATE") as deletion:
        accept = elsewhere(accepting(file))
        until_waiting(1)
        deletion.result()
        with pytest.raises(InvalidRequest, match=r"is being deleted|unknown file"):
            accept.result(30)
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_jobs_that_are_accepted_with_one_file_do_not_wait_for_each_other(fake_mds: FakeMds) -> None:
    file = uploaded(make_user())
    with stopped(accepting(file)) as first:
        assert elsewhere(accepting(file)).result(30).status == "pending"
        assert first.result().status == "pending"
    assert Job.objects.count() == 2
