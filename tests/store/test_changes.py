"""Who hears when a journal grows, and of whom."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import structlog
from sqlalchemy import make_url, text

from outbound import ports
from outbound.calls import Call, Entry, ProcessId, SessionId
from outbound.store import Changes, Database, JournalWriter
from tests.store.factory import a_call, an_entry

_is_a_port: type[ports.Changes] = Changes

on_postgresql = pytest.mark.parametrize("engine_name", ["postgresql"])


@pytest.fixture(params=["asyncpg", "psycopg"])
def shared_url(request: pytest.FixtureRequest, database_url: str) -> str:
    """The address of the database, once for each driver that is installed."""
    pytest.importorskip(request.param)
    url = make_url(database_url).set(drivername=f"postgresql+{request.param}")
    return url.render_as_string(hide_password=False)


@pytest.fixture
async def here(shared_url: str) -> AsyncIterator[Database]:
    """The database of one process."""
    async with Database.open(shared_url, ProcessId("here")) as database:
        yield database


@pytest.fixture
async def there(shared_url: str) -> AsyncIterator[Database]:
    """The same database in another process."""
    async with Database.open(shared_url, ProcessId("there")) as database:
        yield database


@dataclass
class Ear:
    """What a process hears: `event` of the call it watches, `foreign` calls of whatever the others write."""

    event: asyncio.Event
    foreign: asyncio.Queue[SessionId]

    async def woken(self) -> None:
        """Waits for the event."""
        await self.event.wait()
        self.event.clear()


@asynccontextmanager
async def listening(database: Database, call: Call) -> AsyncIterator[Ear]:
    """Watches the call from the process of `database`, and begins when that hears the others."""
    foreign: asyncio.Queue[SessionId] = asyncio.Queue()
    async with asyncio.timeout(30), Changes(database, foreign=foreign.put_nowait) as changes:
        with changes.watching(call.session_id) as event:
            ear = Ear(event, foreign)
            # Whoever watches is woken once the connection is there.
            await ear.woken()
            yield ear


async def break_connections(database: Database) -> int:
    """Ends the connections that listen, as a server does that is restarted. Returns how many."""
    async with database._reading() as connection:
        ended = await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
        )
        return len(ended.all())


async def test_a_watcher_reads_what_its_own_process_writes(database: Database) -> None:
    call = await database.create(a_call())
    seen: list[Entry] = []
    async with (
        asyncio.timeout(30),
        Changes(database) as changes,
        JournalWriter(database.append, grown=changes.grown) as journal,
    ):
        with changes.watching(call.session_id) as event:
            for n in range(3):
                journal.write(an_entry(call, n=n))
                while len(seen) <= n:
                    await event.wait()
                    event.clear()
                    seen += await database.journal(call.session_id, after=seen[-1].seq if seen else 0)
    assert [entry.data["n"] for entry in seen] == [0, 1, 2]


async def test_only_those_who_watch_the_call_are_woken(database_url: str) -> None:
    async with Database.open(database_url) as database:
        changes = Changes(database)
        here, there = SessionId("here"), SessionId("there")
        with changes.watching(here) as one, changes.watching(there) as elsewhere:
            with changes.watching(here) as two:
                changes.grown([here, SessionId("nobody")])
                assert (one.is_set(), two.is_set(), elsewhere.is_set()) == (True, True, False)
                two.clear()
            one.clear()
            changes.grown([here])
            assert (one.is_set(), two.is_set()) == (True, False)


@on_postgresql
async def test_a_process_hears_the_others_and_not_itself(here: Database, there: Database) -> None:
    call = await here.create(a_call())
    async with listening(here, call) as ear:
        # Heard in the order of commits: what this process writes would come first.
        await here.append([an_entry(await here.create(a_call()))])
        await there.append([an_entry(call)])
        await ear.woken()
        assert await ear.foreign.get() == call.session_id
        assert ear.foreign.empty()


@on_postgresql
async def test_each_of_two_processes_hears_the_other(here: Database, there: Database) -> None:
    one, two = await here.create(a_call()), await here.create(a_call())
    async with listening(here, one) as ear_here, listening(there, two) as ear_there:
        await here.append([an_entry(two)])
        await there.append([an_entry(one)])
        await ear_here.woken()
        await ear_there.woken()
        assert await ear_here.foreign.get() == one.session_id
        assert await ear_there.foreign.get() == two.session_id


@on_postgresql
async def test_entries_that_are_refused_are_told_to_nobody(here: Database, there: Database) -> None:
    call, lost = await here.create(a_call()), await here.create(a_call(epoch=1))
    async with listening(here, call) as ear:
        await there.append([an_entry(lost, epoch=0)])
        await there.append([an_entry(lost, epoch=0), an_entry(call)])
        assert await ear.foreign.get() == call.session_id
        assert ear.foreign.empty()


@on_postgresql
async def test_growth_of_any_number_of_calls_is_heard(here: Database, there: Database) -> None:
    calls = [await there.create(a_call(f"{number:043}")) for number in range(400)]
    async with listening(here, calls[0]) as ear:
        await there.append(an_entry(call) for call in calls)
        assert {await ear.foreign.get() for _ in calls} == {call.session_id for call in calls}


@on_postgresql
async def test_a_connection_that_breaks_comes_back_and_wakes_everybody(here: Database, there: Database) -> None:
    call = await here.create(a_call())
    async with listening(here, call) as ear:
        for _ in range(2):
            with structlog.testing.capture_logs() as logs:
                assert await break_connections(there) == 1
                await ear.woken()
            assert {log["event"] for log in logs} == {"journal_changes_not_heard"}
            assert ear.foreign.empty()
            await there.append([an_entry(call)])
            await ear.woken()
            assert await ear.foreign.get() == call.session_id


@on_postgresql
async def test_what_strangers_write_on_the_channel_breaks_nothing(here: Database, there: Database) -> None:
    call = await here.create(a_call())
    async with listening(here, call) as ear:
        async with there._writing() as connection:
            for payload in ("", " ", "words", "é \n"):
                await connection.execute(text("SELECT pg_notify('journal', :payload)"), {"payload": payload})
        await there.append([an_entry(call)])
        await ear.woken()


async def test_leaving_before_anything_was_heard_takes_no_time(database: Database) -> None:
    async with asyncio.timeout(5):
        async with Changes(database):
            pass
        async with Changes(database):
            await asyncio.sleep(0)
