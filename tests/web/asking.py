"""What the tests of this room say: questions to the API, and what counts as a proper refusal."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from tests.server import Running, running

BUSY = "+12025550101"
NEVER_ANSWERS = "+12025550102"
SILENT = "+12025550107"
PREMIUM = "+19005550100"
IN_GERMANY = "+493012345678"

FINAL = frozenset({"completed", "busy", "no-answer", "failed", "canceled", "refused", "unknown"})
WITHIN_S = 20.0
"""How long anything may take on a busy machine before a test gives up; nothing waits for it to pass."""

type Json = dict[str, Any]


def problem(response: httpx.Response, status: int, code: str) -> Json:
    """The body of an RFC 9457 problem with this status and code, every member checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: Json = response.json()
    assert body["code"] == code
    assert (body["type"], body["status"], body["title"]) == ("about:blank", status, HTTPStatus(status).phrase)
    assert isinstance(body["detail"], str)
    assert len(body["detail"]) >= 5
    return body


def answer(response: httpx.Response) -> Json:
    """The body of an answer that is what was asked for."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    body: Json = response.json()
    return body


async def initiate(client: httpx.AsyncClient, to: str, *, key: str | None = None, **body: Any) -> httpx.Response:
    """Asks for a call, under an idempotency key if one is given."""
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post("/call/initiate", json={"to": to, **body}, headers=headers)


async def until(running: Running, session_id: str, happened: Callable[[Json], bool]) -> Json:
    """Asks for the call, again and again as a client would, until `happened` is true of it."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            call = await running.whole(session_id)
            if happened(call):
                return call
            await asyncio.sleep(0.01)


async def until_over(running: Running, session_id: str) -> Json:
    return await until(running, session_id, lambda call: call["status"] in FINAL)


async def until_connected(running: Running, session_id: str) -> Json:
    """Waits until the call's relay socket is open; returns it as the list of active calls has it."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = [call for call in await active(running) if call["session_id"] == session_id and call["connected"]]
            if found:
                return found[0]
            await asyncio.sleep(0.01)


async def active(running: Running) -> list[Json]:
    """The list of active calls."""
    body = answer(await running.client.get("/calls/active"))
    assert body["count"] == len(body["calls"])
    calls: list[Json] = body["calls"]
    return calls


async def history(running: Running, **query: Any) -> Json:
    body = answer(await running.client.get("/calls", params=query))
    assert body["count"] == len(body["calls"])
    return body


def phone_rang(running: Running, number: str) -> int:
    """How many calls the network has made to a number."""
    return sum(call.request.to == number for call in running.network.calls.values())


@asynccontextmanager
async def lasting(path: Path, **settings: Any) -> AsyncIterator[Running]:
    """A server for several tests. Its own task opens and closes it, as fixtures are set up and torn down by two."""
    opened: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    enough = asyncio.Event()

    async def keep() -> None:
        async with running(path, **settings) as house:
            opened.set_result(house)
            await enough.wait()

    keeper = asyncio.create_task(keep(), name="lasting-server")
    either: set[asyncio.Future[Any]] = {keeper, opened}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if keeper.done():
        await keeper
    try:
        yield opened.result()
    finally:
        enough.set()
        await keeper


class RawPeer:
    """A carrier's address where anything may be answered: `answer` is written to each connection, None keeps silent."""

    def __init__(self, reply: bytes | None) -> None:
        self.reply = reply
        self.connections = 0
        self._closing = asyncio.Event()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._closing.set()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            if self.reply is None:
                await self._closing.wait()
            else:
                writer.write(self.reply)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side was first
        finally:
            writer.close()


def http_reply(status: int, body: str, content_type: str = "application/json") -> bytes:
    """A whole HTTP answer as it stands on the wire."""
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body.encode())}\r\nConnection: close\r\n\r\n{body}".encode()


def leaves(value: object) -> Iterator[object]:
    """Every plain value inside a JSON document, keys included."""
    match value:
        case Mapping():
            for key, inner in value.items():
                yield key
                yield from leaves(inner)
        case list():
            for inner in value:
                yield from leaves(inner)
        case _:
            yield value
