"""A peer over real HTTP: it writes down who knocked, demands our credentials, and answers as a test tells it to."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.carriers.arrange import ACCOUNT

type Pairs = list[tuple[str, str]]

_EXPECTED = "Basic " + base64.b64encode(f"{ACCOUNT.account_sid}:{ACCOUNT.auth_token}".encode()).decode()


@dataclass(frozen=True)
class Knock:
    """One request as it arrived, values in their order, repeated ones too."""

    method: str
    path: str
    query: Pairs
    form: Pairs


class Peer:
    """Answers every request alike: with what `answers` was told last, or never while it `hangs`."""

    def __init__(self) -> None:
        self.base_url = ""
        self._closing = asyncio.Event()
        self.forget()

    def forget(self) -> None:
        self.knocks: list[Knock] = []
        self.hangs = False
        self._answer = Response()

    def answers(self, status: int, body: object, *, content_type: str | None = None, location: str = "") -> None:
        """A `str` body goes out as it is, as HTML; anything else as JSON."""
        text = body if isinstance(body, str) else json.dumps(body)
        media = content_type or ("text/html" if isinstance(body, str) else "application/json")
        self._answer = Response(text, status, {"location": location} if location else None, media)

    def refuses(self, status: int, code: int, message: str = "No.") -> None:
        """Twilio's error body, https://www.twilio.com/docs/usage/twilios-response#response-formats-exceptions."""
        more = f"https://www.twilio.com/docs/errors/{code}"
        self.answers(status, {"code": code, "message": message, "more_info": more, "status": status})

    async def hear(self, request: Request) -> Response:
        body = (await request.body()).decode()
        query, form = _pairs(request.url.query), _pairs(body)
        self.knocks.append(Knock(request.method, request.url.path, query, form))
        if self.hangs:
            await self._closing.wait()
        if request.headers.get("authorization") != _EXPECTED:
            return JSONResponse({"code": 20003, "message": "Authenticate", "status": 401}, 401)
        if body and request.headers["content-type"] != "application/x-www-form-urlencoded":
            return JSONResponse({"code": 20001, "message": "Unsupported content type", "status": 415}, 415)
        return self._answer

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Peer"]:
        app = Starlette(routes=[Route("/{path:path}", self.hear, methods=["GET", "POST"])])
        async with serving(app) as self.base_url:
            try:
                yield self
            finally:
                self._closing.set()


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    """Serves an application on this machine, in this loop. Gives its base URL."""
    # Named as TCP, or asyncio does not switch Nagle's algorithm off and each answer waits 40 ms for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    # Whoever connects before the server has begun waits in the listener's queue.
    task = asyncio.create_task(server.serve([listener]), name="peer")
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


type Conduct = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw(conduct: Conduct) -> AsyncIterator[str]:
    """A listener below HTTP: `conduct` gets each connection, then it is closed. Gives the base URL."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await conduct(reader, writer)
        except ConnectionError:
            pass  # the other side was first
        finally:
            writer.close()

    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def whole_request(reader: asyncio.StreamReader) -> bytes:
    """Reads one request to the end of its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0]) if lengths else 0)


def nobody() -> str:
    """The address of a port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _pairs(encoded: str) -> Pairs:
    return parse_qsl(encoded, keep_blank_values=True, strict_parsing=bool(encoded))
