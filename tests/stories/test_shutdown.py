"""What remains when the process ends, gently or not, and how it refuses to begin."""

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import main
from config import Settings
from outbound.simulator import Frame, Network, NetworkCall
from tests.server import ACCOUNT_SID, AUTH_TOKEN, FRIENDLY, OWN_NUMBER, hosted
from tests.stories.peer import Message
from tests.stories.waiting import until

CHECKOUT = Path(main.__file__).parent
START = "import sys, config; config.Settings.model_config['env_file'] = None; import main; sys.exit(main.main())"
"""As `python main.py`, without the `.env` of whoever runs the tests."""
STARTS_WITHIN_S = 60.0

FRESH_S = 0.2
"""What is younger than this when the process is killed may be lost."""


@asynccontextmanager
async def process(environment: Mapping[str, str], *arguments: str) -> AsyncIterator[Process]:
    """The server as a process of its own; killed at the end if it still runs, with it the workers."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SYSTEMROOT") if name in os.environ}
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", START, *arguments, cwd=CHECKOUT, env={**inherited, **environment}, stderr=PIPE
    )
    try:
        yield server
    finally:
        if server.returncode is None:
            server.kill()
        await server.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def environment(tmp_path: Path, api_base_url: str, port: int) -> dict[str, str]:
    return {
        "CARRIER": "twilio",
        "TWILIO_ACCOUNT_SID": ACCOUNT_SID,
        "TWILIO_AUTH_TOKEN": AUTH_TOKEN,
        "TWILIO_PHONE_NUMBER": OWN_NUMBER,
        "TWILIO_API_BASE_URL": api_base_url,
        "SERVER_BASE_URL": f"http://127.0.0.1:{port}",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'calls.db'}",
        "DRAIN_TIMEOUT": "0",
    }


class Watch:
    """A network whose frames are timed by this machine's clock."""

    def __init__(self) -> None:
        self.network = Network(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN, numbers=(OWN_NUMBER,), speed=10.0)
        self.network.observers.append(self._see)
        self.told: list[tuple[float, Message]] = []
        """What went to the server, and when."""

    def _see(self, call: NetworkCall, record: object) -> None:
        if isinstance(record, Frame) and record.direction == "to_app":
            self.told.append((time.monotonic(), dict(record.message)))

    def told_before(self, moment: float, kind: str) -> list[Message]:
        return [message for at, message in self.told if at < moment and message["type"] == kind]

    async def place_through(self, base_url: str) -> NetworkCall:
        """Waits for the server to be up, and has it ring somebody friendly."""
        async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=30) as client:

            async def is_up() -> bool:
                try:
                    return (await client.get("/health")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(is_up, bool, within_s=STARTS_WITHIN_S)
            response = await client.post("/call/initiate", json={"to": FRIENDLY})
            assert response.status_code == 200, response.text
        return await self.network.next_call()

    async def is_well_under_way(self, call: NetworkCall) -> None:
        """Waits until the second thing the callee said is old enough to be kept, with the agent speaking since."""

        def under_way(call: NetworkCall) -> bool:
            prompts = [at for at, message in self.told if message["type"] == "prompt"]
            return len(prompts) >= 2 and self.told[-1][0] - prompts[1] > FRESH_S

        async with asyncio.timeout(20):
            await call.until(under_way)
        assert not call.ended.is_set()


async def restarted(tmp_path: Path, api_base_url: str) -> tuple[Message, list[Message]]:
    """Starts the product again on the same database, and lets it settle what was left: the call, the active ones."""
    async with hosted(tmp_path, api_base_url) as client:
        # A process that was killed counts as living for ten seconds more.
        await until(lambda: client.get("/calls/active"), lambda answer: answer.json()["count"] == 0, within_s=30)
        listed = (await client.get("/calls")).json()["calls"]
        assert len(listed) == 1
        record: Message = (await client.get(f"/calls/{listed[0]['session_id']}")).json()
        active: list[Message] = (await client.get("/calls/active")).json()["calls"]
        return record, active


def noted(record: Message, kind: str, key: str) -> list[Any]:
    return [entry["data"][key] for entry in record["journal"] if entry["kind"] == kind]


async def test_after_a_kill_what_was_said_is_there_and_no_ghost_is_left(tmp_path: Path) -> None:
    watch, port = Watch(), free_port()
    async with watch.network.serve() as api_base_url:
        async with process(environment(tmp_path, api_base_url, port)) as server:
            call = await watch.place_through(f"http://127.0.0.1:{port}")
            await watch.is_well_under_way(call)
            killed_at = time.monotonic()
            server.kill()
            assert await server.wait() == -signal.SIGKILL
        async with asyncio.timeout(20):
            await call.ended.wait()
        record, active = await restarted(tmp_path, api_base_url)

    assert active == []
    assert record["status"] == "completed"
    said = [prompt["voicePrompt"] for prompt in watch.told_before(killed_at - FRESH_S, "prompt")]
    assert len(said) >= 2
    assert [line["text"] for line in record["transcript"] if line["role"] == "callee"][: len(said)] == said
    infos = watch.told_before(killed_at - FRESH_S, "info")
    played = [info["value"].strip() for info in infos if info["name"] == "tokensPlayed"]
    assert [text.strip() for text in noted(record, "agent_played", "text")][: len(played)] == played
    first_of_ours = next(line["text"] for line in record["transcript"] if line["role"] == "agent")
    assert first_of_ours == record["greeting"]


async def test_a_gentle_stop_exits_with_0_and_leaves_the_journal_whole(tmp_path: Path) -> None:
    watch, port = Watch(), free_port()
    async with watch.network.serve() as api_base_url:
        async with process(environment(tmp_path, api_base_url, port)) as server:
            call = await watch.place_through(f"http://127.0.0.1:{port}")
            await watch.is_well_under_way(call)
            stopped_at = time.monotonic()
            server.terminate()
            async with asyncio.timeout(20):
                assert await server.wait() == 0
        async with asyncio.timeout(20):
            await call.ended.wait()
        record, active = await restarted(tmp_path, api_base_url)

    assert active == []
    assert record["end_reason"] == "server_stopped"
    assert record["journal"][-1]["kind"] in ("relay_closed", "status")
    assert "relay_closed" in [entry["kind"] for entry in record["journal"]]
    said = [prompt["voicePrompt"] for prompt in watch.told_before(stopped_at, "prompt")]
    assert [line["text"] for line in record["transcript"] if line["role"] == "callee"][: len(said)] == said
    begun = noted(record, "agent_began", "line")
    assert noted(record, "agent_said", "line") == begun


@pytest.mark.parametrize("is_ringing", [True, False], ids=["ringing", "talking"])
async def test_a_server_that_is_stopped_lets_the_talk_end_and_places_no_other(tmp_path: Path, is_ringing: bool) -> None:
    watch, port = Watch(), free_port()
    base_url = f"http://127.0.0.1:{port}"
    async with (
        watch.network.serve() as api_base_url,
        httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=30) as client,
    ):
        settings = environment(tmp_path, api_base_url, port) | {"DRAIN_TIMEOUT": "30"}
        async with process(settings) as server:
            call = await watch.place_through(base_url)
            if not is_ringing:
                await watch.is_well_under_way(call)
            server.terminate()
            await until(lambda: client.get("/ready"), lambda answer: answer.json()["status"] == "draining")
            refused = await client.post("/call/initiate", json={"to": FRIENDLY})
            async with asyncio.timeout(30):
                assert await server.wait() == 0
        record, _ = await restarted(tmp_path, api_base_url)

    assert refused.status_code == 503
    assert refused.json()["code"] == "draining"
    assert refused.headers["retry-after"]
    assert record["end_reason"] == "agent_said_goodbye"


async def test_half_a_set_of_credentials_is_refused_with_the_name_of_the_missing_half(tmp_path: Path) -> None:
    settings = {"TWILIO_ACCOUNT_SID": ACCOUNT_SID, "TWILIO_AUTH_TOKEN": AUTH_TOKEN}
    async with process(settings | {"DATABASE_URL": f"sqlite:///{tmp_path / 'calls.db'}"}) as server:
        _, told = await server.communicate()

    assert server.returncode == 2
    assert len(told.decode().splitlines()) == 1
    assert "TWILIO_PHONE_NUMBER missing" in told.decode()
    assert AUTH_TOKEN not in told.decode()
    assert not (tmp_path / "calls.db").exists()


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"HOST": "127.0.0.1", "PORT": str(port), "DATABASE_URL": f"sqlite:///{tmp_path / 'calls.db'}"}
        async with process(settings) as server:
            _, told = await server.communicate()

    assert server.returncode not in (0, None)
    assert str(port) in told.decode()
    assert "address already in use" in told.decode()
    assert "Traceback" not in told.decode()


async def test_the_application_is_there_for_a_server_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'calls.db'}")
    application = main.app
    monkeypatch.delitem(vars(main), "app")

    async with application.router.lifespan_context(application):
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            ready = await client.get("/ready")
    assert ready.json() == {"status": "ready", "checks": {"database": "ok", "carrier": "ok"}}
