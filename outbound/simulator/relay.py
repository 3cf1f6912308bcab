"""The relay socket as the carrier holds it: frames out, frames in, and what an interruption does.

https://www.twilio.com/docs/voice/conversationrelay/websocket-messages ; orders and delays as recorded on live calls.
"""

import asyncio
import json
import secrets
from collections import deque
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from outbound.simulator import messages
from outbound.simulator.calls import Frame, NetworkCall, Spoken, Stirred
from outbound.simulator.clock import Bell, Clock
from outbound.simulator.faults import Faults
from outbound.simulator.speech import GREETING_AFTER, Event, Input, Played, Started, Stopped
from outbound.simulator.twiml import RelaySettings
from outbound.simulator.webhooks import sign

CLOSE_WITHIN = 2.0  # real seconds
CLOSE_AFTER_END = 0.09
STRIKES = 10  # malformed frames in a row
RECONNECT_EVERY = 0.3  # not published
REPLAYED = 500  # events at most; which ones of a longer absence is not published: the last

NORMAL = (1000, "Closing websocket session")
TOO_MANY_MALFORMED = (1007, "Too many consecutive malformed messages.")
CONNECTION_ERRORS = (OSError, InvalidHandshake, InvalidURI, TimeoutError, ConnectionClosed, ValueError)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a relay session is over, in the words of the action callback; `redirected` asks for no callback."""

    status: Literal["completed", "ended", "failed", "redirected"]
    handoff_data: str | None = None
    error: tuple[str, str] | None = None
    close: tuple[int, str] = NORMAL


SOCKET_LOST = Ending("failed", error=("64105", "Websocket ended"))
NEVER_OPENED = Ending("failed", error=("64102", "Unable to connect to the WebSocket URL"))
MALFORMED = Ending("failed", error=("64105", "Websocket ended"), close=TOO_MANY_MALFORMED)


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A frame that waits for the socket; `due` is when it has been on its way for long enough."""

    at: float
    due: float
    text: str
    says: Spoken | None = None
    repeatable: bool = True


class RelaySession:
    """One `<ConversationRelay>`; it is the line's listener from its first socket's `setup` to its end.

    Three tasks for each socket: one reads, one writes, one waits for the end of the call. Everything between them is
    synchronous, so that the frames of an interruption leave in one piece. With `applicationReconnect` a lost socket
    is replaced, and what happens meanwhile waits for the next one.
    """

    def __init__(
        self,
        call: NetworkCall,
        settings: RelaySettings,
        *,
        clock: Clock,
        auth_token: str,
        faults: Faults,
        open_within: float,
    ) -> None:
        self.sid = f"VX{secrets.token_hex(16)}"
        self._call = call
        self._line = call.line
        self._settings = settings
        self._clock = clock
        self._auth_token = auth_token
        self._faults = faults
        self._open_within = open_within  # real seconds
        self._language = settings.language
        self._strikes = 0
        self._outbox: deque[_Outgoing] = deque()
        self._sent: deque[_Outgoing] = deque(maxlen=REPLAYED)
        self._bell = Bell()
        self._finished = False
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def run(self) -> Ending:
        """Open the socket, hold the session, close it; returns why it is over."""
        try:
            socket = await self._call.unless_stirred(self._open())
            if isinstance(socket, Exception):
                self._call.notes.append(f"64102 the socket could not be opened: {type(socket).__name__}")
                return NEVER_OPENED
            self._begin()
            ending = await self._hold(socket)
            while self._survives(ending):
                again = await self._call.unless_stirred(self._reconnect())
                if again is None:
                    self._call.notes.append("64105 the socket could not be opened again")
                    break
                self._begin_again()
                ending = await self._hold(again)
        except Stirred:
            ending = self._void()
        self._finish()
        return ending

    async def _open(self) -> ClientConnection | Exception:
        """A socket that has been accepted; one that is not yet is waited for."""
        try:
            return await connect(
                self._settings.url,
                additional_headers={"X-Twilio-Signature": sign(self._auth_token, self._settings.url)},
                user_agent_header="Jetty/11",
                compression=None,
                proxy=None,
                ping_interval=None,
                open_timeout=self._open_within,
                close_timeout=CLOSE_WITHIN,
            )
        except CONNECTION_ERRORS as error:
            return error

    async def _reconnect(self) -> ClientConnection | None:
        """Try again and again, as long as the carrier does; None when nobody accepted."""
        # Nobody is left who would finish the open cycle.
        self._line.speak("", last=True)
        await self._clock.sleep(self._faults.reconnect_after)
        self._call.relay_asked()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._clock.patience(self._faults.reconnect_within)
        while isinstance(socket := await self._open(), Exception):
            if loop.time() >= until:
                return None
            await asyncio.sleep(self._clock.patience(RECONNECT_EVERY))
        return socket

    async def _hold(self, socket: ClientConnection) -> Ending:
        self._ending = asyncio.get_running_loop().create_future()
        self._call.drop_relay = socket.transport.abort
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(socket), name="simulator:relay-writer")
                others = [
                    group.create_task(self._read(socket), name="simulator:relay-reader"),
                    group.create_task(self._watch(), name="simulator:relay-watcher"),
                    group.create_task(self._drop(socket), name="simulator:relay-dropper"),
                ]
                ending = await self._ending
                self._call.drop_relay = lambda: None
                for task in others:
                    task.cancel()
                if ending is SOCKET_LOST:
                    self._call.relay_lost(self.sid)
                    writer.cancel()
                if not self._survives(ending):
                    self._finish()
                # An application that does not read may not hold up the end of the call.
                await asyncio.wait({writer}, timeout=CLOSE_WITHIN + self._faults.latency / self._clock.speed)
                writer.cancel()
                if ending.status == "ended":
                    await self._clock.sleep(CLOSE_AFTER_END)
                await socket.close(*ending.close)
            return ending
        finally:
            await socket.close(*NORMAL)

    def _survives(self, ending: Ending) -> bool:
        return ending is SOCKET_LOST and self._settings.application_reconnect

    def _void(self) -> Ending:
        return Ending("completed" if self._call.over.is_set() else "redirected")

    def _begin(self) -> None:
        self._call.relay_opened()
        self._outbox.append(self._setup())
        self._outbox.extend(map(self._outgoing, self._faults.odd_frames))
        self._line.listener = self
        if greeting := self._settings.welcome_greeting:
            self._line.speak(
                greeting, last=True, interruptible=self._settings.greeting_interruptible, after=GREETING_AFTER
            )

    def _begin_again(self) -> None:
        """What the application may have missed follows `setup`; nothing marks it as a repetition."""
        self._call.relay_opened()
        if not self._faults.reconnect_keeps_session:
            self.sid = f"VX{secrets.token_hex(16)}"
        self._strikes = 0
        perhaps_received = list(self._sent)[max(0, len(self._sent) - self._faults.replayed_events) :]
        setup = self._setup()
        missed = [replace(item, at=setup.at, due=setup.due) for item in (*perhaps_received, *self._outbox)]
        missed = [item for item in missed if item.repeatable]
        self._sent.clear()
        self._outbox = deque([setup, *missed[-REPLAYED:]])

    def _setup(self) -> _Outgoing:
        request = self._call.request
        setup = self._outgoing(
            {
                "type": "setup",
                "sessionId": self.sid,
                "accountSid": self._call.account_sid,
                "parentCallSid": "",
                "callSid": self._call.sid,
                "from": request.from_,
                "to": request.to,
                "forwardedFrom": "",
                "callType": "PSTN",
                "callerName": "",
                "direction": "outbound-api",
                "callStatus": "IN_PROGRESS",
                "customParameters": dict(self._settings.parameters),
            }
        )
        return replace(setup, repeatable=False)

    def _finish(self) -> None:
        """Whatever was not spoken is never heard, and no frame follows."""
        if self._finished:
            return
        self._finished = True
        self._line.listener = None
        if not self._line.engine.quiet:
            self._line.cut(self._line.catch_up())
        self._bell.ring()

    # The three tasks, and the fault.

    async def _read(self, socket: ClientConnection) -> None:
        while not self._ending.done():
            try:
                frame = await socket.recv()
            except ConnectionClosed:
                return self._end(SOCKET_LOST)
            self._call.note(Frame(self._clock.now(), "from_app", self.sid, _printable(frame)))
            self._receive(frame)
        return None

    async def _write(self, socket: ClientConnection) -> None:
        while self._outbox or not self._finished:
            if not self._outbox:
                await self._bell.wait()
                continue
            item = self._outbox[0]
            await self._clock.sleep(item.due - self._clock.now())
            try:
                await socket.send(item.text)
            except ConnectionClosed:
                return self._end(SOCKET_LOST)
            self._outbox.popleft()
            if item.repeatable:
                self._sent.append(item)
            self._call.note(Frame(item.at, "to_app", self.sid, item.text, item.says))
        return None

    async def _watch(self) -> None:
        await self._call.stir.wait()
        self._end(self._void())

    async def _drop(self, socket: ClientConnection) -> None:
        if self._faults.drop_relay_after is not None and len(self._call.gaps) < self._faults.drop_relay_times:
            await self._clock.sleep(self._faults.drop_relay_after)
            socket.transport.abort()

    # What the application says.

    def _receive(self, frame: str | bytes) -> None:
        try:
            message = messages.parse(frame)
        except messages.Malformed as error:
            self._complain(frame, error)
        else:
            self._strikes = 0
            self._obey(message)

    def _obey(self, message: messages.Message) -> None:
        match message:
            case messages.Text():
                self._line.speak(
                    message.token,
                    last=message.last,
                    interruptible=self._interruptible(message.interruptible),
                    preemptible=self._preemptible(message.preemptible),
                )
            case messages.Play():
                self._line.play(
                    loop=message.loop,
                    interruptible=self._interruptible(message.interruptible),
                    preemptible=message.preemptible or False,
                )
            case messages.SendDigits():
                self._line.send_digits(message.digits)
            case messages.Language():
                self._language = message.transcription or self._language
            case messages.End():
                self._end(Ending("ended", handoff_data=message.handoff_data))
            case _:
                assert_never(message)

    def _interruptible(self, asked: bool | None) -> Input:
        if asked is None:
            return self._settings.interruptible
        return Input.ANY if asked else Input.NONE

    def _preemptible(self, asked: bool | None) -> bool:
        return self._settings.preemptible if asked is None else asked

    def _complain(self, frame: str | bytes, error: messages.Malformed) -> None:
        self._call.notes.append(f"64107 {error}")
        self._strikes += 1
        self._send(
            {
                "type": "error",
                "description": f"Invalid message received, code: 64107, message: {_printable(frame)}",
            }
        )
        if self._strikes >= STRIKES:
            self._end(MALFORMED)

    # What the line tells; see `line.Listener`.

    def agent_event(self, event: Event) -> None:
        """Report what the agent's voice did, as far as `events` asks for it."""
        match event:
            case Started():
                self._info("agentSpeaking", "on")
            case Played():
                self._info("tokensPlayed", event.text)
            case Stopped():
                self._info("agentSpeaking", "off")
            case _:
                assert_never(event)

    def callee_starts(self, at: float) -> bool:
        """Barge in if the line may be interrupted; otherwise the speech is lost unless reporting is on."""
        self._info("clientSpeaking", "on")
        engine = self._line.engine
        if not engine.speaking:
            return True
        if Input.SPEECH in engine.interruptible:
            self._interrupt(at)
            return True
        return Input.SPEECH in self._settings.report_during_speech

    def callee_talked_over(self, at: float) -> None:
        """An agent that begins while the callee talks is interrupted before its first word."""
        if Input.SPEECH in self._line.engine.interruptible:
            self._interrupt(at)

    def callee_continues(self, text: str, lang: str | None) -> None:
        """Partial prompts repeat everything so far."""
        if self._settings.partial_prompts:
            self._prompt(text, lang, last=False)

    def callee_stops(self) -> None:
        self._info("clientSpeaking", "off")

    def callee_said(self, text: str, lang: str | None) -> None:
        self._prompt(text, lang, last=True)

    def callee_pressed(self, digit: str, at: float) -> None:
        """Keys exist for the application only with `dtmfDetection`; during speech they are an input as any other."""
        if not self._settings.dtmf_detection:
            return
        engine = self._line.engine
        if engine.speaking and Input.DTMF in engine.interruptible:
            self._interrupt(at)
        elif engine.speaking and Input.DTMF not in self._settings.report_during_speech:
            return
        self._send({"type": "dtmf", "digit": digit})

    # How it works.

    def _interrupt(self, at: float) -> None:
        cut = self._line.cut(at)
        if cut.heard:
            self._info("tokensPlayed", cut.heard)
        self._send(
            {
                "type": "interrupt",
                "utteranceUntilInterrupt": cut.heard,
                "durationUntilInterruptMs": cut.played_ms,
            }
        )
        self._info("agentSpeaking", "off")

    def _prompt(self, text: str, lang: str | None, *, last: bool) -> None:
        # Automatic detection reports the primary subtag only.
        spoken = lang or ("en" if self._language == "multi" else self._language)
        lang = spoken.partition("-")[0] if self._language == "multi" else spoken
        lines = (spoken for spoken in reversed(self._call.transcript) if spoken.who == "callee")
        says = next(lines, None) if last else None
        self._send({"type": "prompt", "voicePrompt": text, "lang": lang, "last": last}, says)

    def _info(self, name: str, value: str) -> None:
        wanted = "tokens-played" if name == "tokensPlayed" else "speaker-events"
        if wanted in self._settings.events:
            self._send({"type": "info", "name": name, "value": value})

    def _send(self, message: dict[str, object], says: Spoken | None = None) -> None:
        self._outbox.append(self._outgoing(message, says))
        self._bell.ring()

    def _outgoing(self, message: dict[str, object] | str, says: Spoken | None = None) -> _Outgoing:
        now = self._clock.now()
        text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False, separators=(",", ":"))
        return _Outgoing(now, now + self._faults.latency, text, says)

    def _end(self, ending: Ending) -> None:
        """The first reason counts."""
        if not self._ending.done():
            self._ending.set_result(ending)


def _printable(frame: str | bytes) -> str:
    return frame if isinstance(frame, str) else frame.decode(errors="replace")
