"""A talk with the clock in hand, and the words in which tests speak about it."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from outbound.calls import CallSid, Entry, Kind, SessionId
from outbound.conversation import (
    HAND_OVER,
    CancelReply,
    Close,
    Conversation,
    DropSpeech,
    Effect,
    Limits,
    Line,
    Note,
    Piece,
    Say,
    Send,
    StartReply,
    reason_of,
)
from outbound.recall import Memory
from outbound.relay import Dtmf, End, Inbound, Info, Interrupt, Outbound, Prompt, SendDigits, Setup, Text

GREETING = "Hello, this is the AI assistant calling."
CALL_SID = CallSid("CA1")


class Talk:
    """A conversation whose carrier, agent and clock are the test. Every step returns the effects it had."""

    def __init__(
        self,
        *,
        greeting: str = "",
        introduced: bool = True,
        now: float = 1000.0,
        memory: Memory | None = None,
        talked_s: float = 0.0,
        **limits: float,
    ) -> None:
        self.now = now
        self.conversation = Conversation(
            greeting=greeting,
            now=self.now,
            call_sid=CALL_SID,
            limits=Limits(**limits) if limits else None,  # type: ignore[arg-type]  # the int ones are given as such
            memory=memory,
            talked_s=talked_s,
        )
        self.history: list[Effect] = []
        self.journal: list[Entry] = []
        if introduced:
            self.setup()

    @property
    def lines(self) -> list[tuple[str, str]]:
        return [(line.role, line.text) for line in self.conversation.lines()]

    @property
    def last_line(self) -> Line:
        return self.conversation.lines()[-1]

    @property
    def is_over(self) -> bool:
        """Whether `end` was sent or the socket closed by us."""
        return ended(self.history) is not None or closed(self.history) is not None

    def keep(self, effects: list[Effect]) -> list[Effect]:
        self.history += effects
        for effect in effects:
            if isinstance(effect, Note):
                self.note(effect.kind, **effect.data)
        return effects

    def note(self, kind: Kind, **data: Any) -> None:
        """Writes into the call's journal what the conversation does not: that others have done."""
        self.journal.append(Entry(SessionId("s"), datetime.fromtimestamp(self.now, UTC), kind, data))

    # The carrier.

    def hear(self, message: Inbound) -> list[Effect]:
        return self.keep(self.conversation.hear(message, self.now))

    def setup(self, call_sid: str = CALL_SID) -> list[Effect]:
        return self.hear(Setup(session_id="VX1", call_sid=call_sid))

    def prompt(self, text: str = "Yes?", *, lang: str = "", last: bool = True) -> list[Effect]:
        return self.hear(Prompt(voice_prompt=text, lang=lang, last=last))

    def interrupt(self, fragment: str = "") -> list[Effect]:
        return self.hear(Interrupt(utterance_until_interrupt=fragment, duration_until_interrupt_ms=500))

    def info(self, name: str, value: str) -> list[Effect]:
        return self.hear(Info(name=name, value=value))

    def agent_speaks(self, on: bool = True) -> list[Effect]:
        return self.info("agentSpeaking", "on" if on else "off")

    def callee_speaks(self, on: bool = True) -> list[Effect]:
        return self.info("clientSpeaking", "on" if on else "off")

    def played(self, *clauses: str) -> list[Effect]:
        return [effect for clause in clauses for effect in self.info("tokensPlayed", clause)]

    def heard_out(self, *clauses: str) -> list[Effect]:
        """The clauses are played and the voice ceases."""
        return [*self.agent_speaks(), *self.played(*clauses), *self.agent_speaks(False)]

    def press(self, keys: str) -> list[Effect]:
        return [effect for key in keys for effect in self.hear(Dtmf(digit=key))]

    def hang_up(self) -> list[Effect]:
        return self.keep(self.conversation.hang_up(self.now))

    # The agent.

    def piece(self, piece: Piece, turn: int | None = None) -> list[Effect]:
        return self.keep(self.conversation.say(turn or self.conversation.turns, piece, self.now))

    def say(self, *tokens: str) -> list[Effect]:
        return [effect for token in tokens for effect in self.piece(Say(token))]

    def finish(self, turn: int | None = None) -> list[Effect]:
        return self.keep(self.conversation.finish(turn or self.conversation.turns, self.now))

    def fail(self, cause: str = "broken") -> list[Effect]:
        return self.keep(self.conversation.fail(self.conversation.turns, cause, self.now))

    def answer(self, text: str) -> list[Effect]:
        """The whole reply at once."""
        return [*self.say(text), *self.finish()]

    def exchange(self, prompt: str, answer: str) -> list[Effect]:
        """The callee says one thing, a while after the last, and the agent answers, to the end."""
        self.now += 1
        return [*self.prompt(prompt), *self.answer(answer), *self.heard_out(answer)]

    # The clock.

    def wait(self, seconds: float) -> list[Effect]:
        """Lets time pass, with a tick at every deadline on the way."""
        until = self.now + seconds
        effects: list[Effect] = []
        for _ in range(1000):
            deadline = self.conversation.deadline()
            if deadline is None or deadline > until:
                self.now = until
                return effects
            self.now = max(self.now, deadline)
            effects += self.keep(self.conversation.tick(self.now))
        raise AssertionError("a thousand ticks, and time does not get on")


def sent(effects: Iterable[Effect]) -> list[Outbound]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def said(effects: Iterable[Effect]) -> str:
    """The words given to the carrier; a bar where a talk cycle is closed."""
    return "".join(
        message.token + ("|" if message.last else "") for message in sent(effects) if isinstance(message, Text)
    )


def fillers(effects: Iterable[Effect]) -> list[str]:
    return [message.token for message in sent(effects) if isinstance(message, Text) and message.preemptible]


def pressed(effects: Iterable[Effect]) -> list[str]:
    return [message.digits for message in sent(effects) if isinstance(message, SendDigits)]


def started(effects: Iterable[Effect]) -> list[StartReply]:
    return [effect for effect in effects if isinstance(effect, StartReply)]


def cancelled(effects: Iterable[Effect]) -> bool:
    return any(isinstance(effect, CancelReply) for effect in effects)


def dropped(effects: Iterable[Effect]) -> bool:
    return any(isinstance(effect, DropSpeech) for effect in effects)


def closed(effects: Iterable[Effect]) -> int | None:
    """The code with which we closed the socket."""
    return next((effect.code for effect in effects if isinstance(effect, Close)), None)


def ended(effects: Iterable[Effect]) -> str | None:
    """The reason given with `end`; None if the call was not ended."""
    ends = [message for message in sent(effects) if isinstance(message, End)]
    assert len(ends) <= 1, "a call ends once"
    return reason_of(ends[0].handoff_data) if ends else None


def handed_over(effects: Iterable[Effect]) -> bool:
    """Whether the session was ended for another process to go on."""
    return any(isinstance(message, End) and message.handoff_data == HAND_OVER for message in sent(effects))


def noted(effects: Iterable[Effect], kind: Kind) -> list[Mapping[str, Any]]:
    return [effect.data for effect in effects if isinstance(effect, Note) and effect.kind is kind]


def outcomes(effects: Iterable[Effect]) -> list[str]:
    """How turns went."""
    return [data["outcome"] for data in noted(effects, Kind.TURN)]


def heard(effects: Iterable[Effect]) -> list[tuple[str, bool]]:
    """The agent's lines that were settled: the words the callee heard, and whether they missed some."""
    return [(data["text"], data["interrupted"]) for data in noted(effects, Kind.AGENT_SAID)]
