"""A stand-in for OpenAI's chat completions on a real port, which streams, refuses, hangs and breaks as it is told."""

import asyncio
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send


@dataclass(frozen=True)
class Behaviour:
    """How one request is answered: tokens, tool calls, and then an end of some kind."""

    tokens: Sequence[str] = ()
    calls: Sequence[tuple[str, Mapping[str, Any] | str]] = ()
    """Names with arguments; a string goes out as it is."""
    status: int = 200
    then: Literal["stop", "hang", "break", "garbage"] = "stop"
    pause_s: float = 0.0
    """Before each token."""


@dataclass
class Asked:
    """A request as it arrived, and what became of it."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    peer: tuple[str, int] | None
    """The client's end of the connection."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The client closed the connection before the answer was complete."""

    def said(self, role: str) -> list[str]:
        """The messages of a role."""
        return [message["content"] for message in self.body["messages"] if message["role"] == role]


class OpenAIServer:
    """`async with OpenAIServer() as server`, then `server.behave(...)`; it runs on the loop that enters it.

    Each request takes the next behaviour; the last one stays. `asked` holds the requests in order.
    """

    def __init__(self, *, key: str | None = None) -> None:
        self.asked: list[Asked] = []
        self.knocks = 0
        """How often the models were listed."""
        self._key = key
        self._behaviours = [Behaviour(("Hello", " there", "."))]
        self._decide: Callable[[Asked], Behaviour] | None = None
        self._arrived = asyncio.Condition()
        self._socket = socket.socket()

    @property
    def base_url(self) -> str:
        """The address that clients are given."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def behave(self, *behaviours: Behaviour) -> None:
        """Answers the requests to come like this, one after another."""
        self._behaviours = list(behaviours)

    def decide(self, behaviour: Callable[[Asked], Behaviour]) -> None:
        """Answers each request by what it asks."""
        self._decide = behaviour

    async def request(self, number: int) -> Asked:
        """Waits for the request of that number, from 0."""
        async with self._arrived:
            await asyncio.wait_for(self._arrived.wait_for(lambda: len(self.asked) > number), 5)
        return self.asked[number]

    async def __aenter__(self) -> Self:
        self._socket.bind(("127.0.0.1", 0))
        app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", _Completions(self), methods=["POST"]),
            ]
        )
        self._server = _Server(uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off", ws="none"))
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="stand-in")
        await self._server.ready.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = self._server.force_exit = True
        await self._serving

    def _refuses(self, headers: Mapping[str, str]) -> bool:
        return self._key is not None and headers.get("authorization") != f"Bearer {self._key}"

    async def _models(self, request: Request) -> JSONResponse:
        self.knocks += 1
        if self._refuses(request.headers):
            return _refusal(401)
        return JSONResponse({"object": "list", "data": [{"id": "stand-in", "object": "model", "owned_by": "tests"}]})

    async def _take(self, request: Request) -> tuple[Asked, Behaviour]:
        asked = Asked(await request.json(), request.headers, request.scope["client"])
        behaviour = self._behaviours.pop(0) if len(self._behaviours) > 1 else self._behaviours[0]
        behaviour = self._decide(asked) if self._decide is not None else behaviour
        async with self._arrived:
            self.asked.append(asked)
            self._arrived.notify_all()
        return asked, Behaviour(status=401) if self._refuses(request.headers) else behaviour


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def _refusal(status: int) -> JSONResponse:
    return JSONResponse({"error": {"message": f"refused with {status}", "type": "error", "code": None}}, status)


class _Completions:
    """Below Starlette's responses, because it has to break off in the middle."""

    def __init__(self, server: OpenAIServer) -> None:
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked, behaviour = await self._server._take(Request(scope, receive))
        if behaviour.status != 200:
            await _refusal(behaviour.status)(scope, receive, send)
            return
        answering = asyncio.create_task(self._answer(asked, behaviour, send))
        leaving = asyncio.ensure_future(receive())
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            asked.gone.set()
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _answer(self, asked: Asked, behaviour: Behaviour, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def event(data: str) -> None:
            await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})

        async def delta(content: Mapping[str, Any], finish: str | None = None, **more: Any) -> None:
            choice = {"index": 0, "delta": content, "finish_reason": finish}
            frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "stand-in"}
            await event(json.dumps(frame | {"choices": [choice]} | more))

        if behaviour.tokens or behaviour.then == "stop":
            await delta({"role": "assistant", "content": ""})
        for token in behaviour.tokens:
            await asyncio.sleep(behaviour.pause_s)
            await delta({"content": token})
        for place, (name, arguments) in enumerate(behaviour.calls):
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            function = {"name": name, "arguments": ""}
            await delta(
                {"tool_calls": [{"index": place, "id": f"call_{place}", "type": "function", "function": function}]}
            )
            for part in (text[: len(text) // 2], text[len(text) // 2 :]):
                await delta({"tool_calls": [{"index": place, "function": {"arguments": part}}]})
        if behaviour.then == "hang":
            await asyncio.Event().wait()
        if behaviour.then == "garbage":
            await event("{this is not JSON")
        if behaviour.then == "break":
            return  # the server closes a connection whose response was not completed
        usage = {"prompt_tokens": 10, "completion_tokens": len(behaviour.tokens), "total_tokens": 10}
        await delta({}, "tool_calls" if behaviour.calls else "stop", usage=usage)
        await event("[DONE]")
        await send({"type": "http.response.body", "body": b""})
