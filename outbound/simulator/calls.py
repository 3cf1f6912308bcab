"""One call as the carrier sees it: what was asked, how far it is, and a record of all that crossed."""

import asyncio
import functools
import json
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from outbound.simulator.callees import Callee
from outbound.simulator.clock import Bell, Clock
from outbound.simulator.line import Line, TurnEnd, Who

Status = Literal["queued", "ringing", "in-progress", "completed", "busy", "failed", "no-answer", "canceled"]
LIVE: frozenset[Status] = frozenset({"queued", "ringing", "in-progress"})

Direction = Literal["to_app", "from_app"]
Errand = Literal["url", "fallback", "redirect", "action", "status", "amd"]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Instructions that stand at a URL of the application."""

    url: str
    method: str = "POST"
    errand: Errand = "url"


@dataclass(frozen=True, slots=True)
class Inline:
    """Instructions at hand; relative links in them are relative to `base`, and impossible without one."""

    twiml: str
    base: str | None = None


type Source = Fetch | Inline


@dataclass(frozen=True, slots=True)
class CallRequest:
    """The checked parameters of a create request; durations in seconds."""

    to: str
    from_: str
    source: Source
    fallback: Fetch | None = None
    status_callback: Fetch | None = None
    status_events: frozenset[str] = frozenset({"completed"})
    ring_limit: float = 60.0
    time_limit: float = 14_400.0
    machine_detection: Literal["Enable", "DetectMessageEnd"] | None = None
    detection_asynchronous: bool = False
    detection_callback: Fetch | None = None


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one side said, as far as it was heard; `unheard` is what an interruption kept from the callee's ear."""

    at: float
    who: Who
    text: str
    interrupted: bool = False
    unheard: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """One WebSocket text frame; `at` in network seconds.

    What was meant for the application stands here only if it was written to an open socket. `says` is the line of the
    callee that a final prompt carries.
    """

    at: float
    direction: Direction
    session_id: str
    text: str
    says: Spoken | None = None

    @property
    def message(self) -> dict[str, object]:
        """The frame read as JSON; {} when it is no JSON object."""
        try:
            message = json.loads(self.text)
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}


@dataclass(frozen=True, slots=True)
class Webhook:
    """One request to the application and its answer; `status` is None when there was no answer."""

    at: float
    errand: Errand
    method: str
    url: str
    params: dict[str, str]
    status: int | None
    body: str


@dataclass(frozen=True, slots=True)
class StatusChange:
    at: float
    status: Status


type Record = Frame | Webhook | Spoken | StatusChange
type Observer = Callable[["NetworkCall", Record], None]


@dataclass(slots=True)
class Gap:
    """A lost relay socket as the callee lives through it: times in network seconds, None while it has not happened."""

    session_id: str
    """Of the session whose socket was lost."""
    dropped_at: float
    asked_at: float | None = None
    """The carrier asks the action URL, or tries to reconnect: until here nobody else could do anything."""
    reconnected_at: float | None = None
    """The application has a socket again."""
    first_word_at: float | None = None
    """The callee has heard a word that was given to the carrier after that."""

    @property
    def silence(self) -> float | None:
        """How long the callee heard nothing new."""
        return None if self.first_word_at is None else self.first_word_at - self.dropped_at

    @property
    def carriers(self) -> float | None:
        """The part of the silence that is the carrier's own."""
        return None if self.asked_at is None else self.asked_at - self.dropped_at


class Stirred(Exception):
    """The running instructions are void: the call is over, or new ones have come."""


class NetworkCall:
    """A call, from its creation on. `ended` is set when the last webhook was answered."""

    def __init__(
        self, *, account_sid: str, request: CallRequest, callee: Callee, clock: Clock, observers: list[Observer]
    ) -> None:
        self.sid = f"CA{secrets.token_hex(16)}"
        self.account_sid = account_sid
        self.request = request
        self.callee = callee
        self.line = Line(clock, request.to, self._note_speech)

        self.status: Status = "queued"
        self.created = datetime.now(UTC)  # the calendar is the real one, whatever the speed
        self.started: datetime | None = None
        self.finished: datetime | None = None
        self.queue_time_ms = 0
        self.duration: int | None = None  # network seconds
        self.answered_by: str | None = None

        self.frames: list[Frame] = []
        self.webhooks: list[Webhook] = []
        self.transcript: list[Spoken] = []
        self.notes: list[str] = []  # errors and warnings, as the carrier's debugger would list them
        self.gaps: list[Gap] = []  # one for each relay socket that was lost

        self.over = asyncio.Event()  # somebody ended it: the callee, the REST API, the time limit
        self.stir = asyncio.Event()  # over, or new instructions came by REST
        self.announced = asyncio.Event()  # `ringing` or a final status was delivered
        self.ended = asyncio.Event()
        self.drop_relay: Callable[[], None] = lambda: None  # lets the socket die without a close frame
        self.redirect: Source | None = None

        self._clock = clock
        self._observers = observers
        self._bell = Bell()

    @property
    def live(self) -> bool:
        return self.status in LIVE

    def sent(self, kind: str | None = None) -> list[dict[str, object]]:
        """The messages that went to the application, or those of one type."""
        return self._messages("to_app", kind)

    def received(self, kind: str | None = None) -> list[dict[str, object]]:
        """The messages that came from the application, or those of one type."""
        return self._messages("from_app", kind)

    def said(self, who: Who) -> list[str]:
        """What one side said, turn by turn, as far as it was heard."""
        return [spoken.text for spoken in self.transcript if spoken.who == who]

    def deliveries(self) -> list[tuple[Spoken, list[Frame]]]:
        """Each line of the callee with the prompts that carried it, or what an open socket was left to carry of it.

        No prompt: the carrier never delivered it. Several: it repeated itself after a reconnection.
        """
        lines = [spoken for spoken in self.transcript if spoken.who == "callee"]
        return [(line, [frame for frame in self.frames if frame.says is line]) for line in lines]

    async def until(self, happened: Callable[["NetworkCall"], bool]) -> None:
        """Wait until the records satisfy `happened`; also returns when the call has ended without it."""
        while not happened(self) and not self.ended.is_set():
            await self._bell.wait()

    def note(self, record: Record) -> None:
        """Keep a record and tell whoever watches."""
        match record:
            case Frame():
                self.frames.append(record)
            case Webhook():
                self.webhooks.append(record)
            case Spoken():
                self.transcript.append(record)
            case StatusChange():
                self.status = record.status
        for observer in self._observers:
            observer(self, record)
        self._bell.ring()

    def relay_lost(self, session_id: str) -> None:
        """A relay socket is gone without an `end`."""
        self.gaps.append(Gap(session_id, self._clock.now()))
        self._bell.ring()

    def relay_asked(self) -> None:
        """The carrier begins to do something about it."""
        for gap in self.gaps:
            if gap.asked_at is None:
                gap.asked_at = self._clock.now()

    def relay_opened(self) -> None:
        """The application has a socket."""
        for gap in self.gaps:
            if gap.reconnected_at is None:
                gap.reconnected_at = self._clock.now()
                self.line.when_heard_anew(functools.partial(setattr, gap, "first_word_at"))

    async def unless_stirred[T](self, work: Coroutine[None, None, T]) -> T:
        """Do it, unless the instructions become void before or meanwhile.

        Raises:
            Stirred: then; the work has been cancelled.
        """
        async with asyncio.TaskGroup() as group:
            job = group.create_task(work, name="simulator:verb")
            void = group.create_task(self.stir.wait(), name="simulator:stir")
            await asyncio.wait({job, void}, return_when=asyncio.FIRST_COMPLETED)
            void.cancel()
            job.cancel()
        if job.cancelled():
            raise Stirred
        return job.result()

    def move(self, status: Status) -> None:
        """Change the status."""
        self.note(StatusChange(self._clock.now(), status))

    def hang_up(self) -> None:
        """End the call from outside of its script; may be called at any time and more than once."""
        self.over.set()
        self.stir.set()

    def send_elsewhere(self, source: Source) -> None:
        """Replace the running instructions."""
        self.redirect = source
        self.stir.set()

    def close(self) -> None:
        """Nothing more will happen."""
        self.ended.set()
        self._bell.ring()

    def _messages(self, direction: Direction, kind: str | None) -> list[dict[str, object]]:
        messages = (frame.message for frame in self.frames if frame.direction == direction)
        return [message for message in messages if kind is None or message.get("type") == kind]

    def _note_speech(self, who: Who, text: str, end: TurnEnd | None) -> None:
        interrupted, unheard = (end.interrupted, end.unheard) if end is not None else (False, "")
        self.note(Spoken(self._clock.now(), who, text, interrupted, unheard))
