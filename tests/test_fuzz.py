"""Requests made from the schema: whatever is sent, every answer is a documented one and none is a 5xx.

The same ones every time. `make fuzz` makes more of them than the tests do.
"""

from __future__ import annotations

import copy
import logging
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, connection

from jobs.models import ApiToken
from jobs.schema.catalogue import MODEL_ID, TEMPLATE_ID
from jobs.schema.console import FILE_ID, JOB_ID, PROVISION_ID
from jobs.schema.document import document
from jobs.testing.fake_mds import FakeMds
from tests.factories import make_file, make_job, make_model, make_pool, make_provision, make_template, make_user

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "50"))
SEED = 7

# What is not checked, and why.
UNCHECKED = {
    "negative_data_rejection": "names that mean nothing, null and numbers as text are accepted, as the console needs",
    "positive_data_acceptance": "a value can be well formed and yet name nothing that there is, which is a 400",
}


# What is never answered well here, and why.
NEVER_WELL = {
    "GET /api/v1/auth/callback": "there is no identity provider",
    "POST /api/v1/auth/tokens": "requests are made with a token, and no token issues another",
    **dict.fromkeys(
        ("POST /api/v1/files/upload", "POST /v1/files"),
        "forms are made without file names; tests/test_schema.py uploads some",
    ),
}


def with_known_values(whole: dict[str, Any]) -> dict[str, Any]:
    """The document as it is to be tried: each value may also be the example, which is what there is a row of."""
    whole = copy.deepcopy(whole)
    for methods in whole["paths"].values():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                parameter["schema"] = _or(parameter["example"], parameter["schema"])
    for schema in whole["components"]["schemas"].values():
        if schema.get("additionalProperties") is not False and "properties" in schema:
            for name, value in schema["examples"][0].items():
                schema["properties"][name] = _or(value, schema["properties"][name])
    return whole


def _or(example: Any, schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"const": example}, schema]}


schema = schemathesis.openapi.from_dict(
    with_known_values(document()),
    config=schemathesis.Config.from_dict(
        {
            "seed": SEED,
            "checks": {name: {"enabled": False} for name in UNCHECKED},
            "suppress-health-check": ["all"],
            "generation": {"max-examples": EXAMPLES, "deterministic": True, "database": "none"},
        }
    ),
)
schema.app = get_wsgi_application()


@pytest.fixture
def one_transaction(db: None) -> Iterator[None]:
    """Requests leave the connection open, as those of Django's own test client do: the test's transaction is in it."""
    both = (request_started, request_finished)
    for signal in both:
        signal.disconnect(close_old_connections)
    with connection.cursor() as cursor:  # it idles while examples are made up, on a busy machine for long
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    yield
    for signal in both:
        signal.connect(close_old_connections)


@pytest.fixture
def callers(
    one_transaction: None, fake_mds: FakeMds, caplog: pytest.LogCaptureFixture, settings: Any
) -> list[dict[str, str]]:
    """The headers of nobody, a submitter and an operator; and a row of every example."""
    settings.PLANNER_WRITES_PER_MINUTE = 0  # or most of many writes would be a 429
    caplog.set_level(logging.CRITICAL, "django.request")  # each 4xx is a line
    owner = make_user("submitter", username="sam", password="a secret")
    fake_mds.add_file(FILE_ID, b'{"custom_id": "1"}\n')
    make_file(owner, id=FILE_ID)
    template = make_template(make_model(id=MODEL_ID), id=TEMPLATE_ID, name="small-1b-h100", version="v1.0.0")
    make_template(template.model, name="west")  # as the example of `name` has it
    make_provision(make_job(owner, id=JOB_ID), make_pool(name="west"), id=PROVISION_ID)
    tokens = [ApiToken.issue(user, "fuzz")[1] for user in (owner, make_user("operator"))]
    return [{}, *({"Authorization": f"Bearer {token}"} for token in tokens)]


@pytest.fixture
def answered(request: pytest.FixtureRequest) -> Iterator[Counter[int]]:
    """How often each status was answered; the test is worth nothing if it was never a good one."""
    counter = Counter[int]()
    yield counter
    operation = request.node.name.partition("[")[2].rstrip("]")
    assert operation in NEVER_WELL or any(status < 400 for status in counter), f"{operation}: {dict(counter)}"


@schema.parametrize()
def test_every_answer_is_documented_and_none_is_a_5xx(
    case: schemathesis.Case, callers: list[dict[str, str]], answered: Counter[int]
) -> None:
    nobody, *both = callers
    # by its content, so that it is the same one whenever this case is tried again
    content = repr((case.path_parameters, case.query, case.headers, case.body))
    one = both[zlib.crc32(content.encode(errors="replace")) % 2]
    for headers in (nobody, one):
        status = case.call_and_validate(headers=headers).status_code
        assert status < 500
        answered[status] += 1
