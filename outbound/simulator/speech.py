"""What the carrier's voice says and when: talk cycles in, what was heard out; no I/O, time comes in by argument.

Every `now` is in network seconds and never goes back. The rules are Twilio's, documented or recorded on live calls:
https://www.twilio.com/docs/voice/conversationrelay/websocket-messages
"""

import enum
import re
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

FIRST_AUDIO = 0.33  # seconds from the first token to the first sound, as recorded
GREETING_AFTER = 0.7  # seconds from `setup` to the welcome greeting, as recorded
CHARACTERS_A_SECOND = 15.0
TONE = 0.25
DIGIT_PAUSE = 0.5  # `w`
IDLE_TONES_AFTER = 2.0  # tones on an idle line come this late, as recorded
AUDIO_FILE = 3.0  # nothing is downloaded: every file of a `play` lasts this long
ENDLESS_LOOP = 1000  # what loop=0 means

# A clause ends at its punctuation and white space. At the end of what has arrived, a digit before the dot
# means that a decimal may be on its way.
_PUNCTUATION = r"[.?!:;\u2026\u3002\uff01\uff1f]+[\"'\u201d\u2019)\]]*"
_CLAUSE_END = re.compile(rf"{_PUNCTUATION}(?=\s)|(?<!\d){_PUNCTUATION}$")
_EPSILON = 1e-6


class Input(enum.Flag):
    """The kinds of input that the `interruptible` family of attributes names."""

    NONE = 0
    DTMF = enum.auto()
    SPEECH = enum.auto()
    ANY = DTMF | SPEECH


@dataclass(frozen=True, slots=True)
class Started:
    """The agent's voice is heard after silence."""

    at: float


@dataclass(frozen=True, slots=True)
class Played:
    """One clause, or the digits of a `sendDigits`, has been played; `whole` is False for what was cut short."""

    at: float
    text: str
    whole: bool = True
    spoken: bool = True


@dataclass(frozen=True, slots=True)
class Stopped:
    """The agent's voice has fallen silent: a cycle is over and nothing else is ready to sound."""

    at: float


type Event = Started | Played | Stopped


@dataclass(frozen=True, slots=True)
class Cut:
    """What an interruption left of the clause that was playing, and what nobody will ever hear."""

    at: float
    heard: str
    played_ms: int
    unheard: str


@dataclass(frozen=True, slots=True)
class _Sound:
    """One thing to play without a break."""

    text: str
    seconds: float
    ready_at: float
    spoken: bool = True


@dataclass(slots=True)
class _Cycle:
    """A talk cycle, a `play` or a `sendDigits`: one place in the queue."""

    earliest: float
    interruptible: Input
    preemptible: bool
    closed: bool
    pending: str = ""  # text that is no whole clause yet
    sounds: deque[_Sound] = field(default_factory=deque)

    @property
    def over(self) -> bool:
        return self.closed and not self.sounds


@dataclass(frozen=True, slots=True)
class _Playing:
    sound: _Sound
    since: float

    @property
    def until(self) -> float:
        return self.since + self.sound.seconds


class SpeechEngine:
    """A first-in-first-out queue of talk cycles, spoken clause by clause.

    Whatever a method returns has happened, in that order; after each call the owner asks `next_at` when to come back
    with `advance`. While a cycle is open, `speaking` stays on between its clauses.
    """

    def __init__(self, *, rate: float = CHARACTERS_A_SECOND) -> None:
        self._rate = rate
        self._queue: deque[_Cycle] = deque()
        self._open: _Cycle | None = None
        self._playing: _Playing | None = None
        self._free_at = 0.0
        self.speaking = False

    # What comes in.

    def text(
        self,
        token: str,
        *,
        last: bool,
        now: float,
        interruptible: Input = Input.ANY,
        preemptible: bool = False,
        after: float = FIRST_AUDIO,
    ) -> list[Event]:
        """Add a piece of text to the open cycle, or begin one; the flags count on the piece that begins it.

        A fragment without punctuation waits for `last`. A cycle without words makes no sound.
        """
        events = self.advance(now)
        if self._open is None:
            if token:
                events += self._preempt(now)
            self._open = _Cycle(now + after, interruptible, preemptible, closed=False)
            self._queue.append(self._open)
        cycle = self._open
        cycle.pending += token
        self._cut_clauses(cycle, now)
        if last:
            self._add_clause(cycle, cycle.pending, now)
            cycle.pending = ""
            cycle.closed = True
            self._open = None
        return events + self._settle(now)

    def play(
        self, *, loop: int = 1, now: float, interruptible: Input = Input.ANY, preemptible: bool = False
    ) -> list[Event]:
        """Queue a sound file, `loop` times (0 is a thousand)."""
        events = self.advance(now) + self._preempt(now)
        cycle = _Cycle(now + FIRST_AUDIO, interruptible, preemptible, closed=True)
        cycle.sounds.append(_Sound("", AUDIO_FILE * (loop or ENDLESS_LOOP), now))
        self._queue.append(cycle)
        return events + self._settle(now)

    def digits(self, digits: str, *, now: float, callee_talks: bool = False) -> list[Event]:
        """Queue key tones: they wait for speech before them, come late on an idle line, at once into the callee's."""
        events = self.advance(now)
        late = not self._queue and not callee_talks
        cycle = _Cycle(now + (IDLE_TONES_AFTER if late else 0.0), Input.NONE, preemptible=False, closed=True)
        seconds = sum(DIGIT_PAUSE if digit == "w" else TONE for digit in digits)
        cycle.sounds.append(_Sound(digits, seconds, now, spoken=False))
        self._queue.append(cycle)
        return events

    # What time brings.

    def next_at(self) -> float | None:
        """When something happens next if nothing comes in; None while there is nothing to play."""
        if self._playing is not None:
            return self._playing.until
        if not self._queue or not self._queue[0].sounds:
            return None
        head = self._queue[0]
        return max(head.earliest, head.sounds[0].ready_at, self._free_at)

    def advance(self, now: float) -> list[Event]:
        """Everything that has happened until `now`, in order."""
        events: list[Event] = []
        while (at := self.next_at()) is not None and at <= now + _EPSILON:
            events += self._begin(at) if self._playing is None else self._finish(self._playing)
        return events

    def cut(self, now: float) -> Cut:
        """Fall silent at once and forget all that was not played, whole later cycles too.

        The caller must have called `advance(now)`, and reports the silence itself: interruptions have their own order.
        """
        heard = self.hearing(now)
        played = 0 if self._playing is None else round((now - self._playing.since) * 1000)
        unheard = self._waiting_text()
        if self._playing is not None:
            unheard = self._playing.sound.text.strip()[len(heard) :] + unheard
        self._queue.clear()
        self._open = self._playing = None
        self._free_at = now
        self.speaking = False
        return Cut(now, heard, played, unheard.strip())

    # What can be asked.

    @property
    def quiet(self) -> bool:
        """Nothing sounds and nothing waits to."""
        return self._playing is None and not self._queue

    @property
    def interruptible(self) -> Input:
        """What may cut the voice that is heard now; NONE while nothing is heard."""
        return self._queue[0].interruptible if self.speaking and self._queue else Input.NONE

    def hearing(self, now: float) -> str:
        """The whole words of the playing clause that have been heard until `now`."""
        if self._playing is None or not self._playing.sound.spoken:
            return ""
        text = self._playing.sound.text.strip()
        ends = [end for end, at in self._word_ends(self._playing) if at <= now + _EPSILON]
        return text[: ends[-1]] if ends else ""

    def word_at(self, count: int, *, since: float = 0.0) -> float | None:
        """When the `count`-th word of the playing clause has been heard; None if it has fewer words.

        None too if the whole clause had come in before `since`.
        """
        if self._playing is None or not self._playing.sound.spoken or count < 1:
            return None
        if self._playing.sound.ready_at < since:
            return None
        ends = self._word_ends(self._playing)
        return ends[count - 1][1] if count <= len(ends) else None

    # How it works.

    def _cut_clauses(self, cycle: _Cycle, now: float) -> None:
        ends = [0, *(found.end() for found in _CLAUSE_END.finditer(cycle.pending))]
        for start, end in pairwise(ends):
            self._add_clause(cycle, cycle.pending[start:end], now)
        cycle.pending = cycle.pending[ends[-1] :]

    def _add_clause(self, cycle: _Cycle, text: str, now: float) -> None:
        if spoken := text.strip():
            cycle.sounds.append(_Sound(text, len(spoken) / self._rate, now))

    def _begin(self, at: float) -> list[Event]:
        sound = self._queue[0].sounds.popleft()
        self._playing = _Playing(sound, at)
        if self.speaking or not sound.spoken:
            return []
        self.speaking = True
        return [Started(at)]

    def _finish(self, playing: _Playing) -> list[Event]:
        at = playing.until
        self._playing = None
        self._free_at = at
        played: list[Event] = []
        if playing.sound.text:
            played.append(Played(at, playing.sound.text, spoken=playing.sound.spoken))
        return played + self._settle(at)

    def _settle(self, at: float) -> list[Event]:
        """Let finished cycles leave the queue; the voice is silent unless the next one is ready to sound."""
        if self._playing is not None:
            return []
        finished = False
        while self._queue and self._queue[0].over:
            self._queue.popleft()
            finished = True
        following = self.next_at()
        if not self.speaking or not finished or (following is not None and following <= at + _EPSILON):
            return []
        self.speaking = False
        return [Stopped(at)]

    def _preempt(self, now: float) -> list[Event]:
        """Drop preemptible cycles; the one that sounds is cut without an interruption being reported."""
        if not any(cycle.preemptible for cycle in self._queue):
            return []
        events: list[Event] = []
        if self._playing is not None and self._queue[0].preemptible:
            if heard := self.hearing(now):
                events.append(Played(now, heard, whole=False))
            self._playing = None
            self._free_at = now
        self._queue = deque(cycle for cycle in self._queue if not cycle.preemptible)
        if self._open is not None and self._open.preemptible:
            self._open = None
        return events

    def _waiting_text(self) -> str:
        waiting = (sound.text for cycle in self._queue for sound in cycle.sounds if sound.spoken)
        return "".join(waiting) + "".join(cycle.pending for cycle in self._queue)

    @staticmethod
    def _word_ends(playing: _Playing) -> list[tuple[int, float]]:
        """For each word, the index of its end in the stripped text and the time when it has been heard."""
        text = playing.sound.text.strip()
        ends = (found.end() for found in re.finditer(r"\S+", text))
        return [(end, playing.since + playing.sound.seconds * end / len(text)) for end in ends]
