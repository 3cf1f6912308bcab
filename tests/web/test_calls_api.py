"""Clients knock: every route of the table, over real HTTP, with the phone network of our own behind it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.server import FRIENDLY, OWN_NUMBER, Running, running
from tests.web.asking import (
    BUSY,
    NEVER_ANSWERS,
    SILENT,
    Json,
    active,
    answer,
    history,
    initiate,
    lasting,
    phone_rang,
    problem,
    until,
    until_connected,
    until_over,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

GREETING = "Hello, this is the AI assistant calling. Do you have a moment?"
DISCLOSURE = "This is an AI assistant calling."
UNKNOWN_SESSION = "nobody-has-this-session-id-000000"
RECORD = {
    "session_id",
    "call_sid",
    "phone_number",
    "status",
    "started_at",
    "answered_at",
    "ended_at",
    "duration_s",
    "answered_by",
    "end_reason",
    "opted_out",
    "greeting",
    "variables",
    "metadata",
    "max_duration_s",
    "error",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting_house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    path = tmp_path_factory.mktemp("house")
    async with lasting(path, speed=100, ring_timeout=600, silence_timeout=60) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="module")
async def house(lasting_house: Running) -> AsyncIterator[Running]:
    """A server on which no call is going on; whatever a test leaves ringing is hung up."""
    yield lasting_house
    for call in await active(lasting_house):
        await lasting_house.client.post(f"/calls/{call['session_id']}/hangup")
        await until_over(lasting_house, call["session_id"])


# Placing a call.


async def test_a_call_is_placed_and_rings_at_once(house: Running) -> None:
    started = answer(await initiate(house.client, NEVER_ANSWERS))
    assert set(started) == {"call_sid", "status", "phone_number", "session_id"}
    assert (started["status"], started["phone_number"]) == ("initiated", NEVER_ANSWERS)
    assert len(started["session_id"]) >= 22, "128 bits or more"
    assert house.network.calls[started["call_sid"]].request.to == NEVER_ANSWERS
    assert house.network.calls[started["call_sid"]].request.from_ == OWN_NUMBER


async def test_a_call_that_asks_for_nothing_gets_the_defaults(house: Running) -> None:
    session_id, _ = await house.ring(NEVER_ANSWERS)
    call = await house.whole(session_id)
    assert (call["greeting"], call["variables"], call["metadata"], call["max_duration_s"]) == (GREETING, {}, {}, 600)
    assert (call["error"], call["opted_out"], call["end_reason"], call["answered_at"]) == (None, False, None, None)


async def test_a_call_keeps_what_was_given_with_it(house: Running) -> None:
    given: Json = {
        "greeting": "Hi { name }, this is the AI of {shop}.",
        "variables": {"name": "Ana", "shop": "{name}'s"},
        "metadata": {"order": 17, "tags": ["a", None, {"deep": True}], "ümlaut": "ß"},
        "max_duration_s": 77,
    }
    session_id, ringing = await house.ring(NEVER_ANSWERS, **given)
    call = await house.whole(session_id)
    assert call["greeting"] == "Hi Ana, this is the AI of {name}'s.", "values are not filled in again"
    assert {name: call[name] for name in ("variables", "metadata", "max_duration_s")} == {
        name: given[name] for name in ("variables", "metadata", "max_duration_s")
    }
    assert ringing.request.time_limit > 77, "the carrier's own limit is the backstop of ours"


async def test_the_greeting_with_its_variables_is_what_the_callee_hears(house: Running) -> None:
    session_id, ringing = await house.ring(greeting="Hello {name}, do you have a minute?", variables={"name": "Ana"})
    await ringing.ended.wait()
    assert ringing.said("agent")[0] == f"{DISCLOSURE} Hello Ana, do you have a minute?"
    assert (await house.whole(session_id))["transcript"][0]["text"] == ringing.said("agent")[0]


@pytest.mark.parametrize(
    ("greeting", "spoken"),
    [
        ("Hello from the bakery.", f"{DISCLOSURE} Hello from the bakery."),
        ("Hello, I am the bakery's AI.", "Hello, I am the bakery's AI."),
        ("Hello, I am not an AI.", f"{DISCLOSURE} Hello, I am not an AI."),
    ],
)
async def test_a_greeting_always_says_that_an_ai_is_calling(house: Running, greeting: str, spoken: str) -> None:
    session_id, _ = await house.ring(NEVER_ANSWERS, greeting=greeting)
    assert (await house.whole(session_id))["greeting"] == spoken


async def test_a_variable_that_the_greeting_misses_is_refused_and_named(house: Running) -> None:
    told = problem(
        await initiate(house.client, FRIENDLY, greeting="Hi {name}, it is {time}", variables={"name": "A"}),
        422,
        "unknown_variable",
    )
    assert "{time}" in told["detail"]
    assert told["errors"][0]["field"] == "variables"


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({}, "to", "required"),
        ({"to": "not a number"}, "to", "E.164"),
        ({"to": "2025550100"}, "to", "E.164"),
        ({"to": "+0025550100"}, "to", "E.164"),
        ({"to": "+1 202 555 0100"}, "to", "E.164"),
        ({"to": "+12025550100\n"}, "to", "E.164"),
        ({"to": "+1234567890123456"}, "to", "E.164"),
        ({"to": "+१२०२५५५०१००"}, "to", "E.164"),
        ({"to": 12025550100}, "to", "string"),
        ({"to": None}, "to", "string"),
        ({"to": [FRIENDLY]}, "to", "string"),
        ({"to": FRIENDLY, "max_duration_s": 9}, "max_duration_s", "10"),
        ({"to": FRIENDLY, "max_duration_s": 14401}, "max_duration_s", "14400"),
        ({"to": FRIENDLY, "max_duration_s": "long"}, "max_duration_s", "integer"),
        ({"to": FRIENDLY, "max_duration_s": 10.5}, "max_duration_s", "integer"),
        ({"to": FRIENDLY, "greeting": ""}, "greeting", "at least 1"),
        ({"to": FRIENDLY, "greeting": "x" * 1001}, "greeting", "1000"),
        ({"to": FRIENDLY, "greeting": "a\x00b"}, "greeting", "control"),
        ({"to": FRIENDLY, "variables": {"name": 3}}, "variables.name", "string"),
        ({"to": FRIENDLY, "variables": {"two words": "x"}}, "variables.two words.[key]", "match"),
        ({"to": FRIENDLY, "variables": {"name": "x" * 1001}}, "variables.name", "1000"),
        ({"to": FRIENDLY, "variables": {f"v{n}": "" for n in range(51)}}, "variables", "50"),
        ({"to": FRIENDLY, "variables": {"name": "a\x1bb"}}, "variables.name", "control"),
        ({"to": FRIENDLY, "metadata": []}, "metadata", "dictionary"),
        ({"to": FRIENDLY, "phone": "x"}, "phone", "not permitted"),
        ([], "body", "dictionary"),
        ("+12025550100", "body", "dictionary"),
    ],
)
async def test_what_cannot_be_done_is_refused_naming_the_field_and_what_was_expected(
    house: Running, body: object, field: str, expected: str
) -> None:
    before = len(house.network.calls)
    told = problem(await house.client.post("/call/initiate", json=body), 422, "invalid_request")
    assert field in [error["field"] for error in told["errors"]]
    assert f"{field}: " in told["detail"]
    assert expected in told["detail"]
    assert len(house.network.calls) == before


@pytest.mark.parametrize("seconds", [10, 14400])
async def test_the_shortest_and_the_longest_call_may_be_asked_for(house: Running, seconds: int) -> None:
    session_id, _ = await house.ring(NEVER_ANSWERS, max_duration_s=seconds)
    assert (await house.whole(session_id))["max_duration_s"] == seconds


async def test_what_was_sent_is_not_repeated_in_the_refusal(house: Running) -> None:
    response = await house.client.post("/call/initiate", json={"to": "my secret", "metadata": "my other secret"})
    assert len(problem(response, 422, "invalid_request")["errors"]) == 2
    assert "secret" not in response.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"to": "+12025550100"',
        b"{'to': '+12025550100'}",
        b'{"to": "\xff"}',
        b"[" * 30_000,
        b'{"to": "+12025550100", "metadata": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
        b'{"to": "+12025550100", "metadata": {"n": ' + b"9" * 5_000 + b"}}",
    ],
    ids=["empty", "broken", "unclosed", "python", "not-utf8", "deep-lists", "deep-objects", "long-number"],
)
async def test_a_body_that_is_no_json_we_can_use_is_refused(house: Running, content: bytes) -> None:
    before = len(house.network.calls)
    response = await house.client.post(
        "/call/initiate", content=content, headers={"Content-Type": "application/json", "Idempotency-Key": "k"}
    )
    assert response.status_code in (400, 422), response.text
    problem(response, response.status_code, response.json()["code"])
    assert response.json()["code"] in ("invalid_request", "unreadable_body")
    assert len(house.network.calls) == before


@pytest.mark.parametrize(
    "metadata",
    [
        '{"n": 123456789012345678901234567890}',
        '{"n": -9223372036854775809}',
        '{"n": 1e400}',
        '{"n": NaN}',
        '{"half": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"nul": "\\u0000"}',
    ],
)
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "odd"}], ids=["plain", "idempotent"])
async def test_metadata_that_json_can_write_is_kept_or_refused_and_never_breaks_anything(
    house: Running, metadata: str, headers: dict[str, str]
) -> None:
    content = f'{{"to": "{BUSY}", "metadata": {metadata}}}'
    response = await house.client.post(
        "/call/initiate", content=content, headers={"Content-Type": "application/json", **headers}
    )
    told = problem(response, 422, "invalid_request")
    assert told["errors"][0]["field"].startswith("metadata")


async def test_a_body_that_is_broken_is_told_with_the_place(house: Running) -> None:
    response = await house.client.post(
        "/call/initiate", content=b'{"to": secret}', headers={"Content-Type": "application/json"}
    )
    told = problem(response, 422, "invalid_request")
    assert told["detail"] == "body: expected JSON, got something else at character 7"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_only_json_is_taken_for_json(house: Running, content_type: str) -> None:
    response = await house.client.post(
        "/call/initiate", content=f'{{"to": "{BUSY}"}}', headers={"Content-Type": content_type}
    )
    told = problem(response, 422, "invalid_request")
    assert "Content-Type: application/json" in told["detail"]


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"])
async def test_json_is_json_however_its_type_is_spelled(house: Running, content_type: str) -> None:
    response = await house.client.post(
        "/call/initiate", content=f'{{"to": "{NEVER_ANSWERS}"}}', headers={"Content-Type": content_type}
    )
    assert answer(response)["status"] == "initiated"


@pytest.mark.parametrize(
    ("path", "chunked"),
    [
        ("/call/initiate", False),
        ("/call/initiate", True),
        ("/voice", False),
        ("/voice", True),
        ("/voice/status", True),
        ("/nowhere", False),
    ],
)
async def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_its_length(
    house: Running, path: str, chunked: bool
) -> None:
    body = b'{"to": "' + b"x" * (64 * 1024) + b'"}'

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 8192):
            yield body[start : start + 8192]

    kind = "application/json" if path == "/call/initiate" else "application/x-www-form-urlencoded"
    response = await house.client.post(path, content=pieces() if chunked else body, headers={"Content-Type": kind})
    assert ("transfer-encoding" in response.request.headers) == chunked
    assert "65536" in problem(response, 413, "body_too_large")["detail"]


async def test_a_body_just_small_enough_is_read(house: Running) -> None:
    frame = f'{{"to": "{NEVER_ANSWERS}", "metadata": {{"note": ""}}}}'
    content = frame.replace('""', '"' + "x" * (64 * 1024 - len(frame)) + '"')
    assert len(content) == 64 * 1024
    answer(await house.client.post("/call/initiate", content=content, headers={"Content-Type": "application/json"}))


# Looking at calls.


async def test_a_whole_call_is_kept_with_what_was_heard_and_how_fast_it_was_answered(house: Running) -> None:
    session_id, ringing = await house.ring()
    await ringing.ended.wait()
    call = await until(house, session_id, lambda call: call["status"] == "completed" and call["end_reason"])

    assert set(call) == RECORD | {"transcript", "turn_latencies", "journal"}
    assert call["call_sid"] == ringing.sid
    assert call["duration_s"] == ringing.duration
    started, answered, ended = (
        datetime.fromisoformat(call[name]) for name in ("started_at", "answered_at", "ended_at")
    )
    assert started <= answered <= ended
    assert started.utcoffset() is not None
    assert [line["role"] for line in call["transcript"][:2]] == ["agent", "callee"]
    assert {"role", "text", "at", "interrupted"} <= set(call["transcript"][0])
    assert [line["text"] for line in call["transcript"] if line["role"] == "callee"] == ringing.said("callee")
    assert call["turn_latencies"]
    assert all(0 <= turn["first_text_ms"] <= turn["total_ms"] for turn in call["turn_latencies"])
    numbers = [entry["seq"] for entry in call["journal"]]
    assert numbers == sorted(set(numbers))
    assert call["journal"][0]["kind"] == "placed"


async def test_the_list_of_active_calls_has_exactly_those_going_on(house: Running) -> None:
    assert await active(house) == []
    live, _ = await house.ring(SILENT)
    ringing, _ = await house.ring(NEVER_ANSWERS)
    over, busy = await house.ring(BUSY)
    await busy.ended.wait()
    await until_over(house, over)
    connected = await until_connected(house, live)

    assert [call["session_id"] for call in await active(house)] == [ringing, live], "newest first"
    assert set(connected) == RECORD | {"turns", "connected"}
    assert (connected["status"], connected["turns"]) == ("in-progress", 0)
    waiting = (await active(house))[0]
    assert (waiting["connected"], waiting["answered_at"], waiting["phone_number"]) == (False, None, NEVER_ANSWERS)


async def test_turns_are_counted_while_the_call_goes_on(house: Running) -> None:
    session_id, ringing = await house.ring()
    seen = set()
    while not ringing.ended.is_set():
        seen |= {call["turns"] for call in await active(house) if call["session_id"] == session_id}
        await asyncio.sleep(0.005)
    whole = await until_over(house, session_id)
    assert max(seen) in (len(whole["turn_latencies"]), len(whole["turn_latencies"]) - 1)


async def test_history_is_newest_first_and_its_pages_join_without_gap_or_repetition(house: Running) -> None:
    made = [(await house.ring(BUSY))[0] for _ in range(5)]
    for session_id in made:
        await until_over(house, session_id)
    collected: list[str] = []
    cursor: str | None = None
    while len(collected) < 5:
        page = await history(house, limit=2, **({"cursor": cursor} if cursor else {}))
        assert page["count"] == 2
        assert all(set(call) == RECORD for call in page["calls"])
        collected += [call["session_id"] for call in page["calls"]]
        cursor = page["next_cursor"]
    assert collected[:5] == made[::-1]
    newest = await house.ring(NEVER_ANSWERS)
    again = await history(house, limit=200)
    assert again["calls"][0]["session_id"] == newest[0]
    assert again["next_cursor"] is None, "there are no more than two hundred"


async def test_history_filters_by_status(house: Running) -> None:
    busy, _ = await house.ring(BUSY)
    await until_over(house, busy)
    ringing, call = await house.ring(NEVER_ANSWERS)
    await call.until(lambda call: call.status == "ringing" and bool(call.webhooks))
    found = await history(house, status="busy")
    assert found["calls"][0]["session_id"] == busy
    assert {each["status"] for each in found["calls"]} == {"busy"}
    assert ringing not in {each["session_id"] for each in found["calls"]}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 201}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"status": "asleep"}, "status"),
        ({"cursor": "x" * 201}, "cursor"),
    ],
)
async def test_a_page_that_cannot_be_is_refused_naming_the_parameter(
    house: Running, query: dict[str, Any], field: str
) -> None:
    told = problem(await house.client.get("/calls", params=query), 422, "invalid_request")
    assert told["errors"][0]["field"] == field


@pytest.mark.parametrize("cursor", ["", "x", "%00", "ä", "MjAyNi0wMS0wMVQwMDowMDowMCswMDowMA", "🙂"])
async def test_a_cursor_no_page_gave_is_refused(house: Running, cursor: str) -> None:
    problem(await house.client.get("/calls", params={"cursor": cursor}), 422, "invalid_cursor")


@pytest.mark.parametrize("method", ["GET /calls/{}", "POST /calls/{}/hangup"])
async def test_an_unknown_session_is_not_found(house: Running, method: str) -> None:
    verb, path = method.split()
    problem(await house.client.request(verb, path.format(UNKNOWN_SESSION)), 404, "call_not_found")


@pytest.mark.parametrize("session_id", ["a b", "%00", "x" * 65, "..%2e", "é"])
async def test_a_session_id_that_cannot_be_one_is_refused(house: Running, session_id: str) -> None:
    response = await house.client.get(f"/calls/{session_id}")
    assert problem(response, 422, "invalid_request")["errors"][0]["field"] == "session_id"


# Hanging up.


async def test_a_ringing_call_is_hung_up(house: Running) -> None:
    session_id, call = await house.ring(NEVER_ANSWERS)
    await call.until(lambda call: call.status == "ringing")
    hung_up = answer(await house.client.post(f"/calls/{session_id}/hangup"))
    assert set(hung_up) == RECORD
    assert hung_up["end_reason"] == "hung_up_by_api"
    await call.ended.wait()
    assert (await until_over(house, session_id))["status"] in ("canceled", "completed", "no-answer")
    assert await active(house) == []
    assert call.transcript == []


async def test_a_live_call_is_hung_up(house: Running) -> None:
    session_id, call = await house.ring(SILENT)
    await until_connected(house, session_id)
    answer(await house.client.post(f"/calls/{session_id}/hangup"))
    await call.ended.wait()
    over = await until_over(house, session_id)
    assert (over["status"], over["end_reason"]) == ("completed", "hung_up_by_api")
    assert await active(house) == []


async def test_hanging_up_twice_is_a_conflict_and_not_an_error(house: Running) -> None:
    session_id, call = await house.ring(NEVER_ANSWERS)
    answer(await house.client.post(f"/calls/{session_id}/hangup"))
    await call.ended.wait()
    await until_over(house, session_id)
    problem(await house.client.post(f"/calls/{session_id}/hangup"), 409, "call_not_live")


async def test_a_call_that_was_never_placed_cannot_be_hung_up(house: Running) -> None:
    refused = await initiate(house.client, "+493012345678")
    session_id = problem(refused, 403, "refused_by_policy")["session_id"]
    problem(await house.client.post(f"/calls/{session_id}/hangup"), 409, "call_not_live")


# Everything else.


@pytest.mark.parametrize("path", ["/", "/nowhere", "/calls/a/b/c", "/docs", "/call", "//calls", "/health/"])
async def test_there_is_nothing_at_other_paths(house: Running, path: str) -> None:
    problem(await house.client.get(house.base_url + path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/call/initiate", "POST"),
        ("PUT", "/call/initiate", "POST"),
        ("POST", "/calls", "GET"),
        ("DELETE", "/calls/active", "GET"),
        ("DELETE", f"/calls/{UNKNOWN_SESSION}", "GET"),
        ("GET", f"/calls/{UNKNOWN_SESSION}/hangup", "POST"),
        ("POST", "/health", "GET"),
    ],
)
async def test_another_method_is_refused_naming_those_allowed(
    house: Running, method: str, path: str, allowed: str
) -> None:
    response = await house.client.request(method, path)
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allowed


async def test_a_database_that_does_not_answer_is_told_without_its_inside(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        with closing(sqlite3.connect(tmp_path / "calls.db")) as database, database:
            database.execute("ALTER TABLE calls RENAME TO hidden")
        for response in (
            await house.client.get("/calls"),
            await house.client.get("/calls/active"),
            await initiate(house.client, FRIENDLY),
        ):
            problem(response, 503, "database_unavailable")
            assert "SELECT" not in response.text
            assert "calls.db" not in response.text
            assert response.headers["retry-after"] == "5"
        assert phone_rang(house, FRIENDLY) == 0, "the row is written before the ring"
        not_ready = await house.client.get("/ready")
        assert not_ready.status_code == 503
        assert not_ready.json()["checks"] == {"database": "failed", "carrier": "ok"}


async def test_a_mistake_of_our_own_is_told_as_one_without_its_inside(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        session_id, call = await house.ring(BUSY)
        await call.ended.wait()
        with closing(sqlite3.connect(tmp_path / "calls.db")) as database, database:
            database.execute("UPDATE calls SET answered_at = 'yesterday'")
        response = await house.client.get(f"/calls/{session_id}")
        told = problem(response, 500, "internal_error")
        assert "log" in told["detail"]
        assert "yesterday" not in response.text
        assert answer(await house.client.get("/health")) == {"status": "ok"}


async def test_history_survives_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path, speed=100) as house:
        session_id, call = await house.ring()
        await call.ended.wait()
        before = await until(house, session_id, lambda call: call["end_reason"] is not None)
    async with running(tmp_path) as house:
        assert await house.whole(session_id) == before
        assert [call["session_id"] for call in (await history(house))["calls"]] == [session_id]


async def test_health_and_readiness_are_told(house: Running) -> None:
    assert answer(await house.client.get("/health")) == {"status": "ok"}
    ready = answer(await house.client.get("/ready"))
    assert ready == {"status": "ready", "checks": {"database": "ok", "carrier": "ok"}}


async def test_answers_are_json_and_problems_are_problems_for_any_accept_header(house: Running) -> None:
    async with httpx.AsyncClient(base_url=house.base_url, trust_env=False, headers={"Accept": "text/html"}) as browser:
        answer(await browser.get("/calls/active"))
        problem(await browser.get("/nowhere"), 404, "not_found")
