"""Following a call: its journal as server-sent events, live, resumable, from any process, and to its end."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from outbound.calls import Call, EndReason, Entry, Kind, ProcessId, SessionId, Status
from outbound.simulator import Network
from outbound.store import Changes, Database
from outbound.web import api
from tests.server import ACCOUNT_SID, AUTH_TOKEN, FRIENDLY, OWN_NUMBER, Running, running
from tests.stories.test_shutdown import STARTS_WITHIN_S, environment, free_port, process
from tests.stories.waiting import until
from tests.web.asking import (
    BUSY,
    NEVER_ANSWERS,
    PREMIUM,
    SILENT,
    WITHIN_S,
    Json,
    active,
    answer,
    history,
    initiate,
    problem,
)

type Event = dict[str, str]

FAR_AWAY_S = 3600.0


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, session_id: str, last: str | None = None, **query: Any
) -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a call as they come; the stream is left at the end."""
    headers = {} if last is None else {"Last-Event-ID": last}
    async with client.stream("GET", f"/calls/{session_id}/events", headers=headers, params=query) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert "no-cache" in response.headers["cache-control"]
        async with asyncio.timeout(WITHIN_S):
            yield parsed(response)


async def parsed(response: httpx.Response) -> AsyncIterator[Event]:
    event: Event = {}
    async for line in response.aiter_lines():
        if not line and event:
            yield event
            event = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            assert name not in event, "each event is one line of each field"
            event[name] = value


async def followed(client: httpx.AsyncClient, session_id: str, last: str | None = None, **query: Any) -> list[Event]:
    """All that a stream tells until it ends."""
    async with following(client, session_id, last, **query) as events:
        return [event async for event in events]


def entries(events: list[Event]) -> list[Json]:
    """The journal entries among the events, each with its own name and id."""
    told = [(event, json.loads(event["data"])) for event in events if event["event"] != "end"]
    for event, entry in told:
        assert event == {"event": entry["kind"], "id": str(entry["seq"]), "data": event["data"]}
    return [entry for _, entry in told]


async def assert_tells_the_whole_call(house: Running, session_id: str, events: list[Event]) -> None:
    whole = await house.whole(session_id)
    told = entries(events[:-1])
    assert events[-1].keys() == {"event", "data"}, "the end has no id"
    assert events[-1]["event"] == "end"
    record = json.loads(events[-1]["data"])
    assert record == {name: whole[name] for name in record}
    assert len(told) == len(events) - 1
    assert told == whole["journal"][: len(told)]
    rest = [entry["kind"] for entry in whole["journal"][len(told) :]]
    assert set(rest) <= {"status"}, "only a callback that comes late may be missing"


def a_call(status: Status = Status.COMPLETED, **fields: Any) -> Call:
    """A call from long ago, as another process has left it."""
    then = datetime.now(UTC) - timedelta(hours=1)
    call = Call(
        session_id=SessionId("written-by-another-process"),
        phone_number=FRIENDLY,
        created_at=then,
        greeting="Hello, this is an AI.",
        max_duration_s=600,
        status=status,
        ended_at=None if status.is_active else then,
    )
    return replace(call, **fields)


def an_entry(kind: Kind, **data: Any) -> Entry:
    return Entry(a_call().session_id, datetime.now(UTC), kind, data)


OPENED = an_entry(Kind.RELAY_OPENED, call_sid="CA1", relay_session_id="VX1")
CLOSED = an_entry(Kind.RELAY_CLOSED, code=1000)
COMPLETED = an_entry(Kind.STATUS, status="completed")


# What is told.


@pytest.mark.parametrize("number", [FRIENDLY, BUSY])
async def test_every_entry_is_told_once_and_in_order_and_then_the_end(tmp_path: Path, number: str) -> None:
    async with running(tmp_path, speed=50) as house:
        session_id, _ = await house.ring(number)
        events = await followed(house.client, session_id)
        await assert_tells_the_whole_call(house, session_id, events)
        assert await followed(house.client, session_id, events[-2]["id"]) == [events[-1]]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "placed"
    assert number == BUSY or {"callee_said", "agent_said", "turn", "relay_closed"} <= set(kinds)


async def test_the_stream_of_a_refused_call_ends_at_once(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        session_id = problem(await initiate(house.client, PREMIUM), 403, "refused_by_policy")["session_id"]
        events = await followed(house.client, session_id)
        await assert_tells_the_whole_call(house, session_id, events)
    assert [event["event"] for event in events] == ["refused", "status", "end"]


async def test_what_happens_is_told_while_the_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "LOOK_AGAIN_AFTER_S", FAR_AWAY_S)
    async with running(tmp_path, speed=50, silence_timeout=600) as house:
        session_id, _ = await house.ring(SILENT)
        async with following(house.client, session_id) as events:
            told = []
            async for event in events:
                told.append(event)
                if event["event"] == "relay_opened":
                    assert [call["session_id"] for call in await active(house)] == [session_id]
                    answer(await house.client.post(f"/calls/{session_id}/hangup"))
        await assert_tells_the_whole_call(house, session_id, told)
    assert json.loads(told[-1]["data"])["end_reason"] == "hung_up_by_api"


@pytest.mark.parametrize("read", [1, 4])
async def test_a_stream_goes_on_after_the_last_event_that_arrived(tmp_path: Path, read: int) -> None:
    async with running(tmp_path, speed=50) as house:
        session_id, _ = await house.ring()
        told: list[Event] = []
        while not told or told[-1]["event"] != "end":
            async with following(house.client, session_id, told[-1]["id"] if told else None) as events:
                async for event in events:
                    told.append(event)
                    if len(told) % read == 0 and len(told) <= 20:
                        break
        await assert_tells_the_whole_call(house, session_id, told)
        all_but_three = [event["data"] for event in await followed(house.client, session_id, after=told[2]["id"])]
        header_counts = await followed(house.client, session_id, told[-2]["id"], after=1)
        beyond = await followed(house.client, session_id, str(2**63 - 1))
    assert all_but_three == [event["data"] for event in told[3:]]
    assert header_counts == beyond == told[-1:]


async def test_no_word_of_a_callee_breaks_a_line(tmp_path: Path) -> None:
    greeting = "An AI\u2028here\x85,\nhow\r\nare you? ü🙂"
    async with running(tmp_path) as house:
        session_id, _ = await house.ring(BUSY, greeting=greeting)
        events = await followed(house.client, session_id)
    assert json.loads(events[-1]["data"])["greeting"] == greeting
    assert events[-1]["data"].isascii()


# What is refused.


async def test_an_unknown_call_has_no_stream(tmp_path: Path) -> None:
    async with running(tmp_path) as house:
        problem(await house.client.get("/calls/nobody/events"), 404, "call_not_found")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "", str(2**63)])
async def test_an_id_that_no_event_has_is_refused_with_what_was_expected(tmp_path: Path, last: str) -> None:
    async with running(tmp_path) as house:
        session_id = problem(await initiate(house.client, PREMIUM), 403, "refused_by_policy")["session_id"]
        path = f"/calls/{session_id}/events"
        by_header = problem(await house.client.get(path, headers={"Last-Event-ID": last}), 422, "invalid_request")
        by_query = problem(await house.client.get(path, params={"after": last}), 422, "invalid_request")
    assert [error["field"] for error in by_header["errors"]] == ["last-event-id"]
    assert [error["field"] for error in by_query["errors"]] == ["after"]
    assert "integer" in by_header["detail"] or "than or equal to" in by_header["detail"]


async def test_the_stream_of_a_call_is_for_clients_with_a_key(tmp_path: Path) -> None:
    async with running(tmp_path, api_keys="a-key") as house:
        response = await initiate(house.client, BUSY)
        problem(response, 401, "api_key_required")
        problem(await house.client.get("/calls/nobody/events"), 401, "api_key_required")
        house.client.headers["X-API-Key"] = "a-key"
        session_id, _ = await house.ring(BUSY)
        assert (await followed(house.client, session_id))[-1]["event"] == "end"


# How a stream ends.


async def test_a_call_whose_process_was_killed_has_an_end(tmp_path: Path) -> None:
    async with running(tmp_path) as house, Database.open(f"sqlite:///{tmp_path / 'calls.db'}") as other:
        await other.create(a_call())
        await other.append([OPENED])
        events = await followed(house.client, a_call().session_id)
    assert [event["event"] for event in events] == ["relay_opened", "end"]


async def test_a_call_that_was_lost_has_an_end(tmp_path: Path) -> None:
    async with running(tmp_path) as house, Database.open(f"sqlite:///{tmp_path / 'calls.db'}") as other:
        await other.create(a_call(Status.UNKNOWN, ended_at=None))
        (event,) = await followed(house.client, a_call().session_id)
    assert json.loads(event["data"])["status"] == "unknown"


@pytest.mark.parametrize("late", ["relay_closed", "status", "reason"])
async def test_the_end_comes_when_all_is_written_whatever_comes_last(tmp_path: Path, late: str) -> None:
    early = [entry for entry in (OPENED, CLOSED, COMPLETED) if entry.kind != late]
    rest = [entry for entry in (CLOSED, COMPLETED) if entry.kind == late]
    async with running(tmp_path) as house, Database.open(f"sqlite:///{tmp_path / 'calls.db'}") as other:
        reason = None if late == "reason" else EndReason.SILENCE
        call = await other.create(a_call(ended_at=datetime.now(UTC), end_reason=reason))
        await other.append(early)
        told = []
        async with following(house.client, call.session_id) as events:
            async for event in events:
                told.append(event["event"])
                if event["event"] == early[-1].kind:
                    await other.append(rest)
                    await other.change(call.session_id, lambda call: call.ended_for(EndReason.SILENCE))
    assert told == [*(entry.kind for entry in early + rest), "end"]
    assert json.loads(event["data"])["end_reason"] == "silence"


class Watched:
    """How many streams watch a journal in this process."""

    def __init__(self) -> None:
        self.count = 0
        self.changed = asyncio.Condition()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(WITHIN_S), self.changed:
            await self.changed.wait_for(lambda: self.count == count)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched()
    really = Changes.watching

    async def tell(more: int) -> None:
        async with watched.changed:
            watched.count += more
            watched.changed.notify_all()

    telling: list[asyncio.Task[None]] = []

    @contextmanager
    def watching(changes: Changes, session_id: SessionId) -> Iterator[asyncio.Event]:
        with really(changes, session_id) as event:
            telling.append(asyncio.create_task(tell(+1)))
            try:
                yield event
            finally:
                telling.append(asyncio.create_task(tell(-1)))

    monkeypatch.setattr(Changes, "watching", watching)
    return watched


async def test_a_client_that_leaves_leaves_nothing_behind(tmp_path: Path, watched: Watched) -> None:
    async with running(tmp_path, ring_timeout=600) as house:
        session_id, call = await house.ring(NEVER_ANSWERS)
        await call.until(lambda call: call.status == "ringing" and len(call.webhooks) == 2)
        async with following(house.client, session_id) as first, following(house.client, session_id) as second:
            assert [(await anext(first))["event"], (await anext(second))["event"]] == ["placed", "placed"]
            await watched.until(2)
        await watched.until(0)
        assert [task for task in asyncio.all_tasks() if task.get_name() == "stream-waits" and not task.done()] == []


async def test_a_server_that_stops_ends_its_streams_and_is_not_held_up(tmp_path: Path) -> None:
    network, port = Network(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN, numbers=(OWN_NUMBER,)), free_port()
    async with (
        network.serve() as api_base_url,
        process(environment(tmp_path, api_base_url, port)) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):

        async def is_up() -> bool:
            try:
                return (await client.get("/health")).status_code == 200
            except httpx.TransportError:
                return False

        await until(is_up, bool, within_s=STARTS_WITHIN_S)
        session_id = answer(await initiate(client, NEVER_ANSWERS))["session_id"]
        async with following(client, session_id) as events:
            told = [await anext(events)]
            server.send_signal(signal.SIGTERM)
            told += [event async for event in events]
            _, log = await server.communicate()
    assert server.returncode == 0
    assert "end" not in [event["event"] for event in told], "whoever follows the call asks again elsewhere"
    assert "timeout graceful shutdown exceeded" not in log.decode()
    assert "Traceback" not in log.decode()


# From any process.


async def test_what_another_process_writes_is_told(
    tmp_path: Path, database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_shared = database_url.startswith("postgresql")
    monkeypatch.setattr(api, "LOOK_AGAIN_AFTER_S", FAR_AWAY_S if is_shared else 0.05)
    reads: list[int] = []
    really = Database.journal

    async def counted(database: Database, session_id: SessionId, after: int = 0) -> Sequence[Entry]:
        found = await really(database, session_id, after)
        reads.append(len(found))
        return found

    monkeypatch.setattr(Database, "journal", counted)
    async with running(tmp_path, database_url=database_url) as house:
        call = await database.create(a_call(Status.IN_PROGRESS, created_at=datetime.now(UTC)))
        await database.append([OPENED])
        told = []
        async with following(house.client, call.session_id) as events:
            async for event in events:
                told.append(event["event"])
                if told[-1] == "relay_opened":
                    await database.append([an_entry(Kind.CALLEE_SAID, line=1, text="Hello", lang="en-US")])
                if told[-1] == "callee_said":
                    for _ in range(50):
                        await database.ping()  # time enough for a reader that does not wait
                    await database.change(
                        call.session_id,
                        lambda call: call.follow(Status.COMPLETED, datetime.now(UTC)).ended_for(EndReason.SILENCE),
                    )
                    await database.append([CLOSED, COMPLETED])
    assert told == ["relay_opened", "callee_said", "relay_closed", "status", "end"]
    assert sum(reads) == 4, "each entry is read once"
    assert len(reads) <= 8 or not is_shared, "nothing is read unless something has happened"


@pytest.mark.parametrize(
    ("beat_ago", "end_reason", "connected"),
    [
        (timedelta(0), None, True),
        (timedelta(minutes=1), None, False),
        (timedelta(0), EndReason.SILENCE, False),
    ],
    ids=["living", "dead", "talked-out"],
)
async def test_a_call_that_another_process_carries_is_active_with_its_turns(
    tmp_path: Path,
    database_url: str,
    database: Database,
    beat_ago: timedelta,
    end_reason: EndReason | None,
    connected: bool,
) -> None:
    now = datetime.now(UTC)
    other = ProcessId("other")
    async with running(tmp_path, database_url=database_url) as house:
        await database.beat(other, now - beat_ago)
        await database.create(a_call(Status.IN_PROGRESS, created_at=now, end_reason=end_reason).taken_by(other))
        turn = {"outcome": "finished", "first_text_ms": 1.0, "total_ms": 2.0}
        await database.append([an_entry(Kind.TURN, turn=number, **turn) for number in (1, 2)])
        (call,) = await active(house)
        assert (call["connected"], call["turns"]) == (connected, 2)
        assert (await history(house))["calls"][0].keys() == call.keys() - {"connected", "turns"}
