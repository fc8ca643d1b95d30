"""The OpenAPI document, taken at its word: whatever it allows or forbids is sent, and every answer must be one of its.

Each operation is called with made-up ids and with those of things that are there. Seeded: the same cases each time.
"""

from __future__ import annotations

import asyncio
from zlib import crc32

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)

from tests.api.world import World, build, served_document

#: The key is the test's to send.
CONFIG = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
SCHEMA = schemathesis.openapi.from_dict(served_document(), config=CONFIG)

#: Checks that do not hold, and where.
EXCLUDED = {
    # who may call is in test_app; this check tells a key from none by the headers it made itself
    ignored_auth: lambda _: True,
    # a body that fits may still name a file that is not there, or be no JSONL
    positive_data_acceptance: lambda case: case.method == "POST",
    # forms and queries are texts: an empty list is nothing in them, and every value of `metadata[key]` is one
    negative_data_rejection: lambda case: (
        case.media_type == "multipart/form-data" or case.operation.label == "GET /v1/fine_tuning/jobs"
    ),
    # OpenAI lists stored completions there; a 404 says that we do not yet
    unsupported_method: lambda case: case.operation.path == "/v1/chat/completions",
}

CASES = settings(
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def world(app, database, tmp_path) -> World:
    return asyncio.run(build(app, database, tmp_path / "run"))


@pytest.fixture
def session(app):
    with asgi.get_client(app) as session:
        session.trust_env = False  # nothing here goes through a proxy, for which it would look at each request
        yield session


@SCHEMA.parametrize()
@CASES
def test_every_answer_is_one_of_the_documents(case, world, session):
    # half of the cases, the same ones each time, are of what is there
    if case.path_parameters and crc32(repr((case.path_parameters, case.query, case.body)).encode()) % 2:
        case.path_parameters = {name: world.ids[name] for name in case.path_parameters}
    answer = case.call(session=session, headers={"authorization": f"Bearer {world.key(case.path)}"})
    case.validate_response(answer, excluded_checks=[check for check, is_out in EXCLUDED.items() if is_out(case)])
