"""Several processes on one port: one that dies is replaced, and the calls it carried go on in another."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from outbound.calls import Call, EndReason, Kind
from outbound.store import Database
from tests.server import FRIENDLY
from tests.stories.test_shutdown import STARTS_WITHIN_S, free_port, process
from tests.stories.waiting import until

type Line = dict[str, Any]
"""One line of the log."""


def simulated(database_url: str, **settings: str) -> dict[str, str]:
    """Settings of a server that listens on a free port and rings the people of its own network."""
    return {
        "CARRIER": "simulator",
        "SIMULATOR_SPEED": "25",
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "DATABASE_URL": database_url,
        **settings,
    }


class Supervised:
    """A supervisor that runs, what it and its workers log, and a client that brings a new connection each time."""

    def __init__(self, server: Process, port: str) -> None:
        self.server = server
        self.log: list[Line] = []
        self._grown = asyncio.Condition()
        self._base_url = f"http://127.0.0.1:{port}"

    async def read_log(self) -> None:
        assert self.server.stderr is not None
        async for line in self.server.stderr:
            async with self._grown:
                self.log.append(json.loads(line))
                self._grown.notify_all()

    def told(self, event: str) -> list[Line]:
        return [line for line in self.log if line["event"] == event]

    async def tells(self, event: str, times: int = 1) -> list[Line]:
        """Waits until so many lines of the log say so."""
        async with asyncio.timeout(STARTS_WITHIN_S), self._grown:
            await self._grown.wait_for(lambda: len(self.told(event)) >= times)
        return self.told(event)

    async def worker(self, number: int) -> int:
        """The process id of the nth worker that has opened, from 1."""
        pid: int = (await self.tells("ready to ring", number))[number - 1]["pid"]
        return pid

    async def ask(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self._base_url, trust_env=False, timeout=30) as client:
            return await client.get(path)

    async def ring(self) -> str:
        """Rings somebody friendly; returns our session id."""
        async with httpx.AsyncClient(base_url=self._base_url, trust_env=False, timeout=30) as client:
            response = await client.post("/call/initiate", json={"to": FRIENDLY})
        assert response.status_code == 200, response.text
        session_id: str = response.json()["session_id"]
        return session_id

    async def call_has(self, session_id: str, fits: Callable[[Line], bool]) -> None:
        """Waits until the call as the API tells it fits."""

        async def record() -> Line:
            whole: Line = (await self.ask(f"/calls/{session_id}")).json()
            return whole

        await until(record, fits, within_s=STARTS_WITHIN_S)

    async def exit_code(self) -> int:
        """Waits for the supervisor to end, and sees that no worker is left."""
        async with asyncio.timeout(30):
            code = await self.server.wait()
        for line in self.told("ready to ring"):
            with pytest.raises(ProcessLookupError):
                os.kill(line["pid"], 0)
        return code


@asynccontextmanager
async def supervised(settings: dict[str, str], workers: int) -> AsyncIterator[Supervised]:
    async with process(settings, "--workers", str(workers)) as server:
        running = Supervised(server, settings["PORT"])
        reading = asyncio.create_task(running.read_log(), name="log")
        try:
            yield running
        finally:
            if server.returncode is None:
                server.kill()
            await reading


def times_heard(record: Line) -> int:
    return len([line for line in record["transcript"] if line["role"] == "callee"])


async def kept(database_url: str) -> tuple[Call, list[Kind]]:
    """The only call in the database, and what its journal has of it."""
    async with Database.open(database_url) as database:
        (call,) = (await database.page(status=None, limit=2, cursor=None)).calls
        return call, [entry.kind for entry in await database.journal(call.session_id)]


async def test_a_call_goes_on_when_its_worker_is_killed_and_again_when_it_is_stopped(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path / 'calls.db'}"
    async with supervised(simulated(database_url, DRAIN_TIMEOUT="0"), 1) as running:
        first = await running.worker(1)
        session_id = await running.ring()
        await running.call_has(session_id, lambda record: times_heard(record) >= 1)
        os.kill(first, signal.SIGKILL)
        # It waits at the port until the next worker takes it.
        assert (await running.ask("/health")).status_code == 200
        await running.tells("talk begins", 2)

        os.kill(await running.worker(2), signal.SIGTERM)
        await running.tells("talk begins", 3)
        await running.call_has(session_id, lambda record: record["status"] == "completed")
        running.server.terminate()
        assert await running.exit_code() == 0

    ends = [line["exit_code"] for line in running.told("worker ended, the next one begins")]
    assert ends == [-signal.SIGKILL, 0]
    assert [line["pid"] for line in running.told("talk begins")] == [
        line["pid"] for line in running.told("ready to ring")
    ]
    assert len([line for line in running.log if "SIMULATED" in line["event"]]) == 1
    call, kinds = await kept(database_url)
    assert call.end_reason is EndReason.AGENT_SAID_GOODBYE
    assert kinds.count(Kind.RESUMING) == 2


async def test_a_signal_to_every_process_at_once_still_lets_the_talk_end(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path / 'calls.db'}"
    async with supervised(simulated(database_url, DRAIN_TIMEOUT="60"), 1) as running:
        worker = await running.worker(1)
        session_id = await running.ring()
        await running.call_has(session_id, lambda record: times_heard(record) >= 1)
        # As a terminal does with Ctrl-C, and a service manager when it stops a service.
        for stop in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker, stop)
        running.server.terminate()
        assert await running.exit_code() == 0

    assert len(running.told("ready to ring")) == 1
    call, kinds = await kept(database_url)
    assert call.end_reason is EndReason.AGENT_SAID_GOODBYE
    assert Kind.RESUMING not in kinds


@pytest.mark.parametrize("engine_name", ["postgresql"])
async def test_two_workers_answer_on_one_port_and_stop_together_with_a_goodbye(database_url: str) -> None:
    async with supervised(simulated(database_url, DRAIN_TIMEOUT="0"), 2) as running:
        both = [await running.worker(1), await running.worker(2)]
        for pid in both:
            os.kill(pid, signal.SIGSTOP)
            assert (await running.ask("/health")).status_code == 200, "the other one answers"
            os.kill(pid, signal.SIGCONT)

        os.kill(both[0], signal.SIGKILL)
        assert (await running.ask("/ready")).json()["status"] == "ready"
        await running.worker(3)

        session_id = await running.ring()
        await running.call_has(session_id, lambda record: times_heard(record) >= 1)
        running.server.terminate()
        assert await running.exit_code() == 0

    call, kinds = await kept(database_url)
    assert call.end_reason is EndReason.SERVER_STOPPED, "the other worker stops too: nobody could go on with the call"
    assert Kind.RESUMING not in kinds


async def test_a_worker_that_cannot_start_is_tried_again_and_ends_with_its_supervisor(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    async with supervised(simulated(f"sqlite:///{place / 'calls.db'}", DRAIN_TIMEOUT="0"), 1) as running:
        worker = await running.worker(1)
        assert (await running.ask("/health")).status_code == 200
        place.rename(tmp_path / "elsewhere")
        place.touch()  # where a directory should be
        os.kill(worker, signal.SIGKILL)
        await running.tells("worker ended, the next one begins", 2)
        place.unlink()
        (tmp_path / "elsewhere").rename(place)
        await running.worker(2)

        running.server.kill()

        async def is_open() -> bool:
            try:
                return (await running.ask("/health")).status_code == 200
            except httpx.TransportError:
                return False

        await until(is_open, lambda is_open: not is_open, within_s=20)

    ends = running.told("worker ended, the next one begins")
    assert [line["exit_code"] for line in ends] == [-signal.SIGKILL, 2]
    assert [line["pause_s"] > 0 for line in ends] == [False, True]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        pytest.param({"CARRIER": "twilio"}, "TWILIO_PHONE_NUMBER missing", id="incomplete settings"),
        pytest.param({}, "127.0.0.1:1", id="no database"),
    ],
)
async def test_what_keeps_every_worker_from_starting_is_told_once(settings: dict[str, str], sentence: str) -> None:
    environment = simulated("postgresql://nobody@127.0.0.1:1/nothing") | settings
    async with process(environment, "--workers", "2") as server:
        _, told = await server.communicate()

    assert server.returncode == 2
    assert told.decode().count(sentence) == 1, told.decode()
    assert "Traceback" not in told.decode()


async def test_sqlite_with_two_workers_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async with process(simulated(f"sqlite:///{tmp_path / 'calls.db'}"), "--workers", "2") as server:
        _, told = await server.communicate()

    assert server.returncode == 2
    assert len(told.decode().splitlines()) == 1
    assert "DATABASE_URL=postgresql+asyncpg://" in told.decode()
    assert "--workers 1" in told.decode()
    assert not (tmp_path / "calls.db").exists()


async def test_a_port_that_is_taken_is_told_by_the_supervisor(tmp_path: Path) -> None:
    settings = simulated(f"sqlite:///{tmp_path / 'calls.db'}")
    listening = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", int(settings["PORT"]))
    async with listening, process(settings, "--workers", "1") as server:
        _, told = await server.communicate()

    assert server.returncode == 2
    assert len(told.decode().splitlines()) == 1
    assert "address already in use" in told.decode()
