"""Enqueue: what is frozen on a job, who may do it, what is refused, and the races of repeated requests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User

from jobs import planner, queueing
from jobs.catalogue import version_key
from jobs.errors import Conflict, Forbidden, InvalidRequest, QueueFull
from jobs.models import DeploymentTemplate, Job, JobEvent, QueueMessage
from tests.factories import TEMPLATE_SPEC, make_file, make_job, make_model, make_template, make_user
from tests.threads import at_once

pytestmark = pytest.mark.django_db


def enqueue(user: User, *, key: str = "", **fields: Any) -> Job:
    if "input_file_id" not in fields:
        fields["input_file_id"] = make_file(user).pk
    return planner.enqueue(
        user, planner.JobRequest(**{"endpoint": "/v1/chat/completions", **fields}), idempotency_key=key
    )


def refusal(user: User | None = None, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        enqueue(user or make_user(), **fields)
    assert not Job.objects.exists()
    assert not QueueMessage.objects.exists()
    return caught.value


def test_it_works() -> None:
    user = make_user(email="ann@example.org")
    job = enqueue(user, input_file_id=make_file(user, request_count=7).pk)
    assert (job.status, job.owner, job.created_by, job.request_total) == ("pending", user, "ann@example.org", 7)
    assert (job.due_at, job.accelerator_type, job.accelerator_count, job.queue_class) == (None, "", 0, "|")
    event = JobEvent.objects.get(job=job)
    assert (event.sequence, event.reason, event.from_status, event.to_status) == (1, "accepted", "", "pending")
    assert (event.source, event.actor, job.event_count) == ("planner", "ann@example.org", 1)
    assert QueueMessage.objects.filter(payload=None).count() == 1


def test_every_accepted_field_is_on_the_job() -> None:
    user, template = make_user(), make_template(version="v2.1.0")
    request: dict[str, Any] = {
        "endpoint": "/v1/completions",
        "completion_window": "1d2h",
        "name": "nightly",
        "metadata": {"team": "search", "display_name": "kept as it is"},
        "replicas": 4,
        "provider_config": {"duration": "2h"},
        "client": {"max_concurrency": 16, "adaptive_concurrency": False},
        "queue_timeout_seconds": 600,
    }
    job = enqueue(user, model_id=template.model.pk, template_name=template.name, **request)
    assert {name: getattr(job, name) for name in request} == request
    assert (job.model_id, job.model) == (template.model.pk, template.model.serving_name)
    assert (job.template_name, job.template_version, job.template_spec) == (template.name, "v2.1.0", TEMPLATE_SPEC)
    assert (job.accelerator_type, job.accelerator_count, job.queue_class) == ("H100", 1, "H100|")
    assert job.completion_window_seconds == 26 * 3600
    assert job.due_at == job.accepted_at + timedelta(seconds=600)


def test_the_job_in_hand_reads_as_it_is_stored() -> None:
    user = make_user("operator")
    job = enqueue(user, key="k", template_name=make_template().name, queue_timeout_seconds=60, priority=3)
    stored = Job.objects.get()
    for field in Job._meta.concrete_fields:
        assert getattr(job, field.attname) == getattr(stored, field.attname), field.name
    assert job.ranked_at == job.accepted_at - queueing.priority_span(3)
    brought, event = job.events.all()[0], JobEvent.objects.get()
    assert [(e.sequence, e.reason, e.actor, e.to_status, e.at) for e in (brought, event)] == [
        (1, "accepted", user.email, "pending", stored.accepted_at)
    ] * 2


def test_a_template_changed_later_changes_no_job() -> None:
    template = make_template()
    job = enqueue(make_user(), template_name=template.name)
    DeploymentTemplate.objects.update(spec={"accelerator": {"type": "CPU", "count": 9}})
    job.refresh_from_db()
    assert (job.template_spec, job.accelerator_type) == (TEMPLATE_SPEC, "H100")


def test_a_user_without_an_address_is_shown_by_name() -> None:
    user = make_user(username="bob", email="")
    assert enqueue(user).created_by == "bob"


@pytest.mark.parametrize("role", ["viewer", ""])
def test_who_may_not_submit_is_forbidden(role: str) -> None:
    user = make_user(role)
    with pytest.raises(Forbidden):
        enqueue(user)
    assert not Job.objects.exists()


def test_an_unknown_file_is_refused_by_name() -> None:
    error = refusal(input_file_id="file-1")
    assert (error.field, str(error)) == ("input_dataset", 'input_dataset: unknown file "file-1"')


def test_somebody_elses_file_reads_as_unknown() -> None:
    file = make_file()
    assert str(refusal(input_file_id=file.pk)) == f'input_dataset: unknown file "{file.pk}"'


def test_an_operator_may_use_every_file() -> None:
    file = make_file()
    assert enqueue(make_user("operator"), input_file_id=file.pk).input_file_id == file.pk


def test_an_endpoint_that_the_file_is_not_for_is_refused() -> None:
    file = make_file(endpoint="/v1/embeddings")
    refused = refusal(file.owner, input_file_id=file.pk)
    assert str(refused) == f'endpoint: the requests of file "{file.pk}" are for /v1/embeddings'


def test_an_unknown_model_is_refused() -> None:
    assert refusal(model_id="model-x").field == "model_id"


def test_a_model_alone_gives_its_serving_name() -> None:
    model = make_model(serving_name="")
    job = enqueue(make_user(), model_id=model.pk)
    assert (job.model, job.template_name, job.queue_class) == (model.name, "", "|")


def test_an_unknown_template_is_refused() -> None:
    assert refusal(template_name="none").field == "model_template_name"


def test_another_models_template_is_refused() -> None:
    template = make_template()
    assert refusal(template_name=template.name, model_id=make_model().pk).field == "model_template_name"


def test_a_name_used_by_several_models_needs_the_model() -> None:
    make_template(name="small")
    template = make_template(name="small")
    assert refusal(template_name="small").field == "model_id"
    assert enqueue(make_user(), template_name="small", model_id=template.model.pk).model_id == template.model.pk


def test_no_version_means_the_highest_active_one() -> None:
    model = make_model()
    for version, status in [("v1.9.0", "active"), ("v1.10.0", "active"), ("2.0", "deprecated"), ("v3", "draft")]:
        make_template(model, name="small", version=version, status=status)
    assert enqueue(make_user(), template_name="small").template_version == "v1.10.0"


def test_an_exact_version_is_used_even_if_a_higher_one_exists() -> None:
    model = make_model()
    make_template(model, name="small", version="v1.0.0")
    make_template(model, name="small", version="v2.0.0")
    assert enqueue(make_user(), template_name="small", template_version="v1.0.0").template_version == "v1.0.0"


@pytest.mark.parametrize("status", ["deprecated", "draft"])
def test_a_template_that_is_not_active_is_refused(status: str) -> None:
    make_template(name="small", version="v1.0.0", status=status)
    assert refusal(template_name="small").field == "model_template_name"
    error = refusal(template_name="small", template_version="v1.0.0")
    assert error.field == "model_template_version"
    assert status in str(error)


def test_an_unknown_version_is_refused() -> None:
    make_template(name="small", version="v1.0.0")
    assert refusal(template_name="small", template_version="v9").field == "model_template_version"


@pytest.mark.parametrize(
    ("lower", "higher"),
    [("v1.9", "1.10"), ("1.0", "v1.0.1"), ("v1.0-rc1", "1.0"), ("", "1"), ("1.x", "2"), ("0.9", "v1")],
)
def test_versions_are_compared_as_numbers(lower: str, higher: str) -> None:
    assert version_key(lower) < version_key(higher)


def test_versions_may_leave_out_zeros() -> None:
    assert version_key("v1.2") == version_key("1.2.0")


def test_an_endpoint_the_template_lacks_is_refused() -> None:
    template = make_template()
    error = refusal(template_name=template.name, endpoint="/v1/embeddings")
    assert error.field == "endpoint"
    assert "/v1/completions" in str(error)


@pytest.mark.parametrize(
    "accelerator", ["H100", {"type": "H100", "count": -1}, {"type": "H100", "count": "x"}, {"type": "a|b", "count": 1}]
)
def test_a_template_without_a_usable_accelerator_is_refused(accelerator: Any) -> None:
    template = make_template(spec={"accelerator": accelerator})
    assert refusal(template_name=template.name).field == "model_template_name"


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [({}, ("", 0)), (None, ("", 0)), ({"type": "CPU", "count": 0}, ("CPU", 0)), ({"type": "L4"}, ("L4", 1))],
)
def test_the_accelerator_comes_from_the_template(accelerator: Any, expected: tuple[str, int]) -> None:
    template = make_template(spec={"accelerator": accelerator})
    job = enqueue(make_user(), template_name=template.name)
    assert (job.accelerator_type, job.accelerator_count) == expected


def test_a_full_queue_is_an_answer_and_stores_nothing(settings: Any) -> None:
    settings.PLANNER_QUEUE_CAPACITY = 2
    make_job()
    make_job(status="completed")
    user = make_user()
    assert enqueue(user).status == "pending"
    with pytest.raises(QueueFull) as caught:
        enqueue(user)
    assert caught.value.retry_after_seconds == 30
    assert Job.objects.filter(status="pending").count() == 2


def test_a_repeated_request_answers_the_same_job() -> None:
    user, template = make_user(), make_template()
    request = {"input_file_id": make_file(user).pk, "template_name": template.name, "metadata": {"a": "1", "b": "2"}}
    job = enqueue(user, key="k", **request)
    DeploymentTemplate.objects.update(status="deprecated")
    again = enqueue(user, key="k", **(request | {"metadata": {"b": "2", "a": "1"}}))
    assert again.pk == job.pk
    assert JobEvent.objects.count() == QueueMessage.objects.count() == 1


def test_a_repeat_is_answered_by_a_full_queue_too(settings: Any) -> None:
    user = make_user()
    file = make_file(user)
    job = enqueue(user, key="k", input_file_id=file.pk)
    settings.PLANNER_QUEUE_CAPACITY = 1
    assert enqueue(user, key="k", input_file_id=file.pk).pk == job.pk


def test_a_key_reused_for_something_else_is_a_conflict() -> None:
    user = make_user()
    file = make_file(user)
    enqueue(user, key="k", input_file_id=file.pk)
    with pytest.raises(Conflict):
        enqueue(user, key="k", input_file_id=file.pk, replicas=2)
    assert Job.objects.count() == 1


def test_two_owners_may_use_the_same_key() -> None:
    assert enqueue(make_user(), key="k").pk != enqueue(make_user(), key="k").pk


def test_requests_without_a_key_are_never_repeats() -> None:
    user = make_user()
    file = make_file(user)
    assert enqueue(user, input_file_id=file.pk).pk != enqueue(user, input_file_id=file.pk).pk


def test_a_key_that_cannot_be_stored_is_refused() -> None:
    assert refusal(key="k" * 256).field == "idempotency_key"


def outcomes(count: int, call: Callable[[], Any]) -> list[Any]:
    """Results and planner errors of so many calls that begin together."""

    def outcome() -> Any:
        try:
            return call()
        except (QueueFull, Conflict) as error:
            return error

    return at_once(*[outcome] * count)


@pytest.mark.django_db(transaction=True)
def test_fifty_creates_at_once_with_one_key_make_one_job() -> None:
    user = make_user()
    file = make_file(user)
    user.has_perm("jobs.submit_job")  # kept on the object: the threads race for the job, not for this
    jobs = outcomes(50, lambda: enqueue(user, key="k", input_file_id=file.pk).pk)
    assert len(set(jobs)) == 1
    assert Job.objects.count() == JobEvent.objects.count() == QueueMessage.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_creates_at_once_never_exceed_the_capacity(settings: Any) -> None:
    settings.PLANNER_QUEUE_CAPACITY = 3
    user = make_user()
    file = make_file(user)
    ends = outcomes(10, lambda: enqueue(user, input_file_id=file.pk))
    assert sum(isinstance(end, QueueFull) for end in ends) == 7
    assert Job.objects.count() == JobEvent.objects.count() == 3
