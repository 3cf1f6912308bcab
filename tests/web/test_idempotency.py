"""One intent, one ring: the same Idempotency-Key never rings twice, however often and however fast it comes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from outbound.simulator.rest import UNVERIFIED_NUMBER
from tests.server import FRIENDLY, Running, running
from tests.web.asking import (
    IN_GERMANY,
    NEVER_ANSWERS,
    Json,
    answer,
    history,
    initiate,
    lasting,
    phone_rang,
    problem,
    until_over,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANA, BEA = "key-of-ana", "key-of-bea"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    path = tmp_path_factory.mktemp("house")
    async with lasting(path, ring_timeout=600, api_keys=f"{ANA},{BEA}", carrier_timeout=2) as house:
        house.client.headers["X-API-Key"] = ANA
        yield house


@pytest.fixture
def number(house: Running) -> str:
    """A number nobody has rung yet, of a phone nobody answers."""
    number = f"+1202555{1000 + len(house.network.callees)}"
    house.network.callees[number] = house.network.callees[NEVER_ANSWERS]
    return number


async def ten_at_once(house: Running, to: str, key: str, **body: Any) -> list[httpx.Response]:
    return await asyncio.gather(*(initiate(house.client, to, key=key, **body) for _ in range(10)))


async def test_the_same_key_and_body_is_one_call_and_one_answer(house: Running, number: str) -> None:
    first = answer(await initiate(house.client, number, key="once"))
    for _ in range(3):
        assert answer(await initiate(house.client, number, key="once")) == first
    assert phone_rang(house, number) == 1


async def test_ten_requests_at_once_with_one_key_ring_once(house: Running, number: str) -> None:
    answers = [answer(response) for response in await ten_at_once(house, number, "ten")]
    assert answers == [answers[0]] * 10
    assert phone_rang(house, number) == 1
    assert house.network.calls[answers[0]["call_sid"]].request.to == number


async def test_without_a_key_every_request_rings(house: Running, number: str) -> None:
    answers = [answer(response) for response in await asyncio.gather(*(initiate(house.client, number),) * 1)]
    answers += [answer(await initiate(house.client, number)) for _ in range(2)]
    assert len({each["session_id"] for each in answers}) == 3
    assert phone_rang(house, number) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"greeting": "Hello, this is an AI, and something else."},
        {"metadata": {"order": 2}},
        {"metadata": {}},
        {"variables": {"name": "Bea"}},
        {"max_duration_s": 61},
        {"to": FRIENDLY},
    ],
)
async def test_the_same_key_with_another_body_is_a_conflict_and_rings_nobody(
    house: Running, number: str, other: Json
) -> None:
    body: Json = {"to": number, "metadata": {"order": 1}, "max_duration_s": 60, "variables": {"name": "Ana"}}
    key = f"conflict-{number}"
    first = answer(await house.client.post("/call/initiate", json=body, headers={"Idempotency-Key": key}))
    before = len(house.network.calls)
    response = await house.client.post("/call/initiate", json=body | other, headers={"Idempotency-Key": key})
    problem(response, 409, "idempotency_conflict")
    assert len(house.network.calls) == before
    again = await house.client.post("/call/initiate", json=body, headers={"Idempotency-Key": key})
    assert answer(again) == first, "the conflict does not spoil the key"


async def test_how_the_json_is_spelled_does_not_matter(house: Running, number: str) -> None:
    spellings = [
        f'{{"to":"{number}","metadata":{{"a":1,"b":"é"}},"max_duration_s":60}}',
        f'{{ "max_duration_s" : 60,\n "metadata": {{"b": "\\u00e9", "a": 1}}, "to": "\\u002b{number[1:]}" }}',
        f'{{"to":"{number}","greeting":null,"variables":{{}},"metadata":{{"a":1,"b":"é"}},"max_duration_s":60}}',
    ]
    headers = {"Idempotency-Key": f"spelled-{number}", "Content-Type": "application/json"}
    answers = [
        answer(await house.client.post("/call/initiate", content=each.encode(), headers=headers)) for each in spellings
    ]
    assert answers == [answers[0]] * 3
    assert phone_rang(house, number) == 1


async def test_the_same_key_of_another_client_is_another_call(house: Running, number: str) -> None:
    ana = answer(await initiate(house.client, number, key="shared"))
    asked = {"Idempotency-Key": "shared", "X-API-Key": BEA}
    bea = answer(await house.client.post("/call/initiate", json={"to": number}, headers=asked))
    assert bea["session_id"] != ana["session_id"]
    assert phone_rang(house, number) == 2
    asked = {"Idempotency-Key": "shared", "Authorization": f"Bearer {ANA}"}
    same = await house.client.post("/call/initiate", json={"to": number}, headers=asked)
    assert answer(same) == ana, "a client is its key, whichever header carries it"


@pytest.mark.parametrize("key", ["", "a b", "ä".encode(), "x" * 256, "tab\tbed"])
async def test_a_key_that_cannot_be_kept_is_refused(house: Running, number: str, key: str | bytes) -> None:
    headers = httpx.Headers([(b"Idempotency-Key", key.encode() if isinstance(key, str) else key)])
    response = await house.client.post("/call/initiate", json={"to": number}, headers=headers)
    told = problem(response, 422, "invalid_request")
    assert told["errors"][0]["field"].lower() == "idempotency-key"
    assert phone_rang(house, number) == 0


@pytest.mark.parametrize(
    ("to", "status", "code"),
    [
        (IN_GERMANY, 403, "refused_by_policy"),
        (UNVERIFIED_NUMBER, 403, "unverified_number"),
        ("+15005550001", 422, "invalid_number"),
    ],
)
async def test_a_refusal_is_repeated_and_not_asked_for_again(house: Running, to: str, status: int, code: str) -> None:
    key = f"refused-{code}"
    first = problem(await initiate(house.client, to, key=key), status, code)
    calls = (await history(house, limit=200))["count"]
    assert problem(await initiate(house.client, to, key=key), status, code) == first
    at_once = await ten_at_once(house, to, f"{key}-at-once")
    assert len({str(problem(response, status, code)) for response in at_once}) == 1
    assert (await history(house, limit=200))["count"] == calls + 1
    problem(await initiate(house.client, FRIENDLY, key=key), 409, "idempotency_conflict")


async def test_a_refused_call_is_not_placed_when_the_carrier_has_changed_its_mind(house: Running, number: str) -> None:
    house.network.faults.creates.append("429")
    first = problem(await initiate(house.client, number, key="mind"), 429, "too_many_requests")
    assert problem(await initiate(house.client, number, key="mind"), 429, "too_many_requests") == first
    assert phone_rang(house, number) == 0


async def test_ten_at_once_share_the_outcome_of_a_carrier_that_hangs(house: Running, number: str) -> None:
    house.network.faults.creates.append("hang")
    told = [problem(each, 504, "carrier_answer_lost") for each in await ten_at_once(house, number, "hangs")]
    assert {each["session_id"] for each in told} == {told[0]["session_id"]}
    assert house.network.faults.creates == []
    assert phone_rang(house, number) == 0
    assert (await house.whole(told[0]["session_id"]))["status"] == "unknown"


async def test_ten_at_once_share_the_call_whose_answer_was_lost(house: Running, number: str) -> None:
    house.network.faults.creates.append("lost")
    answers = [answer(each) for each in await ten_at_once(house, number, "lost")]
    assert answers == [answers[0]] * 10
    assert phone_rang(house, number) == 1


async def test_a_key_is_good_after_the_call_is_over_and_after_a_restart(tmp_path: Any) -> None:
    async with running(tmp_path, speed=100) as house:
        first = answer(await initiate(house.client, "+12025550101", key="lasting"))
        await until_over(house, first["session_id"])
        assert answer(await initiate(house.client, "+12025550101", key="lasting")) == first
    async with running(tmp_path) as house:
        assert answer(await initiate(house.client, "+12025550101", key="lasting")) == first
        assert house.network.calls == {}
