"""Several processes on one port: a supervisor that keeps the port and replaces whichever worker ends."""

import asyncio
import multiprocessing
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

import structlog

from outbound.calls import ProcessId

log = structlog.get_logger(__name__)

BACKLOG = 2048
"""How many connections may wait while no worker takes them; the system may allow fewer."""
SHORT_LIFE_S = 10.0
LONGEST_PAUSE_S = 30.0

type WorkersLine = Connection[ProcessId, frozenset[ProcessId]]
"""A worker's end of the line to its supervisor.

It says once who it is, when it takes connections. It is told when the supervisor stops, with all workers there have
been; told again, it waits for nobody. The line ends with the supervisor.
"""

type Work = Callable[[list[socket.socket], WorkersLine], None]
"""Serves on these sockets in a process of its own; it can be pickled."""


class _Worker:
    """A process that serves on its supervisor's sockets."""

    def __init__(self, work: Work, listeners: list[socket.socket]) -> None:
        self._line: Connection[frozenset[ProcessId], ProcessId]
        self._line, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=(listeners, theirs), daemon=True)
        # Ctrl-C in a terminal reaches every process; only the supervisor is to hear it. A worker keeps what is blocked
        # when it is made. The tracker is a process that multiprocessing makes with the first, and then unblocks.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()
        self._is_open = False

    async def opened(self) -> ProcessId | None:
        """Returns who it is when it takes connections; None where it ended before."""
        await _readable(self._line.fileno())
        try:
            process = self._line.recv()
        except (EOFError, OSError):
            return None
        self._is_open = True
        return process

    async def ended(self) -> int:
        """Returns its exit code, below zero for the signal that killed it."""
        await _readable(self.process.sentinel)
        self.process.join()
        self._line.close()
        return self.process.exitcode or 0

    def stop(self, with_it: frozenset[ProcessId]) -> None:
        if not self._is_open:
            self.process.terminate()
        with suppress(OSError):  # It has just ended.
            self._line.send(with_it)


class Supervisor:
    """Keeps workers alive on one port: whichever ends is replaced, and who comes meanwhile waits."""

    def __init__(self, work: Work, listeners: list[socket.socket], *, stop_within_s: float) -> None:
        """`work` is what each worker does, until its line tells it to stop; it has `stop_within_s` for that."""
        self._work = work
        self._stop_within_s = stop_within_s
        self._listeners = listeners
        self._workers: set[_Worker] = set()
        self._known: set[ProcessId] = set()
        self._one_has_opened = asyncio.Event()
        self._stopping = asyncio.Event()
        self._exit_code = 0

    async def run(self, workers: int) -> int:
        """Returns the exit code when a signal has stopped it and every worker has ended.

        It is the first worker's where that one cannot start: its log has said why.
        """
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, self._stop)
        late = asyncio.create_task(self._kill_the_late(), name="kill-late-workers")
        async with asyncio.TaskGroup() as places:
            places.create_task(self._keep(), name="worker-1")
            # What keeps one worker from opening keeps all of them, and is told once.
            await self._one_has_opened.wait()
            for number in range(2, workers + 1):
                places.create_task(self._keep(), name=f"worker-{number}")
        late.cancel()
        return self._exit_code

    async def _keep(self) -> None:
        pause_s = 0.0
        while not self._stopping.is_set():
            worker = _Worker(self._work, self._listeners)
            self._workers.add(worker)
            began = time.monotonic()
            process = await worker.opened()
            if process is not None:
                self._known.add(process)
                self._one_has_opened.set()
            exit_code = await worker.ended()
            self._workers.remove(worker)
            if self._stopping.is_set():
                return
            if exit_code > 0 and not self._one_has_opened.is_set():
                self._exit_code = exit_code
                self._stop()
                return
            # One that somebody stops or kills is not to blame, and calls wait for the next.
            failed_soon = time.monotonic() - began < SHORT_LIFE_S and exit_code not in (0, -signal.SIGKILL)
            pause_s = min(2 * pause_s + 1, LONGEST_PAUSE_S) if process is None or failed_soon else 0.0
            log.warning(
                "worker ended, the next one begins", worker=worker.process.pid, exit_code=exit_code, pause_s=pause_s
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()

    def _stop(self) -> None:
        self._stopping.set()
        self._one_has_opened.set()
        # With the last worker that listens, the port is given up: who comes then is refused, and asks elsewhere.
        for listener in self._listeners:
            listener.close()
        for worker in self._workers:
            worker.stop(frozenset(self._known))

    async def _kill_the_late(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._stop_within_s)
        for worker in self._workers:
            log.error("worker does not stop, killed", worker=worker.process.pid)
            worker.process.kill()


async def _readable(file: int) -> None:
    """Returns when the file can be read from, or its other end is gone."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(file, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(file)


async def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen there, for workers to share. Raises OSError."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    listeners = [listener.dup() for listener in server.sockets]
    server.close()
    for listener in listeners:
        listener.listen(BACKLOG)
    return listeners
