"""The carrier, moved by hand: its REST API with nobody behind it, and its end of one call, frame by frame.

It signs with code of its own, https://www.twilio.com/docs/usage/webhooks/webhooks-security, so that neither ours nor
the SDK's is checked against itself.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.server import ACCOUNT_SID, AUTH_TOKEN, FRIENDLY, OWN_NUMBER, hosted, listening

WITHIN_S = 10.0
"""How long the server may take for anything that a peer waits for, on a busy machine."""

type Message = dict[str, Any]


def signature(url: str, form: Mapping[str, str] | None = None, *, token: str = AUTH_TOKEN) -> str:
    """The `X-Twilio-Signature` for an address, with the fields of a POST form in the order of their names."""
    content = url + "".join(f"{name}{(form or {})[name]}" for name in sorted(form or {}))
    return base64.b64encode(hmac.digest(token.encode(), content.encode(), hashlib.sha1)).decode()


# The REST API.


@dataclass(frozen=True)
class Placed:
    """A call that was asked for, and what was asked."""

    call_sid: str
    form: Mapping[str, str]

    @property
    def session_id(self) -> str:
        """Our id of the call, as it stands in the links."""
        return self.form["Url"].rpartition("session_id=")[2]


class Exchange:
    """Takes every create and rings nobody. `status` is what a fetch tells of any call."""

    def __init__(self) -> None:
        self.base_url = ""
        self.placed: asyncio.Queue[Placed] = asyncio.Queue()
        self.hung_up: list[str] = []
        self.status = "in-progress"
        self.next_sid = ""
        self.answers = asyncio.Event()
        """Clear it to hold back the answers to creates."""
        self.answers.set()
        self._count = 0

    async def _create(self, request: Request) -> JSONResponse:
        self._count += 1
        call_sid, self.next_sid = self.next_sid or f"CA{self._count:032x}", ""
        self.placed.put_nowait(Placed(call_sid, await _form(request)))
        await self.answers.wait()
        return JSONResponse({"sid": call_sid, "status": "queued"}, 201)

    async def _call(self, request: Request) -> JSONResponse:
        call_sid = request.path_params["sid"]
        if request.method == "POST":
            self.hung_up.append(call_sid)
        return JSONResponse({"sid": call_sid, "status": self.status})

    async def _account(self, request: Request) -> JSONResponse:
        return JSONResponse({"sid": ACCOUNT_SID, "status": "active"})

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Yields the base URL of the API."""
        account = f"/2010-04-01/Accounts/{ACCOUNT_SID}"
        app = Starlette(
            routes=[
                Route(f"{account}/Calls.json", self._create, methods=["POST"]),
                Route(f"{account}/Calls/{{sid}}.json", self._call, methods=["GET", "POST"]),
                Route(f"{account}.json", self._account),
            ]
        )
        config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, access_log=False)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with listening(config, listener):
                try:
                    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
                finally:
                    self.answers.set()


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))


@dataclass(frozen=True)
class Stage:
    """The product with nobody but the test on the carrier's side."""

    client: httpx.AsyncClient
    exchange: Exchange

    @property
    def base_url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    async def place(self, number: str = FRIENDLY, *, call_sid: str = "", **body: Any) -> "Peer":
        """Has the product place a call, and hands over the carrier's end of it."""
        self.exchange.next_sid = call_sid
        response = await self.client.post("/call/initiate", json={"to": number, **body})
        assert response.status_code == 200, response.text
        placed = await self.exchange.placed.get()
        assert placed.call_sid == response.json()["call_sid"]
        return Peer(self.client, placed)

    async def talk(self, number: str = FRIENDLY, **body: Any) -> "Peer":
        """A placed call that was answered."""
        peer = await self.place(number, **body)
        await peer.picks_up()
        return peer

    async def active(self) -> list[Message]:
        calls: list[Message] = (await self.client.get("/calls/active")).json()["calls"]
        return calls


@asynccontextmanager
async def staged(tmp_path: Path, **settings: Any) -> AsyncIterator[Stage]:
    """The product, live, on an exchange that does nothing by itself."""
    exchange = Exchange()
    async with exchange.serve() as api_base_url, hosted(tmp_path, api_base_url, **settings) as client:
        yield Stage(client, exchange)


# One call.


class Peer:
    """The carrier's end of one call."""

    def __init__(self, client: httpx.AsyncClient, placed: Placed) -> None:
        self.client = client
        self.placed = placed
        self.call_sid = placed.call_sid
        self.session_id = placed.session_id
        self.relay_url = ""
        """Known from the document on."""
        self.action_url = ""
        self.greeting = ""
        self._sequence = 0

    async def record(self) -> Message:
        """`GET /calls/{session_id}`."""
        response = await self.client.get(f"/calls/{self.session_id}")
        assert response.status_code == 200, response.text
        record: Message = response.json()
        return record

    # Webhooks.

    async def knock(self, url: str, form: Mapping[str, str], **headers: str) -> httpx.Response:
        """Posts a form, signed unless `headers` hold a signature of their own."""
        headers.setdefault("X-Twilio-Signature", signature(url, form))
        content_type = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}
        return await self.client.post(url, content=urlencode(form), headers={**content_type, **headers})

    def fields(self, **more: str) -> dict[str, str]:
        """What every voice webhook carries; names as on the wire."""
        to = self.placed.form["To"]
        always = {
            "AccountSid": ACCOUNT_SID,
            "ApiVersion": "2010-04-01",
            "CallSid": self.call_sid,
            "Called": to,
            "Caller": OWN_NUMBER,
            "Direction": "outbound-api",
            "From": OWN_NUMBER,
            "FromCity": "",
            "To": to,
            "ToState": "",
        }
        return {**always, **more}

    async def picks_up(self) -> str:
        """Asks for the document of the answered call and reads where it leads; returns it."""
        response = await self.knock(self.placed.form["Url"], self.fields(CallStatus="in-progress"))
        assert response.status_code == 200, response.text
        self.read(response.text)
        return response.text

    def read(self, document: str) -> None:
        """Takes the addresses and the greeting out of TwiML."""
        connect_verb = ElementTree.fromstring(document).find("Connect")  # noqa: S314 - our own server wrote it
        relay_noun = connect_verb.find("ConversationRelay") if connect_verb is not None else None
        if connect_verb is not None and relay_noun is not None:
            self.action_url = connect_verb.attrib["action"]
            self.relay_url = relay_noun.attrib["url"]
            self.greeting = relay_noun.attrib.get("welcomeGreeting", "")

    async def reports(self, status: str, *, sequence: int | None = None, **more: str) -> None:
        """Sends a status callback, which has to be taken."""
        number = self._sequence if sequence is None else sequence
        self._sequence = number + 1
        form = self.fields(CallStatus=status, SequenceNumber=str(number), **more)
        response = await self.knock(self.placed.form["StatusCallback"], form)
        assert response.status_code == 204, response.text

    async def session_is_over(self, status: str, **more: str) -> str:
        """Asks the action URL what comes after the relay session; returns the document."""
        call_status = "completed" if status == "completed" else "in-progress"
        form = self.fields(CallStatus=call_status, SessionId="VX1", SessionStatus=status, SessionDuration="7", **more)
        response = await self.knock(self.action_url, form)
        assert response.status_code == 200, response.text
        return response.text

    # The socket.

    @asynccontextmanager
    async def socket(self, url: str | None = None, **options: Any) -> AsyncIterator["Relay"]:
        """Opens the relay socket, signed for its own address."""
        url = url or self.relay_url
        async with self.raw_socket(url, {"X-Twilio-Signature": signature(url)}, **options) as connection:
            relay = Relay(connection, self.call_sid)
            reading = asyncio.create_task(relay.read(), name="peer-reader")
            try:
                yield relay
            finally:
                reading.cancel()

    @asynccontextmanager
    async def raw_socket(
        self, url: str, headers: Mapping[str, str], *, receive_buffer_bytes: int | None = None, **options: Any
    ) -> AsyncIterator[ClientConnection]:
        """A connection that nobody reads from yet."""
        if receive_buffer_bytes is not None:
            options["sock"] = await _narrow_socket(url, receive_buffer_bytes)
        async with connect(
            url,
            additional_headers=headers,
            compression=None,
            proxy=None,
            ping_interval=None,
            close_timeout=1,
            max_size=None,
            **options,
        ) as connection:
            yield connection

    async def refusal(self, url: str, **headers: str) -> int:
        """The HTTP status that a handshake was refused with."""
        try:
            async with self.raw_socket(url, headers):
                raise AssertionError("the socket was accepted")
        except InvalidStatus as refused:
            return refused.response.status_code


async def _narrow_socket(url: str, receive_buffer_bytes: int) -> socket.socket:
    address = urlsplit(url)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, (address.hostname, address.port))
    return narrow


@dataclass
class Relay:
    """An open relay socket: sends what it is told, collects what comes."""

    connection: ClientConnection
    call_sid: str
    frames: list[Message] = field(default_factory=list)
    close_code: int | None = None
    _read_to: int = 0
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def read(self) -> None:
        """Collects frames until the socket is closed."""
        try:
            while True:
                message = json.loads(await self.connection.recv())
                async with self._news:
                    self.frames.append(message)
                    self._news.notify_all()
        except ConnectionClosed as closed:
            async with self._news:
                self.close_code = closed.rcvd.code if closed.rcvd is not None else 1006
                self._news.notify_all()

    async def until(self, fits: Callable[["Relay"], bool]) -> None:
        """Waits for frames or the close."""
        try:
            async with asyncio.timeout(WITHIN_S), self._news:
                await self._news.wait_for(lambda: fits(self))
        except TimeoutError:
            raise AssertionError(f"the server did not do it; frames: {self.frames[-20:]}") from None

    # What the carrier says.

    async def send(self, message: Message | str | bytes) -> None:
        await self.connection.send(json.dumps(message) if isinstance(message, dict) else message)

    async def setup(self, *, call_sid: str | None = None, session_id: str = "VX1") -> None:
        await self.send({"type": "setup", "sessionId": session_id, "callSid": call_sid or self.call_sid})

    async def info(self, name: str, value: str) -> None:
        await self.send({"type": "info", "name": name, "value": value})

    async def prompt(self, text: str, *, last: bool = True) -> None:
        await self.send({"type": "prompt", "voicePrompt": text, "lang": "en-US", "last": last})

    async def plays(self, *clauses: str) -> None:
        """Reports that these words were heard, and nothing after them."""
        await self.info("agentSpeaking", "on")
        for clause in clauses:
            await self.info("tokensPlayed", clause)
        await self.info("agentSpeaking", "off")

    # What the server says.

    async def reply(self) -> str:
        """Waits for the next talk cycle that is closed, and returns its text."""
        await self.until(lambda relay: any(frame.get("last") for frame in relay.frames[relay._read_to :]))
        closing = next(at for at in range(self._read_to, len(self.frames)) if self.frames[at].get("last"))
        cycle, self._read_to = self.frames[self._read_to : closing + 1], closing + 1
        return "".join(frame["token"] for frame in cycle if frame["type"] == "text")

    async def hears_reply(self) -> str:
        """Waits for the next talk cycle and plays it to its end."""
        text = await self.reply()
        await self.plays(text)
        return text

    async def asks(self, text: str) -> str:
        """Says something and hears the answer to its end."""
        await self.prompt(text)
        return await self.hears_reply()

    async def closed(self) -> int:
        """Waits for the server to close; returns its code."""
        await self.until(lambda relay: relay.close_code is not None)
        return self.close_code or 0
