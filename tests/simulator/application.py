"""The application under the carrier, as small as it can be: it answers webhooks and holds relay sockets."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from xml.sax.saxutils import quoteattr

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketState
from twilio.request_validator import RequestValidator

ACCOUNT_SID = "AC" + "0" * 32
AUTH_TOKEN = "0123456789abcdef0123456789abcdef"
GREETING = "Hello, this is Ada, an assistant of Northwind. May I speak with Dana?"
EVENTS = "speaker-events tokens-played"

Talk = Callable[[WebSocket], Awaitable[None]]


def xml(body: str, status: int = 200) -> Response:
    """A TwiML answer."""
    return Response(f"<Response>{body}</Response>", status, media_type="text/xml")


async def echo(relay: WebSocket) -> None:
    """Answer every prompt with a sentence; end the session after a goodbye."""
    turns = 0
    async for message in messages(relay):
        if message["type"] != "prompt" or not message["last"]:
            continue
        turns += 1
        if "bye" in str(message["voicePrompt"]):
            await relay.send_json({"type": "text", "token": "Goodbye, and take care.", "last": True})
        else:
            for token in (f"This is answer {turns}.", " It has two clauses,", " and one of them is rather long."):
                await relay.send_json({"type": "text", "token": token, "last": False})
            await relay.send_json({"type": "text", "token": "", "last": True})


async def messages(relay: WebSocket) -> AsyncIterator[dict[str, object]]:
    """What the carrier sends until it closes."""
    while relay.application_state is WebSocketState.CONNECTED:
        message = await relay.receive()
        if message["type"] == "websocket.disconnect":
            relay.state.close_code = message["code"]
            return
        yield json.loads(message["text"])


@dataclass
class Application:
    """What it answers can be changed at any time; what it received is kept in order of arrival."""

    talk: Talk = echo
    attributes: dict[str, str] = field(default_factory=lambda: {"welcomeGreeting": GREETING, "events": EVENTS})
    inner: str = '<Parameter name="session" value="s_1"/>'
    voice: Response | None = None  # instead of the relay document
    action: list[Response] = field(default_factory=list)  # one after another; then an empty document
    fallback: list[Response] = field(default_factory=list)  # one after another; then a sentence
    refuses: bool = False  # no relay socket is accepted
    action_waits_for: asyncio.Event | None = None
    received: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    unsigned: list[str] = field(default_factory=list)  # what Twilio's own SDK would refuse
    closed: list[int | None] = field(default_factory=list)  # close codes as this side sees them
    url: str = ""

    @property
    def relay_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/relay/tok_abc123"

    def relay(self, **attributes: str) -> str:
        """`<Connect>` to this application; a None-like "" leaves an attribute out."""
        given = {"url": self.relay_url, **self.attributes, **attributes}
        written = " ".join(f"{name}={quoteattr(value)}" for name, value in given.items() if value)
        action = quoteattr(self.url + "/action")
        return f"<Connect action={action}><ConversationRelay {written}>{self.inner}</ConversationRelay></Connect>"

    def params(self, path: str) -> list[dict[str, str]]:
        """The parameters of all requests to one path."""
        return [params for at, params in self.received if at == path]

    def statuses(self) -> list[str]:
        return [params["CallStatus"] for params in self.params("/status")]

    def asgi(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/{path:path}", self._webhook, methods=["GET", "POST"]),
                WebSocketRoute("/relay/{token}", self._relay),
            ]
        )

    async def _webhook(self, request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).multi_items()}
        url = self.url + request.url.path + (f"?{request.url.query}" if request.url.query else "")
        signature = request.headers["x-twilio-signature"]
        if not RequestValidator(AUTH_TOKEN).validate(url, form, signature):
            self.unsigned.append(url)
        self.received.append((request.url.path, form or dict(request.query_params)))
        match request.url.path:
            case "/voice":
                return self.voice or xml(self.relay())
            case "/action":
                if self.action_waits_for is not None:
                    await self.action_waits_for.wait()
                return self.action.pop(0) if self.action else xml("")
            case "/fallback":
                return self.fallback.pop(0) if self.fallback else xml("<Say>Please call again later.</Say>")
            case _:
                return Response(status_code=204)

    async def _relay(self, relay: WebSocket) -> None:
        signature = relay.headers["x-twilio-signature"]
        if not RequestValidator(AUTH_TOKEN).validate(self.relay_url, {}, signature):
            self.unsigned.append(self.relay_url)
        if self.refuses:
            return await relay.close()
        await relay.accept()
        await self.talk(relay)
        if not hasattr(relay.state, "close_code"):
            async for _ in messages(relay):
                pass
        self.closed.append(getattr(relay.state, "close_code", None))
        return None


class _Server(uvicorn.Server):
    """Leaves the signals alone, and stops without waiting for a tick."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.stop = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # The real one pauses first; here the network has closed its connections.
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()


@contextlib.asynccontextmanager
async def serving(application: Application, listener: socket.socket | None = None) -> AsyncIterator[Application]:
    """The application on a real port: of its own, or where somebody listens already."""
    config = uvicorn.Config(
        application.asgi(),
        host="127.0.0.1",
        port=0,
        lifespan="off",
        ws="websockets-sansio",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener] if listener else None))
    await server.ready.wait()
    application.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield application
    finally:
        server.stop.set()
        await task
