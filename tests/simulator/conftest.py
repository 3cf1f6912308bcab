"""A network, an application on it, and a client of the carrier's REST API, all on real ports."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from outbound.simulator import Callee, Network, NetworkCall
from outbound.simulator.callees import Talk
from tests.simulator.application import ACCOUNT_SID, AUTH_TOKEN, Application, serving

FROM = "+15005550006"
SOMEBODY = "+12025550155"
EVERY_EVENT = ["initiated", "ringing", "answered", "completed"]
CALLS = f"/2010-04-01/Accounts/{ACCOUNT_SID}/Calls.json"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nothing here needs the certificates of the world
PATIENCE = 20.0  # real seconds for a whole story


@dataclass
class Stage:
    """Everything that a story needs."""

    network: Network
    app: Application
    api: httpx.AsyncClient

    def order(self, to: str = SOMEBODY, **params: str) -> dict[str, str | list[str]]:
        """The parameters of a create; "" leaves one out."""
        order: dict[str, str | list[str]] = {
            "To": to,
            "From": FROM,
            "Url": f"{self.app.url}/voice",
            "StatusCallback": f"{self.app.url}/status",
            "StatusCallbackEvent": EVERY_EVENT,
        }
        return {name: value for name, value in (order | params).items() if value}

    async def ring(self, to: str = SOMEBODY, talk: Talk | None = None, **params: str) -> NetworkCall:
        """Create a call, to `talk` if given; returns while it lives."""
        if talk is not None:
            self.network.callees[to] = Callee("somebody", "of this test", talk)
        response = await self.api.post(CALLS, data=self.order(to, **params))
        assert response.status_code == 201, response.text
        async with asyncio.timeout(PATIENCE):
            return await self.network.next_call()

    async def story(self, to: str = SOMEBODY, talk: Talk | None = None, **params: str) -> NetworkCall:
        """A whole call, from its creation to its last webhook."""
        call = await self.ring(to, talk, **params)
        await ended(call)
        return call


async def ended(call: NetworkCall) -> None:
    async with asyncio.timeout(PATIENCE):
        await call.ended.wait()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    network = Network(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN, speed=300, webhook_timeout=5, grace=1.0)
    async with (
        serving(Application()) as app,
        network.serve() as url,
        httpx.AsyncClient(base_url=url, auth=(ACCOUNT_SID, AUTH_TOKEN), verify=NO_TLS) as api,
    ):
        yield Stage(network, app, api)
    assert not app.unsigned
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("simulator:")]
