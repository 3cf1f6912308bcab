"""The contract of the store, on both engines."""

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from outbound.calls import ACTIVE, Call, CallSid, EndReason, Entry, Failure, Kind, ProcessId, SessionId, Status
from outbound.ports import CallNotFound, NotStorable, Store
from outbound.store import Database
from outbound.store.database import _turns_of, dump_cursor, parse_cursor
from tests.store.factory import NOON, a_call, an_entry

_is_a_store: type[Store] = Database


def counted(call: Call) -> Call:
    """The step of many writers: one more in the metadata."""
    count = call.metadata.get("count", 0)
    assert isinstance(count, int)
    return dataclasses.replace(call, metadata={"count": count + 1})


async def test_a_call_comes_back_as_it_was_written(database: Database) -> None:
    call = a_call(
        phone_number="+81312345678",
        greeting="こんにちは 👋 — “AI”",
        variables={"name": "Łukasz", "empty": ""},
        metadata={"z": 1, "a": [None, True, 2.5, {"deep": "ñ"}], "nul": "\x00", "half": "\ud83d"},
        idempotency_key="key",
        request_digest="digest",
        status=Status.FAILED,
        call_sid=CallSid("CA1"),
        answered_at=NOON + timedelta(microseconds=1),
        ended_at=NOON + timedelta(seconds=3),
        duration_s=0,
        answered_by="machine_start",
        end_reason=EndReason.MACHINE_ANSWERED,
        opted_out=True,
        failure=Failure("not_your_number", "the number is not yours", 21212),
        owner=ProcessId("process"),
        epoch=3,
    )
    unchanged = {field.name for field in dataclasses.fields(Call) if getattr(call, field.name) == field.default}
    assert not unchanged, "the test gives every field a value of its own"

    await database.create(call)
    found = await database.get(call.session_id)

    assert found == call
    assert list(found.metadata) == list(call.metadata)
    assert found.created_at.tzinfo is UTC
    assert type(found.status) is Status


async def test_a_call_with_nothing_optional_comes_back_as_it_was_written(database: Database) -> None:
    call = a_call()
    await database.create(call)
    assert await database.get(call.session_id) == call


async def test_times_come_back_in_utc_whatever_zone_they_were_written_in(database: Database) -> None:
    tokyo = datetime(2026, 1, 1, 8, 30, tzinfo=timezone(timedelta(hours=9)))
    call = dataclasses.replace(a_call(), created_at=tokyo)
    await database.create(call)
    assert (await database.get(call.session_id)).created_at.isoformat() == "2025-12-31T23:30:00+00:00"


@pytest.mark.parametrize(
    "fields",
    [
        {"greeting": "a\x00b"},
        {"phone_number": "\ud83d"},
        {"answered_at": datetime(2026, 1, 1)},
        {"metadata": {"x": float("nan")}},
    ],
    ids=["nul", "half a surrogate pair", "naive time", "nan"],
)
async def test_what_only_one_engine_could_hold_is_refused_by_both(database: Database, fields: dict[str, Any]) -> None:
    call = a_call(**fields)
    with pytest.raises(NotStorable):
        await database.create(call)
    with pytest.raises(CallNotFound):
        await database.get(call.session_id)


@pytest.mark.parametrize("session_id", ["nobody", "", "\x00", "\ud83d"])
async def test_an_unknown_id_is_not_found(database: Database, session_id: str) -> None:
    with pytest.raises(CallNotFound):
        await database.get(SessionId(session_id))
    with pytest.raises(CallNotFound):
        await database.change(SessionId(session_id), lambda call: call)
    assert await database.journal(SessionId(session_id)) == []


async def test_a_taken_idempotency_key_gives_the_first_call_as_it_stands(database: Database) -> None:
    first = await database.create(a_call(idempotency_key="key"))
    moved = await database.change(first.session_id, lambda call: call.follow(Status.RINGING, NOON))

    second = a_call(idempotency_key="key", phone_number="+12025550199")

    assert await database.create(second) == moved
    with pytest.raises(CallNotFound):
        await database.get(second.session_id)


async def test_two_creates_at_once_with_one_key_write_one_call(database: Database) -> None:
    given = await asyncio.gather(*(database.create(a_call(idempotency_key="key")) for _ in range(20)))
    assert len({call.session_id for call in given}) == 1
    assert [call.session_id for call in (await database.page(status=None, limit=100, cursor=None)).calls] == [
        given[0].session_id
    ]


async def test_calls_without_a_key_are_all_written(database: Database) -> None:
    await asyncio.gather(*(database.create(a_call()) for _ in range(20)))
    assert len((await database.page(status=None, limit=100, cursor=None)).calls) == 20


async def test_no_change_is_lost_among_many_at_once(database: Database) -> None:
    call = await database.create(a_call())
    given = await asyncio.gather(*(database.change(call.session_id, counted) for _ in range(50)))
    assert sorted(changed.metadata["count"] for changed in given) == list(range(1, 51))  # type: ignore[type-var] # Json
    assert (await database.get(call.session_id)).metadata == {"count": 50}


async def test_writers_of_a_process_have_their_turn_in_order_on_sqlite(tmp_path: Path) -> None:
    async with Database.open(f"sqlite:///{tmp_path / 'calls.db'}") as database:
        call = await database.create(a_call())
        given = await asyncio.gather(*(database.change(call.session_id, counted) for _ in range(20)))
    assert [changed.metadata["count"] for changed in given] == list(range(1, 21))


async def test_a_step_that_raises_changes_nothing(database: Database) -> None:
    call = await database.create(a_call())

    def broken(call: Call) -> Call:
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        await database.change(call.session_id, broken)
    assert await database.get(call.session_id) == call
    assert (await database.change(call.session_id, counted)).metadata == {"count": 1}


async def test_a_step_cannot_change_the_id(database: Database) -> None:
    call = await database.create(a_call())
    with pytest.raises(ValueError, match="session id"):
        await database.change(call.session_id, lambda call: dataclasses.replace(call, session_id=SessionId("other")))


async def test_cancelled_changes_leave_the_store_working(database: Database) -> None:
    call = await database.create(a_call())

    async def cancelled_after(turns: int) -> bool:
        task = asyncio.create_task(database.change(call.session_id, counted))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        return isinstance((await asyncio.gather(task, return_exceptions=True))[0], Call)

    survived = 0
    for turns in range(60):
        survived += await cancelled_after(turns)
    async with asyncio.timeout(10):
        last = await database.change(call.session_id, counted)
    count = last.metadata["count"]
    assert isinstance(count, int)
    # A change that was cancelled while it committed may stand.
    assert survived + 1 <= count <= 61


async def test_pages_show_every_call_once_newest_first(database: Database) -> None:
    # Several share a time: there the id decides.
    calls = [a_call(f"id-{number:02}", minute=number // 4) for number in range(13)]
    for call in reversed(calls):
        await database.create(call)

    seen: list[Call] = []
    cursor: str | None = None
    sizes = []
    while True:
        page = await database.page(status=None, limit=5, cursor=cursor)
        seen += page.calls
        sizes.append(len(page.calls))
        cursor = page.next_cursor
        if cursor is None:
            break

    assert seen == calls[::-1]
    assert sizes == [5, 5, 3]


async def test_a_page_that_holds_the_rest_exactly_is_the_last(database: Database) -> None:
    for minute in range(3):
        await database.create(a_call(minute=minute))
    assert (await database.page(status=None, limit=3, cursor=None)).next_cursor is None


async def test_a_page_of_one_status_has_no_other(database: Database) -> None:
    for minute, status in enumerate([Status.BUSY, Status.QUEUED, Status.BUSY, Status.BUSY]):
        await database.create(a_call(str(minute), minute=minute, status=status))
    first = await database.page(status=Status.BUSY, limit=2, cursor=None)
    rest = await database.page(status=Status.BUSY, limit=2, cursor=first.next_cursor)
    assert [call.session_id for call in [*first.calls, *rest.calls]] == ["3", "2", "0"]


async def test_calls_that_come_while_somebody_pages_do_not_shift_the_pages(database: Database) -> None:
    for minute in range(4):
        await database.create(a_call(str(minute), minute=minute))
    first = await database.page(status=None, limit=2, cursor=None)
    await database.create(a_call("new", minute=9))
    rest = await database.page(status=None, limit=2, cursor=first.next_cursor)
    assert [call.session_id for call in rest.calls] == ["1", "0"]


@pytest.mark.parametrize("cursor", ["", "x", "====", "é", "MjAyNi0wMy0wMQ", "AAAA", dump_cursor(a_call("a")) + "A"])
async def test_a_cursor_no_page_gave_is_refused(database: Database, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        await database.page(status=None, limit=1, cursor=cursor)


async def test_a_page_of_nothing_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="limit"):
        await database.page(status=None, limit=0, cursor=None)


@given(
    at=st.datetimes(timezones=st.just(UTC)), session_id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
)
def test_a_cursor_leads_back_to_its_call(at: datetime, session_id: str) -> None:
    cursor = dump_cursor(dataclasses.replace(a_call(session_id), created_at=at))
    assert parse_cursor(cursor) == (at, session_id)
    assert cursor.isascii()
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(st.text())
def test_any_text_is_a_cursor_or_a_value_error(cursor: str) -> None:
    try:
        created_at, session_id = parse_cursor(cursor)
    except ValueError:
        return
    assert dump_cursor(dataclasses.replace(a_call(session_id), created_at=created_at)) == cursor


async def test_active_calls_are_those_going_on_newest_first(database: Database) -> None:
    for minute, status in enumerate(Status):
        await database.create(a_call(status=status, minute=minute))
    active = await database.active()
    assert {call.status for call in active} == ACTIVE
    assert list(active) == sorted(active, key=lambda call: call.created_at, reverse=True)


async def test_a_call_is_found_by_the_id_of_the_carrier_once_it_has_it(database: Database) -> None:
    call = await database.create(a_call())
    assert await database.by_call_sid(CallSid("CA1")) is None
    identified = await database.change(call.session_id, lambda call: call.identified(CallSid("CA1")))
    assert await database.by_call_sid(CallSid("CA1")) == identified
    assert await database.by_call_sid(CallSid("CA2")) is None
    assert await database.by_call_sid(CallSid("CA\x00")) is None


async def test_of_several_calls_with_one_id_of_the_carrier_the_newest_is_found(database: Database) -> None:
    for minute in (0, 2, 1):
        await database.create(a_call(str(minute), minute=minute, call_sid=CallSid("CA1")))
    found = await database.by_call_sid(CallSid("CA1"))
    assert found is not None
    assert found.session_id == "2"


async def test_of_two_that_take_a_call_at_once_one_comes_after_the_other(database_url: str) -> None:
    async def take(database: Database, call: Call) -> Call:
        return await database.change(call.session_id, lambda call: call.taken_by(database.process))

    async with Database.open(database_url) as here, Database.open(database_url) as there:
        for _ in range(10):
            call = await here.create(a_call())
            first, last = sorted(
                await asyncio.gather(take(here, call), take(there, call)), key=lambda taken: taken.epoch
            )
            assert (first.epoch, last.epoch) == (1, 2)
            assert {first.owner, last.owner} == {here.process, there.process}
            assert await there.get(call.session_id) == last


async def test_a_process_lives_as_long_as_it_beats(database: Database) -> None:
    here, there = ProcessId("here"), ProcessId("there")
    await database.beat(here, NOON)
    await database.beat(there, NOON)
    await database.beat(here, NOON + timedelta(seconds=2))
    assert await database.living(NOON) == {here, there}
    assert await database.living(NOON + timedelta(seconds=2)) == {here}
    assert await database.living(NOON + timedelta(seconds=3)) == frozenset()


async def test_a_process_that_retires_lives_no_more(database: Database) -> None:
    for process in ("here", "there"):
        await database.beat(ProcessId(process), NOON)
    await database.retire(ProcessId("here"))
    await database.retire(ProcessId("nobody"))
    assert await database.living(NOON) == {"there"}


async def test_replies_are_counted_for_each_call_by_itself(database: Database) -> None:
    one, two, none, other = [await database.create(a_call()) for _ in range(4)]
    kinds = (Kind.CALLEE_SAID, Kind.TURN, Kind.AGENT_SAID)
    await database.append(an_entry(call, kind) for call in (one, two, two, other) for kind in kinds)
    await database.append([an_entry(none)])
    asked = [call.session_id for call in (one, two, none)]
    assert await database.turns(asked) == {one.session_id: 1, two.session_id: 2}


async def test_counting_no_replies_asks_no_database(tmp_path: Path) -> None:
    async with Database.open(f"sqlite:///{tmp_path / 'calls.db'}") as database, database._reading() as connection:
        await connection.execute(text("ALTER TABLE journal RENAME TO away"))
        assert await database.turns([]) == {}


async def test_replies_are_counted_without_reading_the_rest_of_the_journal(database: Database) -> None:
    is_sqlite = database.url.get_backend_name() == "sqlite"
    async with database._reading() as connection:
        query = _turns_of([SessionId("a"), SessionId("b")]).compile(
            dialect=connection.dialect, compile_kwargs={"literal_binds": True}
        )
        if not is_sqlite:
            # A journal of no entries is read faster as it lies.
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
        explained = await connection.execute(text(f"EXPLAIN {'QUERY PLAN' if is_sqlite else ''} {query}"))
        plan = str(explained.all())
    assert "ix_journal_turns" in plan
    assert "ix_journal_session_id_seq" not in plan


async def test_the_journal_is_read_in_the_order_it_was_written(database: Database) -> None:
    call = await database.create(a_call())
    other = await database.create(a_call())
    for batch in range(3):
        await database.append(an_entry(owner, n=batch * 700 + n) for n in range(700) for owner in (call, other))
    entries = await database.journal(call.session_id)
    assert [entry.data["n"] for entry in entries] == list(range(2100))
    assert [entry.seq for entry in entries] == sorted({entry.seq for entry in entries})
    assert {entry.session_id for entry in entries} == {call.session_id}


async def test_an_entry_comes_back_as_it_was_written(database: Database) -> None:
    call = await database.create(a_call())
    written = an_entry(call, Kind.AGENT_SAID, text="Grüße \ud83d \x00 👋", interrupted=False, parts=[1, None])
    await database.append([written])
    (found,) = await database.journal(call.session_id)
    assert dataclasses.replace(found, seq=0) == written
    assert found.at.tzinfo is UTC
    assert type(found.kind) is Kind


async def test_the_journal_can_be_read_from_a_place_on(database: Database) -> None:
    call = await database.create(a_call())
    await database.append(an_entry(call, n=n) for n in range(5))
    entries = await database.journal(call.session_id)
    assert await database.journal(call.session_id, after=entries[2].seq) == entries[3:]
    assert await database.journal(call.session_id, after=entries[-1].seq) == []


async def test_a_reader_that_follows_the_journal_misses_nothing(database: Database) -> None:
    call = await database.create(a_call())

    async def write(batches: int, size: int) -> None:
        for _ in range(batches):
            await database.append([an_entry(call)] * size)

    async def follow(seen: list[int]) -> None:
        seen += [entry.seq for entry in await database.journal(call.session_id, after=seen[-1] if seen else 0)]

    seen: list[int] = []
    async with asyncio.timeout(30):
        # Small batches begin and commit while a large one is under way.
        writers = [asyncio.create_task(write(4, 1000)), *(asyncio.create_task(write(20, 1)) for _ in range(4))]
        while not all(writer.done() for writer in writers):
            await follow(seen)
        await asyncio.gather(*writers)
        await follow(seen)
    assert len(seen) == 4 * 1000 + 4 * 20
    assert seen == sorted(set(seen))


async def test_entries_of_many_calls_can_be_appended_at_once_in_any_order(database: Database) -> None:
    calls = [await database.create(a_call()) for _ in range(6)]
    async with asyncio.timeout(30):
        await asyncio.gather(
            *(database.append(an_entry(call) for call in calls[turn:] + calls[:turn]) for turn in range(6)),
            *(database.change(call.session_id, counted) for call in calls),
        )
    assert [len(await database.journal(call.session_id)) for call in calls] == [6] * 6


async def test_what_an_older_socket_says_is_left_out_and_its_call_returned(database: Database) -> None:
    lost, held = await database.create(a_call()), await database.create(a_call())
    here, there = ProcessId("here"), ProcessId("there")
    await database.change(lost.session_id, lambda call: call.taken_by(here).taken_by(there))
    await database.change(held.session_id, lambda call: call.taken_by(here))

    refused = await database.append(
        [
            an_entry(lost, n=1),
            an_entry(lost, n=2, epoch=1),
            an_entry(held, n=3, epoch=1),
            an_entry(lost, n=4, epoch=2),
            an_entry(lost, n=5, epoch=0),
            an_entry(held, n=6),
            an_entry(lost, n=7),
        ]
    )

    assert refused == {lost.session_id: 2}
    assert [entry.data["n"] for entry in await database.journal(lost.session_id)] == [1, 4, 7]
    assert [entry.data["n"] for entry in await database.journal(held.session_id)] == [3, 6]


async def test_a_batch_of_nothing_but_an_older_socket_writes_nothing(database: Database) -> None:
    call = await database.create(a_call(epoch=2))
    assert await database.append([an_entry(call, epoch=1)] * 2) == {call.session_id: 2}
    assert await database.journal(call.session_id) == []


async def test_once_a_call_is_taken_its_older_socket_adds_nothing(database_url: str) -> None:
    async def write_until_refused(database: Database, call: Call, wrote: asyncio.Event) -> None:
        while not await database.append([an_entry(call, epoch=1)]):
            wrote.set()

    async with Database.open(database_url) as here, Database.open(database_url) as there, asyncio.timeout(30):
        call = await here.create(a_call(epoch=1))
        wrote = asyncio.Event()
        writers = [asyncio.create_task(write_until_refused(here, call, wrote)) for _ in range(4)]
        await wrote.wait()
        await there.change(call.session_id, lambda call: call.taken_by(there.process))
        read: list[Entry] = list(await there.journal(call.session_id))
        await asyncio.gather(*writers)
        assert await there.journal(call.session_id) == read


async def test_appending_nothing_is_no_work(database: Database) -> None:
    await database.append([])


async def test_a_batch_is_written_whole_or_not_at_all(database: Database) -> None:
    call = await database.create(a_call())
    with pytest.raises(CallNotFound):
        await database.append([an_entry(call), an_entry(a_call("nobody"))])
    with pytest.raises(NotStorable):
        await database.append([an_entry(call), an_entry(call, x=float("nan"))])
    assert await database.journal(call.session_id) == []


async def test_reading_does_not_wait_for_a_writer(database: Database) -> None:
    call = await database.create(a_call())
    reads: list[Call] = []

    async def read_often() -> None:
        for _ in range(20):
            reads.append(await database.get(call.session_id))

    async with asyncio.timeout(20):
        await asyncio.gather(read_often(), *(database.change(call.session_id, counted) for _ in range(20)))
    assert len(reads) == 20


async def test_ping_answers(database: Database) -> None:
    await database.ping()


async def test_what_was_written_is_there_after_opening_again(database_url: str) -> None:
    call = a_call()
    async with Database.open(database_url) as first:
        await first.create(call)
        await first.append([an_entry(call, n=1)])
    async with Database.open(database_url) as second:
        assert await second.get(call.session_id) == call
        assert [entry.data for entry in await second.journal(call.session_id)] == [{"n": 1}]
