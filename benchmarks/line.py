"""One call from the carrier's side: its relay socket on the bare protocol, what it reports, when answers arrive."""

import asyncio
import base64
import re
import secrets
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from benchmarks.processes import Failed

PACE_S = 0.02
"""Between two reports of playback. A carrier takes seconds for them; what counts is that each comes by itself."""
OPEN_WITHIN_S = 30.0
CLOSE_WITHIN_S = 10.0

_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA


@dataclass(slots=True)
class Turn:
    """One answer: when it was asked for and when its first and last frame came, by one clock; and the frames."""

    asked_at: float
    first_at: float = 0.0
    last_at: float = 0.0
    frames: list[str] = field(default_factory=list)

    @property
    def first_ms(self) -> float:
        return (self.first_at - self.asked_at) * 1000

    @property
    def last_ms(self) -> float:
        return (self.last_at - self.asked_at) * 1000

    @property
    def text(self) -> str:
        return "".join(orjson.loads(frame)["token"] for frame in self.frames)


class Line(asyncio.Protocol):
    """A relay socket. Frames are written as a client must, masked; those that recur are masked once.

    `open_line` makes one. Then `begin_speaking`, `ask` and `play`, turn by turn, and `close`.
    """

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.asked = 0
        """How many turns there were."""
        self._request = request
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = b""
        self._turn: Turn | None = None
        self._answered = asyncio.Event()

    async def introduce(self, call_sid: str, greeting: str) -> None:
        """The carrier's first words: who is on the line, and that the greeting was played."""
        self._tell(type="setup", sessionId="VX" + secrets.token_hex(16), callSid=call_sid, direction="outbound-api")
        await self.play(greeting)

    def begin_speaking(self) -> None:
        self._tell(type="info", name="clientSpeaking", value="on")

    async def ask(self, words: str, within_s: float) -> Turn | None:
        """The callee ends with these words; returns the answer, or None where it is not complete in time."""
        self._tell(type="info", name="clientSpeaking", value="off")
        self._answered.clear()
        self.asked += 1
        turn = self._turn = Turn(asked_at=time.perf_counter())
        self._tell(type="prompt", voicePrompt=words, lang="en-US", last=True)
        try:
            async with asyncio.timeout(within_s):
                await self._answered.wait()
        except TimeoutError:
            self._turn = None
            return None
        return turn

    async def play(self, text: str) -> None:
        """Reports that the text becomes audible, that each clause was heard, and that there is silence again."""
        self._tell(type="info", name="agentSpeaking", value="on")
        for clause in re.findall(r"[^.?!]+[.?!]*\s*", text):
            await asyncio.sleep(PACE_S)
            self._tell(type="info", name="tokensPlayed", value=clause)
        await asyncio.sleep(PACE_S)
        self._tell(type="info", name="agentSpeaking", value="off")

    async def close(self) -> None:
        """Hangs up, and returns when the server has let go."""
        if self._transport is not None:
            self._transport.write(_frame(_CLOSE, (1000).to_bytes(2)))
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self.closed

    # What the transport brings.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop has classes of its own
        self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self.opened.done():
            self.opened.set_exception(Failed("the server closed a relay socket instead of accepting it"))
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        data = self._buffer + data if self._buffer else data
        if not self.opened.done():
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._buffer = head
                return
            self._accepted(head)
        at = 0
        while (frame := _read(data, at)) is not None:
            opcode, payload, at = frame
            self._received(opcode, payload, now)
        self._buffer = data[at:]

    def _accepted(self, head: bytes) -> None:
        status = head.partition(b"\r\n")[0]
        if b" 101" in status:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(Failed(f"a relay socket was refused: {status.decode('latin-1')}"))

    def _received(self, opcode: int, payload: bytes, now: float) -> None:
        turn = self._turn
        if opcode == _TEXT and turn is not None:
            message = orjson.loads(payload)
            if message["type"] != "text":
                return
            turn.frames.append(payload.decode())
            if not turn.first_at and message["token"]:
                turn.first_at = now
            if message.get("last"):
                turn.last_at = now
                turn.first_at = turn.first_at or now
                self._turn = None
                self._answered.set()
        elif opcode == _PING and self._transport is not None:
            self._transport.write(_frame(_PONG, payload))
        elif opcode == _CLOSE and self._transport is not None:
            self._transport.write(_frame(_CLOSE, payload[:2]))
            self._transport.close()

    def _tell(self, **message: Any) -> None:
        if self._transport is None:
            raise Failed("the server closed a relay socket in the middle of a call")
        self._transport.write(_text(orjson.dumps(message)))


async def open_line(url: str, headers: dict[str, str]) -> Line:
    """Opens the socket at a ws:// address. Raises Failed where it is refused."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise Failed(f"expected ws://host:port/..., got {url!r}")
    host, port = parts.hostname, parts.port
    fields = {
        "Host": parts.netloc,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(secrets.token_bytes(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **headers,
    }
    head = f"GET {parts.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"{head}\r\n".encode("latin-1")
    async with asyncio.timeout(OPEN_WITHIN_S):
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: Line(request), host, port)
        await line.opened
    return line


@lru_cache(maxsize=10_000)
def _text(payload: bytes) -> bytes:
    return _frame(_TEXT, payload)


def _frame(opcode: int, payload: bytes) -> bytes:
    """A whole masked frame, RFC 6455, section 5.2."""
    mask = secrets.token_bytes(4)
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else bytes((0x80 | 126,)) + size.to_bytes(2)
    return bytes((0x80 | opcode,)) + length + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def _read(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """The frame that begins at `at`: opcode, payload and where the next one begins. None if it is not all there."""
    if len(data) < at + 2:
        return None
    opcode, size = data[at] & 0x0F, data[at + 1] & 0x7F
    start = at + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        size = int.from_bytes(data[start : start + width])
        start += width
    if len(data) < start + size:
        return None
    return opcode, data[start : start + size], start + size
