"""What a conversation has to know to go on after a break, read from the journal: what was said, heard and left open."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from outbound.calls import EndReason, Entry, Kind
from outbound.heard import CHARACTERS_PER_SECOND, FIRST_SOUND_AFTER_S, Playback, Utterance

NOTICED_AFTER = timedelta(seconds=1.2)
"""How long after a socket broke the carrier tells us, as measured on live calls."""
_CLAUSE = re.compile(r"[^.?!]+[.?!]*\s*")


@dataclass(frozen=True, slots=True)
class Deed:
    """A tool that was called, and what came of it."""

    tool: str
    arguments: Any
    outcome: str


@dataclass(slots=True)
class Remembered:
    """One line of the talk, by either side."""

    role: str
    """`agent` or `callee`."""
    text: str = ""
    """What was heard of it."""
    keypad: bool = False
    interrupted: bool = False
    sent: str | None = None
    """All that was to be spoken; None where the process died before it was complete."""
    sent_at: datetime | None = None
    played: list[str] = field(default_factory=list)
    """The clauses that are known to have been heard."""
    is_guess: bool = False
    """What was heard was told by the clock: it may end within a clause."""
    given_up: bool = False
    """What was not heard of it is not wanted any more: the callee cut in, or said something else since."""

    @property
    def unheard(self) -> str:
        """What is still to be spoken, from the clause in which it was cut."""
        if self.role != "agent" or self.given_up or self.sent is None:
            return ""
        cut = self.heard_to()
        if self.is_guess:
            cut = max((clause.start() for clause in _CLAUSE.finditer(self.sent) if clause.start() <= cut), default=0)
        return self.sent[cut:].strip()

    def as_utterance(self, line: int) -> Utterance:
        """The line as the carrier still plays it."""
        return Utterance(line, sent=self.sent or "", heard_to=self.heard_to(), closed=True)

    def heard_to(self) -> int:
        """How far into `sent` the clauses that were played reach."""
        playback = Playback(speaking=True)
        utterance = playback.begin(0)
        playback.send(utterance, self.sent or "", 0.0)
        for clause in self.played:
            playback.played(clause)
        return utterance.heard_to

    def guess(self, cut_at: datetime) -> None:
        """Takes for heard the clauses that an ordinary voice would have spoken until `cut_at`."""
        if self.sent is None or self.sent_at is None:
            return
        seconds = (cut_at - self.sent_at).total_seconds() - FIRST_SOUND_AFTER_S
        clauses = [clause for clause in _CLAUSE.finditer(self.sent) if clause.end() <= seconds * CHARACTERS_PER_SECOND]
        self.played = [clause[0] for clause in clauses]
        self.text = "".join(self.played).strip()
        self.interrupted = self.text != self.sent.strip()


@dataclass(slots=True)
class Memory:
    """A talk up to a break. Line numbers are places in `lines`, from 1."""

    lines: list[Remembered] = field(default_factory=list)
    unspoken: str = ""
    """The greeting, where no socket ever opened to speak it."""
    language: str = ""
    """Of the callee's last words; empty where nobody has told."""
    turn: int = 0
    """How many replies were started."""
    is_unanswered: bool = False
    """The callee's last words got no answer, or none that was made to its end."""
    digits: str = ""
    """Keys that were pressed and not yet taken for an input."""
    reprompts: int = 0
    ending: EndReason | None = None
    """A goodbye was said for this reason, and nothing has held it back since."""
    opted_out: bool = False
    doubtful: tuple[str, ...] = ()
    """Tools that were called and of which nobody knows what came of it."""
    done: tuple[Deed, ...] = ()
    """What tools have done for a reply that was never made to its end."""
    opened_at: datetime | None = None
    """When the talk began; None where no socket was ever introduced."""
    reopened_by_us: bool = False
    """The carrier was asked for this socket: what it had to speak is gone. Otherwise it came back by itself, and
    speaks on."""
    handed_over: bool = False
    """The break was between two sentences, on purpose."""

    @property
    def unheard(self) -> str:
        """What the agent had to say and nobody heard, from where the break cut it."""
        return self.unspoken or " ".join(line.unheard for line in self.lines if line.unheard)

    @property
    def is_cut_within(self) -> bool:
        """Whether something was heard of what the break cut."""
        return any(line.unheard and line.text for line in self.lines)


def recall(entries: Iterable[Entry], greeting: str) -> Memory | None:
    """Reads a call's journal, oldest first; None where nothing has happened yet that a new socket has to know."""
    memory = Memory()
    intents: dict[str, Deed] = {}
    cut_at: datetime | None = None
    is_played_reported = False
    is_resumed = False
    for entry in entries:
        data = entry.data
        match entry.kind:
            case Kind.RELAY_OPENED:
                memory.opened_at = memory.opened_at or entry.at
                is_resumed, memory.reopened_by_us = memory.reopened_by_us, False
                cut_at = None
            case Kind.RESUMING:
                memory.reopened_by_us = True
                memory.handed_over = data["cause"] == "handed_over"
                cut_at = cut_at or entry.at - NOTICED_AFTER
            case Kind.RELAY_CLOSED:
                cut_at = entry.at
            case Kind.CALLEE_SAID:
                _hear(memory, data["line"], Remembered("callee", data["text"]))
                memory.language = data["lang"] or memory.language
            case Kind.CALLEE_PRESSED:
                _hear(memory, data["line"], Remembered("callee", data["digits"], keypad=True))
                memory.digits = ""
            case Kind.CALLEE_KEY:
                memory.digits += "" if data["digit"] == "#" and memory.digits else data["digit"]
            case Kind.INTERRUPTED:
                _give_up(memory.lines)
                memory.is_unanswered = False  # They are about to say something else.
            case Kind.AGENT_BEGAN:
                _line(memory, data["line"])
                memory.turn = max(memory.turn, data["turn"] or 0)
            case Kind.AGENT_SENT:
                line = _line(memory, data["line"])
                if is_resumed:
                    _give_up(each for each in memory.lines if each is not line)  # This one says what they left unheard.
                    is_resumed = False
                line.sent, line.sent_at = data["text"], entry.at
            case Kind.AGENT_PLAYED:
                is_played_reported = True
                if data["line"]:
                    line = _line(memory, data["line"])
                    _give_up(memory.lines[: data["line"] - 1])
                    line.played.append(data["text"])
                    line.text, line.interrupted = " ".join(map(str.strip, line.played)), True
            case Kind.AGENT_SAID:
                line = _line(memory, data["line"])
                line.is_guess = not is_played_reported
                line.text, line.interrupted, line.played = data["text"], data["interrupted"], [data["text"]]
                if line.text:
                    _give_up(memory.lines[: data["line"] - 1])
            case Kind.TURN:
                memory.turn = max(memory.turn, data["turn"])
                if data["outcome"] in ("finished", "failed"):
                    memory.is_unanswered, memory.done = False, ()
            case Kind.SILENCE:
                memory.reprompts = data["count"]
            case Kind.ENDING:
                memory.ending = EndReason(data["reason"])
            case Kind.OPTED_OUT:
                memory.opted_out = True
            case Kind.TOOL_CALLED:
                intents[data["intent"]] = Deed(data["tool"], data["arguments"], "")
            case Kind.TOOL_DONE:
                deed = intents.get(data["intent"])
                if deed is not None and not data["in_doubt"]:
                    del intents[data["intent"]]
                    if data["outcome"] is not None:
                        memory.done += (replace(deed, outcome=data["outcome"]),)
            case _:
                pass
    if cut_at is not None and not is_played_reported:
        for line in memory.lines:
            if not line.given_up and not line.text:
                line.guess(cut_at)
    memory.doubtful = tuple(dict.fromkeys(deed.tool for deed in intents.values()))
    if memory.opened_at is None:
        if not memory.reopened_by_us:
            return None
        memory.unspoken = greeting
    return memory


def _line(memory: Memory, number: int, role: str = "agent") -> Remembered:
    """The line of this number; the last lines before a crash may be lost, and a later one be kept."""
    while len(memory.lines) < number:
        memory.lines.append(Remembered(role))
    return memory.lines[number - 1]


def _hear(memory: Memory, number: int, heard: Remembered) -> None:
    """The callee has said something: whatever the agent was about to say before is answered by it."""
    _give_up(memory.lines)
    _line(memory, number)
    memory.lines[number - 1] = heard
    memory.is_unanswered = True
    memory.reprompts = 0
    memory.ending = None


def _give_up(lines: Iterable[Remembered]) -> None:
    for line in lines:
        line.given_up = True
