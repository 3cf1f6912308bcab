"""The outside world in one small process: the carrier's REST API and a model's server.

`python -m benchmarks.standin PORT`. Written on the bare protocol, so that it costs next to nothing: it shares a core
with the load generator.
"""

import asyncio
import secrets
import sys
from email.utils import formatdate
from typing import cast

import httptools
import orjson
import uvloop

from benchmarks.processes import HOST

TOKENS = tuple(
    "I am| an| AI| assistant|,| and| I| am| calling| to| confirm| your| appointment| on| Tuesday| at| three|."
    "| Does| that| time| still| suit| you?".split("|")
)
"""What the model answers, whatever it is asked."""


def _chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def _event(choices: list[dict[str, object]], **more: object) -> bytes:
    body = {
        "id": "chatcmpl-standin",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "standin",
        "choices": choices,
        **more,
    }
    return _chunk(b"data: " + orjson.dumps(body) + b"\n\n")


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return _event([{"index": 0, "delta": delta, "finish_reason": finish_reason}])


_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENTS = (
    _delta({"role": "assistant", "content": ""}),
    *(_delta({"content": token}) for token in TOKENS),
    _delta({}, "stop"),
)
_USAGE = _event([], usage={"prompt_tokens": 100, "completion_tokens": len(TOKENS), "total_tokens": 100 + len(TOKENS)})
_STREAM_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Peer(asyncio.Protocol):
    """One connection; requests one after another."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._path = ""
        self._body = b""
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._streaming is not None:
            self._streaming.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._path, self._body = "", b""

    def on_url(self, url: bytes) -> None:
        self._path += url.decode("ascii")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode("ascii")
        path = self._path.partition("?")[0]
        match method, path.rsplit("/", 1)[-1]:
            case "POST", "completions":
                request = orjson.loads(self._body)
                if request.get("stream") is not True:
                    self._answer(400, {"error": {"message": "only streams here"}})
                    return
                wants_usage = bool((request.get("stream_options") or {}).get("include_usage"))
                self._streaming = asyncio.get_running_loop().create_task(self._stream(wants_usage))
            case "GET", "models":
                self._answer(200, {"object": "list", "data": [{"id": "standin", "object": "model"}]})
            case "POST", "Calls.json":
                sid = "CA" + secrets.token_hex(16)
                self._answer(201, {"sid": sid, "status": "queued", "date_created": formatdate(usegmt=True)})
            case "GET", account if account.startswith("AC"):
                self._answer(200, {"sid": account.removesuffix(".json"), "status": "active"})
            case _:
                self._answer(404, {"code": 20404, "message": "not here", "status": 404})

    def _answer(self, status: int, body: object) -> None:
        content = orjson.dumps(body)
        head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        self._write(head.encode() + content)

    async def _stream(self, wants_usage: bool) -> None:
        """Each token is a packet of its own, as fast as they go out."""
        self._write(_STREAM_HEAD)
        for event in _EVENTS:
            self._write(event)
            await asyncio.sleep(0)
        self._write((_USAGE if wants_usage else b"") + _STREAM_END)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Peer, HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
