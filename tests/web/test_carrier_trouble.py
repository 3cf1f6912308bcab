"""What a client is told, and what remains, when the carrier refuses, breaks or falls silent."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from outbound.simulator import Network
from outbound.simulator.faults import CreateFault
from outbound.simulator.rest import REFUSED
from outbound.simulator.webhooks import Postman
from tests.server import ACCOUNT_SID, AUTH_TOKEN, FRIENDLY, OWN_NUMBER, Running, hosted, running
from tests.stories.waiting import until as eventually
from tests.web.asking import (
    BUSY,
    IN_GERMANY,
    NEVER_ANSWERS,
    PREMIUM,
    RawPeer,
    active,
    answer,
    history,
    http_reply,
    initiate,
    lasting,
    leaves,
    phone_rang,
    problem,
    until,
    until_over,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CARRIER_TIMEOUT_S = 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting_house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    path = tmp_path_factory.mktemp("house")
    async with lasting(path, ring_timeout=600, carrier_timeout=CARRIER_TIMEOUT_S) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="module")
async def house(lasting_house: Running) -> AsyncIterator[Running]:
    """A server and a carrier without faults; whatever a test leaves ringing is hung up."""
    yield lasting_house
    lasting_house.network.faults.creates.clear()
    for call in await active(lasting_house):
        await lasting_house.client.post(f"/calls/{call['session_id']}/hangup")
        await until_over(lasting_house, call["session_id"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def odd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[RawPeer, Running]]:
    """A server whose carrier is a peer that may answer anything."""
    peer = RawPeer(None)
    async with peer.serve() as address:
        path = tmp_path_factory.mktemp("odd")
        async with lasting(path, twilio_api_base_url=address, carrier_timeout=CARRIER_TIMEOUT_S) as house:
            yield peer, house


@pytest.fixture
def number(house: Running) -> str:
    """A number nobody has rung yet, of a phone nobody answers."""
    number = f"+1202555{1000 + len(house.network.callees)}"
    house.network.callees[number] = house.network.callees[NEVER_ANSWERS]
    return number


async def knock(house: Running, path: str, session_id: str, **form: str) -> int:
    """A signed callback of the carrier; returns the status of our answer."""
    postman = Postman(house.client, AUTH_TOKEN)
    reply = await postman.deliver("POST", f"{house.base_url}{path}?session_id={session_id}", form)
    assert reply is not None
    return reply.status


# It says no.


REFUSALS = [
    ("+15005550001", 422, "invalid_number", 21217, "E.164"),
    ("+15005550002", 422, "invalid_number", 21214, "route"),
    ("+15005550003", 403, "country_not_permitted", 21215, "Geographic Permissions"),
    ("+15005550004", 403, "number_blocked", 21216, "blocks"),
    ("+15005550019", 403, "unverified_number", 21219, "verify this number"),
    ("+12025550", 422, "invalid_number", 21211, "E.164"),
]


@pytest.mark.parametrize(("to", "status", "code", "carrier_code", "words"), REFUSALS)
async def test_a_refusal_is_told_in_plain_words(
    house: Running, to: str, status: int, code: str, carrier_code: int, words: str
) -> None:
    told = problem(await initiate(house.client, to), status, code)
    assert told["carrier_code"] == carrier_code
    assert words in told["detail"]
    assert to not in told["detail"]
    call = await house.whole(told["session_id"])
    assert (call["status"], call["call_sid"]) == ("failed", None)
    assert call["error"] == {"code": code, "detail": told["detail"], "carrier_code": carrier_code}
    assert await active(house) == []


async def test_every_number_that_the_network_refuses_is_told_of_above() -> None:
    assert set(REFUSED) <= {to for to, *_ in REFUSALS}


@pytest.mark.parametrize(
    ("settings", "status", "code", "carrier_code", "words"),
    [
        ({"twilio_auth_token": "wrong"}, 502, "wrong_credentials", 20003, "TWILIO_AUTH_TOKEN"),
        ({"twilio_account_sid": "AC" + "9" * 32}, 502, "wrong_credentials", 20003, "TWILIO_ACCOUNT_SID"),
        ({"twilio_phone_number": "+12025550999"}, 403, "not_your_number", 21210, "TWILIO_PHONE_NUMBER"),
        ({"twilio_phone_number": "+15005550001"}, 403, "not_your_number", 21212, "TWILIO_PHONE_NUMBER"),
    ],
)
async def test_a_wrong_setting_is_named(
    tmp_path: Path, settings: dict[str, Any], status: int, code: str, carrier_code: int, words: str
) -> None:
    async with running(tmp_path, **settings) as house:
        told = problem(await initiate(house.client, FRIENDLY), status, code)
        assert told["carrier_code"] == carrier_code
        assert words in told["detail"]
        assert settings.get("twilio_auth_token", "-") not in json.dumps(told).split('"')
        assert house.network.calls == {}
        assert await active(house) == []


async def assert_gate_says_no(house: Running, to: str, rule: str) -> None:
    before = len(house.network.calls)
    told = problem(await initiate(house.client, to), 403, "refused_by_policy")
    assert "allowed" in told["detail"]
    call = await house.whole(told["session_id"])
    assert (call["status"], call["call_sid"], call["error"]["code"]) == ("refused", None, "refused_by_policy")
    assert [entry["data"]["rule"] for entry in call["journal"] if entry["kind"] == "refused"] == [rule]
    assert len(house.network.calls) == before


@pytest.mark.parametrize(
    ("to", "rule"),
    [
        (IN_GERMANY, "destination_country"),
        ("+12845550100", "destination_country"),  # British Virgin Islands: +1, and not the USA
        ("+99912345678", "destination_country"),
        (PREMIUM, "premium_number"),
    ],
)
async def test_the_gate_says_no_before_the_carrier_is_asked(house: Running, to: str, rule: str) -> None:
    await assert_gate_says_no(house, to, rule)


@pytest.mark.parametrize(
    ("to", "countries", "rule"), [(FRIENDLY, "DE,FR", "destination_country"), (PREMIUM, "*", "premium_number")]
)
async def test_the_gate_follows_the_operator(tmp_path: Path, to: str, countries: str, rule: str) -> None:
    async with running(tmp_path, allowed_countries=countries) as house:
        await assert_gate_says_no(house, to, rule)


@pytest.mark.parametrize(
    ("to", "settings"),
    [
        (IN_GERMANY, {"allowed_countries": "de"}),
        (IN_GERMANY, {"allowed_countries": "*"}),
        (PREMIUM, {"allow_premium_numbers": True}),
        (FRIENDLY, {"allowed_countries": "US"}),
    ],
)
async def test_what_the_operator_allows_is_rung(tmp_path: Path, to: str, settings: dict[str, Any]) -> None:
    async with running(tmp_path, **settings) as house:
        answer(await initiate(house.client, to))
        assert phone_rang(house, to) == 1


# It is broken. Nobody was rung.


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (http_reply(500, "oops", "text/plain"), 504, "carrier_answer_lost"),
        (http_reply(503, "{}"), 504, "carrier_answer_lost"),
        (http_reply(200, "<html>hello</html>", "text/html"), 504, "carrier_answer_lost"),
        (http_reply(201, "[]"), 504, "carrier_answer_lost"),
        (http_reply(201, '{"sid": null}'), 504, "carrier_answer_lost"),
        (http_reply(404, "<html>no such page</html>", "text/html"), 502, "carrier_unavailable"),
        (http_reply(302, ""), 502, "carrier_unavailable"),
        (http_reply(407, "proxy"), 502, "carrier_unavailable"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", 504, "carrier_answer_lost"),
        (b"", 504, "carrier_answer_lost"),
        (None, 504, "carrier_answer_lost"),
    ],
    ids=["500", "503", "html", "list", "no-sid", "404-html", "redirect", "proxy", "no-http", "closes", "silent"],
)
async def test_a_carrier_that_answers_nonsense_is_told_and_leaves_no_ghost(
    odd: tuple[RawPeer, Running], reply: bytes | None, status: int, code: str
) -> None:
    peer, house = odd
    peer.reply, peer.connections = reply, 0
    async with asyncio.timeout(CARRIER_TIMEOUT_S * 10):
        told = problem(await initiate(house.client, FRIENDLY), status, code)
    assert await active(house) == []
    call = await house.whole(told["session_id"])
    assert call["status"] == ("unknown" if status == 504 else "failed")
    assert call["error"]["code"] == code
    assert peer.connections >= 1
    not_ready = await house.client.get("/ready")
    assert (not_ready.status_code, not_ready.json()["checks"]["carrier"]) == (503, "failed")


async def test_a_carrier_that_is_down_is_told_and_leaves_no_ghost(tmp_path: Path) -> None:
    async with RawPeer(None).serve() as address:
        pass
    async with running(tmp_path, twilio_api_base_url=address) as house:
        told = problem(await initiate(house.client, FRIENDLY), 502, "carrier_unavailable")
        assert await active(house) == []
        assert (await house.whole(told["session_id"]))["status"] == "failed"


@pytest.mark.parametrize("fault", ["500", "503", "garbage", "hang"])
async def test_a_create_without_an_answer_that_made_no_call_ends_as_unknown(
    house: Running, number: str, fault: CreateFault
) -> None:
    house.network.faults.creates.append(fault)
    told = problem(await initiate(house.client, number), 504, "carrier_answer_lost")
    assert phone_rang(house, number) == 0
    assert await active(house) == []
    call = await house.whole(told["session_id"])
    assert (call["status"], call["call_sid"], call["error"]["code"]) == ("unknown", None, "carrier_answer_lost")
    assert answer(await initiate(house.client, number))["status"] == "initiated", "the next call is not harmed"


async def test_too_many_calls_for_the_carrier_is_told(house: Running, number: str) -> None:
    house.network.faults.creates.append("429")
    told = problem(await initiate(house.client, number), 429, "too_many_requests")
    assert told["carrier_code"] == 20429
    assert phone_rang(house, number) == 0


# The answer was lost, and the phone rings.


@pytest.mark.parametrize("fault", ["lost", "lost_hang"])
async def test_a_call_whose_answer_was_lost_is_found_and_adopted(
    house: Running, number: str, fault: CreateFault
) -> None:
    house.network.faults.creates.append(fault)
    started = answer(await initiate(house.client, number))
    assert phone_rang(house, number) == 1
    assert house.network.calls[started["call_sid"]].request.to == number
    assert [call["session_id"] for call in await active(house)] == [started["session_id"]]


async def test_an_adopted_call_goes_on_to_its_end(house: Running) -> None:
    house.network.faults.creates.append("lost")
    session_id, call = await house.ring(BUSY)
    await call.ended.wait()
    over = await until_over(house, session_id)
    assert (over["status"], over["call_sid"], over["error"]) == ("busy", call.sid, None)


@pytest.mark.parametrize("fault", ["lost", "500"])
async def test_a_lost_answer_never_adopts_another_call_to_the_same_number(
    house: Running, number: str, fault: CreateFault
) -> None:
    first, known = await house.ring(number)
    house.network.faults.creates.append(fault)
    response = await initiate(house.client, number)
    if fault == "lost":
        second = answer(response)
        assert second["call_sid"] != known.sid
        assert phone_rang(house, number) == 2
        assert (await house.whole(second["session_id"]))["call_sid"] == second["call_sid"]
    else:
        told = problem(response, 504, "carrier_answer_lost")
        assert phone_rang(house, number) == 1
        call = await house.whole(told["session_id"])
        assert (call["status"], call["call_sid"]) == ("unknown", None)
    assert (await house.whole(first))["call_sid"] == known.sid


async def test_two_lost_answers_for_one_number_adopt_two_calls(house: Running, number: str) -> None:
    house.network.faults.creates.extend(["lost", "lost"])
    both = [answer(await initiate(house.client, number)) for _ in range(2)]
    assert {call["call_sid"] for call in both} == {
        call.sid for call in house.network.calls.values() if call.request.to == number
    }
    assert len({call["call_sid"] for call in both}) == 2


async def test_a_lost_answer_does_not_adopt_the_call_of_one_that_is_not_identified_yet(
    house: Running, number: str
) -> None:
    """The first rings, untold; the second was never made. The list cannot tell them apart, the callback can."""
    house.network.faults.creates.extend(["lost_hang", "500"])
    house.network.faults.callback_delay = 2 * CARRIER_TIMEOUT_S * house.network.clock.speed
    try:
        for each in await asyncio.gather(*(initiate(house.client, number) for _ in range(2))):
            problem(each, 504, "carrier_answer_lost")
        house.network.faults.creates.append("500")
        later = problem(await initiate(house.client, number), 504, "carrier_answer_lost")
    finally:
        house.network.faults.callback_delay = 0.0
    (ringing,) = (call for call in house.network.calls.values() if call.request.to == number)
    await ringing.until(lambda call: any(webhook.errand == "status" for webhook in call.webhooks))
    owners = [call for call in (await history(house))["calls"] if call["call_sid"] == ringing.sid]
    assert [call["session_id"] in ringing.request.source.url for call in owners] == [True]  # type: ignore[union-attr]
    assert [call["session_id"] for call in await active(house)] == [owners[0]["session_id"]]
    assert (await house.whole(later["session_id"]))["status"] == "unknown"


async def test_a_call_of_another_program_on_the_account_is_not_adopted(house: Running, number: str) -> None:
    """Nothing in the carrier's list says whose a call is: an old one, at least, is not taken for ours."""
    _, known = await house.ring(number)
    known.created = known.created.replace(year=known.created.year - 1)
    house.network.faults.creates.append("500")
    problem(await initiate(house.client, number), 504, "carrier_answer_lost")


@pytest.mark.parametrize(
    ("reported", "status", "active_then"),
    [("ringing", "ringing", True), ("completed", "completed", False), ("no-answer", "no-answer", False)],
)
async def test_a_later_callback_settles_an_unknown_call(
    house: Running, number: str, reported: str, status: str, active_then: bool
) -> None:
    house.network.faults.creates.append("500")
    session_id = problem(await initiate(house.client, number), 504, "carrier_answer_lost")["session_id"]
    call_sid = "CA" + "5" * 32
    form = {"CallSid": call_sid, "CallStatus": reported, "SequenceNumber": "1", "To": number, "From": OWN_NUMBER}

    assert await knock(house, "/voice/status", session_id, **form) == 204
    call = await house.whole(session_id)
    assert (call["status"], call["call_sid"]) == (status, call_sid)
    assert [each["session_id"] for each in await active(house)] == [session_id] * active_then
    if active_then:
        await knock(house, "/voice/status", session_id, **(form | {"CallStatus": "completed", "SequenceNumber": "3"}))
        assert (await house.whole(session_id))["status"] == "completed"


async def test_a_callback_that_comes_before_the_lost_answer_is_noticed_identifies_the_call(
    house: Running, number: str
) -> None:
    """A phone that rings while we still wait for the create's answer has told us its id already."""
    house.network.faults.creates.append("lost_hang")
    started = answer(await initiate(house.client, number))
    whole = await house.whole(started["session_id"])
    assert started["call_sid"] == whole["call_sid"]
    assert started["call_sid"] in house.network.calls
    assert whole["error"] is None


async def test_a_call_that_rings_before_its_create_is_answered_is_one_call(house: Running, number: str) -> None:
    house.network.faults.early_webhooks = True
    try:
        started = answer(await initiate(house.client, number))
    finally:
        house.network.faults.early_webhooks = False
    call = await house.whole(started["session_id"])
    assert (call["status"], call["call_sid"]) == ("ringing", started["call_sid"])
    assert phone_rang(house, number) == 1


async def test_a_hang_up_that_the_carrier_does_not_take_is_told_and_may_be_tried_again(tmp_path: Path) -> None:
    async with running(tmp_path, ring_timeout=600, carrier_timeout=CARRIER_TIMEOUT_S) as house:
        session_id, call = await house.ring(NEVER_ANSWERS)
        house.network.auth_token = "changed"
        told = problem(await house.client.post(f"/calls/{session_id}/hangup"), 502, "wrong_credentials")
        assert told["carrier_code"] == 20003
        whole = await house.whole(session_id)
        assert (whole["end_reason"], [each["session_id"] for each in await active(house)]) == (None, [session_id])
        house.network.auth_token = AUTH_TOKEN
        answer(await house.client.post(f"/calls/{session_id}/hangup"))
        await call.ended.wait()


async def test_a_call_that_ended_while_the_server_was_down_is_settled_at_the_next_start(tmp_path: Path) -> None:
    network = Network(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN, numbers=(OWN_NUMBER,), speed=25.0)
    async with network.serve() as carrier:
        async with hosted(tmp_path, carrier, ring_timeout=600) as client:
            started = answer(await initiate(client, NEVER_ANSWERS))
            call = network.calls[started["call_sid"]]
            await call.until(lambda call: call.status == "ringing")
        async with hosted(tmp_path, carrier) as client:
            assert answer(await client.get("/calls/active"))["count"] == 1, "it rings yet"
        call.hang_up()
        await call.ended.wait()
        async with hosted(tmp_path, carrier) as client:
            await eventually(
                lambda: client.get(f"/calls/{started['session_id']}"),
                lambda response: answer(response)["status"] == call.status,
            )
            assert answer(await client.get("/calls/active"))["count"] == 0


async def test_an_old_call_that_no_carrier_knows_is_settled_at_the_next_start(tmp_path: Path) -> None:
    async with running(tmp_path, ring_timeout=600) as house:
        session_id, _ = await house.ring(NEVER_ANSWERS)
    with closing(sqlite3.connect(tmp_path / "calls.db")) as database, database:
        database.execute("UPDATE calls SET created_at = strftime('%Y-%m-%d %H:%M:%f000', created_at, '-2 days')")
    async with running(tmp_path) as house:
        await until(house, session_id, lambda call: call["status"] == "failed")
        assert await active(house) == []


async def test_who_repeats_a_request_that_died_before_the_ring_is_not_told_that_it_rings(tmp_path: Path) -> None:
    async with running(tmp_path, ring_timeout=600) as house:
        session_id = answer(await initiate(house.client, NEVER_ANSWERS, key="died"))["session_id"]
    with closing(sqlite3.connect(tmp_path / "calls.db")) as database, database:
        database.execute(
            "UPDATE calls SET status = 'queued', call_sid = NULL, ended_at = NULL, end_reason = NULL,"
            " created_at = strftime('%Y-%m-%d %H:%M:%f000', created_at, '-2 days')"
        )
    async with running(tmp_path) as house:
        await until(house, session_id, lambda call: call["status"] == "unknown")
        told = problem(await initiate(house.client, NEVER_ANSWERS, key="died"), 504, "carrier_answer_lost")
        assert told["session_id"] == session_id
        assert phone_rang(house, NEVER_ANSWERS) == 0


async def test_no_problem_holds_a_number_of_a_person_or_a_secret(house: Running) -> None:
    for number in (*REFUSED, PREMIUM, IN_GERMANY):
        body = (await initiate(house.client, number)).json()
        texts = [str(value) for value in leaves(body)]
        assert not [text for text in texts if number in text or number[1:] in text or AUTH_TOKEN in text]
