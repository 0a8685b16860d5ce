"""Models and templates made, changed and deleted over REST: by whom, by which rules, and what jobs see of it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from django.contrib.auth.models import User

from jobs import planner
from jobs.errors import AlreadyExists
from jobs.models import DeploymentTemplate, Job, ServedModel
from tests.api_client import ApiClient, api, assert_refused, job_body
from tests.factories import make_model, make_template, make_user
from tests.threads import elsewhere, stopped, until_waiting

pytestmark = pytest.mark.django_db

CARD = {
    "iconBg": "bg-red-100",
    "iconText": "QW",
    "iconTextColor": "text-red-700",
    "isNew": True,
    "pricing": {"uncachedInput": "0.1", "cachedInput": "0.05", "output": "0.4", "perMinute": "", "perImage": ""},
    "metadata": {"state": "Ready", "createdOn": "2026-01-02", "providerName": "Alibaba", "huggingFace": "Qwen/Qwen3"},
    "specification": {"calibrated": True, "mixtureOfExperts": False, "parameters": "8B"},
}
MODEL = {
    "name": "Qwen  3 8B",
    "servingName": "qwen/qwen3-8b",
    "description": "Small.",
    "contextLength": "32k",
    "categories": ["LLM"],
    "tags": ["small", "new"],
    **CARD,
}
SPEC = {
    "engine": {"type": "vllm", "version": "0.8.5", "serveArgs": ["--x"], "readyTimeoutSeconds": 600},
    "modelSource": {"type": "huggingface", "uri": "org/small"},
    "accelerator": {"type": "H100", "count": 2, "vramGb": 80},
    "parallelism": {"tp": 2},
    "engineArgs": {"max_num_seqs": "256"},
    "quantization": {"kvCache": "fp8"},
    "supportedEndpoints": ["/v1/chat/completions"],
    "deploymentMode": "dedicated",
}


def snake(value: Any) -> Any:
    """The same document as the console sends it; the engine's own words stay."""
    if not isinstance(value, dict):
        return value
    spelt = {"".join(f"_{c.lower()}" if c.isupper() else c for c in name): snake(item) for name, item in value.items()}
    return spelt


@pytest.fixture
def operator() -> ApiClient:
    return api("operator")


def templates_of(model: ServedModel) -> str:
    return f"/models/{model.pk}/deployment-templates"


# --- models ---


@pytest.mark.parametrize("body", [MODEL, snake(MODEL)], ids=["camelCase", "snake_case"])
def test_a_model_comes_back_as_it_was_posted(operator: ApiClient, body: dict[str, Any]) -> None:
    response = operator.post("/models", {**body, "colour": "unknown names are ignored"})
    assert (response.status_code, response.json()) == (200, {**MODEL, "id": "model-qwen-3-8b"})
    assert operator.get("/models/model-qwen-3-8b").json() == response.json()
    assert api().get("/models", search="alibaba").json()["models"] == [response.json()]


def test_a_name_is_all_that_a_model_needs(operator: ApiClient) -> None:
    answer = operator.post("/models", {"name": " org/Small ", "tags": None, "metadata": None}).json()
    assert (answer["id"], answer["name"], answer["servingName"]) == ("model-org-small", "org/Small", "org/Small")
    assert (answer["categories"], answer["tags"], answer["isNew"]) == ([], [], False)
    assert answer["pricing"] == dict.fromkeys(CARD["pricing"], "")
    assert answer["metadata"]["createdOn"] == ServedModel.objects.get().created_at.date().isoformat()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": None}, "name"),
        ({"name": " "}, "name"),
        ({"name": 5}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"id": "a/b"}, "id"),
        ({"id": ".."}, "id"),
        ({"id": ""}, "id"),
        ({"serving_name": "a\0"}, "serving_name"),
        ({"categories": "LLM"}, "categories"),
        ({"tags": [1]}, "tags"),
        ({"tags": ["x"] * 33}, "tags"),
        ({"is_new": "yes"}, "isNew"),
        ({"pricing": {"per_image": 1}}, "pricing.perImage"),
        ({"pricing": []}, "pricing"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"hugging_face": 1}}, "metadata.huggingFace"),
        ({"specification": {"calibrated": 1}}, "specification.calibrated"),
        ({"description": "\ud800"}, "description"),
    ],
    ids=str,
)
def test_a_wrong_member_of_a_model_is_named_and_nothing_is_stored(
    operator: ApiClient, wrong: dict[str, Any], field: str
) -> None:
    assert_refused(operator.post("/models", {**snake(MODEL), **wrong}), 400, 3, field=field)
    assert not ServedModel.objects.exists()
    model = make_model(id="m")
    if "id" not in wrong and wrong != {"name": None}:
        assert_refused(operator.put("/models/m", wrong), 400, 3, field=field)
        assert ServedModel.objects.get().name == model.name


def test_a_second_model_of_one_id_is_refused(operator: ApiClient) -> None:
    assert operator.post("/models", {"name": "Small One"}).status_code == 200
    assert_refused(operator.post("/models", {"name": "small  one"}), 409, 6, "model-small-one")
    assert_refused(operator.post("/models", {"name": "other", "id": "model-small-one"}), 409, 6)
    assert operator.post("/models", {"name": "Small One", "id": "another"}).json()["id"] == "another"
    assert ServedModel.objects.get(pk="model-small-one").name == "Small One"


@pytest.mark.parametrize("method", ["put", "patch"])
def test_a_change_of_a_model_changes_what_it_gives(operator: ApiClient, method: str) -> None:
    before = operator.post("/models", MODEL).json()
    change = {"id": before["id"], "serving_name": "qwen3", "description": "", "pricing": {"output": "0.5"}}
    answer = getattr(operator, method)(f"/models/{before['id']}", change)
    expected = {**before, "servingName": "qwen3", "description": "", "pricing": {**before["pricing"], "output": "0.5"}}
    assert (answer.status_code, answer.json()) == (200, expected)
    assert getattr(operator, method)(f"/models/{before['id']}").json() == expected
    assert_refused(operator.put(f"/models/{before['id']}", {"id": "other"}), 400, 3, field="id")
    assert_refused(operator.put("/models/nope", {"name": "x"}), 404, 5)


def test_a_model_is_deleted_once_it_has_no_templates(operator: ApiClient) -> None:
    model = make_model()
    template = make_template(model)
    assert_refused(operator.delete(f"/models/{model.pk}"), 409, 10, "deployment templates")
    assert operator.delete(f"{templates_of(model)}/{template.pk}").json() == {}
    for _ in range(2):  # gone is gone
        response = operator.delete(f"/models/{model.pk}")
        assert (response.status_code, response.json()) == (200, {})
    assert not ServedModel.objects.exists()


# --- templates ---


@pytest.mark.parametrize("spec", [SPEC, snake(SPEC)], ids=["camelCase", "snake_case"])
def test_a_template_comes_back_as_it_was_posted(operator: ApiClient, spec: dict[str, Any]) -> None:
    model = make_model()
    response = operator.post(templates_of(model), {"name": "small", "spec": spec})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["name"], answer["version"], answer["status"]) == ("small", "v1.0.0", "active")
    assert answer["modelId"] == model.pk
    for part, given in SPEC.items():
        shown = answer["spec"][part]
        assert shown == ({**shown, **given} if isinstance(given, dict) else given), part
    assert operator.get(f"{templates_of(model)}/{answer['id']}").json() == answer
    assert DeploymentTemplate.objects.get().spec == SPEC


def test_what_a_spec_says_beside_is_kept_and_numbers_are_read_as_protobuf_does(operator: ApiClient) -> None:
    spec = {"accelerator": {"type": "H100", "count": "2", "rack": 7}, "site": {"a_b": [1]}, "engine": None}
    operator.post(templates_of(make_model()), {"name": "small", "spec": spec, "status": "draft", "version": "v2"})
    template = DeploymentTemplate.objects.get()
    assert template.spec == {"accelerator": {"type": "H100", "count": 2, "rack": 7}, "site": {"a_b": [1]}}
    assert (template.status, template.version) == ("draft", "v2")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a|b"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"spec": None}, "spec"),
        ({"spec": []}, "spec"),
        ({"spec": {"x": "a\0"}}, "spec"),
        ({"spec": {"x": "y" * 70_000}}, "spec"),
        ({"version": "x" * 65}, "version"),
        ({"status": "gone"}, "status"),
        ({"spec": {"accelerator": "H100"}}, "spec.accelerator"),
        ({"spec": {"accelerator": {"type": "H|100"}}}, "spec.accelerator.type"),
        ({"spec": {"accelerator": {"type": "x" * 65}}}, "spec.accelerator.type"),
        ({"spec": {"accelerator": {"type": "H100", "count": -1}}}, "spec.accelerator.count"),
        ({"spec": {"accelerator": {"type": "H100", "count": 1.5}}}, "spec.accelerator.count"),
        ({"spec": {"accelerator": {"type": "H100", "count": 1025}}}, "spec.accelerator.count"),
        ({"spec": {"parallelism": {"tp": "two"}}}, "spec.parallelism.tp"),
        ({"spec": {"supported_endpoints": "/v1/completions"}}, "spec.supportedEndpoints"),
        ({"spec": {"engine_args": []}}, "spec.engineArgs"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_member_of_a_template_is_named_and_nothing_is_stored(
    operator: ApiClient, wrong: dict[str, Any], field: str
) -> None:
    model = make_model()
    assert_refused(operator.post(templates_of(model), {"name": "small", "spec": SPEC, **wrong}), 400, 3, field=field)
    assert not DeploymentTemplate.objects.exists()
    template = make_template(model)
    if wrong not in ({"name": None}, {"name": ""}, {"spec": None}):
        assert_refused(operator.put(f"{templates_of(model)}/{template.pk}", wrong), 400, 3, field=field)
        assert DeploymentTemplate.objects.get().spec == template.spec


def test_a_template_of_an_unknown_model_is_a_failed_precondition(operator: ApiClient) -> None:
    assert_refused(operator.post("/models/nope/deployment-templates", {"name": "x", "spec": {}}), 400, 9, "nope")


def test_a_second_template_of_one_name_and_version_is_refused(operator: ApiClient) -> None:
    model, other = make_model(), make_model()
    first = operator.post(templates_of(model), {"name": "small", "spec": {}}).json()
    assert_refused(operator.post(templates_of(model), {"name": "small", "spec": {}}), 409, 6, "small @ v1.0.0")
    second = operator.post(templates_of(model), {"name": "small", "version": "v2", "spec": {}}).json()
    change = {"version": "v1.0.0"}
    assert_refused(operator.put(f"{templates_of(model)}/{second['id']}", change), 409, 6, "small @ v1.0.0")
    assert operator.post(templates_of(other), {"name": "small", "spec": {}}).status_code == 200
    versions = {template.version for template in DeploymentTemplate.objects.filter(model=model)}
    assert (first["version"], versions) == ("v1.0.0", {"v1.0.0", "v2"})


def test_a_change_of_a_template_changes_what_it_gives(operator: ApiClient) -> None:
    template = make_template()
    path = f"{templates_of(template.model)}/{template.pk}"
    before = operator.get(path).json()
    answer = operator.put(path, {"status": "deprecated", "name": "", "version": None}).json()
    assert answer == {**before, "status": "deprecated", "updatedAt": answer["updatedAt"]}
    assert answer["updatedAt"] > before["updatedAt"]
    assert operator.put(path, {"spec": {"engine": {"type": "sglang"}}}).json()["spec"]["accelerator"]["type"] == ""
    assert_refused(operator.put(f"{templates_of(template.model)}/nope", {}), 404, 5)
    assert_refused(operator.put(f"{templates_of(make_model())}/{template.pk}", {}), 404, 5)


def test_a_template_is_deleted_from_its_own_model_only(operator: ApiClient) -> None:
    template = make_template()
    for path in (f"{templates_of(make_model())}/{template.pk}", f"{templates_of(template.model)}/nope"):
        assert operator.delete(path).json() == {}
    assert DeploymentTemplate.objects.exists()
    assert operator.delete(f"{templates_of(template.model)}/{template.pk}").json() == {}
    assert not DeploymentTemplate.objects.exists()


# --- who may, at the same time, and what jobs see ---


WRITES = [
    ("post", "/models"),
    ("put", "/models/m"),
    ("patch", "/models/m"),
    ("delete", "/models/m"),
    ("post", "/models/m/deployment-templates"),
    ("put", "/models/m/deployment-templates/t"),
    ("delete", "/models/m/deployment-templates/t"),
]


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize(
    ("role", "status"), [(None, 401), ("", 403), ("viewer", 403), ("submitter", 403), ("operator", 200)]
)
def test_only_operators_change_the_catalogue(method: str, path: str, role: str | None, status: int) -> None:
    template = make_template(make_model(id="m"), id="t")
    if (method, path) == ("delete", "/models/m"):
        template.delete()
    before = list(ServedModel.objects.values()), list(DeploymentTemplate.objects.values())
    client = ApiClient() if role is None else api(role)
    response = getattr(client, method)(path, {"name": "changed", "spec": {}})
    assert response.status_code == status, response.content
    after = list(ServedModel.objects.values()), list(DeploymentTemplate.objects.values())
    assert (after == before) == (status != 200)


def refused_as_taken(future: Future[Any]) -> bool:
    return isinstance(future.exception(30), AlreadyExists)


@pytest.mark.django_db(transaction=True)
def test_of_two_creates_of_one_name_at_once_one_is_refused() -> None:
    user, model = make_user("operator"), make_model()

    def model_of(name: str) -> ServedModel:
        return planner.create_model(user, {"name": name})

    def template() -> DeploymentTemplate:
        return planner.create_template(User.objects.get(pk=user.pk), model.pk, {"name": "small", "spec": {}})

    for create in (lambda: model_of("Twin"), template):
        with stopped(create) as first:
            second = elsewhere(create)
            until_waiting()
            first.result()
            assert refused_as_taken(second)
    assert ServedModel.objects.filter(pk="model-twin").count() == model.templates.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_model_is_not_deleted_from_under_a_new_template() -> None:
    user, model = make_user("operator"), make_model()
    client = ApiClient(user)
    with stopped(lambda: planner.create_template(user, model.pk, {"name": "small", "spec": {}})) as creating:
        deleting = elsewhere(lambda: client.delete(f"/models/{model.pk}"))
        until_waiting()
        creating.result()
        assert_refused(deleting.result(30), 409, 10)
    model.templates.all().delete()
    with stopped(lambda: planner.delete_model(user, model.pk)) as going:
        late = elsewhere(lambda: client.post(templates_of(model), {"name": "small", "spec": {}}))
        until_waiting()
        going.result()
        assert_refused(late.result(30), 400, 9)


def test_an_accepted_job_keeps_what_it_was_accepted_with(operator: ApiClient) -> None:
    body = job_body(operator.user)
    job_id = operator.post("/jobs", body).json()["id"]
    frozen = "model_id", "model", "template_name", "template_version", "template_spec", "accelerator_type", "name"
    before = Job.objects.values(*frozen).get(pk=job_id)
    template = DeploymentTemplate.objects.get()
    path = f"{templates_of(template.model)}/{template.pk}"
    operator.put(path, {"name": "other", "spec": {"accelerator": {"type": "A100"}}})
    operator.put(f"/models/{template.model_id}", {"name": "Other", "serving_name": "other"})
    assert Job.objects.values(*frozen).get(pk=job_id) == before
    operator.delete(path)
    operator.delete(f"/models/{template.model_id}")
    assert not ServedModel.objects.exists()
    assert Job.objects.values(*frozen).get(pk=job_id) == before
    assert operator.get(f"/jobs/{job_id}").json()["modelTemplateName"] == body["model_template_name"]
