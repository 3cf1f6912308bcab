"""Plays a recorded call to the product: real routes, a real socket, real signatures; in order, without the pauses.

A replay is a file of JSON lines in `replays/`. Each has `at` (seconds since the call was placed, for the reader: the
player sends as soon as it may), `from` and `over`, and says one thing:

- client, http: `json` is posted to `/call/initiate`; the carrier gives the call the id `call_sid`.
- carrier, http: `form` is posted to the address the server gave for `to`: `url`, `status` or `action`.
- server, http: its last answer holds each of the strings in `document`.
- carrier, ws: `open` the relay socket; send a `frame`; `close` it with a code and a reason; `drop` it without.
- server, ws: it sends a talk cycle that `says` these words, or a `frame` with at least these fields. The words are put
  into the model's mouth, a word to a token, with the tool `calls` that go with them.

Where the server has to do something, the player waits until it has.
"""

import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.agents.openai_server import Behaviour, OpenAIServer
from tests.stories.peer import Message, Peer, Relay, Stage

REPLAYS = Path(__file__).parent / "replays"


@dataclass
class Played:
    """What came of a replay."""

    peer: Peer
    frames: list[Message] = field(default_factory=list)
    """What the server sent on the socket."""
    documents: list[str] = field(default_factory=list)
    close_code: int | None = None

    def texts(self) -> list[Message]:
        return [frame for frame in self.frames if frame["type"] == "text"]


def load(name: str, *, events: bool = True) -> list[Message]:
    """The lines of a replay; without `events` those of a carrier that was not asked for any."""
    lines: list[Message] = [json.loads(line) for line in (REPLAYS / f"{name}.jsonl").read_text().splitlines()]
    return [line for line in lines if events or line.get("frame", {}).get("type") != "info"]


def behaviours(lines: Sequence[Message]) -> list[Behaviour]:
    """What makes the model say what the server says in the replay."""
    spoken = [line for line in lines if "says" in line]
    return [
        Behaviour(
            tokens=[f" {word}" if place else word for place, word in enumerate(line["says"].split(" "))],
            calls=[(name, arguments) for name, arguments in line.get("calls", [])],
        )
        for line in spoken
    ]


async def play(stage: Stage, model: OpenAIServer, lines: Sequence[Message]) -> Played:
    """Plays all lines; fails at the first thing the server does not do."""
    model.behave(*behaviours(lines))
    async with AsyncExitStack() as sockets:
        player = _Player(stage, sockets)
        for line in lines:
            try:
                await player.play(line)
            except AssertionError as error:
                error.add_note(f"in the line {json.dumps(line)}")
                raise
        return player.played()


class _Player:
    def __init__(self, stage: Stage, sockets: AsyncExitStack) -> None:
        self._stage = stage
        self._sockets = sockets
        self._peer: Peer | None = None
        self._relay: Relay | None = None
        self._documents: list[str] = []

    @property
    def peer(self) -> Peer:
        assert self._peer is not None, "a replay begins with the client"
        return self._peer

    @property
    def relay(self) -> Relay:
        assert self._relay is not None, "the socket is not open yet"
        return self._relay

    def played(self) -> Played:
        frames, code = (self._relay.frames, self._relay.close_code) if self._relay else ([], None)
        return Played(self.peer, frames, self._documents, code)

    async def play(self, line: Message) -> None:
        match line:
            case {"from": "client", "json": body, "call_sid": call_sid}:
                number = body.pop("to")
                self._peer = await self._stage.place(number, call_sid=call_sid, **body)
            case {"from": "carrier", "to": errand, "form": form}:
                await self._knock(errand, form)
            case {"from": "server", "document": parts}:
                missing = [part for part in parts if part not in self._documents[-1]]
                assert not missing, f"{missing} not in {self._documents[-1]}"
            case {"from": "carrier", "open": True}:
                self._relay = await self._sockets.enter_async_context(self.peer.socket())
            case {"from": "carrier", "frame": frame}:
                await self.relay.send(frame)
            case {"from": "carrier", "close": [code, reason]}:
                await self.relay.connection.close(code, reason)
            case {"from": "carrier", "drop": True}:
                self.relay.connection.transport.abort()
            case {"from": "server", "says": text}:
                said = await self.relay.reply()
                assert said == text, f"the server said {said!r}"
            case {"from": "server", "frame": wanted}:
                await self.relay.until(lambda relay: any(_fits(frame, wanted) for frame in relay.frames))
            case _:
                raise AssertionError(f"no such line in a replay: {line}")

    async def _knock(self, errand: str, form: dict[str, str]) -> None:
        peer = self.peer
        urls = {
            "url": peer.placed.form["Url"],
            "status": peer.placed.form["StatusCallback"],
            "action": peer.action_url,
        }
        response = await peer.knock(urls[errand], form)
        assert response.status_code == (204 if errand == "status" else 200), response.text
        self._documents.append(response.text)
        if errand == "url":
            peer.read(response.text)


def _fits(frame: Message, wanted: Message) -> bool:
    return all(frame.get(name) == value for name, value in wanted.items())
