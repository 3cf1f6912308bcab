"""The store on a database: the same queries on SQLite and PostgreSQL."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from itertools import batched
from typing import Any, Self
from uuid import uuid4

from sqlalchemy import URL, Row, Select, delete, func, insert, literal, select, text, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbound.calls import ACTIVE, Call, CallSid, EndReason, Entry, Failure, Kind, ProcessId, SessionId, Status
from outbound.ports import CallNotFound, NotStorable, Page
from outbound.store.engine import as_writer, open_engine, read_url, translated
from outbound.store.migrate import migrate
from outbound.store.tables import IS_TURN, calls, journal, processes

CHANNEL = "journal"
"""Of PostgreSQL, where processes tell each other whose journals have grown, in the form of `dump_growth`."""

_NEWEST_FIRST = (calls.c.created_at.desc(), calls.c.session_id.desc())
_NOTIFY = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")
_IDS_A_NOTE = 150
"""PostgreSQL takes less than 8,000 bytes; an id of ours has 32, and 43 are expected at most."""


class Database:
    """Calls and journals in one database, with one pool for the process; `Database.open` makes one.

    Every method raises StoreUnavailable where the database does not do its work, and NotStorable (a ValueError) for a
    value it cannot hold. On SQLite a power cut may take the last commits with it, the end of the process does not.

    On PostgreSQL every process is told when one of them, `process` being this one, has added to a journal (see
    `Changes`). `url` is the address with its password.
    """

    def __init__(self, engine: AsyncEngine, url: URL, process: ProcessId) -> None:
        self.url = url
        self.process = process
        self._engine = engine
        self._writer = as_writer(engine)
        is_sqlite = engine.dialect.name == "sqlite"
        self._insert = sqlite.insert if is_sqlite else postgresql.insert
        self._is_shared = not is_sqlite
        # SQLite has one writer at a time and lets the others poll, where the last to come may be the first to go:
        # inside the process they queue here instead.
        self._turn: AbstractAsyncContextManager[object] = asyncio.Lock() if is_sqlite else nullcontext()

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, process: ProcessId | None = None) -> AsyncIterator[Self]:
        """The database at `url`, migrated to this version; its connections are closed at the end.

        `url` is `sqlite:///path` or `postgresql://user:password@host/name`; the driver need not be named. `process` is
        told from the others by its id, a random one by default. Raises StoreUnavailable with a sentence for the
        operator: no such driver, unreachable, schema of a newer version.
        """
        place = read_url(url)
        engine = open_engine(place)
        try:
            await migrate(place)
            database = cls(engine, place, process or ProcessId(uuid4().hex))
            await database.ping()
            yield database
        finally:
            await engine.dispose()

    async def create(self, call: Call) -> Call:
        """Writes the call and commits; where its idempotency key is taken, writes nothing and returns that call."""
        write = self._insert(calls).values(_to_row(call))
        if call.idempotency_key is not None:
            write = write.on_conflict_do_nothing(index_elements=[calls.c.idempotency_key])
        async with self._writing() as connection:
            if (await connection.execute(write)).rowcount:
                return call
            # The other one is committed: PostgreSQL lets the insert wait for it, and SQLite its transaction.
            taken = select(calls).where(calls.c.idempotency_key == call.idempotency_key)
            return _to_call((await connection.execute(taken)).one())

    async def get(self, session_id: SessionId) -> Call:
        """Raises CallNotFound."""
        async with self._reading() as connection:
            return await _read(connection, session_id)

    async def change(self, session_id: SessionId, step: Callable[[Call], Call]) -> Call:
        """Applies a pure step to the call as it stands, in one transaction no other writer can come between.

        Returns the call after the step. Raises CallNotFound, and what the step raises: then nothing is changed.
        """
        async with self._writing() as connection:
            before = await _read(connection, session_id, to_change=True)
            after = step(before)
            if after != before:
                if after.session_id != session_id:
                    raise ValueError("a step cannot give a call another session id")
                await connection.execute(update(calls).where(calls.c.session_id == session_id).values(_to_row(after)))
            return after

    async def page(self, *, status: Status | None, limit: int, cursor: str | None) -> Page:
        """Calls newest first. Raises ValueError for a cursor that no page gave, or a limit below 1."""
        if limit < 1:
            raise ValueError(f"expected a limit of at least 1, got {limit}")
        query = select(calls).order_by(*_NEWEST_FIRST).limit(limit + 1)
        if status is not None:
            query = query.where(calls.c.status == status)
        if cursor is not None:
            created_at, session_id = parse_cursor(cursor)
            place = tuple_(literal(created_at, calls.c.created_at.type), literal(session_id, calls.c.session_id.type))
            query = query.where(tuple_(calls.c.created_at, calls.c.session_id) < place)
        found = await self._all(query)
        shown = found[:limit]
        return Page(shown, dump_cursor(shown[-1]) if len(found) > limit else None)

    async def active(self) -> Sequence[Call]:
        """Calls that are queued, initiated, ringing or in progress, newest first."""
        return await self._all(select(calls).where(calls.c.status.in_(sorted(ACTIVE))).order_by(*_NEWEST_FIRST))

    async def by_call_sid(self, call_sid: CallSid) -> Call | None:
        """The call with this id of the carrier, the newest if there are several."""
        try:
            found = await self._all(select(calls).where(calls.c.call_sid == call_sid).order_by(*_NEWEST_FIRST).limit(1))
        except NotStorable:
            return None
        return found[0] if found else None

    async def turns(self, session_ids: Iterable[SessionId]) -> Mapping[SessionId, int]:
        """How many replies these calls have had: entries of kind `turn`. Calls without any are left out."""
        asked = sorted(set(session_ids))
        if not asked:
            return {}
        async with self._reading() as connection:
            return {SessionId(row.session_id): row.turns for row in await connection.execute(_turns_of(asked))}

    async def append(self, entries: Iterable[Entry]) -> Mapping[SessionId, int]:
        """Adds journal entries in one transaction, in this order. Raises CallNotFound where a call is not stored.

        Leaves out what comes from an older epoch than the call's own, and returns those calls with the epoch they have.
        """
        entries = list(entries)
        if not entries:
            return {}
        appended_to = {entry.session_id for entry in entries}
        # The lock makes the order of numbers the order of commits: two processes that append to one call would
        # otherwise let a reader see the later number first and never ask for the earlier one. Taken in order of id,
        # so that two batches cannot wait for each other. Whoever takes the call meanwhile waits for it as well:
        # nothing of an older epoch follows what a newer one has read.
        lock = (
            select(calls.c.session_id, calls.c.epoch)
            .where(calls.c.session_id.in_(sorted(appended_to)))
            .order_by(calls.c.session_id)
            .with_for_update(key_share=True)
        )
        async with self._writing() as connection:
            epochs = {row.session_id: row.epoch for row in await connection.execute(lock)}
            if appended_to.difference(epochs):
                raise CallNotFound("a journal entry belongs to no call")
            rows: list[dict[str, Any]] = []
            late: dict[SessionId, int] = {}
            for entry in entries:
                if entry.epoch is not None and entry.epoch < epochs[entry.session_id]:
                    late[entry.session_id] = epochs[entry.session_id]
                else:
                    rows.append(_to_line(entry))
            if rows:
                await connection.execute(insert(journal), rows)
                if self._is_shared:
                    grown = sorted({row["session_id"] for row in rows})
                    await connection.execute(
                        _NOTIFY, {"channel": CHANNEL, "payloads": dump_growth(self.process, grown)}
                    )
        return late

    async def journal(self, session_id: SessionId, after: int = 0) -> Sequence[Entry]:
        """The entries of a call with `seq` above `after`, in order; none for a call that is not stored."""
        query = select(journal).where(journal.c.session_id == session_id, journal.c.seq > after).order_by(journal.c.seq)
        try:
            async with self._reading() as connection:
                return [_to_entry(row) for row in await connection.execute(query)]
        except NotStorable:
            return []

    async def ping(self) -> None:
        """Raises StoreUnavailable where the database cannot be used."""
        async with self._reading() as connection:
            await connection.execute(text("SELECT 1 FROM calls WHERE false"))

    async def beat(self, process: ProcessId, at: datetime) -> None:
        """Notes that the process lives. The clocks of all machines are taken to agree within a second or so."""
        write = self._insert(processes).values(id=process, seen_at=at)
        async with self._writing() as connection:
            await connection.execute(
                write.on_conflict_do_update(index_elements=[processes.c.id], set_={"seen_at": write.excluded.seen_at})
            )

    async def living(self, since: datetime) -> frozenset[ProcessId]:
        """The processes that have lived at or after `since`."""
        async with self._reading() as connection:
            found = await connection.execute(select(processes.c.id).where(processes.c.seen_at >= since))
            return frozenset(ProcessId(process) for process in found.scalars())

    async def retire(self, process: ProcessId) -> None:
        """Notes that the process is gone, and with it its beats; one that beats again lives again."""
        async with self._writing() as connection:
            await connection.execute(delete(processes).where(processes.c.id == process))

    async def _all(self, query: Select[Any]) -> list[Call]:
        async with self._reading() as connection:
            return [_to_call(row) for row in await connection.execute(query)]

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        with translated(self.url):
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that commits at the end; on SQLite it has the write lock from its beginning."""
        async with self._turn:
            with translated(self.url):
                async with self._writer.begin() as connection:
                    yield connection


def dump_growth(process: ProcessId, session_ids: Iterable[SessionId]) -> list[str]:
    """Payloads that tell whose journals `process` has added to: its id and theirs, with spaces between."""
    return [" ".join([process, *some]) for some in batched(session_ids, _IDS_A_NOTE)]


def parse_growth(payload: str) -> tuple[ProcessId, list[SessionId]]:
    """Who says it, and whose journals have grown. Never raises: anybody may write to the channel."""
    process, *session_ids = payload.split(" ")
    return ProcessId(process), [SessionId(session_id) for session_id in session_ids]


def dump_cursor(call: Call) -> str:
    """The place after `call` in the list of calls, opaque and safe in a URL."""
    place = f"{call.created_at.astimezone(UTC).isoformat()} {call.session_id}"
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def parse_cursor(cursor: str) -> tuple[datetime, SessionId]:
    """When the call before the place was created, and its id. Raises ValueError for what `dump_cursor` never says."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, _, session_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition(" ")
        created_at = datetime.fromisoformat(at).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("the cursor is not one that a page gave") from None
    if created_at.isoformat() != at or not session_id:
        raise ValueError("the cursor is not one that a page gave")
    return created_at, SessionId(session_id)


async def _read(connection: AsyncConnection, session_id: SessionId, *, to_change: bool = False) -> Call:
    query = select(calls).where(calls.c.session_id == session_id)
    if to_change:
        query = query.with_for_update(key_share=True)
    try:
        with translated(connection.engine.url):
            row = (await connection.execute(query)).one_or_none()
    except NotStorable as error:
        raise CallNotFound(session_id) from error
    if row is None:
        raise CallNotFound(session_id)
    return _to_call(row)


def _turns_of(session_ids: Sequence[SessionId]) -> Select[Any]:
    return (
        select(journal.c.session_id, func.count().label("turns"))
        .where(journal.c.session_id.in_(session_ids), text(IS_TURN))
        .group_by(journal.c.session_id)
    )


def _to_row(call: Call) -> dict[str, Any]:
    failure = call.failure
    return {
        "session_id": call.session_id,
        "phone_number": call.phone_number,
        "created_at": call.created_at,
        "greeting": call.greeting,
        "max_duration_s": call.max_duration_s,
        "variables": dict(call.variables),
        "metadata": dict(call.metadata),
        "idempotency_key": call.idempotency_key,
        "request_digest": call.request_digest,
        "status": call.status,
        "call_sid": call.call_sid,
        "answered_at": call.answered_at,
        "ended_at": call.ended_at,
        "duration_s": call.duration_s,
        "answered_by": call.answered_by,
        "end_reason": call.end_reason,
        "opted_out": call.opted_out,
        "failure_code": failure.code if failure else None,
        "failure_detail": failure.detail if failure else None,
        "failure_carrier_code": failure.carrier_code if failure else None,
        "owner": call.owner,
        "epoch": call.epoch,
    }


def _to_call(row: Row[Any]) -> Call:
    failure = None
    if row.failure_code is not None:
        failure = Failure(row.failure_code, row.failure_detail, row.failure_carrier_code)
    return Call(
        session_id=SessionId(row.session_id),
        phone_number=row.phone_number,
        created_at=row.created_at,
        greeting=row.greeting,
        max_duration_s=row.max_duration_s,
        variables=row.variables,
        metadata=row.metadata,
        idempotency_key=row.idempotency_key,
        request_digest=row.request_digest,
        status=Status(row.status),
        call_sid=CallSid(row.call_sid) if row.call_sid is not None else None,
        answered_at=row.answered_at,
        ended_at=row.ended_at,
        duration_s=row.duration_s,
        answered_by=row.answered_by,
        end_reason=EndReason(row.end_reason) if row.end_reason is not None else None,
        opted_out=row.opted_out,
        failure=failure,
        owner=ProcessId(row.owner) if row.owner is not None else None,
        epoch=row.epoch,
    )


def _to_line(entry: Entry) -> dict[str, Any]:
    return {"session_id": entry.session_id, "at": entry.at, "kind": entry.kind, "data": dict(entry.data)}


def _to_entry(row: Row[Any]) -> Entry:
    return Entry(
        session_id=SessionId(row.session_id),
        at=row.at,
        kind=Kind(row.kind),
        data=row.data,
        seq=row.seq,
    )
