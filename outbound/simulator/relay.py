"""The relay socket as the carrier holds it: frames out, frames in, and what an interruption does.

https://www.twilio.com/docs/voice/conversationrelay/websocket-messages ; orders and delays as recorded on live calls.
"""

import asyncio
import json
import secrets
from dataclasses import dataclass
from typing import Literal, assert_never

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from outbound.simulator import messages
from outbound.simulator.calls import Frame, NetworkCall
from outbound.simulator.clock import Clock
from outbound.simulator.faults import Faults
from outbound.simulator.speech import GREETING_AFTER, Event, Input, Played, Started, Stopped
from outbound.simulator.twiml import RelaySettings
from outbound.simulator.webhooks import sign

OPEN_WITHIN = 10.0  # real seconds
CLOSE_WITHIN = 2.0  # real seconds
CLOSE_AFTER_END = 0.09
STRIKES = 10  # malformed frames in a row

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


class RelaySession:
    """One `<ConversationRelay>`; it is the line's listener from `setup` to its end.

    Three tasks: one reads, one writes, one waits for the end of the call. Everything between them is synchronous, so
    that the frames of an interruption leave in one piece.
    """

    def __init__(
        self, call: NetworkCall, settings: RelaySettings, *, clock: Clock, auth_token: str, faults: Faults, drops: bool
    ) -> None:
        self.sid = f"VX{secrets.token_hex(16)}"
        self._call = call
        self._line = call.line
        self._settings = settings
        self._clock = clock
        self._auth_token = auth_token
        self._faults = faults
        self._drops = drops
        self._language = settings.language
        self._strikes = 0
        self._outbox: asyncio.Queue[tuple[float, str] | None] = asyncio.Queue()
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    async def run(self) -> Ending:
        """Open the socket, hold the session, close it; returns why it is over."""
        signature = sign(self._auth_token, self._settings.url)
        try:
            socket = await connect(
                self._settings.url,
                additional_headers={"X-Twilio-Signature": signature},
                user_agent_header="Jetty/11",
                compression=None,
                proxy=None,
                ping_interval=None,
                open_timeout=OPEN_WITHIN,
                close_timeout=CLOSE_WITHIN,
            )
        except CONNECTION_ERRORS as error:
            self._call.notes.append(f"64102 the socket could not be opened: {type(error).__name__}")
            return NEVER_OPENED
        try:
            return await self._hold(socket)
        finally:
            await socket.close(*NORMAL)

    async def _hold(self, socket: ClientConnection) -> Ending:
        self._call.drop_relay = socket.transport.abort
        self._begin()
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(socket), name="simulator:relay-reader")
            watcher = group.create_task(self._watch(), name="simulator:relay-watcher")
            writer = group.create_task(self._write(socket), name="simulator:relay-writer")
            dropper = group.create_task(self._drop(socket), name="simulator:relay-dropper")
            ending = await self._ending
            self._finish()
            for task in (reader, watcher, dropper):
                task.cancel()
            # An application that does not read may not hold up the end of the call.
            await asyncio.wait({writer}, timeout=CLOSE_WITHIN + self._faults.latency / self._clock.speed)
            writer.cancel()
            if ending.status == "ended":
                await self._clock.sleep(CLOSE_AFTER_END)
            await socket.close(*ending.close)
        return ending

    def _begin(self) -> None:
        request = self._call.request
        self._send(
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
        for text in self._faults.odd_frames:
            self._send_text(text)
        self._line.listener = self
        if greeting := self._settings.welcome_greeting:
            self._line.speak(
                greeting, last=True, interruptible=self._settings.greeting_interruptible, after=GREETING_AFTER
            )

    def _finish(self) -> None:
        """Whatever was not spoken is never heard, and no frame follows."""
        self._line.listener = None
        if not self._line.engine.quiet:
            self._line.cut(self._line.catch_up())
        self._call.drop_relay = lambda: None
        self._outbox.put_nowait(None)

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
        while (item := await self._outbox.get()) is not None:
            due, text = item
            await self._clock.sleep(due - self._clock.now())
            try:
                await socket.send(text)
            except ConnectionClosed:
                return self._end(SOCKET_LOST)
        return None

    async def _watch(self) -> None:
        await self._call.stir.wait()
        self._end(Ending("completed" if self._call.over.is_set() else "redirected"))

    async def _drop(self, socket: ClientConnection) -> None:
        if self._drops and self._faults.drop_relay_after is not None:
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
        self._send({"type": "prompt", "voicePrompt": text, "lang": lang, "last": last})

    def _info(self, name: str, value: str) -> None:
        wanted = "tokens-played" if name == "tokensPlayed" else "speaker-events"
        if wanted in self._settings.events:
            self._send({"type": "info", "name": name, "value": value})

    def _send(self, message: dict[str, object]) -> None:
        self._send_text(json.dumps(message, ensure_ascii=False, separators=(",", ":")))

    def _send_text(self, text: str) -> None:
        now = self._clock.now()
        self._call.note(Frame(now, "to_app", self.sid, text))
        self._outbox.put_nowait((now + self._faults.latency, text))

    def _end(self, ending: Ending) -> None:
        """The first reason counts."""
        if not self._ending.done():
            self._ending.set_result(ending)


def _printable(frame: str | bytes) -> str:
    return frame if isinstance(frame, str) else frame.decode(errors="replace")
