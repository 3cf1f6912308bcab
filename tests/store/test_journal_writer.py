"""The journal off the path of speech."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

import pytest
import structlog

from outbound.calls import Entry, Kind, SessionId
from outbound.ports import Journal, NotStorable, StoreUnavailable
from outbound.store import Database, JournalWriter
from tests.store.factory import a_call, an_entry

_is_a_journal: type[Journal] = JournalWriter

CALL = a_call("here")


class Book:
    """A store of journal entries that can be shut: it then refuses as a database does that is away."""

    def __init__(self) -> None:
        self.batches: list[list[Entry]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.refused = asyncio.Event()

    @property
    def entries(self) -> list[Entry]:
        return [entry for batch in self.batches for entry in batch]

    async def append(self, entries: Sequence[Entry]) -> Mapping[SessionId, int]:
        if not self.open.is_set():
            self.refused.set()
            raise StoreUnavailable("the database is away")
        if any(entry.data.get("poison") for entry in entries):
            raise NotStorable("poison")
        self.batches.append(list(entries))
        return {}

    def shut(self) -> None:
        self.open.clear()


class SlowBook(Book):
    """A store that answers only when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()

    async def append(self, entries: Sequence[Entry]) -> Mapping[SessionId, int]:
        self.asked.set()
        await self.answer.wait()
        return await super().append(entries)


def numbered(count: int, kind: Kind = Kind.CALLEE_SAID) -> list[Entry]:
    return [an_entry(CALL, kind, n=n) for n in range(count)]


async def test_entries_are_written_in_order(database: Database) -> None:
    call = await database.create(a_call())
    async with JournalWriter(database.append) as journal:
        for n in range(1200):
            journal.write(an_entry(call, n=n))
            if n % 100 == 0:
                await asyncio.sleep(0)
    assert [entry.data["n"] for entry in await database.journal(call.session_id)] == list(range(1200))


async def test_what_was_written_before_a_flush_is_there_after_it(database: Database) -> None:
    call = await database.create(a_call())
    async with JournalWriter(database.append) as journal:
        for n in range(3):
            journal.write(an_entry(call, n=n))
            await journal.flush()
            assert len(await database.journal(call.session_id)) == n + 1
        assert journal.pending == 0


async def test_entries_are_written_without_a_flush() -> None:
    book = SlowBook()
    book.answer.set()
    async with asyncio.timeout(5), JournalWriter(book.append) as journal:
        journal.write(an_entry(CALL))
        await book.asked.wait()


async def test_entries_of_one_moment_are_one_batch() -> None:
    book = Book()
    async with JournalWriter(book.append) as journal:
        for entry in numbered(1100):
            journal.write(entry)
        await journal.flush()
    assert [len(batch) for batch in book.batches] == [500, 500, 100]
    assert book.entries == numbered(1100)


async def test_a_flush_does_not_wait_for_what_comes_later() -> None:
    book = SlowBook()
    async with JournalWriter(book.append) as journal:
        journal.write(an_entry(CALL, n=1))
        flush = asyncio.create_task(journal.flush())
        await book.asked.wait()
        journal.write(an_entry(CALL, n=2))
        assert not flush.done()
        book.answer.set()
        await flush
        assert [entry.data["n"] for entry in book.entries] == [1]


async def test_flushing_and_leaving_with_nothing_to_write_take_no_time() -> None:
    async with asyncio.timeout(1), JournalWriter(Book().append) as journal:
        await journal.flush()


async def test_leaving_in_the_middle_of_a_flush_takes_no_time() -> None:
    book = SlowBook()
    async with asyncio.timeout(1), JournalWriter(book.append) as journal:
        journal.write(an_entry(CALL))
        flush = asyncio.create_task(journal.flush())
        await book.asked.wait()
        asyncio.get_running_loop().call_soon(book.answer.set)
    await flush


async def test_a_flush_given_up_disturbs_nobody() -> None:
    book = SlowBook()
    async with JournalWriter(book.append) as journal:
        journal.write(an_entry(CALL))
        given_up, kept = asyncio.create_task(journal.flush()), asyncio.create_task(journal.flush())
        await book.asked.wait()
        given_up.cancel()
        book.answer.set()
        await kept
    assert given_up.cancelled()
    assert len(book.entries) == 1


async def test_a_database_that_was_away_gets_everything_in_order() -> None:
    book = Book()
    book.shut()
    async with JournalWriter(book.append) as journal:
        for entry in numbered(3):
            journal.write(entry)
        with structlog.testing.capture_logs() as logs:
            await book.refused.wait()
            journal.write(an_entry(CALL, n=3))
            book.open.set()
            await journal.flush()
    assert book.entries == numbered(4)
    assert {(log["event"], log["reason"]) for log in logs} == {("journal_not_written", "the database is away")}


async def test_an_append_that_breaks_is_tried_again_and_its_words_are_not_logged() -> None:
    book = Book()
    broken = [KeyError("my pin is 1234")]

    async def append(entries: Sequence[Entry]) -> Mapping[SessionId, int]:
        if broken:
            raise broken.pop()
        return await book.append(entries)

    with structlog.testing.capture_logs() as logs:
        async with JournalWriter(append) as journal:
            journal.write(an_entry(CALL))
    assert len(book.entries) == 1
    assert [log["reason"] for log in logs] == ["KeyError"]


async def test_an_entry_that_can_never_be_written_does_not_hold_up_the_others(database: Database) -> None:
    call = await database.create(a_call())
    with structlog.testing.capture_logs() as logs:
        async with JournalWriter(database.append) as journal:
            journal.write(an_entry(call, n=1))
            journal.write(an_entry(a_call("nobody"), n=2))
            journal.write(an_entry(call, n=3, x=float("nan")))
            journal.write(an_entry(call, n=4))
            await journal.flush()
    assert [entry.data["n"] for entry in await database.journal(call.session_id)] == [1, 4]
    assert [(log["event"], log["session_id"], log["reason"]) for log in logs] == [
        ("journal_entry_refused", "nobody", "CallNotFound"),
        ("journal_entry_refused", call.session_id, "NotStorable"),
    ]


async def test_before_a_flush_returns_it_is_told_who_was_superseded(database: Database) -> None:
    lost = await database.create(a_call(epoch=2))
    held = await database.create(a_call(epoch=2))
    superseded: list[tuple[SessionId, int]] = []
    async with JournalWriter(database.append, superseded=lambda *told: superseded.append(told)) as journal:
        journal.write(an_entry(lost, n=1, epoch=1))
        journal.write(an_entry(held, n=2, epoch=2))
        journal.write(an_entry(a_call("nobody")))
        await journal.flush()
        assert superseded == [(lost.session_id, 2)]
    assert await database.journal(lost.session_id) == []
    assert [entry.data["n"] for entry in await database.journal(held.session_id)] == [2]


async def test_after_each_commit_it_is_told_whose_journals_grew() -> None:
    book = Book()
    told: list[tuple[set[SessionId], int]] = []

    def grown(session_ids: Collection[SessionId]) -> None:
        told.append((set(session_ids), len(book.entries)))

    async with JournalWriter(book.append, grown=grown) as journal:
        for call in (CALL, CALL, a_call("there")):
            journal.write(an_entry(call))
        await journal.flush()
        journal.write(an_entry(CALL))
        await journal.flush()
    assert told == [({"here", "there"}, 3), ({"here"}, 4)]


async def test_whoever_breaks_when_told_does_not_hold_up_the_journal() -> None:
    book = Book()

    def broken(_: object) -> None:
        raise KeyError("my pin is 1234")

    with structlog.testing.capture_logs() as logs:
        async with JournalWriter(book.append, grown=broken) as journal:
            for entry in numbered(2):
                journal.write(entry)
                await journal.flush()
    assert book.entries == numbered(2)
    assert [(log["event"], log["reason"]) for log in logs] == [("journal_growth_not_told", "KeyError")] * 2


async def test_beyond_its_room_it_keeps_what_was_said_and_drops_what_is_said_again() -> None:
    book = Book()
    book.shut()
    with structlog.testing.capture_logs() as logs:
        async with JournalWriter(book.append, room=4) as journal:
            for _ in range(6):
                journal.write(an_entry(CALL, Kind.CALLEE_PARTIAL))
            assert (journal.pending, journal.dropped) == (4, 2)
            for entry in numbered(4):
                journal.write(entry)
            assert (journal.pending, journal.dropped) == (8, 2)
            journal.write(an_entry(CALL, Kind.AGENT_SAID))
            assert (journal.pending, journal.dropped) == (8, 3)
            book.open.set()
    assert [entry.kind for entry in book.entries] == [Kind.CALLEE_PARTIAL] * 4 + [Kind.CALLEE_SAID] * 4
    assert [(log["event"], log["dropped"]) for log in logs] == [
        ("journal_drops_what_is_said_again", 1),
        ("journal_drops_what_is_said_again", 2),
        ("journal_entry_lost", 3),
    ]


async def test_leaving_writes_what_is_left_though_it_is_cancelled() -> None:
    book = SlowBook()
    leaving = asyncio.Event()

    async def work() -> None:
        async with JournalWriter(book.append) as journal:
            for entry in numbered(700):
                journal.write(entry)
            leaving.set()

    task = asyncio.create_task(work())
    await leaving.wait()
    await book.asked.wait()
    task.cancel()
    book.answer.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert book.entries == numbered(700)


async def test_leaving_while_the_database_is_away_ends_and_says_what_is_lost() -> None:
    book = Book()
    book.shut()
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(5), JournalWriter(book.append, close_within=timedelta(seconds=0.02)) as journal:
            journal.write(an_entry(CALL))
            flush = asyncio.create_task(journal.flush())
            await book.refused.wait()
    assert (logs[-1]["event"], logs[-1]["pending"]) == ("journal_closed_with_entries_unwritten", 1)
    with pytest.raises(StoreUnavailable, match="closed"):
        await flush
    with pytest.raises(StoreUnavailable, match="closed"):
        await journal.flush()


async def test_closing_while_entries_are_being_written_loses_none(database_url: str) -> None:
    call = a_call()
    async with Database.open(database_url) as database, JournalWriter(database.append) as journal:
        await database.create(call)
        for n in range(1000):
            journal.write(an_entry(call, n=n))
        await asyncio.sleep(0)
    async with Database.open(database_url) as database:
        assert [entry.data["n"] for entry in await database.journal(call.session_id)] == list(range(1000))


async def test_a_journal_that_is_not_open_takes_nothing() -> None:
    journal = JournalWriter(Book().append)
    with pytest.raises(RuntimeError, match="not open"):
        journal.write(an_entry(CALL))
    async with journal:
        pass
    with pytest.raises(RuntimeError, match="not open"):
        journal.write(an_entry(CALL))
