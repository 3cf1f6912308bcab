"""Who wants to know when a journal grows, told by this process directly and by the others through PostgreSQL."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from outbound.calls import SessionId
from outbound.ports import StoreUnavailable
from outbound.store.database import CHANNEL, Database, parse_growth
from outbound.store.engine import open_engine, translated

_log = structlog.get_logger(__name__)

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
_PROBE_AFTER_S = 15.0
"""How often the server is asked whether it is still there: a network that is cut says nothing."""
_PROBE_WITHIN_S = 10.0


class Changes:
    """Tells when a call's journal has grown. `async with Changes(database) as changes` owns what listens.

    What this process writes is told by `grown`, to be given to the JournalWriter. On PostgreSQL a connection of its
    own, outside the pool, hears of what other processes write, and `foreign` is called with each of their calls; it
    must not wait. While that connection is broken nothing of theirs is heard; once it is back every event is set, since
    anything may have been missed. A pooler before the server must keep sessions apart: in its transaction mode nothing
    is ever heard. An SQLite file has one process, and nothing is listened to.

    Belongs to one event loop; not safe to use from other threads. No error of the connection leaves it.
    """

    def __init__(self, database: Database, *, foreign: Callable[[SessionId], None] = lambda _: None) -> None:
        self._database = database
        self._foreign = foreign
        self._watchers: dict[SessionId, set[asyncio.Event]] = {}
        self._retry_s = _FIRST_RETRY_S
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._database.url.get_backend_name() == "postgresql":
            self._task = asyncio.create_task(self._run(), name="journal changes")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @contextmanager
    def watching(self, session_id: SessionId) -> Iterator[asyncio.Event]:
        """An event that is set when there may be new entries. Clear it, then read; it may be set for nothing."""
        event = asyncio.Event()
        watchers = self._watchers.setdefault(session_id, set())
        watchers.add(event)
        try:
            yield event
        finally:
            watchers.remove(event)
            if not watchers:
                self._watchers.pop(session_id)

    def grown(self, session_ids: Iterable[SessionId]) -> None:
        """Wakes whoever watches these calls."""
        for session_id in session_ids:
            for event in self._watchers.get(session_id, ()):
                event.set()

    async def _run(self) -> None:
        engine = open_engine(self._database.url)
        try:
            while True:
                try:
                    with translated(self._database.url):
                        await self._listen(engine)
                except Exception as error:
                    # What the driver raises when it is spoken to directly has no name of ours.
                    reason = str(error) if isinstance(error, StoreUnavailable) else type(error).__name__
                    _log.error("journal_changes_not_heard", reason=reason)
                await asyncio.sleep(self._retry_s)
                self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
        finally:
            await engine.dispose()

    async def _listen(self, engine: AsyncEngine) -> None:
        """Hears the others until the connection breaks, and then raises what the driver says to that."""
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            try:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                if engine.dialect.driver == "asyncpg":
                    await self._listen_with_asyncpg(driver)
                else:
                    await self._listen_with_psycopg(driver)
            finally:
                await connection.invalidate()

    async def _listen_with_asyncpg(self, driver: Any) -> None:
        broken = asyncio.Event()
        driver.add_termination_listener(lambda _: broken.set())
        await driver.add_listener(CHANNEL, lambda _connection, _pid, _channel, payload: self._hear(payload))
        self._catch_up()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_AFTER_S):
                    await broken.wait()
            async with asyncio.timeout(_PROBE_WITHIN_S):
                await driver.execute("SELECT 1")

    async def _listen_with_psycopg(self, driver: Any) -> None:
        await driver.execute(f"LISTEN {CHANNEL}")
        self._catch_up()
        while True:
            async for notification in driver.notifies(timeout=_PROBE_AFTER_S):
                self._hear(notification.payload)
            async with asyncio.timeout(_PROBE_WITHIN_S):
                await driver.execute("SELECT 1")

    def _catch_up(self) -> None:
        self._retry_s = _FIRST_RETRY_S
        self.grown(list(self._watchers))

    def _hear(self, payload: str) -> None:
        process, session_ids = parse_growth(payload)
        if process == self._database.process:
            return
        self.grown(session_ids)
        for session_id in session_ids:
            self._foreign(session_id)
