"""The whole product on real sockets: the phone network of our own, and the server that main builds, on free ports."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from config import Settings
from main import TRANSPORT, build
from outbound.simulator import Callee, Network, NetworkCall

ACCOUNT_SID = "AC" + "0" * 31 + "1"
AUTH_TOKEN = "test-auth-token"
OWN_NUMBER = "+15005550006"
FRIENDLY = "+12025550100"


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs, a client of its API, and the network it rings people on."""

    client: httpx.AsyncClient
    network: Network
    base_url: str

    async def ring(self, number: str = FRIENDLY, **body: Any) -> tuple[str, NetworkCall]:
        """Places a call through the API; returns our session id and the network's view of the call."""
        response = await self.client.post("/call/initiate", json={"to": number, **body})
        assert response.status_code == 200, response.text
        return response.json()["session_id"], self.network.calls[response.json()["call_sid"]]

    async def whole(self, session_id: str) -> dict[str, Any]:
        response = await self.client.get(f"/calls/{session_id}")
        assert response.status_code == 200, response.text
        call: dict[str, Any] = response.json()
        return call


def settings_for(database: Path, **overrides: Any) -> Settings:
    """Settings that nothing in the environment of this machine has a part in."""
    values: dict[str, Any] = {
        "host": "127.0.0.1",
        "database_url": f"sqlite:///{database}",
        "rate_limit": "10000/minute",
        **overrides,
    }
    return _SettingsOfTheTest(**values)


class _SettingsOfTheTest(Settings):
    """Reads neither the environment nor `.env`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


@asynccontextmanager
async def listening(config: uvicorn.Config, listener: socket.socket) -> AsyncIterator[None]:
    """Runs a server in this loop, on a socket that listens already."""
    server = _Server(config)
    # No task group: what fails inside must reach the test as it is, not as part of an exception group.
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="server")
    started = asyncio.create_task(server.has_started.wait(), name="server-started")
    try:
        await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            raise RuntimeError("the server did not start; its log says why")
        yield
    finally:
        started.cancel()
        server.is_over.set()
        await serving


class _Server(uvicorn.Server):
    """A server inside a test: takes no signals, tells when it has started, and stops at once when it is told."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()
        self.is_over = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()

    async def main_loop(self) -> None:
        await self.is_over.wait()


@asynccontextmanager
async def serve(settings: Settings, listener: socket.socket) -> AsyncIterator[None]:
    """Runs the application main builds, in this loop, on a socket that listens already."""
    config = uvicorn.Config(build(settings), lifespan="on", timeout_graceful_shutdown=2, **TRANSPORT)
    async with listening(config, listener):
        yield


def _bound() -> socket.socket:
    """A socket on a free port. The protocol is named, or asyncio leaves Nagle's algorithm on: 40 ms an answer."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@asynccontextmanager
async def hosted(
    tmp_path: Path, api_base_url: str, *, send_buffer_bytes: int | None = None, **overrides: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """The product alone, our account's carrier being at `api_base_url`; yields a client of its API.

    `send_buffer_bytes` is how much the operating system takes off its hands for a peer that does not read.
    """
    with _bound() as listener:
        if send_buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        settings = settings_for(
            tmp_path / "calls.db",
            **{
                "carrier": "twilio",
                "twilio_account_sid": ACCOUNT_SID,
                "twilio_auth_token": AUTH_TOKEN,
                "twilio_phone_number": OWN_NUMBER,
                "twilio_api_base_url": api_base_url,
                "server_base_url": base_url,
                **overrides,
            },
        )
        async with (
            serve(settings, listener),
            httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=30) as client,
        ):
            yield client


@asynccontextmanager
async def running(
    tmp_path: Path,
    *,
    speed: float = 25.0,
    callees: Mapping[str, Callee] | None = None,
    **overrides: Any,
) -> AsyncIterator[Running]:
    """The product and its network, live. `overrides` are settings by their field names."""
    network = Network(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN, numbers=(OWN_NUMBER,), speed=speed)
    network.callees.update(callees or {})
    async with network.serve() as api_base_url, hosted(tmp_path, api_base_url, **overrides) as client:
        yield Running(client, network, str(client.base_url).rstrip("/"))
