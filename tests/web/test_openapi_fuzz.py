"""The API against its own description: whatever the description allows or forbids, the answer is one it names."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server import Running
from tests.web.asking import BUSY, NEVER_ANSWERS, PREMIUM, Json, answer, initiate, lasting, problem

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "key-of-the-fuzzer"
CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
OPERATIONS = [
    "GET /calls",
    "GET /calls/active",
    "GET /calls/{session_id}",
    "GET /calls/{session_id}/events",
    "GET /health",
    "GET /ready",
    "POST /call/initiate",
    "POST /calls/{session_id}/hangup",
]
WITH_PARAMETERS = [
    "GET /calls",
    "GET /calls/{session_id}",
    "GET /calls/{session_id}/events",
    "POST /call/initiate",
    "POST /calls/{session_id}/hangup",
]
EXAMPLES = 50


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A server that may ring everybody, on a network so slow that nobody ever picks up."""
    path = tmp_path_factory.mktemp("house")
    async with lasting(path, speed=0.01, api_keys=KEY, allowed_countries="*") as house:
        house.client.headers["X-API-Key"] = KEY
        yield house


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def description(house: Running) -> Json:
    return answer(await house.client.get("/openapi.json"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def schema(description: Json) -> BaseSchema:
    return schemathesis.openapi.from_dict(description)


def operation_named(schema: BaseSchema, name: str) -> APIOperation[Any, Any, Any, Any]:
    method, path = name.split()
    return schema[path][method]


def fuzz(house: Running, operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, **fixed: Any) -> set[int]:
    """Sends generated requests and checks each answer; returns the statuses that were met."""
    met = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode, **fixed))
    def send(case: Case[Any]) -> None:
        response = case.call(base_url=house.base_url, headers={"X-API-Key": KEY})
        case.validate_response(response, checks=CHECKS)
        met.add(response.status_code)

    send()
    return met


async def test_every_operation_is_fuzzed(description: Json) -> None:
    described = {f"{method.upper()} {path}" for path, item in description["paths"].items() for method in item}
    assert described == set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_what_the_description_allows_gets_an_answer_that_it_names(
    house: Running, schema: BaseSchema, name: str
) -> None:
    met = await asyncio.to_thread(fuzz, house, operation_named(schema, name), GenerationMode.POSITIVE)
    assert met & {200, 404, 422, 400}


@pytest.mark.parametrize("name", WITH_PARAMETERS)
async def test_what_the_description_forbids_is_refused_as_it_says(
    house: Running, schema: BaseSchema, name: str
) -> None:
    operation = operation_named(schema, name)
    met = await asyncio.to_thread(fuzz, house, operation, GenerationMode.NEGATIVE)
    assert met & {404, 422}


@pytest.mark.parametrize("name", ["GET /calls/{session_id}", "POST /calls/{session_id}/hangup"])
async def test_a_call_that_exists_is_described(house: Running, schema: BaseSchema, name: str) -> None:
    session_id = answer(await initiate(house.client, NEVER_ANSWERS))["session_id"]
    operation = operation_named(schema, name)
    met = await asyncio.to_thread(
        fuzz, house, operation, GenerationMode.POSITIVE, path_parameters={"session_id": session_id}
    )
    assert 200 in met


async def test_the_stream_of_a_call_that_is_over_is_described(house: Running, schema: BaseSchema) -> None:
    # Nobody picks up here, so that the stream of any other call would last for as long as the fuzzer reads it.
    session_id = problem(await initiate(house.client, PREMIUM), 403, "refused_by_policy")["session_id"]
    operation = operation_named(schema, "GET /calls/{session_id}/events")
    met = await asyncio.to_thread(
        fuzz, house, operation, GenerationMode.POSITIVE, path_parameters={"session_id": session_id}
    )
    assert 200 in met


async def test_a_number_the_description_allows_is_rung(house: Running, schema: BaseSchema) -> None:
    body = {"to": BUSY, "metadata": {"a": [1]}}
    operation = operation_named(schema, "POST /call/initiate")
    assert 200 in await asyncio.to_thread(fuzz, house, operation, GenerationMode.POSITIVE, body=body)


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("POST /call/initiate", {200, 400, 401, 403, 409, 413, 422, 429, 500, 502, 503, 504}),
        ("GET /calls/active", {200, 401, 413, 500, 503}),
        ("GET /calls", {200, 401, 413, 422, 500, 503}),
        ("GET /calls/{session_id}", {200, 401, 404, 413, 422, 500, 503}),
        ("GET /calls/{session_id}/events", {200, 401, 404, 413, 422, 500, 503}),
        ("POST /calls/{session_id}/hangup", {200, 400, 401, 403, 404, 409, 413, 422, 429, 500, 502, 503, 504}),
    ],
)
async def test_every_status_a_client_may_meet_is_described_as_a_problem(
    description: Json, name: str, statuses: set[int]
) -> None:
    method, path = name.split()
    responses = description["paths"][path][method.lower()]["responses"]
    assert set(responses) == {str(status) for status in statuses}
    for status, described in responses.items():
        if status != "200":
            (content,) = described["content"].items()
            assert content[0] == "application/problem+json"
            assert {"type", "title", "status", "detail", "code"} <= set(content[1]["schema"]["required"])
