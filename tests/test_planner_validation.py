"""What a request may say, field by field; nothing here needs a database."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import InvalidRequest
from jobs.validation import CheckedRequest, JobRequest, check


def checked(**fields: Any) -> CheckedRequest:
    return check(JobRequest(**{"input_file_id": "file-1", "endpoint": "/v1/chat/completions", **fields}))


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        checked(**fields)
    return caught.value


def test_it_works() -> None:
    request = checked()
    assert (request.completion_window, request.completion_window_seconds) == ("24h", 86_400)
    assert (request.replicas, request.client, request.queue_timeout_seconds) == (1, {}, None)


@pytest.mark.parametrize(
    ("window", "seconds"),
    [
        ("24h", 86_400),
        ("1d", 86_400),
        ("1d2h", 93_600),
        ("1h38min", 5880),
        ("72min", 4320),
        ("90m", 5400),
        ("007h", 25_200),
        ("1min", 60),
        ("30d", 2_592_000),
        (" 2h ", 7200),
    ],
)
def test_a_window_is_kept_as_given_and_counted_in_seconds(window: str, seconds: int) -> None:
    request = checked(completion_window=window)
    assert (request.completion_window, request.completion_window_seconds) == (window.strip(), seconds)


@pytest.mark.parametrize(
    "window",
    ["0h", "24 hours", "2h1d", "1.5h", "24H", "-1h", "30s", "h", "   ", "1h1h", "30d1min", "9" * 40 + "h", "٣h", 24],
)
def test_a_window_that_is_none_is_refused(window: Any) -> None:
    assert refusal(completion_window=window).field == "completion_window"


def test_a_refused_window_is_named() -> None:
    assert '"24 hours"' in str(refusal(completion_window="24 hours"))


def test_an_endpoint_is_required_and_the_known_ones_are_listed() -> None:
    assert str(refusal(endpoint="")) == "endpoint: is required"
    assert "/v1/rerank" in str(refusal(endpoint="/v1/responses"))


def test_an_input_file_is_required() -> None:
    assert refusal(input_file_id="").field == "input_dataset"


@pytest.mark.parametrize(("given", "kept"), [(0, 1), ("0", 1), (1, 1), (1024, 1024), ("7", 7), (2.0, 2)])
def test_replicas_default_to_one_and_may_come_as_strings(given: Any, kept: int) -> None:
    assert checked(replicas=given).replicas == kept


@pytest.mark.parametrize("replicas", [-1, 1025, 1.5, "many", True, False, "", [1], [], {}])
def test_replicas_out_of_bounds_are_refused(replicas: Any) -> None:
    assert refusal(replicas=replicas).field == "resource_request.replicas"


def test_client_settings_are_kept_as_given() -> None:
    client = {
        "max_concurrency": 16,
        "request_timeout_seconds": 30,
        "adaptive_concurrency": False,
        "adaptive_max_factor": 1.5,
        "adaptive_healthy_window": 3,
        "adaptive_additive_increase": 1,
        "retry_policy": {
            "max_retries": 0,
            "base_delay_seconds": 0.5,
            "max_delay_seconds": 0.5,
            "no_endpoint_max_retries": 100_000,
        },
    }
    assert checked(client=client).client == client


def test_absent_client_settings_stay_absent() -> None:
    assert checked(client={"max_concurrency": None, "retry_policy": None}).client == {}
    assert checked(client=None).client == {}


@pytest.mark.parametrize(
    ("client", "field"),
    [
        ({"max_concurrency": 0}, "client.max_concurrency"),
        ({"max_concurrency": 1025}, "client.max_concurrency"),
        ({"max_concurrency": True}, "client.max_concurrency"),
        ({"adaptive_concurrency": "yes"}, "client.adaptive_concurrency"),
        ({"adaptive_max_factor": 0.9}, "client.adaptive_max_factor"),
        ({"adaptive_max_factor": float("nan")}, "client.adaptive_max_factor"),
        ({"adaptive_healthy_window": 0}, "client.adaptive_healthy_window"),
        ({"adaptive_additive_increase": 0}, "client.adaptive_additive_increase"),
        ({"request_timeout_seconds": 0}, "client.request_timeout_seconds"),
        ({"retry_policy": {"max_retries": -1}}, "client.retry_policy.max_retries"),
        ({"retry_policy": {"no_endpoint_max_retries": 1.5}}, "client.retry_policy.no_endpoint_max_retries"),
        ({"retry_policy": {"base_delay_seconds": -0.1}}, "client.retry_policy.base_delay_seconds"),
        ({"retry_policy": {"max_delay_seconds": "1"}}, "client.retry_policy.max_delay_seconds"),
        (
            {"retry_policy": {"base_delay_seconds": 2, "max_delay_seconds": 1}},
            "client.retry_policy.base_delay_seconds",
        ),
        ({"retry_policy": []}, "client.retry_policy"),
        ({"retry_policy": {"jitter": 1}}, "client.retry_policy"),
        ({"speed": 11}, "client"),
        ([], "client"),
    ],
)
def test_a_wrong_client_setting_is_refused_by_name(client: Any, field: str) -> None:
    assert refusal(client=client).field == field


def test_metadata_at_its_limits_is_kept_as_given() -> None:
    metadata = {"k" * 64: "v" * 512, **{f"key{n}": "ä" * 512 for n in range(15)}}
    assert checked(metadata=metadata).metadata == metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {f"key{n}": "" for n in range(17)},
        {"ä" * 65: ""},
        {"key": "ä" * 513},
        {"key": 1},
        {"key": None},
        {"key": "a\0b"},
        {"key": "\ud800"},
        ["key"],
    ],
)
def test_metadata_beyond_its_limits_is_refused(metadata: Any) -> None:
    assert refusal(metadata=metadata).field == "metadata"


@pytest.mark.parametrize(
    "config",
    [{"a": float("inf")}, {"a": {"b": ["\0"]}}, {"\ud800": 1}, {"a": object()}, {"a": "x" * 20_000}, ["a"], {"a": {1}}],
)
def test_provider_config_must_be_small_plain_json(config: Any) -> None:
    assert refusal(provider_config=config).field == "resource_request.provider_config"


def test_provider_config_nested_without_end_is_refused() -> None:
    config: dict[str, Any] = {}
    for _ in range(100_000):
        config = {"a": config}
    assert refusal(provider_config=config).field == "resource_request.provider_config"


def test_provider_config_is_kept_as_given() -> None:
    config = {"duration": "2h", "nested": {"list": [1, 2.5, None, True]}}
    assert checked(provider_config=config).provider_config == config


@pytest.mark.parametrize("timeout", [0, -1, 2_592_001, "soon"])
def test_a_queue_timeout_out_of_bounds_is_refused(timeout: Any) -> None:
    assert refusal(queue_timeout_seconds=timeout).field == "queue_timeout_seconds"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "n" * 256}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": 5}, "name"),
        ({"model_id": "m" * 256}, "model_id"),
        ({"template_name": "t" * 256}, "model_template_name"),
        ({"template_name": "t", "template_version": "v" * 65}, "model_template_version"),
        ({"template_version": "v1"}, "model_template_name"),
    ],
)
def test_a_text_that_cannot_be_stored_is_refused_by_name(fields: Any, field: str) -> None:
    assert refusal(**fields).field == field
