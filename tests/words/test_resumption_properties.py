"""Wherever a talk breaks, and however often: what always holds of the talk that goes on."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from outbound.calls import Kind, transcript
from outbound.conversation import EndCall
from outbound.recall import recall
from tests.words.talk import Talk, said, started
from tests.words.test_conversation_properties import word
from tests.words.test_resumption import resumed, socket_lost

GREETING = "Good morning. This is the AI assistant. Is it a good time."
STEPS = ["prompt", "prompt", "say", "say", "finish", "finish", "play", "play", "play", "quiet", "interrupt", "key"]
STEPS += ["goodbye", "wait"]


class Person:
    """Plays a talk step by step: the carrier plays clause by clause what it was given, and tells so."""

    def __init__(self) -> None:
        self.words = 0
        self.heard: list[str] = []
        self.waiting: list[str] = [*re.findall(r"[^.]+\.\s*", GREETING)]
        self.talk = Talk(greeting=GREETING)

    def fresh(self) -> str:
        self.words += 1
        return word(self.words)

    def step(self, name: str) -> None:
        talk, before = self.talk, len(self.talk.history)
        talk.now += 0.3
        if talk.is_over:
            return
        match name:
            case "prompt":
                talk.prompt(self.fresh())
            case "say":
                talk.say(f"{self.fresh()} {self.fresh()}. ")
            case "finish":
                talk.say(f"{self.fresh()}. ")
                talk.finish()
            case "goodbye":
                talk.piece(EndCall())
            case "play" if self.waiting:
                talk.agent_speaks()
                clause = self.waiting.pop(0)
                self.heard.append(clause.strip())
                talk.played(clause)
                if not self.waiting:
                    talk.agent_speaks(False)
            case "interrupt" if self.waiting:
                self.waiting.clear()
                talk.interrupt("")
            case "key":
                talk.press("7")
            case "wait":
                talk.wait(4)
            case _:
                pass
        self.waiting += re.findall(r"[^.|?!,]+[.?!,]\s*", said(talk.history[before:]).replace("|", ""))

    def break_off(self, *, process_lives: bool) -> None:
        """The socket is gone, and the next one takes up the talk."""
        if process_lives:
            socket_lost(self.talk)
        asked = self.is_unanswered()
        self.waiting.clear()
        self.talk = resumed(self.talk, greeting=GREETING)
        self.assert_it_goes_on(asked)
        self.waiting += re.findall(r"[^.|?!,]+[.?!,]\s*", said(self.talk.history).replace("|", ""))

    def is_unanswered(self) -> bool:
        """Whether the callee's last words wait for an answer that nobody has finished making, or cut."""
        asked = False
        for entry in self.talk.journal:
            match entry.kind:
                case Kind.CALLEE_SAID | Kind.CALLEE_PRESSED:
                    asked = True
                case Kind.INTERRUPTED | Kind.ENDING:
                    asked = False
                case Kind.TURN if entry.data["outcome"] in ("finished", "failed"):
                    asked = False
                case _:
                    pass
        return asked

    def assert_it_goes_on(self, asked: bool) -> None:
        again = said(self.talk.history)
        ours = [
            clause for clause in self.heard if clause in GREETING or re.fullmatch(r"(?:[a-z]{4} )?[a-z]{4}\.", clause)
        ]
        assert not [clause for clause in ours if clause in again], "what was heard is said again"
        assert bool(started(self.talk.history)) == asked, "who was not answered is, and nobody else"
        assert asked or again or self.talk.is_over or self.talk.conversation.deadline() is not None
        memory = recall(self.talk.journal, GREETING)
        assert memory is not None
        assert [line.text for line in memory.lines if line.text] == [s.text for s in transcript(self.talk.journal)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(STEPS), max_size=14), st.lists(st.tuples(st.integers(0, 14), st.booleans()), min_size=1)
)
def test_nothing_heard_is_said_again_and_nothing_asked_goes_unanswered(
    steps: list[str], breaks: list[tuple[int, bool]]
) -> None:
    person = Person()
    for number in range(len(steps) + 1):
        for _, process_lives in [each for each in breaks if each[0] == number][:2]:
            if not person.talk.is_over:
                person.break_off(process_lives=process_lives)
        if number < len(steps):
            person.step(steps[number])
