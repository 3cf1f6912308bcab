"""The voice path of one call: what the agent says reaches the callee's ear in time, and the callee talks back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal, NoReturn, Protocol

from outbound.simulator.clock import Bell, Clock
from outbound.simulator.speech import (
    CHARACTERS_A_SECOND,
    FIRST_AUDIO,
    Cut,
    Event,
    Input,
    Played,
    SpeechEngine,
    Started,
    Stopped,
)

PATIENCE = 20.0  # how long a callee waits for an agent that says nothing
SETTLE = 0.6  # silence after which a callee believes that it is his turn
END_OF_TURN = 0.35  # from the callee's last sound to the final prompt, as recorded
PARTIAL_EVERY = 0.25
KEY_EVERY = 0.3

Who = Literal["agent", "callee"]
FOREVER = float("inf")
_EPSILON = 1e-6


class HungUp(Exception):
    """The callee puts the phone down."""


class Listener(Protocol):
    """The relay's end of the line: it is told what is heard, and decides what an input does to the agent's voice."""

    def agent_event(self, event: Event) -> None: ...
    def callee_starts(self, at: float) -> bool:
        """May cut the agent; returns whether the application will be told what the callee says."""
        ...

    def callee_talked_over(self, at: float) -> None:
        """The agent's voice begins while the callee talks."""
        ...

    def callee_continues(self, text: str, lang: str | None) -> None: ...
    def callee_stops(self) -> None: ...
    def callee_said(self, text: str, lang: str | None) -> None: ...
    def callee_pressed(self, digit: str, at: float) -> None: ...


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The agent has fallen silent; `unheard` is what an interruption kept from the callee's ear."""

    interrupted: bool = False
    unheard: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """The callee begins to say this."""

    text: str


type Overheard = str | TurnEnd | Said


@dataclass(slots=True, eq=False)
class _Alarm:
    """Wakes at the very instant when the callee has heard `words` words of the whole call.

    With `since`, it is the first word of a clause that came in from then on.
    """

    words: int
    action: Callable[[float], object]
    fired: bool = False
    since: float | None = None


@dataclass(slots=True, eq=False)
class _Ear:
    told: int
    queue: asyncio.Queue[Overheard]


class Line:
    """Both directions of one call's voice. A callee uses the methods from `hear` to `hold`.

    The order of things is that of network time, also when the machine is slow and several are due at once.
    """

    def __init__(self, clock: Clock, number: str, tell: Callable[[Who, str, TurnEnd | None], None]) -> None:
        self.number = number
        self.listener: Listener | None = None
        self.engine = SpeechEngine()
        self.callee_talks = False
        self._clock = clock
        self._tell = tell
        self._bell = Bell()
        self._words: list[str] = []  # of the agent, heard to the end of their clause or of a cut
        self._mark = 0  # how many of them the callee has reacted to
        self._turn: list[str] = []
        self._alarms: list[_Alarm] = []
        self._ears: list[_Ear] = []

    # The callee's side.

    async def hear(self, *, patience: float = PATIENCE) -> str:
        """Wait until the agent has finished; what it said since the last time, "" when it stayed silent."""
        while True:
            if self.engine.quiet and len(self._words) > self._mark:
                if not await self._agent_resumes():
                    return self._take(len(self._words))
            elif not await self._bell.wait(self._clock.patience(patience)):
                return self._take(len(self._words))

    async def hear_words(self, count: int, *, patience: float = PATIENCE) -> str:
        """Wait until `count` more words were heard, or the agent finished before; returns what was heard."""
        await self._after_words(count, lambda at: None, patience)
        return self._take(len(self._heard_words()))

    async def interrupt(
        self, text: str, *, after_words: int, lang: str | None = None, patience: float = PATIENCE
    ) -> str:
        """Begin to talk at the instant when `after_words` words of the agent were heard; returns those.

        When the agent says less than that, this is an ordinary reply.
        """
        began: list[bool] = []
        await self._after_words(after_words, lambda at: began.append(self._begin_to_talk(at)), patience)
        if not began:
            began.append(self._begin_to_talk(self.catch_up()))
        heard = self._take(len(self._words))
        await self._talk(text, lang, None, reported=began[0])
        return heard

    async def say(self, text: str, *, lang: str | None = None, seconds: float | None = None) -> None:
        """Say something, at speaking speed or within `seconds`; returns after the end of the turn was noticed."""
        reported = self._begin_to_talk(self.catch_up())
        await self._talk(text, lang, seconds, reported=reported)

    async def press(self, digits: str) -> None:
        """Press keys one after another; a space is a short pause."""
        for digit in digits:
            if self.listener is not None and not digit.isspace():
                self.listener.callee_pressed(digit, self.catch_up())
            await self._clock.sleep(KEY_EVERY)

    async def pause(self, seconds: float) -> None:
        """Let `seconds` of network time pass."""
        await self._clock.sleep(seconds)

    async def hang_up(self, *, after_words: int = 0, patience: float = PATIENCE) -> NoReturn:
        """Put the phone down, at the instant when `after_words` words were heard; nothing after this is executed."""
        if after_words:
            await self._after_words(after_words, self.cut, patience)
        raise HungUp

    async def hold(self) -> NoReturn:
        """Stay on the line, silent, until somebody else ends the call."""
        while True:
            await asyncio.Event().wait()

    async def listen(self) -> AsyncIterator[Overheard]:
        """The agent's words as they reach the ear, the end of each of its turns, and what the callee says."""
        ear = _Ear(len(self._words), asyncio.Queue())
        self._ears.append(ear)
        self._wake_for(ear)
        while True:
            yield await ear.queue.get()

    # The agent's side.

    def speak(
        self,
        token: str,
        *,
        last: bool,
        interruptible: Input = Input.NONE,
        preemptible: bool = False,
        after: float = FIRST_AUDIO,
    ) -> None:
        """Add text to the agent's voice; see `SpeechEngine.text`."""
        now = self.catch_up()
        self._perform(
            self.engine.text(
                token, last=last, now=now, interruptible=interruptible, preemptible=preemptible, after=after
            )
        )

    def play(self, *, loop: int, interruptible: Input, preemptible: bool) -> None:
        """Queue a sound file."""
        now = self.catch_up()
        self._perform(self.engine.play(loop=loop, now=now, interruptible=interruptible, preemptible=preemptible))

    def send_digits(self, digits: str) -> None:
        """Queue key tones towards the callee."""
        now = self.catch_up()
        self._perform(self.engine.digits(digits, now=now, callee_talks=self.callee_talks))

    def cut(self, at: float) -> Cut:
        """Silence the agent and forget all that was not heard."""
        cut = self.engine.cut(at)
        self._words += cut.heard.split()
        self._turn.append(cut.heard)
        self._end_turn(TurnEnd(interrupted=True, unheard=cut.unheard))
        self._bell.ring()
        return cut

    def when_heard_anew(self, action: Callable[[float], object]) -> None:
        """Call `action` with the time when the callee hears the first word that the agent is given from now on."""
        self._alarms.append(_Alarm(0, action, since=self.catch_up()))
        self._bell.ring()

    async def spoken(self) -> None:
        """Wait until nothing sounds and nothing waits to."""
        while not self.engine.quiet:
            await self._bell.wait()

    async def run(self) -> None:
        """Drive the voice; the call cancels this when it is over."""
        while True:
            now = self.catch_up()
            at = min(self._engine_at(), *map(self._alarm_at, self._alarms), FOREVER)
            await self._bell.wait((at - now) / self._clock.speed if at < FOREVER else None)

    def catch_up(self) -> float:
        """Perform all that is due, in the order of its time; returns now."""
        now = self._clock.now()
        while True:
            engine_at = self._engine_at()
            alarm = min(self._alarms, key=self._alarm_at, default=None)
            # An alarm at the last word of a clause comes before the clause is over.
            if alarm is not None and (at := self._alarm_at(alarm)) <= min(now, engine_at) + _EPSILON:
                self._alarms.remove(alarm)
                alarm.fired = True
                alarm.action(at)
                self._bell.ring()
            elif engine_at <= now:
                self._perform(self.engine.advance(engine_at))
            else:
                return now

    # How it works.

    def _perform(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Played) and event.spoken:
                self._words += event.text.split()
                self._turn.append(event.text)
            if self.listener is not None:
                self.listener.agent_event(event)
                if isinstance(event, Started) and self.callee_talks:
                    self.listener.callee_talked_over(event.at)
            if isinstance(event, Stopped):
                self._end_turn(TurnEnd())
        self._bell.ring()

    def _end_turn(self, end: TurnEnd) -> None:
        # White space at the joints of clauses is not reliable.
        text = " ".join(" ".join(self._turn).split())
        self._turn.clear()
        if text or end.interrupted:
            self._tell("agent", text, end)
        for ear in self._ears:
            self._tell_words(ear, self._words)
            ear.queue.put_nowait(end)

    def _engine_at(self) -> float:
        at = self.engine.next_at()
        return FOREVER if at is None else at

    def _alarm_at(self, alarm: _Alarm) -> float:
        if alarm.since is None:
            at = self.engine.word_at(alarm.words - len(self._words))
        else:
            at = self.engine.word_at(1, since=alarm.since)
        return FOREVER if at is None else at

    async def _after_words(self, count: int, action: Callable[[float], object], patience: float) -> None:
        """Do `action` when `count` words after the mark were heard; give up when the agent has finished before."""
        alarm = _Alarm(self._mark + count, action)
        self._alarms.append(alarm)
        self._bell.ring()
        try:
            while not alarm.fired and len(self._words) < alarm.words:
                if self.engine.quiet and len(self._words) > self._mark:
                    if not await self._agent_resumes():
                        return
                elif not await self._bell.wait(self._clock.patience(patience)):
                    return
        finally:
            if alarm in self._alarms:
                self._alarms.remove(alarm)

    async def _agent_resumes(self) -> bool:
        return await self._bell.wait(SETTLE / self._clock.speed)

    def _heard_words(self) -> list[str]:
        return self._words + self.engine.hearing(self.catch_up()).split()

    def _take(self, words: int) -> str:
        heard = " ".join(self._heard_words()[self._mark : words])
        self._mark = max(self._mark, words)
        return heard

    def _begin_to_talk(self, at: float) -> bool:
        self.callee_talks = True
        return self.listener is not None and self.listener.callee_starts(at)

    async def _talk(self, text: str, lang: str | None, seconds: float | None, *, reported: bool) -> None:
        """Speak word by word, so that a relay which opens in the middle gets what is said from then on."""
        self._tell("callee", text, None)
        for ear in self._ears:
            self._tell_words(ear, self._heard_words())
            ear.queue.put_nowait(Said(text))
        seconds = len(text) / CHARACTERS_A_SECOND if seconds is None else seconds
        words, said, passed, begun = text.split(), 0, 0.0, self._clock.now()
        listener, first = self.listener, 0
        while said < len(words):
            await self._clock.sleep(min(PARTIAL_EVERY, seconds * (1 - passed)))
            passed = (self._clock.now() - begun) / seconds if seconds else 1.0
            if self.listener is not listener:
                listener, first = self.listener, said
                reported = listener is not None and listener.callee_starts(self.catch_up())
            said = min(len(words), int(passed * len(words) + _EPSILON))
            if listener is not None and reported and first < said < len(words):
                listener.callee_continues(" ".join(words[first:said]), lang)
        self.callee_talks = False
        if listener is None or listener is not self.listener:
            return
        listener.callee_stops()
        await self._clock.sleep(END_OF_TURN)
        if reported and listener is self.listener:
            listener.callee_said(text if first == 0 else " ".join(words[first:]), lang)

    def _wake_for(self, ear: _Ear) -> None:
        def tell(at: float) -> None:
            self._tell_words(ear, self._words + self.engine.hearing(at).split())
            self._wake_for(ear)

        self._alarms.append(_Alarm(max(ear.told, len(self._words)) + 1, tell))

    @staticmethod
    def _tell_words(ear: _Ear, words: list[str]) -> None:
        if fresh := words[ear.told :]:
            ear.queue.put_nowait(" ".join(fresh))
        ear.told = len(words)
