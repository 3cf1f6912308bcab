"""The servers of a comparison: the whole product as its operator would run it, and its floor, each ready for calls."""

import asyncio
import base64
import hmac
import html
import re
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx
import orjson

from benchmarks.line import Line, open_line
from benchmarks.processes import HOST, Cores, Failed, Process, free_port, running

OPENING_AT_ONCE = 8
"""How many calls are being opened or hung up at the same time."""

_ACCOUNT_SID = "AC" + "0" * 31 + "b"
_OWN_NUMBER = "+15005550006"
_GREETING = "Hello, this is the AI assistant calling. Do you have a moment?"
_ABOUT = {
    "agent_name": "Anna",
    "company": "the dental practice of Doctor Lee",
    "purpose": "your appointment on Tuesday the fourth of March at nine in the morning, and whether you would rather "
    "have it in the afternoon of the same day, or on the Thursday",
}
"""What a real call is about: the scripted agent's replies are then about as long as the stand-in model's 24 tokens."""
_READY_WITHIN_S = 30.0


class Server(Protocol):
    """One side of a comparison."""

    process: Process
    prompts_apart_s: float
    """How far apart the prompts of one call have to be for each to get an answer of its own."""

    async def open_call(self) -> Line:
        """A call whose greeting was heard."""

    async def close_call(self, line: Line) -> None:
        """Hangs up, and tells the server all that a carrier would."""

    async def check(self, line: Line, turns: int) -> None:
        """Raises Failed where the server did not do all of its work for the first `turns` turns of this call."""


@dataclass(slots=True)
class Floor:
    """A floor: it has a socket and nothing else."""

    process: Process
    port: int
    prompts_apart_s: float = 0.0

    async def open_call(self) -> Line:
        line = await open_line(f"ws://{HOST}:{self.port}/ws/{secrets.token_urlsafe(24)}", {})
        await line.introduce("CA" + secrets.token_hex(16), _GREETING)
        return line

    async def close_call(self, line: Line) -> None:
        await line.close()

    async def check(self, line: Line, turns: int) -> None:
        pass


@dataclass(slots=True)
class Product:
    """The product, called through its API and answered as a carrier answers: every request and socket is signed."""

    process: Process
    client: httpx.AsyncClient
    base_url: str
    token: str
    prompts_apart_s: float = 0.3
    """Two prompts within a quarter of a second are one to it."""
    _calls: dict[Line, tuple[str, str]] = field(default_factory=dict)
    """Our session id and the carrier's call id of each open line."""

    async def open_call(self) -> Line:
        number = f"+1202555{secrets.randbelow(100):04}"
        placed = _ok(
            await self.client.post("/call/initiate", json={"to": number, "greeting": _GREETING, "variables": _ABOUT})
        ).json()
        session_id, call_sid = placed["session_id"], placed["call_sid"]
        document = (await self._post("/voice", session_id, call_sid, CallStatus="in-progress")).text
        found = re.search(r'<ConversationRelay[^>]* url="([^"]+)"', document)
        if found is None:
            raise Failed(f"expected TwiML that connects a relay, got {document!r}")
        relay_url = html.unescape(found[1])
        line = await open_line(relay_url, {"X-Twilio-Signature": self._signature(relay_url, {})})
        self._calls[line] = session_id, call_sid
        await line.introduce(call_sid, _GREETING)
        return line

    async def close_call(self, line: Line) -> None:
        session_id, call_sid = self._calls.pop(line)
        await line.close()
        await self._post("/voice/ended", session_id, call_sid, CallStatus="completed", SessionStatus="completed")
        await self._post(
            "/voice/status", session_id, call_sid, CallStatus="completed", SequenceNumber="3", CallDuration="60"
        )

    async def check(self, line: Line, turns: int) -> None:
        """The journal holds every turn: nothing was left out to be fast."""
        session_id, _ = self._calls[line]
        whole = _ok(await self.client.get(f"/calls/{session_id}")).json()
        kept = sum(latency["outcome"] == "finished" for latency in whole["turn_latencies"])
        if kept != turns:
            raise Failed(f"expected {turns} finished turns in the journal, got {kept}")

    async def _post(self, path: str, session_id: str, call_sid: str, **more: str) -> httpx.Response:
        target = f"{path}?session_id={session_id}"
        form = {"CallSid": call_sid, "AccountSid": _ACCOUNT_SID, "Direction": "outbound-api", **more}
        headers = {"X-Twilio-Signature": self._signature(self.base_url + target, form)}
        return _ok(await self.client.post(target, data=form, headers=headers))

    def _signature(self, url: str, form: Mapping[str, str]) -> str:
        """As https://www.twilio.com/docs/usage/webhooks/webhooks-security has it."""
        signed = url + "".join(name + form[name] for name in sorted(form))
        return base64.b64encode(hmac.digest(self.token.encode(), signed.encode(), "sha1")).decode()


def _ok(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise Failed(f"{response.request.url.path} answered {response.status_code}: {response.text[:500]}")
    return response


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts the servers of a run. `standin_port` is where the carrier and the model are played."""

    cores: Cores
    directory: Path
    standin_port: int

    @asynccontextmanager
    async def product(self, name: str, model: str = "scripted") -> AsyncIterator[Product]:
        """`main.py` in a process of its own, with a fresh database, ready for calls."""
        port, token, key = free_port(), secrets.token_hex(16), secrets.token_urlsafe(32)
        base_url = f"http://{HOST}:{port}"
        settings = {
            "CARRIER": "twilio",
            "TWILIO_ACCOUNT_SID": _ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": token,
            "TWILIO_PHONE_NUMBER": _OWN_NUMBER,
            "TWILIO_API_BASE_URL": f"http://{HOST}:{self.standin_port}",
            "HOST": HOST,
            "PORT": str(port),
            "SERVER_BASE_URL": base_url,
            "DATABASE_URL": f"sqlite:///{self.directory / name}.db",
            "API_KEYS": key,
            "RATE_LIMIT": "1000000/minute",
            "ALLOWED_COUNTRIES": "US",
            "LOG_LEVEL": "info",
            "LLM_MODEL": model,
            "OPENAI_BASE_URL": f"http://{HOST}:{self.standin_port}/v1",
            "OPENAI_API_KEY": "standin",
            # Calls that wait for their round, and answers that queue where more is asked than one core can do, are not
            # to be talked into.
            "SILENCE_TIMEOUT": "3600",
            "MAX_CALL_DURATION": "14400",
            "LLM_FIRST_TOKEN_TIMEOUT": "60",
            "LLM_TIMEOUT": "60",
        }
        log = self.directory / f"{name}.log"
        async with (
            running(["main.py"], port=port, core=self.cores.server, log=log, settings=settings) as process,
            httpx.AsyncClient(
                base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=30, trust_env=False
            ) as client,
        ):
            await _until_ready(client)
            yield Product(process, client, base_url, token)

    @asynccontextmanager
    async def replies_floor(self, replies: list[list[str]]) -> AsyncIterator[Floor]:
        """The floor that streams recorded frames."""
        file = self.directory / "replies.json"
        file.write_bytes(orjson.dumps(replies))
        async with self._floor("replies", str(file)) as floor:
            yield floor

    @asynccontextmanager
    async def model_floor(self) -> AsyncIterator[Floor]:
        """The floor that relays the stand-in model with a client written by hand."""
        async with self._floor("model", f"http://{HOST}:{self.standin_port}/v1") as floor:
            yield floor

    @asynccontextmanager
    async def _floor(self, kind: str, source: str) -> AsyncIterator[Floor]:
        port = free_port()
        command = ["-m", "benchmarks.floor", str(port), kind, source]
        log = self.directory / f"floor-{kind}.log"
        async with running(command, port=port, core=self.cores.server, log=log) as process:
            yield Floor(process, port)


@asynccontextmanager
async def starter(cores: Cores, directory: Path) -> AsyncIterator[Starter]:
    """Starts the outside world, and returns what starts servers in it."""
    port = free_port()
    command = ["-m", "benchmarks.standin", str(port)]
    async with running(command, port=port, core=cores.load, log=directory / "standin.log"):
        yield Starter(cores, directory, port)


async def _until_ready(client: httpx.AsyncClient) -> None:
    ends_at = time.monotonic() + _READY_WITHIN_S
    while (answer := await client.get("/ready")).status_code != 200:
        if time.monotonic() > ends_at:
            raise Failed(f"the product is not ready: {answer.text}")
        await asyncio.sleep(0.2)  # another process's state: it sends no event


@dataclass(slots=True)
class Pair:
    """A product, its floor, and as many live calls on each as the part of the run wants."""

    product: Product
    floor: Floor
    calls: dict[str, list[Line]] = field(default_factory=lambda: {"product": [], "floor": []})

    @property
    def sides(self) -> tuple[tuple[str, Server], tuple[str, Server]]:
        return ("product", self.product), ("floor", self.floor)

    async def hold(self, count: int) -> None:
        """Opens calls, or hangs up the oldest, until each side has `count`."""
        for name, server in self.sides:
            lines = self.calls[name]
            surplus, self.calls[name] = lines[: max(0, len(lines) - count)], lines[max(0, len(lines) - count) :]
            await _few_at_once(server.close_call(line) for line in surplus)
            self.calls[name] += await _few_at_once(server.open_call() for _ in range(count - len(self.calls[name])))


async def _few_at_once[T](calls: Iterator[Coroutine[None, None, T]]) -> list[T]:
    free = asyncio.Semaphore(OPENING_AT_ONCE)

    async def one(call: Coroutine[None, None, T]) -> T:
        async with free:
            return await call

    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(one(call)) for call in calls]
    return [task.result() for task in made]
