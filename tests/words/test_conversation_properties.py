"""Whatever is said, cut, delayed or lost, and in whatever order: what always holds of a conversation.

The conversation talks with a carrier that plays what it was sent, clause by clause, and says honestly as much as its
mode has it say; between them stands an outbox that may be held up.
"""

import re
from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outbound.calls import Kind
from outbound.conversation import (
    CancelReply,
    Close,
    Conversation,
    DropSpeech,
    Effect,
    EndCall,
    Filler,
    Limits,
    Note,
    OptOut,
    Piece,
    PressKeys,
    Say,
    Send,
    StartReply,
)
from outbound.relay import (
    Dtmf,
    End,
    ErrorReport,
    Inbound,
    Info,
    Interrupt,
    Language,
    Play,
    Prompt,
    SendDigits,
    Setup,
    Text,
)
from tests.words.talk import CALL_SID, GREETING

MAX_DURATION_S = 70.0
GRACE_S = 40.0
"""For the last words to be heard, and for the carrier to let go."""
GREETING_LINE = 1


def sounds(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def word(number: int) -> str:
    """A word of its own for every number, none of which begins another."""
    letters = []
    for _ in range(4):
        number, letter = divmod(number, 26)
        letters.append(chr(ord("a") + letter))
    return "".join(letters)


@dataclass
class Cycle:
    """One talk cycle, or one burst of keypad tones, in the carrier's queue."""

    line: int
    text: str = ""
    closed: bool = False
    preemptible: bool = False
    keys: bool = False


@dataclass
class Carrier:
    """Plays what it was sent. What it reports waits in `reports`, in order."""

    reports_speaking: bool
    reports_played: bool
    queue: deque[Cycle] = field(default_factory=deque)
    speaking: bool = False
    played: dict[int, str] = field(default_factory=dict)
    """What was really heard of each line."""
    reports: list[Inbound] = field(default_factory=list)
    open_line: int | None = None
    last_line: int = 0

    def take(self, line: int, message: Text) -> None:
        """Takes speech off the wire. Cycles do not overlap, and none is closed twice."""
        if self.open_line is None:
            assert message.token, f"line {line} is closed, and is not open"
            assert line > self.last_line, f"line {line} goes on after its close"
            self.last_line = line
            while self.queue and self.queue[-1].preemptible:
                self.queue.pop()
            self.queue.append(Cycle(line, preemptible=message.preemptible or False))
        else:
            assert line == self.open_line, f"line {line} begins before line {self.open_line} is closed"
        if self.queue and self.queue[-1].line == line:
            self.queue[-1].text += message.token
            self.queue[-1].closed = message.last
        self.open_line = None if message.last else line

    def press(self, digits: str) -> None:
        self.queue.append(Cycle(0, digits, closed=True, keys=True))

    def next_clause(self) -> str:
        """What can be played now: a clause, or the rest of a closed cycle. The voice waits for the end of a clause."""
        while self.queue and self.queue[0].closed and not self.queue[0].text:
            self.queue.popleft()
        if not self.queue:
            return ""
        cycle = self.queue[0]
        clause = re.match(r"[^.,?!]*[.,?!]+", cycle.text)
        if cycle.keys or (clause is None and cycle.closed):
            return cycle.text
        return clause[0] if clause else ""

    def play(self) -> None:
        """Plays one clause, or falls silent if there is none."""
        clause = self.next_clause()
        if clause:
            self._sound(clause)
            if not self.next_clause():
                self._fall_silent()
        else:
            self._fall_silent()

    def interrupt(self, words: int, *, repeats: bool) -> None:
        """The callee cuts in after some words of the clause that sounds: all that waits is purged."""
        fragment = " ".join(self.next_clause().split()[:words])
        if fragment and self.queue[0].keys:
            fragment = ""
        if fragment:
            self._sound(fragment, reported=repeats)
        self.queue.clear()
        self.reports.append(Interrupt(utterance_until_interrupt=fragment))
        self._fall_silent()

    def _sound(self, text: str, *, reported: bool = True) -> None:
        if not self.speaking and self.reports_speaking:
            self.reports.append(Info(name="agentSpeaking", value="on"))
        self.speaking = True
        cycle = self.queue[0]
        if not cycle.keys:
            self.played[cycle.line] = self.played.get(cycle.line, "") + sounds(text)
        cycle.text = cycle.text.lstrip()[len(text.lstrip()) :]
        if self.reports_played and reported:
            self.reports.append(Info(name="tokensPlayed", value=text))

    def _fall_silent(self) -> None:
        if self.speaking and self.reports_speaking:
            self.reports.append(Info(name="agentSpeaking", value="off"))
        self.speaking = False


LATE = 25
"""How many steps a talk has had when it may be over at any moment."""
WORDS = st.lists(st.sampled_from(["", ",", ".", "?"]), min_size=1, max_size=6)


class AnyTalk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.words = 0
        self.steps = 0
        self.cut_to = 0
        self.outbox: deque[tuple[int, Text | SendDigits | End]] = deque()
        self.congested = False
        self.live: int | None = None
        self.turns_over: set[int] = set()
        self.began: dict[int, int | None] = {}
        self.settled: dict[int, tuple[str, str]] = {}
        self.assumed: set[int] = set()
        self.ended = self.closed = self.hung_up = False

    @initialize(
        reports_speaking=st.booleans(), reports_played=st.booleans(), greeting=st.booleans(), introduced=st.booleans()
    )
    def ring(self, reports_speaking: bool, reports_played: bool, greeting: bool, introduced: bool) -> None:
        self.carrier = Carrier(reports_speaking, reports_played)
        self.has_reported_played = False
        self.conversation = Conversation(
            greeting=GREETING if greeting else "",
            now=self.now,
            call_sid=CALL_SID,
            limits=Limits(max_duration_s=MAX_DURATION_S, reply_characters=120),
        )
        self.greeting = greeting
        if introduced:
            self.introduce()

    @property
    def talks(self) -> bool:
        return not self.ended and not self.closed and not self.hung_up

    # What happens.

    @rule()
    def introduce(self) -> None:
        if self.greeting and not self.closed and not self.hung_up:
            self.greeting = False
            self.carrier.queue.append(Cycle(GREETING_LINE, GREETING, closed=True))
        self.hear(Setup(session_id="VX1", call_sid=CALL_SID))

    @precondition(lambda self: self.steps > LATE)
    @rule()
    def another_call_introduces_itself(self) -> None:
        self.hear(Setup(session_id="VX2", call_sid="CA2"))

    @rule(last=st.sampled_from([True, True, True, False]), text=st.sampled_from(["Yes?", "No.", "Why?", " "]))
    def callee_says(self, last: bool, text: str) -> None:
        self.hear(Prompt(voice_prompt=text, last=last, lang=""))

    @rule(on=st.booleans())
    def callee_makes_sound(self, on: bool) -> None:
        if self.carrier.reports_speaking:
            self.hear(Info(name="clientSpeaking", value="on" if on else "off"))

    @precondition(lambda self: self.live is not None)
    @rule()
    def callee_goes_on_while_the_agent_talks(self) -> None:
        self.tick_until(self.now + 2)
        self.hear(Prompt(voice_prompt="No, wait."))

    @rule(digit=st.sampled_from("12*#x"))
    def callee_presses(self, digit: str) -> None:
        self.hear(Dtmf(digit=digit))

    @rule(words=st.integers(0, 3), repeats=st.booleans())
    def callee_interrupts(self, words: int, repeats: bool) -> None:
        self.carrier.interrupt(words, repeats=repeats)
        self.report()

    @rule()
    def carrier_complains(self) -> None:
        self.hear(ErrorReport(description="64107"))

    @rule(clauses=st.integers(1, 4))
    def carrier_plays(self, clauses: int) -> None:
        for _ in range(clauses):
            self.tick_until(self.now + 1)
            self.carrier.play()
            self.report()

    @precondition(lambda self: self.live is not None)
    @rule(pieces=st.lists(st.tuples(WORDS, st.sampled_from([Say, Say, Filler])), min_size=1, max_size=3))
    def agent_says(self, pieces: list[tuple[list[str], type[Say | Filler]]]) -> None:
        for ends, piece in pieces:
            self.bring(piece(" ".join(f"{self.a_word()}{end}" for end in ends) + " "))

    @precondition(lambda self: self.live is not None)
    @rule(piece=st.sampled_from([PressKeys("1"), PressKeys("?"), Say(" "), Say(""), OptOut(), EndCall(), EndCall()]))
    def agent_does(self, piece: Piece) -> None:
        self.bring(piece)

    @precondition(lambda self: self.live is not None)
    @rule(fails=st.sampled_from([False, False, True]))
    def agent_is_done(self, fails: bool) -> None:
        assert self.live is not None
        if fails:
            self.perform(self.conversation.fail(self.live, "broken", self.now))
        else:
            self.perform(self.conversation.finish(self.live, self.now))

    @precondition(lambda self: self.turns_over)
    @rule(data=st.data())
    def an_old_reply_goes_on(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(sorted(self.turns_over)))
        assert self.conversation.say(turn, Say("late"), self.now) == []
        assert self.conversation.finish(turn, self.now) == []
        assert self.conversation.fail(turn, "late", self.now) == []

    @rule(on=st.booleans())
    def wire_is_congested(self, on: bool) -> None:
        self.congested = on
        self.write()

    @rule(messages=st.integers(1, 3))
    def wire_takes_some(self, messages: int) -> None:
        self.write(messages)

    @rule(seconds=st.floats(0, 12))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while (clause := self.carrier.next_clause()) and self.now < until:
            self.tick_until(self.now + 0.35 + len(clause) / 15)
            self.carrier.play()
            self.report()
        self.tick_until(max(self.now, until))

    @precondition(lambda self: self.ended or self.closed)
    @rule()
    def line_goes_dead(self) -> None:
        self.hang_up()

    @precondition(lambda self: self.steps > LATE)
    @rule()
    def callee_hangs_up(self) -> None:
        self.hang_up()

    # How it is carried out.

    def a_word(self) -> str:
        self.words += 1
        return word(self.words)

    def hear(self, message: Inbound) -> None:
        if not self.hung_up:
            if isinstance(message, Interrupt):
                self.cut_to = max(self.began, default=0)
            self.perform(self.conversation.hear(message, self.now))

    def report(self) -> None:
        """Brings the carrier's news, in order."""
        reports, self.carrier.reports = self.carrier.reports, []
        for message in reports:
            self.has_reported_played |= isinstance(message, Info) and message.name == "tokensPlayed"
            self.hear(message)

    def bring(self, piece: Piece) -> None:
        self.perform(self.conversation.say(self.conversation.turns, piece, self.now))

    def hang_up(self) -> None:
        self.hung_up = True
        effects = self.conversation.hang_up(self.now)
        assert not any(isinstance(effect, Send | StartReply | Close) for effect in effects)
        self.perform(effects)
        assert self.live is None
        assert set(self.began) == {line for line, (role, _) in self.settled.items() if role == "agent"}
        assert self.conversation.deadline() is None

    def tick_until(self, until: float) -> None:
        ticks_at_once = 0
        while (deadline := self.conversation.deadline()) is not None and deadline <= until:
            ticks_at_once = ticks_at_once + 1 if deadline <= self.now else 0
            assert ticks_at_once < 10, "time stands still"
            self.now = max(self.now, deadline)
            self.perform(self.conversation.tick(self.now))
        self.now = until

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case StartReply(turn, lines):
                    assert self.live is None, "two replies at once"
                    assert self.talks, "a reply is started after the end"
                    self.live = turn
                    for spoken in lines:
                        assert spoken.role == "callee" or self.was_played(spoken.text)
                case CancelReply():
                    assert self.live is not None
                case Send(message):
                    assert self.talks, "something is sent after the end"
                    self.ended = isinstance(message, End)
                    assert not isinstance(message, Play | Language)
                    line = max(self.began, default=0)
                    assert not isinstance(message, Text) or self.began[line] not in self.turns_over
                    self.outbox.append((line, message))
                case DropSpeech():
                    self.drop_speech()
                case Close():
                    assert not self.closed
                    self.closed = True
                case Note(kind, data):
                    self.note(kind, data)  # type: ignore[arg-type]  # a Mapping is all it needs
        self.write(0 if self.congested else len(self.outbox))

    def drop_speech(self) -> None:
        dropped = "".join(message.token for _, message in self.outbox if isinstance(message, Text))
        self.outbox = deque((line, message) for line, message in self.outbox if not isinstance(message, Text))
        if self.carrier.open_line is not None:
            self.outbox.appendleft((self.carrier.open_line, Text(token="", last=True)))
        self.conversation.not_sent(dropped)

    def write(self, messages: int = 1_000) -> None:
        while self.outbox and messages:
            messages -= 1
            line, message = self.outbox.popleft()
            match message:
                case Text():
                    assert not message.token or line > self.cut_to, "words are sent after they were cut"
                    self.carrier.take(line, message)
                case SendDigits(digits=digits):
                    self.carrier.press(digits)
                case End():
                    self.carrier.queue.clear()

    def note(self, kind: Kind, data: dict[str, str | int | None]) -> None:
        match kind:
            case Kind.TURN:
                turn = data["turn"]
                assert isinstance(turn, int)
                assert turn == self.live, "a turn is over that was not going on"
                self.live = None
                self.turns_over.add(turn)
            case Kind.AGENT_BEGAN:
                line, turn = data["line"], data["turn"]
                assert isinstance(line, int)
                assert not isinstance(turn, str)
                assert line == 1 + len(self.began) + sum(role == "callee" for role, _ in self.settled.values())
                self.began[line] = turn
            case Kind.AGENT_SAID:
                line = data["line"]
                assert line in self.began
                self.settle(line, "agent", str(data["text"]))
            case Kind.CALLEE_SAID:
                self.settle(data["line"], "callee", str(data["text"]))
            case Kind.CALLEE_PRESSED:
                self.settle(data["line"], "callee", str(data["digits"]))
            case _:
                pass

    def settle(self, line: str | int | None, role: str, text: str) -> None:
        assert isinstance(line, int)
        assert line not in self.settled, "a line is settled once"
        self.settled[line] = (role, text)
        if role == "agent" and self.has_reported_played:
            played = self.carrier.played.get(line, "").startswith(sounds(text))
            # A sentence taken for heard before the first report may be reported when the same one is said again.
            assert played or (self.assumed and self.was_played(text)), "words that were never played were said"
        elif role == "agent" and text:
            self.assumed.add(line)

    def was_played(self, text: str) -> bool:
        """Whether an agent's line holds played words only, as far as the carrier's reports can tell."""
        assumed = any(self.settled[line][1] == text for line in self.assumed)
        played = any(words.startswith(sounds(text)) for words in self.carrier.played.values())
        return assumed or played or not self.has_reported_played

    # What always holds.

    @invariant()
    def steps_are_counted(self) -> None:
        self.steps += 1

    @invariant()
    def settled_lines_keep_their_words_and_their_order(self) -> None:
        lines = iter(self.conversation.lines())
        for _, (role, text) in sorted(self.settled.items()):
            assert not text or any((line.role, line.text) == (role, text) for line in lines), f"{text!r} is gone"
        unsettled = len(self.began) - sum(role == "agent" for role, _ in self.settled.values())
        assert len(self.conversation.lines()) <= sum(bool(text) for _, text in self.settled.values()) + unsettled

    @invariant()
    def there_is_a_deadline_until_it_is_over(self) -> None:
        if self.conversation.deadline() is None:
            assert self.closed or self.hung_up

    @invariant()
    def a_call_that_does_not_talk_any_more_has_a_reason(self) -> None:
        assert not self.ended or self.conversation.end_reason is not None

    def teardown(self) -> None:
        """Left alone, every call ends in time; a hang-up then settles all that is left."""
        if not hasattr(self, "conversation"):
            return
        self.tick_until(self.now + MAX_DURATION_S + GRACE_S)
        assert self.hung_up or self.closed
        self.congested = False
        self.write()
        if self.ended:
            assert self.carrier.open_line is None
        if not self.hung_up:
            self.hang_up()


AnyTalk.TestCase.settings = settings(deadline=None, max_examples=400, stateful_step_count=50)
TestAnyTalk = AnyTalk.TestCase
