"""The official `openai` package, unmodified, against the running server with a real metadata service behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from django.contrib.auth.models import User
from openai import OpenAI
from openai.types import Batch
from pytest_django.live_server_helper import LiveServer

from jobs.models import ApiToken, InputFile, Job
from jobs.testing.script import Rule
from tests.batch_file import lines
from tests.engine import passes_until, passes_until_quiet, simulated_pool
from tests.factories import make_file, make_template, make_user
from tests.flow import ENDPOINT, Planner, upload_content

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.mds]

EVERYTHING = ["validating", "in_progress", "finalizing", "completed"]


@pytest.fixture
def owner(transactional_db: None) -> User:
    return make_user()


@pytest.fixture
def sdk(live_server: LiveServer, owner: User) -> Iterator[OpenAI]:
    """Nothing but an address and a key."""
    with OpenAI(base_url=f"{live_server.url}/v1", api_key=ApiToken.issue(owner, "sdk")[1]) as client:
        yield client


@pytest.fixture
def requests_file(tmp_path: Path) -> Path:
    return input_file(tmp_path / "requests.jsonl", 5)


def input_file(path: Path, count: int) -> Path:
    path.write_bytes(lines(count))
    return path


def uploaded(sdk: OpenAI, path: Path) -> str:
    with path.open("rb") as content:
        return sdk.files.create(file=content, purpose="batch").id


def created(sdk: OpenAI, file_id: str) -> Batch:
    return sdk.batches.create(input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h")


def test_a_batch_goes_its_whole_way(sdk: OpenAI, here: Planner, requests_file: Path) -> None:
    simulated_pool(here.server)
    template = make_template()
    with requests_file.open("rb") as content:
        file = sdk.files.create(file=content, purpose="batch")
    assert (file.filename, file.bytes, file.purpose) == ("requests.jsonl", requests_file.stat().st_size, "batch")

    batch = sdk.batches.create(
        input_file_id=file.id,
        endpoint=ENDPOINT,
        completion_window="24h",
        metadata={"team": "evals"},
        extra_body={"aibrix": {"model_id": template.model_id, "model_template_name": template.name}},
    )
    assert (batch.status, batch.input_file_id, batch.metadata) == ("validating", file.id, {"team": "evals"})

    seen = [batch.status]

    def is_over() -> bool:
        seen.append(sdk.batches.retrieve(batch.id).status)
        return seen[-1] not in {"validating", "in_progress", "finalizing"}

    passes_until(is_over)
    assert list(dict.fromkeys(seen)) == [status for status in EVERYTHING if status in seen]

    done = sdk.batches.retrieve(batch.id)
    assert done.status == "completed"
    assert done.model == template.model.effective_serving_name
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 5, "completed": 5, "failed": 0}
    # one this short may be over before it is seen in progress
    times = [done.created_at, done.in_progress_at or done.created_at, done.completed_at, done.expires_at]
    assert times == sorted(time for time in times if time is not None)
    assert (done.errors, done.error_file_id, done.failed_at, done.cancelled_at) == (None, None, None, None)

    assert done.output_file_id is not None
    output = sdk.files.retrieve(done.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    lines = [json.loads(line) for line in sdk.files.content(output.id).text.splitlines()]
    assert sorted(line["custom_id"] for line in lines) == [f"c{number}" for number in range(5)]
    assert {line["response"]["status_code"] for line in lines} == {200}
    assert sdk.files.content(file.id).read() == requests_file.read_bytes()
    passes_until_quiet()
    here.assert_clean()


def test_a_running_batch_is_cancelled(sdk: OpenAI, here: Planner, tmp_path: Path) -> None:
    simulated_pool(here.server)
    batch = created(sdk, uploaded(sdk, input_file(tmp_path / "long.jsonl", 5000)))
    passes_until(lambda: sdk.batches.retrieve(batch.id).status == "in_progress")

    cancelling = sdk.batches.cancel(batch.id)

    assert (cancelling.status, cancelling.cancelled_at) == ("cancelling", None)
    assert cancelling.cancelling_at is not None
    passes_until_quiet()
    assert sdk.batches.retrieve(batch.id).status == "cancelled"
    here.assert_clean()
    with pytest.raises(openai.ConflictError, match="already cancelled"):
        sdk.batches.cancel(batch.id)


def test_a_batch_the_mds_refuses_says_which_line(sdk: OpenAI, here: Planner, owner: User) -> None:
    simulated_pool(here.server)
    content = lines(1) + b"not json\n"  # no upload of ours takes it
    batch = created(sdk, make_file(owner, id=upload_content(here.mds, content)).pk)
    passes_until_quiet()
    failed = sdk.batches.retrieve(batch.id)
    assert (failed.status, failed.output_file_id) == ("failed", None)
    assert failed.failed_at is not None
    assert failed.errors is not None
    (error,) = failed.errors.data or []
    assert error.code
    assert error.message
    here.assert_clean()


def test_lists_are_walked_by_the_packages_own_pager(sdk: OpenAI, here: Planner, requests_file: Path) -> None:
    files = [uploaded(sdk, requests_file) for _ in range(3)]
    batches = [created(sdk, file_id).id for file_id in files for _ in range(2)]
    assert [batch.id for batch in sdk.batches.list(limit=4)] == batches[::-1]
    assert [batch.id for batch in sdk.batches.list(limit=2, after=batches[3])] == batches[2::-1]
    assert [file.id for file in sdk.files.list(limit=2)] == files[::-1]
    assert [file.id for file in sdk.files.list(limit=2, order="asc")] == files
    assert list(sdk.files.list(purpose="fine-tune")) == []


def test_a_file_is_deleted_once_no_batch_needs_it(sdk: OpenAI, here: Planner, requests_file: Path) -> None:
    simulated_pool(here.server)
    file_id = uploaded(sdk, requests_file)
    batch = created(sdk, file_id)
    with pytest.raises(openai.ConflictError, match="not over"):
        sdk.files.delete(file_id)
    passes_until_quiet()
    output_id = sdk.batches.retrieve(batch.id).output_file_id
    assert output_id is not None
    for deleted in (file_id, output_id):
        assert sdk.files.delete(deleted).deleted
        with pytest.raises(openai.NotFoundError):
            sdk.files.content(deleted)
    assert sdk.batches.retrieve(batch.id).output_file_id is None
    assert not InputFile.objects.exists()


def test_a_bad_line_is_named_before_anything_is_rented(sdk: OpenAI, requests_file: Path) -> None:
    requests_file.write_bytes(lines(2) + b"not json\n")
    with pytest.raises(openai.BadRequestError, match="line 3: not a JSON object"):
        uploaded(sdk, requests_file)


def test_refusals_are_the_packages_own_errors(sdk: OpenAI, live_server: LiveServer, here: Planner) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        created(sdk, "file-nope")
    assert (refused.value.param, refused.value.type) == ("input_file_id", "invalid_request_error")
    with pytest.raises(openai.NotFoundError):
        sdk.batches.retrieve("batch_nope")
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.files.create(file=("a.jsonl", b"{}\n"), purpose="fine-tune")
    assert refused.value.param == "purpose"
    stranger = OpenAI(base_url=f"{live_server.url}/v1", api_key="sk-nope")
    with stranger, pytest.raises(openai.AuthenticationError) as unknown:
        stranger.batches.list()
    assert unknown.value.code == "invalid_api_key"


def test_a_create_repeated_by_key_is_one_batch(sdk: OpenAI, here: Planner, requests_file: Path) -> None:
    file_id = uploaded(sdk, requests_file)

    def create() -> str:
        return sdk.batches.create(
            input_file_id=file_id,
            endpoint=ENDPOINT,
            completion_window="24h",
            extra_headers={"Idempotency-Key": "nightly-1"},
        ).id

    assert create() == create() == Job.objects.get().pk


def test_a_job_is_the_same_on_both_faces(sdk: OpenAI, here: Planner, requests_file: Path) -> None:
    """A job's id is its batch's."""
    simulated_pool(here.server)
    here.server.add_rule(Rule("create", is_never_ready=True))
    batch = created(sdk, uploaded(sdk, requests_file))
    passes_until(lambda: Job.objects.get().status == "provisioning")
    shown = sdk.get(f"{str(sdk.base_url).replace('/v1/', '/api/v1/')}jobs/{batch.id}", cast_to=dict[str, object])
    assert (shown["id"], shown["status"]) == (batch.id, "provisioning")
    assert sdk.batches.retrieve(batch.id).status == "validating"
