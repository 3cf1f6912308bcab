"""One call, several sockets and a real database: whoever comes at whatever moment, one has the call."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from outbound.calls import Call, CallSid, EndReason, Entry, Kind, ProcessId, SessionId, Status
from outbound.conversation import Limits, OptOut, Piece, Say, Talk
from outbound.ports import Ledger, SocketClosed, StoreUnavailable
from outbound.session import LiveCalls
from outbound.store import Database, JournalWriter
from tests.stories.waiting import until

SESSION = SessionId("the-session")
ME, OTHER = ProcessId("me"), ProcessId("other")
GONE = 1006


class Wire:
    """A socket in the hands of the test."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.closed_with: int | None = None
        self._coming: asyncio.Queue[str | int] = asyncio.Queue()

    async def receive(self) -> str:
        frame = await self._coming.get()
        if isinstance(frame, int):
            raise SocketClosed(frame)
        return frame

    async def send(self, frame: str) -> None:
        self.frames.append(json.loads(frame))

    async def close(self, code: int, reason: str) -> None:
        self.closed_with = code
        self._coming.put_nowait(code)

    def setup(self, session: str = "VX1") -> None:
        self.tell(type="setup", sessionId=session, callSid="CA1")

    def tell(self, **message: Any) -> None:
        self._coming.put_nowait(json.dumps(message))

    def breaks(self, code: int = GONE) -> None:
        self._coming.put_nowait(code)


class Polite:
    """Answers everything in the same way; an opt-out where it is asked for one."""

    def __init__(self) -> None:
        self.asked: list[Talk] = []

    async def reply(self, talk: Talk, ledger: Ledger) -> AsyncGenerator[Piece]:
        self.asked.append(talk)
        if "never" in talk.lines[-1].text:
            yield OptOut()
        if "book" in talk.lines[-1].text:
            async with asyncio.timeout(0.1):
                await ledger.intend("book", {"day": "Monday"})
        yield Say("I see.")

    async def warm_up(self) -> None: ...
    async def aclose(self) -> None: ...


class Shaky(Database):
    """The database, with changes that can fail or take their time."""

    is_away = False
    gate: asyncio.Event | None = None

    async def change(self, session_id: SessionId, step: Callable[[Call], Call]) -> Call:
        if self.is_away:
            raise StoreUnavailable("the database is away")
        gate, self.gate = self.gate, None
        if gate is not None:
            await gate.wait()
        return await super().change(session_id, step)


@dataclass
class House:
    """What carries the calls of one process."""

    store: Shaky
    journal: JournalWriter
    live: LiveCalls
    agent: Polite
    wires: list[Wire] = field(default_factory=list)
    talks: list[asyncio.Task[None]] = field(default_factory=list)

    async def opens(self) -> Wire:
        """A socket opens and takes the call."""
        call = await self.live.take(SESSION)
        assert call is not None
        wire = Wire()
        self.wires.append(wire)
        self.talks.append(asyncio.create_task(self.live.carry(call, wire)))
        return wire

    async def introduced(self, session: str = "VX1") -> Wire:
        """As `opens`, with its setup written down."""
        wire = await self.opens()
        wire.setup(session)
        await self.noted(lambda entries: any(e.data.get("relay_session_id") == session for e in entries))
        return wire

    async def noted(self, fits: Callable[[list[Entry]], bool]) -> list[Entry]:
        async def look() -> list[Entry]:
            return list(await self.store.journal(SESSION))

        return await until(look, fits)

    async def is_being_written(self) -> bool:
        """Whether a change has come to the gate and waits there."""
        return self.store.gate is None

    async def kinds(self) -> list[Kind]:
        return [entry.kind for entry in await self.store.journal(SESSION)]

    async def all_talks(self) -> None:
        await asyncio.gather(*self.talks)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with furnished(tmp_path) as house:
        yield house


@asynccontextmanager
async def furnished(tmp_path: Path) -> AsyncIterator[House]:
    agent = Polite()
    async with Shaky.open(f"sqlite:///{tmp_path / 'calls.db'}", process=ME) as store:
        live: LiveCalls
        async with JournalWriter(
            store.append, superseded=lambda session_id, epoch: live.superseded(session_id, epoch)
        ) as journal:
            live = LiveCalls(
                process=ME,
                agent=agent,
                store=store,
                journal=journal,
                limits=Limits(),
                language="en-US",
                frames_per_second=100,
                clock=now,
            )
            await store.create(
                Call(
                    session_id=SESSION,
                    phone_number="+15005550006",
                    created_at=now(),
                    greeting="",
                    max_duration_s=600,
                    call_sid=CallSid("CA1"),
                    status=Status.IN_PROGRESS,
                    answered_at=now(),
                )
            )
            checking = asyncio.create_task(live.keep_checking())
            house = House(store, journal, live, agent)
            yield house
            assert not checking.done(), "nobody tells the sockets of this process any more that they are superseded"
            checking.cancel()
            # The store stays open until every talk has been written down.
            house.store.is_away, house.store.gate = False, None
            for wire in house.wires:
                wire.breaks()
            await within(house.all_talks())


def now() -> datetime:
    return datetime.now(UTC)


async def within[T](work: Awaitable[T], seconds: float = 5.0) -> T:
    """What it returns; fails where it waits for ever."""
    async with asyncio.timeout(seconds):
        return await work


async def test_a_call_whose_end_could_not_be_written_down_can_still_be_taken_up(house: House) -> None:
    wire = await house.introduced()
    house.store.is_away = True
    wire.breaks()
    await within(house.all_talks())
    await within(house.live.all_over())

    house.store.is_away = False
    assert await within(house.opens())


async def test_a_socket_that_opens_while_the_older_one_is_being_written_down_gets_the_call(house: House) -> None:
    wire = await house.introduced()
    gate = house.store.gate = asyncio.Event()
    wire.breaks()
    await until(house.is_being_written, bool)
    taking = asyncio.create_task(house.opens())
    gate.set()
    assert await within(taking)


async def test_another_process_that_takes_a_call_while_its_end_is_written_down_hurts_nobody(house: House) -> None:
    wire = await house.introduced()
    gate = house.store.gate = asyncio.Event()
    wire.breaks()
    await until(house.is_being_written, bool)
    await house.store.change(SESSION, lambda call: call.taken_by(OTHER))
    house.live.written_elsewhere(SESSION)
    gate.set()
    await within(house.all_talks())
    assert (await house.store.get(SESSION)).end_reason is None


async def test_of_two_sockets_that_open_at_once_one_carries_the_call_and_writes(house: House) -> None:
    first, second = await asyncio.gather(house.opens(), house.opens())
    first.setup("VX1")
    second.setup("VX2")
    await house.noted(lambda entries: any(entry.kind is Kind.RELAY_OPENED for entry in entries))
    await until(lambda: _value(sum(talk.done() for talk in house.talks)), lambda done: done == 1)

    (live,) = house.live.by_session.values()
    assert live.call.epoch == (await house.store.get(SESSION)).epoch == 2
    carried = second if first.closed_with is not None else first
    carried.tell(type="prompt", voicePrompt="Hello?", lang="en-US", last=True)
    await house.noted(lambda entries: any(entry.kind is Kind.CALLEE_SAID for entry in entries))


async def test_a_call_that_another_process_has_taken_is_let_go_and_nothing_more_is_written_of_it(house: House) -> None:
    wire = await house.introduced()
    await house.store.change(SESSION, lambda call: call.taken_by(OTHER))
    before = await house.kinds()
    house.live.written_elsewhere(SESSION)
    await within(house.all_talks())
    assert wire.closed_with == 1000
    await house.journal.flush()
    assert await house.kinds() == before


async def test_a_process_that_was_not_told_learns_from_what_the_store_refuses(house: House) -> None:
    wire = await house.introduced()
    await house.store.change(SESSION, lambda call: call.taken_by(OTHER))
    wire.tell(type="prompt", voicePrompt="Hello?", lang="en-US", last=True)
    await within(house.all_talks())
    assert wire.closed_with == 1000
    assert Kind.CALLEE_SAID not in await house.kinds()


async def test_an_opt_out_is_not_lost_with_the_socket_that_took_it(house: House) -> None:
    wire = await house.introduced()
    house.store.is_away = True
    wire.tell(type="prompt", voicePrompt="never call me again", lang="en-US", last=True)
    await house.noted(lambda entries: any(entry.kind is Kind.OPTED_OUT for entry in entries))
    house.store.is_away = False
    assert not (await house.store.get(SESSION)).opted_out

    newer = await within(house.introduced("VX2"))
    newer.breaks(1000)
    await within(house.all_talks())
    assert (await house.store.get(SESSION)).opted_out


async def test_a_tool_that_could_not_be_written_down_is_not_in_doubt(house: House) -> None:
    """It never ran."""
    wire = await house.introduced()
    written, append = asyncio.Event(), house.journal._append

    async def slow(entries: Any) -> Any:
        await written.wait()
        return await append(entries)

    house.journal._append = slow
    wire.tell(type="prompt", voicePrompt="book it", lang="en-US", last=True)
    await until(lambda: _value(any(frame["type"] == "text" for frame in wire.frames)), bool)
    written.set()
    wire.tell(type="prompt", voicePrompt="try again", lang="en-US", last=True)
    await until(lambda: _value(len(house.agent.asked)), lambda asked: asked == 2)
    assert house.agent.asked[1].doubtful == ()


async def test_a_socket_that_opens_while_the_process_lets_go_is_let_go_as_well(house: House) -> None:
    await within(house.live.release(to_successor=True))
    wire = await house.opens()
    await within(house.all_talks())
    assert wire.closed_with == 1012
    assert (await house.store.get(SESSION)).end_reason is None


async def test_a_process_that_leaves_is_not_counted_on(house: House) -> None:
    beating = asyncio.create_task(house.live.keep_beating())

    async def living() -> frozenset[ProcessId]:
        return await house.store.living(datetime(2020, 1, 1, tzinfo=UTC))

    await until(living, lambda known: ME in known)
    await house.live.leave()
    await within(beating)
    assert await living() == frozenset()


async def test_a_call_ends_for_the_reason_of_its_last_socket(house: House) -> None:
    older = await house.introduced()
    older.breaks()
    newer = await within(house.introduced("VX2"))
    newer.breaks(1000)
    await within(house.all_talks())
    assert (await house.store.get(SESSION)).end_reason is EndReason.CALLEE_HUNG_UP


async def _value[T](value: T) -> T:
    return value
