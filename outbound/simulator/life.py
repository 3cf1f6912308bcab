"""The life of one call, from the queue to its last status callback, and the instructions it follows on the way."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import assert_never
from urllib.parse import urljoin

import phonenumbers

from outbound.simulator import twiml
from outbound.simulator.calls import CallRequest, Errand, Fetch, Inline, NetworkCall, Source, Status, Stirred, Webhook
from outbound.simulator.clock import Clock
from outbound.simulator.faults import Faults
from outbound.simulator.line import HungUp
from outbound.simulator.relay import SOCKET_LOST, Ending, RelaySession
from outbound.simulator.webhooks import Answer, Postman

API_VERSION = "2010-04-01"

# Network seconds, from recordings of live calls.
DIALS_AFTER = 0.2
RING_BUFFER = 5.0  # Twilio lets it ring this much longer than `Timeout`
ACTION_AFTER = {"completed": 0.65, "ended": 0.7, "failed": 1.2}
STATUS_AFTER = 0.5
DETECTION_TAKES = {"Enable": 3.5, "DetectMessageEnd": 8.0}

SIP = {"completed": "200", "busy": "486", "failed": "404", "no-answer": "487", "canceled": "487"}
XML = ("text/xml", "application/xml")
INVALID_ATTRIBUTE = "64101"

APOLOGY = Inline(
    "<Response><Say>We are sorry, an application error has occurred. Goodbye.</Say><Hangup/></Response>",
)

HANG_UP = Inline("<Response/>")


@dataclass(frozen=True, slots=True)
class _Knock:
    """A webhook to be delivered in its turn."""

    errand: Errand
    target: Fetch
    params: Mapping[str, str]


class CallLife:
    """What the carrier does with one call. `run` returns when nothing more will happen on it."""

    def __init__(self, call: NetworkCall, *, clock: Clock, postman: Postman, auth_token: str, faults: Faults) -> None:
        self._call = call
        self._clock = clock
        self._postman = postman
        self._auth_token = auth_token
        self._faults = faults
        self._knocks: asyncio.Queue[_Knock | None] = asyncio.Queue()
        self._sequence = 0
        self._answered_at: float | None = None

    async def run(self, *, queued_for: float) -> None:
        """Live the whole call; `queued_for` network seconds pass before it is dialled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver_callbacks(), name="simulator:callbacks")
            final = await self._ring(queued_for)
            if final is None:
                await self._talk()
                await self._clock.sleep(STATUS_AFTER)
                final = "completed"
            self._finish(final)
            self._knocks.put_nowait(None)

    # Until it is answered.

    async def _ring(self, queued_for: float) -> Status | None:
        """The final status of a call that nobody answered, or None once somebody did."""
        call, callee = self._call, self._call.callee
        if not await self._passes(queued_for):
            return "canceled"
        call.started = datetime.now(UTC)
        if not await self._passes(DIALS_AFTER):
            return "canceled"
        self._tell_status("initiated")
        # The network answers busy and failed instead of ringing.
        rings = callee.outcome in {"answers", "no-answer"}
        if rings:
            if not await self._passes(DIALS_AFTER):
                return "canceled"
            call.move("ringing")
            self._tell_status("ringing")
        limit = call.request.ring_limit + RING_BUFFER
        answers = callee.outcome == "answers" and callee.ring_seconds <= limit
        if not await self._passes(min(callee.ring_seconds, limit)):
            return "canceled"
        if answers:
            return None
        return "no-answer" if callee.outcome == "answers" else callee.outcome

    async def _passes(self, seconds: float) -> bool:
        """Wait; False when the call was ended from outside meanwhile."""
        try:
            async with asyncio.timeout(seconds / self._clock.speed):
                await self._call.over.wait()
        except TimeoutError:
            return True
        return False

    # While it is answered.

    async def _talk(self) -> None:
        call = self._call
        self._answered_at = self._clock.now()
        call.move("in-progress")
        self._tell_status("answered")
        async with asyncio.TaskGroup() as group:
            around = [
                group.create_task(call.line.run(), name="simulator:line"),
                group.create_task(self._callee(), name="simulator:callee"),
                group.create_task(self._time_limit(), name="simulator:time-limit"),
                group.create_task(self._detection(), name="simulator:detection"),
            ]
            await self._script()
            call.hang_up()
            for task in around:
                task.cancel()
        call.duration = round(self._clock.now() - self._answered_at)
        if not call.line.engine.quiet:
            call.line.cut(call.line.catch_up())

    async def _callee(self) -> None:
        try:
            await self._call.callee.talk(self._call.line)
        except HungUp:
            pass
        self._call.hang_up()

    async def _time_limit(self) -> None:
        await self._clock.sleep(self._call.request.time_limit)
        self._call.notes.append("32015 the call reached its time limit")
        self._call.hang_up()

    async def _detection(self) -> None:
        """Asynchronous answering-machine detection; without a callback its result is lost."""
        request = self._call.request
        if request.machine_detection is None or not request.detection_asynchronous:
            return
        params = await self._detect(request)
        if request.detection_callback is None:
            self._call.notes.append("21262 asynchronous detection without a callback")
            return
        self._knocks.put_nowait(_Knock("amd", request.detection_callback, params))

    async def _detect(self, request: CallRequest) -> dict[str, str]:
        mode = request.machine_detection or "Enable"
        human = self._call.callee.answered_by != "machine"
        seconds = DETECTION_TAKES["Enable"] if human else DETECTION_TAKES[mode]
        await self._clock.sleep(seconds)
        verdict: str = self._call.callee.answered_by
        if not human:
            verdict = "machine_start" if mode == "Enable" else "machine_end_beep"
        self._call.answered_by = verdict
        return {
            "CallSid": self._call.sid,
            "AccountSid": self._call.account_sid,
            "AnsweredBy": verdict,
            "MachineDetectionDuration": str(round(seconds * 1000)),
        }

    # The instructions.

    async def _script(self) -> None:
        """Follow TwiML until it ends; a REST update replaces it, and the end of the call voids it."""
        request = self._call.request
        source: Source | None = request.source
        try:
            if request.machine_detection is not None and not request.detection_asynchronous:
                await self._call.unless_stirred(self._detect(request))
        except Stirred:
            source = self._take_redirect()
        while source is not None:
            try:
                source = await self._follow(source)
            except Stirred:
                source = self._take_redirect()

    def _take_redirect(self) -> Source | None:
        if self._call.over.is_set():
            return None
        self._call.stir.clear()
        source, self._call.redirect = self._call.redirect, None
        return source

    async def _follow(self, source: Source) -> Source | None:
        """Perform one document; returns where the next one is, None when the call is to end."""
        if isinstance(source, Fetch):
            extra = {"AnsweredBy": self._call.answered_by} if self._call.answered_by else {}
            answer = await self._call.unless_stirred(self._deliver(source, {**self._params("in-progress"), **extra}))
            read = self._read(answer, source)
        else:
            read = source
        if isinstance(read, Fetch):
            return read
        try:
            verbs = twiml.parse(read.twiml)
        except twiml.TwimlError as error:
            self._call.notes.append(f"12100 {error}")
            return self._instead("12100", source)
        for verb in verbs:
            if self._call.stir.is_set():
                raise Stirred
            following = await self._perform(verb, read.base)
            if following is not None:
                return following
        return None

    def _read(self, answer: Answer | None, source: Fetch) -> Source:
        """The document in an answer, or what takes its place when there is none."""
        if answer is None or not 200 <= answer.status < 300:
            return self._instead("11200", source)
        if not answer.content_type.lower().startswith(XML):
            return self._instead("12300", source)
        return Inline(answer.body, source.url)

    def _instead(self, code: str, source: Source) -> Source:
        """The fallback URL, for each document that fails; if it fails itself, the callee hears of an error."""
        url = source.url if isinstance(source, Fetch) else source.base or ""
        self._call.notes.append(f"{code} {url}")
        fallback = self._call.request.fallback
        if fallback is None or isinstance(source, _FallbackFetch):
            return APOLOGY
        return _FallbackFetch(fallback.url, fallback.method, "fallback", code, url)

    async def _perform(self, verb: twiml.Verb, base: str | None) -> Source | None:
        """Perform one verb; returns where to go instead of the next verb."""
        match verb:
            case twiml.Connect():
                return await self._connect(verb, base)
            case twiml.Say():
                self._call.line.speak(verb.text, last=True)
                await self._call.unless_stirred(self._call.line.spoken())
            case twiml.Pause():
                await self._call.unless_stirred(self._clock.sleep(verb.seconds))
            case twiml.Hangup():
                return HANG_UP
            case twiml.Redirect():
                return Fetch(urljoin(base or "", verb.url), verb.method, "redirect")
            case twiml.Unplayed():
                self._call.notes.append(f"<{verb.name}> is not played by the simulator")
                return HANG_UP if verb.ends else None
            case _:
                assert_never(verb)
        return None

    async def _connect(self, verb: twiml.Connect, base: str | None) -> Source | None:
        began = self._clock.now()
        action = None if verb.action is None else Fetch(urljoin(base or "", verb.action), verb.method, "action")
        session_id, ending = await self._relay(verb.relay, action, began)
        if ending.status == "redirected":
            raise Stirred
        return await self._ask(action, session_id, ending, began)

    async def _relay(
        self, settings: twiml.RelaySettings | str, action: Fetch | None, began: float
    ) -> tuple[str, Ending]:
        if isinstance(settings, str):
            self._call.notes.append(f"{INVALID_ATTRIBUTE} {settings}")
            settings_error = Ending("failed", error=(INVALID_ATTRIBUTE, "Invalid Parameter"))
            return "", settings_error
        session = RelaySession(
            self._call,
            settings,
            clock=self._clock,
            auth_token=self._auth_token,
            faults=self._faults,
            open_within=self._postman.answer_within,
        )
        async with asyncio.TaskGroup() as group:
            besides = None
            if settings.application_reconnect and self._faults.action_despite_reconnect:
                besides = group.create_task(self._ask_besides(action, began), name="simulator:action-besides")
            ending = await session.run()
            if besides is not None:
                besides.cancel()
        return session.sid, ending

    async def _ask_besides(self, action: Fetch | None, began: float) -> None:
        """Ask the action URL about a socket that the session tries to get back; the answer replaces the session."""
        known = len(self._call.gaps)
        await self._call.until(lambda call: len(call.gaps) > known)
        following = await self._ask(action, self._call.gaps[-1].session_id, SOCKET_LOST, began)
        if following is not None:
            self._call.send_elsewhere(following)

    async def _ask(self, action: Fetch | None, session_id: str, ending: Ending, began: float) -> Source | None:
        """Tell the application that a relay session is over; returns where to go instead of the next verb."""
        seconds = round(self._clock.now() - began)
        await self._clock.sleep(ACTION_AFTER[ending.status])
        self._call.relay_asked()
        # The callee may have hung up since; what is answered then is not heard.
        over = self._call.over.is_set()
        if action is None:
            return HANG_UP if over else None
        params = self._params("completed" if over else "in-progress")
        params |= {"SessionId": session_id, "SessionStatus": ending.status, "SessionDuration": str(seconds)}
        if ending.handoff_data is not None:
            params["HandoffData"] = ending.handoff_data
        if ending.error is not None:
            params["ErrorCode"], params["ErrorMessage"] = ending.error
        answer = await self._deliver(action, params)
        return HANG_UP if over else self._read(answer, action)

    # The last status, and all webhooks.

    def _finish(self, status: Status) -> None:
        call = self._call
        call.finished = datetime.now(UTC)
        call.duration = call.duration or 0
        call.move(status)
        extra = {
            "CallDuration": str(call.duration),
            "Duration": str(math.ceil(call.duration / 60)),
            "SipResponseCode": SIP[status],
        }
        if call.answered_by is not None:
            extra["AnsweredBy"] = call.answered_by
        self._tell_status("completed", status, extra)

    def _tell_status(self, event: str, status: str | None = None, extra: Mapping[str, str] | None = None) -> None:
        """Queue a status callback, if it was asked for; `answered` is spelled `in-progress` in it."""
        request = self._call.request
        if request.status_callback is None or event not in request.status_events:
            self._call.announced.set()
            return
        spelled = status or {"answered": "in-progress"}.get(event, event)
        params = self._params(spelled) | {
            "Timestamp": format_datetime(datetime.now(UTC)),
            "CallbackSource": "call-progress-events",
            "SequenceNumber": str(self._sequence),
            **(extra or {}),
        }
        self._sequence += 1
        self._knocks.put_nowait(_Knock("status", request.status_callback, params))

    async def _deliver_callbacks(self) -> None:
        """One after another, so that their order is the carrier's, unless a fault says otherwise."""
        swapped: _Knock | None = None
        while True:
            knock = await self._knocks.get()
            if knock is not None and swapped is None and self._to_be_swapped(knock):
                swapped = knock
                continue
            for one in (knock, swapped):
                if one is not None:
                    await self._deliver_callback(one)
            swapped = None
            if knock is None:
                return

    def _to_be_swapped(self, knock: _Knock) -> bool:
        return self._faults.swap_callbacks and knock.params.get("CallStatus") == "initiated"

    async def _deliver_callback(self, knock: _Knock) -> None:
        status = knock.params.get("CallStatus")
        if knock.errand == "status":
            await self._clock.sleep(self._faults.callback_delay)
        if status not in self._faults.lost_callbacks:
            for _ in range(2 if self._faults.double_callbacks else 1):
                await self._deliver(knock.target, knock.params, knock.errand)
        if status != "initiated":
            self._call.announced.set()

    async def _deliver(self, target: Fetch, params: Mapping[str, str], errand: Errand | None = None) -> Answer | None:
        await self._clock.sleep(self._faults.latency)
        if isinstance(target, _FallbackFetch):
            params = {**params, "ErrorCode": target.error_code, "ErrorUrl": target.error_url}
        answer = await self._postman.deliver(target.method, target.url, params)
        self._call.note(
            Webhook(
                self._clock.now(),
                errand or target.errand,
                target.method,
                target.url,
                dict(params),
                answer.status if answer is not None else None,
                answer.body if answer is not None else "",
            )
        )
        return answer

    def _params(self, status: str) -> dict[str, str]:
        """The parameters that every voice webhook carries; what is not known of a place is blank, not absent."""
        request = self._call.request
        params = {
            "CallSid": self._call.sid,
            "AccountSid": self._call.account_sid,
            "ApiVersion": API_VERSION,
            "Direction": "outbound-api",
            "CallStatus": status,
            "From": request.from_,
            "Caller": request.from_,
            "To": request.to,
            "Called": request.to,
        }
        for end in ("From", "Caller", "To", "Called"):
            country = country_of(params[end])
            params |= {f"{end}City": "", f"{end}State": "", f"{end}Zip": "", f"{end}Country": country}
        return params


@dataclass(frozen=True, slots=True)
class _FallbackFetch(Fetch):
    """The fallback URL is told what went wrong, and where."""

    error_code: str = ""
    error_url: str = ""


def country_of(number: str) -> str:
    """The ISO country of an E.164 number, "" when several share its prefix and none can be told."""
    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return ""
    return phonenumbers.region_code_for_country_code(parsed.country_code or 0) or ""
