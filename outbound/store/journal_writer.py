"""The journal off the path of speech: entries are taken at once and written in batches by one task."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from types import TracebackType
from typing import Self

import structlog

from outbound.calls import Entry, Kind, SessionId
from outbound.ports import CallNotFound, NotStorable, StoreUnavailable

_log = structlog.get_logger(__name__)

_BATCH_ROWS = 500
_BATCH_AFTER_S = 0.1
_SOON_S = 0.02
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0

_SAID_AGAIN = frozenset({Kind.CALLEE_PARTIAL, Kind.AGENT_PLAYED})
"""What a later entry repeats in full: `callee_said` the partial results, `agent_said` the marks of playback."""


class JournalWriter:
    """Takes entries without waiting and appends them in order, at most one batch in 100 ms, of at most 500 rows.

    `async with JournalWriter(store.append) as journal` owns the task; on exit it writes what is left, for at most
    `close_within`. A process that is killed loses what was written to it in the last moments, 200 ms at most while the
    database keeps up. A batch is repeated until the database takes it, so an entry whose commit went through without
    an answer may stand in the journal twice.

    Memory is bounded while the database is away. From `room` entries on, those that later ones repeat (partial
    results, playback) are dropped; what was said is kept up to twice that, about 100 MB, and beyond it lost. Both are
    logged and counted in `dropped`. An entry the store can never take (no such call, not JSON) is logged and left out.

    After each commit, and before a flush that waits for it returns, `grown` is called with all calls of the batch, and
    `superseded` with each of those of which the store left something out, because a newer socket has the call: once for
    every such batch. Neither may wait.

    Belongs to one event loop; not safe to use from other threads.
    """

    def __init__(
        self,
        append: Callable[[Sequence[Entry]], Awaitable[Mapping[SessionId, int]]],
        *,
        superseded: Callable[[SessionId, int], None] = lambda _, __: None,
        grown: Callable[[Collection[SessionId]], None] = lambda _: None,
        room: int = 100_000,
        close_within: timedelta = timedelta(seconds=5),
    ) -> None:
        self._append = append
        self._superseded = superseded
        self._grown = grown
        self._room = room
        self._close_within = close_within
        self._pending: deque[Entry] = deque()
        self._taken = 0
        self._settled = 0
        self._dropped = 0
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._arrived = asyncio.Event()
        self._hurry = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Entries that are not committed yet."""
        return len(self._pending)

    @property
    def dropped(self) -> int:
        """Entries given up because the database was away for too long, since the start."""
        return self._dropped

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="journal writer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = self._task
        if task is None:
            raise RuntimeError("the journal is not open")
        self._closing = True
        self._arrived.set()
        self._hurry.set()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._close_within.total_seconds()
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            left = deadline - loop.time()
            if left <= 0:
                task.cancel()
            # Waiting is cancelled with us, the task is not: the last words are written first.
            try:
                await asyncio.wait([task], timeout=left if left > 0 else None)
            except asyncio.CancelledError as caught:
                cancelled = caught
        if self._pending:
            _log.error("journal_closed_with_entries_unwritten", pending=len(self._pending))
        for _, done in self._flushes:
            if not done.done():
                done.set_exception(StoreUnavailable("the journal closed before its last entries could be written"))
        if cancelled is not None:
            raise cancelled

    def write(self, entry: Entry) -> None:
        """Takes the entry; never waits. Raises RuntimeError once the journal is closing: nobody would write it."""
        if self._closing or self._task is None:
            raise RuntimeError("the journal is not open")
        if len(self._pending) >= (self._room if entry.kind in _SAID_AGAIN else 2 * self._room):
            self._drop(entry)
            return
        self._pending.append(entry)
        self._taken += 1
        self._arrived.set()
        if len(self._pending) >= _BATCH_ROWS:
            self._hurry.set()

    async def flush(self) -> None:
        """Returns when everything written before is committed; waits as long as the database is away.

        Raises StoreUnavailable where the journal closed without having been able to.
        """
        if self._settled == self._taken:
            return
        if self._task is None or self._task.done():
            raise StoreUnavailable("the journal closed before its last entries could be written")
        done = asyncio.get_running_loop().create_future()
        self._flushes.append((self._taken, done))
        self._hurry.set()
        await done

    def _drop(self, entry: Entry) -> None:
        self._dropped += 1
        # The first and then the powers of two: an outage would fill the log with the rest.
        if entry.kind not in _SAID_AGAIN:
            _log.error("journal_entry_lost", session_id=entry.session_id, kind=entry.kind, dropped=self._dropped)
        elif self._dropped.bit_count() == 1:
            _log.warning("journal_drops_what_is_said_again", dropped=self._dropped, pending=len(self._pending))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        next_batch_at = loop.time()
        while True:
            await self._arrived.wait()
            # What comes after a pause is written soon, with what comes along with it: a process may die any moment.
            with suppress(TimeoutError):
                async with asyncio.timeout_at(max(next_batch_at, loop.time() + _SOON_S)):
                    await self._hurry.wait()
            next_batch_at = loop.time() + _BATCH_AFTER_S
            batch = list(islice(self._pending, _BATCH_ROWS))
            if not batch:
                return  # Only closing wakes an empty journal.
            await self._settle(batch)
            for _ in batch:
                self._pending.popleft()
            self._settled += len(batch)
            while self._flushes and self._flushes[0][0] <= self._settled:
                _, done = self._flushes.popleft()
                if not done.done():
                    done.set_result(None)
            if not self._closing:
                if not self._pending:
                    self._arrived.clear()
                if not self._flushes and len(self._pending) < _BATCH_ROWS:
                    self._hurry.clear()

    async def _settle(self, batch: Sequence[Entry]) -> None:
        """Writes the batch; where one entry of it can never be written, all the others."""
        try:
            await self._insist(batch)
        except (CallNotFound, NotStorable):
            for entry in batch:
                try:
                    await self._insist([entry])
                except (CallNotFound, NotStorable) as error:
                    _log.error(
                        "journal_entry_refused",
                        session_id=entry.session_id,
                        kind=entry.kind,
                        reason=type(error).__name__,
                    )

    async def _insist(self, batch: Sequence[Entry]) -> None:
        wait_s = _FIRST_RETRY_S
        while True:
            try:
                refused = await self._append(batch)
                break
            except (CallNotFound, NotStorable):
                raise
            except Exception as error:
                # A broken append must not end the task: every call on this process writes through it.
                reason = str(error) if isinstance(error, StoreUnavailable) else type(error).__name__
                _log.error("journal_not_written", reason=reason, pending=len(self._pending), dropped=self._dropped)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LAST_RETRY_S)
        try:
            self._grown({entry.session_id for entry in batch})
            for session_id, epoch in refused.items():
                self._superseded(session_id, epoch)
        except Exception as error:
            # Whoever is told must not end the task either, nor have the batch written again.
            _log.error("journal_growth_not_told", reason=type(error).__name__)
