"""The talk: turns, barge-in, what was heard, silence. A state machine that does no I/O and has no clock of its own.

`hear` takes what came from the carrier, `say`, `finish` and `fail` what came from the agent, `tick` the passing of
time; each returns the effects the caller must perform, in order. Times are seconds of one monotonic clock, passed in.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeGuard, assert_never

from outbound.calls import CallSid, EndReason, Kind, SessionId
from outbound.heard import Playback, Utterance
from outbound.recall import Deed, Memory
from outbound.relay import (
    Dtmf,
    End,
    ErrorReport,
    Inbound,
    Info,
    Interrupt,
    Outbound,
    Prompt,
    SendDigits,
    Setup,
    Text,
    Unrecognised,
)

# What the agent hands back, piece by piece.


@dataclass(frozen=True, slots=True)
class Say:
    """Words to speak, with the spaces they need: one token, or more."""

    text: str


@dataclass(frozen=True, slots=True)
class Filler:
    """A sentence that bridges a wait and may be cut off by the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class PressKeys:
    """Keypad tones for the other side: `0`-`9`, `*`, `#`, `w` for half a second's pause."""

    digits: str


@dataclass(frozen=True, slots=True)
class OptOut:
    """The callee does not want to be called again. Says nothing by itself; the call ends after this reply."""


@dataclass(frozen=True, slots=True)
class EndCall:
    """The call ends once the words of this reply have been heard."""


type Piece = Say | Filler | PressKeys | OptOut | EndCall


# What the agent is given.


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the talk as it was heard."""

    role: str
    """`agent` or `callee`."""
    text: str
    interrupted: bool = False
    keypad: bool = False
    """The callee pressed these digits instead of speaking."""


@dataclass(frozen=True, slots=True)
class Talk:
    """What a reply is made from: everything that was heard so far, and what the call is about."""

    session_id: SessionId
    greeting: str
    variables: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    """Oldest first; the first is the greeting as heard, the last is what has to be answered."""
    language: str = "en-US"
    """Of the callee's last words, as the recogniser reports it (BCP 47, sometimes the primary tag only)."""
    resumed: bool = False
    """The line outlived a break while this reply was made or spoken: the last line may be the agent's, `interrupted`,
    with as much of this reply as was heard before. What is said now goes on from there."""
    doubtful: tuple[str, ...] = ()
    """Tools that were called and never told what came of it, by name: they may have done their work."""
    done: tuple[Deed, ...] = ()
    """What tools have done for a reply that was cut before it was made."""


# What the caller of the state machine must do.


@dataclass(frozen=True, slots=True)
class StartReply:
    """Ask the agent, and bring each piece to `say` with this turn number; then call `finish`, or `fail`."""

    turn: int
    lines: tuple[Line, ...]
    language: str
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class CancelReply:
    """Stop asking the agent. Pieces still under way are harmless: their turn is over."""


@dataclass(frozen=True, slots=True)
class Send:
    """Put this message into the outbox."""

    message: Outbound


@dataclass(frozen=True, slots=True)
class DropSpeech:
    """Take unsent speech out of the outbox, close the talk cycle the wire has open, and tell `not_sent` what it was."""


@dataclass(frozen=True, slots=True)
class Note:
    """Write this to the journal."""

    kind: Kind
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket without an `end`: the peer is not who it should be, or does not let go."""

    code: int
    reason: str


type Effect = StartReply | CancelReply | Send | DropSpeech | Note | Close


# What the house itself says, when the agent cannot or need not.


@dataclass(frozen=True, slots=True)
class Phrases:
    """Sentences of one language. Where there are several, they are used in turn, so that none is said twice running."""

    still_there: tuple[str, ...]
    silence_goodbye: str
    one_moment: tuple[str, ...]
    trouble: tuple[str, ...]
    trouble_goodbye: str
    go_on: str
    time_nearly_up: str
    time_up: str
    goodbye: str
    as_i_was_saying: str
    back_again: str


ENGLISH = Phrases(
    still_there=(
        "Are you still there?",
        "I can't hear you. Can you hear me?",
        "Hello? Please say something if you can hear me.",
    ),
    silence_goodbye="I can't hear anything, so I'll let you go. Goodbye.",
    one_moment=("One moment, please.", "Just a second."),
    trouble=(
        "I'm sorry, I missed that. Could you say it again?",
        "Sorry, something went wrong on my side. Please say that once more.",
    ),
    trouble_goodbye="I'm sorry, I'm having technical problems and can't go on. Please excuse the call. Goodbye.",
    go_on="Sorry, please go ahead.",
    time_nearly_up="I should mention that I have to finish in a moment.",
    time_up="I'm sorry, our time is up. Thank you for talking with me. Goodbye.",
    goodbye="Thank you for your time. Goodbye.",
    as_i_was_saying="As I was saying:",
    back_again="Sorry, the line broke up for a moment. Please go on.",
)
SPANISH = Phrases(
    still_there=(
        "¿Sigue ahí?",
        "No le oigo. ¿Me oye usted?",
        "¿Hola? Diga algo si me oye, por favor.",
    ),
    silence_goodbye="No oigo nada, así que me despido. Adiós.",
    one_moment=("Un momento, por favor.", "Un segundo."),
    trouble=(
        "Perdone, no le he entendido. ¿Puede repetirlo?",
        "Disculpe, algo ha fallado por mi parte. Dígalo otra vez, por favor.",
    ),
    trouble_goodbye="Lo siento, tengo problemas técnicos y no puedo continuar. Disculpe la llamada. Adiós.",
    go_on="Perdone, siga, por favor.",
    time_nearly_up="Le aviso de que tengo que terminar enseguida.",
    time_up="Lo siento, se nos ha acabado el tiempo. Gracias por hablar conmigo. Adiós.",
    goodbye="Gracias por su tiempo. Adiós.",
    as_i_was_saying="Como le decía:",
    back_again="Perdone, se ha cortado un momento. Continúe, por favor.",
)
LANGUAGES: Mapping[str, Phrases] = {"en": ENGLISH, "es": SPANISH}
"""By primary language subtag."""


def phrases_of(language: str) -> Phrases:
    """The sentences for a BCP 47 language; English where there are none."""
    return LANGUAGES.get(language.partition("-")[0].lower(), ENGLISH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long we wait for what. All in seconds, from the events their names say."""

    max_duration_s: float = 600.0
    warn_before_end_s: float = 30.0
    silence_after_s: float = 10.0
    reprompts: int = 3
    first_token_within_s: float = 4.0
    next_token_within_s: float = 15.0
    setup_within_s: float = 10.0
    digits_within_s: float = 3.0
    words_after_interrupt_within_s: float = 3.0
    replies_at_once: int = 4
    replies_per_s: float = 1.0
    """How often the agent is asked in vain, with `replies_at_once` to spare: this bounds what a burst of prompts costs.

    A reply that is made costs nothing: people who take turns are answered at once however fast they are.
    """
    failures_in_a_row: int = 3
    reply_characters: int = 4000
    """A reply longer than this is a model that does not stop: about four minutes of speech."""
    prompt_characters: int = 4000
    """How much of one prompt the agent is given; the journal keeps all of it."""


_GRACE_S = 5.0
"""How long after its expected end a goodbye is held for a carrier that reports when speech ends."""
_LET_GO_S = 5.0
"""How long after `end` the carrier may take to close the socket."""
_OVERTIME_S = 30.0
"""How far a call may go past its maximum duration for the last words to be heard."""
_STUCK_SPEECH_S = 60.0
"""Nobody speaks longer than this without a word recognised: the report that speech ended was lost."""
_DIGITS_AT_MOST = 64
"""Nobody keys in more at once."""
_REPLAYED_WITHIN_S = 2.0
"""How soon after it has come back by itself a carrier repeats what it may have told already."""
_HAND_OVER_WITHIN_S = 4.0
"""How long a sentence may take to come to its end before the call is handed over within it."""
HAND_OVER = json.dumps({"resume": True})
"""The handoff of an `end` that ends the session and not the call: another process takes it up."""
_WITHDRAWALS = 2
"""How often a callee who keeps talking can hold us back from hanging up after a goodbye."""


class _Phase(Enum):
    WAITING = auto()
    """Nobody has introduced themselves on the socket."""
    TALKING = auto()
    OVER = auto()
    """`end` was sent, or the line is dead."""


@dataclass(slots=True)
class _Reply:
    """The reply that is being made."""

    turn: int
    asked_at: float
    progress_at: float
    utterance: Utterance | None = None
    first_text_at: float | None = None
    characters: int = 0
    bridged: bool = False
    """A filler has been spoken, so that the wait for the first words is not silence."""
    acted: bool = False
    """It pressed keys: a reply need not be words."""
    ends: EndReason | None = None


@dataclass(slots=True)
class _Ending:
    """A goodbye has been said; the line is held until it was heard, or until `due`."""

    reason: EndReason
    due: float
    final: bool
    """Whether nothing the callee says can hold it back."""
    held: bool = False
    """The goodbye was cut by the callee, who may be about to say why."""


class Conversation:
    """One call's talk, from the carrier's setup to the last word heard."""

    def __init__(
        self,
        *,
        greeting: str,
        now: float,
        call_sid: CallSid | None = None,
        limits: Limits | None = None,
        language: str = "en-US",
        memory: Memory | None = None,
        talked_s: float = 0.0,
    ) -> None:
        """`memory` is of a talk that began `talked_s` seconds ago on another socket, and goes on on this one."""
        self._greeting = greeting
        self._memory = memory
        self._talked_s = talked_s
        self._call_sid = call_sid
        self._limits = limits or Limits()
        self._language = language
        self._phase = _Phase.WAITING
        self._opened_at = now
        self._playback = Playback()
        self._lines: list[Line | Utterance] = []
        self._effects: list[Effect] = []
        self._now = now
        self._turn = 0
        self._reply: _Reply | None = None
        self._answer_due: float | None = None
        self._asked_at = now
        self._replies_left = float(self._limits.replies_at_once)
        self._replies_counted_at = now
        self._failures = 0
        self._digits = ""
        self._digits_due: float | None = None
        self._quiet_since = now
        self._callee_speaking_since: float | None = None
        self._cut_short = False
        self._reprompts = 0
        self._warned = False
        self._withdrawals = 0
        self._ending: _Ending | None = None
        self._end_reason: EndReason | None = None
        self._let_go_due: float | None = None
        self._hand_over_due: float | None = None
        self._handed_over = False
        self._has_ended = False
        self._replayed: list[str] = []
        self._replayed_until = now
        self._phrase_counts: dict[str, int] = {}

    # Questions.

    @property
    def turns(self) -> int:
        """How many replies have been started."""
        return self._turn

    @property
    def end_reason(self) -> EndReason | None:
        """Why the talk ended or is ending; None while it goes on."""
        return self._ending.reason if self._ending else self._end_reason

    @property
    def has_ended(self) -> bool:
        """Whether `end` was sent because there is nothing more to say."""
        return self._has_ended

    @property
    def is_handed_over(self) -> bool:
        """Whether the session was ended so that another process goes on with the call."""
        return self._handed_over

    def lines(self) -> tuple[Line, ...]:
        """The talk as heard up to now, oldest first: the only memory there is of it."""
        spoken = (_as_line(line) if isinstance(line, Utterance) else line for line in self._lines)
        return tuple(line for line in spoken if line.text)

    def deadline(self) -> float | None:
        """When `tick` must be called next, if nothing else happens before; None if time changes nothing."""
        if self._effects:
            return self._now
        return min((due for due, _ in self._timers() if due is not None), default=None)

    # From the carrier.

    def hear(self, message: Inbound, now: float) -> list[Effect]:
        """Takes one message of the carrier."""
        self._now = now
        match message:
            case Setup():
                self._introduced(message)
            case Unrecognised():
                self._note(Kind.FRAME_IGNORED, problem=message.problem)
            case ErrorReport():
                self._note(Kind.CARRIER_ERROR, description=message.description[:500])
            case _ if self._phase is _Phase.WAITING:
                self._note(Kind.FRAME_IGNORED, problem=f"{message.type} before setup")
            case Info():
                self._informed(message)
            case Interrupt():
                self._interrupted(message)
            case Prompt():
                self._prompted(message)
            case Dtmf():
                self._pressed(message.digit)
            case _:
                assert_never(message)
        return self._drain()

    def hang_up(self, now: float, *, is_lost: bool = False) -> list[Effect]:
        """The socket is gone, whoever closed it: settles what was heard. Nothing may be sent any more.

        `is_lost`: only the socket, and not the call. Keys that are being pressed are left to the next one.
        """
        self._now = now
        self._leave("hung_up")
        self._let_go_due = None
        self._settled(self._playback.hung_up(now))
        if self._digits and not is_lost:
            self._on_digits_complete()
        return self._drain()

    def hand_over(self, now: float) -> list[Effect]:
        """Ends the session, not the call: at the end of the sentence, with an `end` that another process answers.

        What the callee says meanwhile is noted and left to that process.
        """
        self._now = now
        if self._phase is _Phase.WAITING:
            self._phase = _Phase.OVER
            self._effects.append(Close(1012, "restarting"))
        elif self._phase is _Phase.TALKING and self._hand_over_due is None:
            self._hand_over_due = now + _HAND_OVER_WITHIN_S
        return self._drain()

    def take_leave(self, now: float) -> list[Effect]:
        """Says goodbye because nobody is there who could go on with the call."""
        self._now = now
        if self._phase is _Phase.TALKING and self._ending is None:
            self._stop_reply("stopped")
            self._utter(self._phrases.trouble_goodbye)
            self._begin_ending(EndReason.SERVER_STOPPED, final=True)
        return self._drain()

    def not_sent(self, text: str) -> None:
        """The end of what was to be spoken, dropped from the outbox before it reached the wire.

        What this settles comes with the next effects; `deadline` asks for them at once.
        """
        self._settled(self._playback.not_sent(text))

    # From the agent.

    def say(self, turn: int, piece: Piece, now: float) -> list[Effect]:
        """Takes one piece of the reply to `turn`; pieces of a turn that is over vanish."""
        reply = self._current(turn)
        if reply is None:
            return []
        self._now = reply.progress_at = now
        match piece:
            case Say(text):
                self._spoke(reply, text)
            case Filler(text):
                self._close_utterance(reply)
                reply.bridged = True
                self._utter(_speakable(text), preemptible=True)
            case PressKeys(digits):
                self._press(reply, digits)
            case OptOut():
                reply.ends = EndReason.OPTED_OUT
                self._note(Kind.OPTED_OUT, turn=turn)
            case EndCall():
                reply.ends = reply.ends or EndReason.AGENT_SAID_GOODBYE
            case _:
                assert_never(piece)
        return self._drain()

    def finish(self, turn: int, now: float) -> list[Effect]:
        """The reply to `turn` is complete."""
        reply = self._current(turn)
        if reply is None:
            return []
        self._now = now
        if reply.first_text_at is None and reply.ends is None and not reply.acted:
            self._failed(reply, "empty")
        else:
            self._complete(reply)
        return self._drain()

    def fail(self, turn: int, cause: str, now: float) -> list[Effect]:
        """The reply to `turn` broke, for a `cause` in a word. The callee hears a sentence, and the call goes on."""
        reply = self._current(turn)
        if reply is None:
            return []
        self._now = now
        self._failed(reply, cause)
        return self._drain()

    # From the clock.

    def tick(self, now: float) -> list[Effect]:
        """Does what is due at `now`."""
        self._now = now
        for due, act in self._timers():
            if due is not None and due <= now:
                act()
                break
        return self._drain()

    def _timers(self) -> list[tuple[float | None, Callable[[], None]]]:
        """What is waited for and until when, the most decisive first."""
        if self._phase is _Phase.WAITING:
            return [(self._opened_at + self._limits.setup_within_s, self._on_no_setup)]
        if self._phase is _Phase.OVER:
            return [(self._let_go_due, self._on_not_let_go)]
        if self._hand_over_due is not None:
            return [(self._hand_over_due, self._on_hand_over_due)]
        if self._ending:
            overtime_ends = self._opened_at + self._limits.max_duration_s + _OVERTIME_S
            return [(min(self._ending_due(self._ending), overtime_ends), self._end)]
        reply = self._reply
        first_token_due = next_token_due = None
        if reply is not None:
            next_token_due = reply.progress_at + self._limits.next_token_within_s
            if reply.first_text_at is None and not reply.bridged:
                first_token_due = reply.progress_at + self._limits.first_token_within_s
        return [
            (self._opened_at + self._limits.max_duration_s, self._on_max_duration),
            (next_token_due, self._on_next_token_overdue),
            (first_token_due, self._on_first_token_overdue),
            (self._digits_due, self._on_digits_complete),
            (self._answer_due, self._on_answer),
            (self._warning_due(), self._on_warning),
            (self._silence_due(), self._on_silence),
        ]

    def _ending_due(self, ending: _Ending) -> float:
        if ending.held and self._callee_speaking_since is not None:
            return max(ending.due, self._callee_speaking_since + _STUCK_SPEECH_S)
        return ending.due

    def _warning_due(self) -> float | None:
        limits = self._limits
        if self._warned or self._is_busy() or limits.max_duration_s <= 2 * limits.warn_before_end_s:
            return None
        return self._opened_at + limits.max_duration_s - limits.warn_before_end_s

    def _silence_due(self) -> float | None:
        """Silence counts from the end of our speech as the carrier reports it, or as an ordinary voice would end."""
        if self._is_busy():
            return None
        since = self._quiet_since
        if self._playback.pending:
            held = _STUCK_SPEECH_S if self._playback.will_report_end else 0.0
            since = max(since, self._playback.expected_end(since) + held)
        if self._callee_speaking_since is not None:
            since = max(since, self._callee_speaking_since + _STUCK_SPEECH_S)
        wait = self._limits.words_after_interrupt_within_s if self._cut_short else self._limits.silence_after_s
        return since + wait

    def _is_busy(self) -> bool:
        """Whether an answer is being made or collected, so that silence is ours to fill and not the callee's."""
        return self._reply is not None or self._answer_due is not None or self._digits_due is not None

    def _on_hand_over_due(self) -> None:
        self._stop_reply("handed_over")
        self._part()

    def _on_no_setup(self) -> None:
        self._phase = _Phase.OVER
        self._note(Kind.FRAME_IGNORED, problem="no setup in time")
        self._effects.append(Close(1008, "no setup"))

    def _on_not_let_go(self) -> None:
        self._let_go_due = None
        self._effects.append(Close(1000, "ended"))

    def _on_max_duration(self) -> None:
        reply = self._stop_reply("max_duration")
        self._utter(self._phrases.time_up)
        self._begin_ending(EndReason.OPTED_OUT if _opted_out(reply) else EndReason.MAX_DURATION, final=True)

    def _on_first_token_overdue(self) -> None:
        if self._reply is not None:
            self._close_utterance(self._reply)
            self._reply.bridged = True
            self._note(Kind.MODEL_SLOW, turn=self._reply.turn)
            self._utter(self._next_of("one_moment", self._phrases.one_moment), preemptible=True)

    def _on_next_token_overdue(self) -> None:
        if self._reply is not None:
            self._effects.append(CancelReply())
            self._failed(self._reply, "timeout")

    def _on_digits_complete(self) -> None:
        digits, self._digits, self._digits_due = self._digits, "", None
        self._lines.append(Line("callee", digits, keypad=True))
        self._note(Kind.CALLEE_PRESSED, line=len(self._lines), digits=digits)
        self._answer()

    def _on_answer(self) -> None:
        self._start_reply()

    def _on_warning(self) -> None:
        self._warned = True
        self._utter(self._phrases.time_nearly_up)

    def _on_silence(self) -> None:
        self._quiet_since = self._now
        self._callee_speaking_since = None
        if self._cut_short:
            self._cut_short = False
            self._utter(self._phrases.go_on)
            return
        self._reprompts += 1
        self._note(Kind.SILENCE, count=self._reprompts)
        if self._reprompts <= self._limits.reprompts:
            self._utter(self._next_of("still_there", self._phrases.still_there))
        else:
            self._utter(self._phrases.silence_goodbye)
            self._begin_ending(EndReason.SILENCE)

    # What the carrier's messages mean.

    def _introduced(self, setup: Setup) -> None:
        if self._phase is _Phase.OVER:
            self._note(Kind.FRAME_IGNORED, problem="setup after the end")
        elif self._call_sid is not None and setup.call_sid != self._call_sid:
            self._leave("refused")
            self._note(Kind.FRAME_IGNORED, problem="setup of another call")
            self._effects.append(Close(1008, "another call"))
        elif self._phase is not _Phase.WAITING:
            self._note(Kind.FRAME_IGNORED, problem="second setup")
        else:
            self._phase = _Phase.TALKING
            self._call_sid = CallSid(setup.call_sid)
            self._opened_at = self._now - self._talked_s
            self._quiet_since = self._now
            self._note(Kind.RELAY_OPENED, call_sid=setup.call_sid, relay_session_id=setup.session_id)
            if self._memory is not None:
                self._resume(self._memory)
            elif self._greeting:
                # The carrier speaks it by itself, about 0.7 s after setup (`welcomeGreeting` in the TwiML).
                utterance = self._begin_utterance()
                self._playback.send(utterance, self._greeting, self._now)
                self._close(utterance)

    def _resume(self, memory: Memory) -> None:
        """Goes on where the talk was cut: answers what was not answered, says what was not heard, greets nobody."""
        self._memory = None
        self._turn = memory.turn
        self._language = memory.language or self._language
        self._reprompts = memory.reprompts
        self._lines = [Line(each.role, each.text, each.interrupted, each.keypad) for each in memory.lines]
        self._warned = self._opened_at + self._limits.max_duration_s - self._limits.warn_before_end_s <= self._now
        self._digits = memory.digits
        if self._digits:
            self._digits_due = self._now + self._limits.digits_within_s
        if not memory.reopened_by_us:
            # The carrier came back by itself: it speaks on, and repeats what it could not deliver.
            self._replayed = [each.text for each in memory.lines if each.role == "callee"]
            self._replayed_until = self._now + _REPLAYED_WITHIN_S
            for number, each in enumerate(memory.lines, 1):
                if each.unheard:
                    self._lines[number - 1] = self._playback.take_up(each.as_utterance(number), self._now)
        if memory.is_unanswered and memory.ending is None:
            self._asked_at = self._now
            self._start_reply(memory)
            return
        unheard = memory.unheard if memory.reopened_by_us else ""
        if unheard:
            self._utter(f"{self._phrases.as_i_was_saying} {unheard}" if memory.is_cut_within else unheard)
        if memory.ending is not None:
            self._begin_ending(memory.ending, final=memory.ending in _FINAL)
        elif memory.handed_over and not unheard:
            self._cut_short = True  # Who was talking just then has not been heard.
        elif memory.reopened_by_us and not unheard and not self._digits:
            self._utter(self._phrases.back_again)

    def _informed(self, info: Info) -> None:
        match info.name, info.value:
            case "agentSpeaking", ("on" | "off") as value:
                self._settled(self._playback.agent_speaking(value == "on", self._now))
                if value == "off":
                    self._quiet_since = self._now
            case "clientSpeaking", "on":
                self._callee_speaking_since = self._now
            case "clientSpeaking", "off":
                self._callee_speaking_since = None
                self._quiet_since = self._now
                if self._ending is not None and self._ending.held:
                    self._ending.due = self._now + self._limits.words_after_interrupt_within_s
            case "tokensPlayed", text:
                settled = self._playback.played(text)
                self._note(Kind.AGENT_PLAYED, line=self._playback.playing, text=text)
                self._settled(settled)
                self._quiet_since = self._now
            case _:
                pass

    def _interrupted(self, interrupt: Interrupt) -> None:
        self._note(
            Kind.INTERRUPTED,
            fragment=interrupt.utterance_until_interrupt,
            after_ms=interrupt.duration_until_interrupt_ms,
        )
        cut_short = self._reply is not None or bool(self._playback.pending)
        if self._ending is not None and not self._ending.final:
            # Somebody who talks over a goodbye may have more to say: the line is held for their words.
            self._ending.due = self._now + self._limits.words_after_interrupt_within_s
            self._ending.held = True
        reply = self._stop_reply("interrupted")
        self._effects.append(DropSpeech())
        self._settled(self._playback.interrupted(interrupt.utterance_until_interrupt, self._now))
        self._quiet_since = self._now
        self._cut_short = self._cut_short or cut_short
        self._keep_opt_out(reply)

    def _prompted(self, prompt: Prompt) -> None:
        text = prompt.voice_prompt.strip()
        if not text:
            return
        if not prompt.last:
            self._note(Kind.CALLEE_PARTIAL, text=text)
            return
        if self._is_replayed(text):
            self._note(Kind.FRAME_IGNORED, problem="prompt repeated after a reconnection")
            return
        self._callee_speaking_since = None
        if prompt.lang:
            self._language = prompt.lang
        self._write_down(self._playback.assume_heard())  # A goodbye assumed to be heard still gets its time.
        self._lines.append(Line("callee", text[: self._limits.prompt_characters]))
        self._note(Kind.CALLEE_SAID, line=len(self._lines), text=text, lang=prompt.lang)
        self._answer()

    def _is_replayed(self, text: str) -> bool:
        """Whether a carrier that came back tells again what we know: the last things said, in their order."""
        if self._now > self._replayed_until or text not in self._replayed:
            self._replayed = []
            return False
        self._replayed = self._replayed[self._replayed.index(text) + 1 :]
        return True

    def _pressed(self, digit: str) -> None:
        if digit not in {*"0123456789*#"}:
            self._note(Kind.FRAME_IGNORED, problem="bad dtmf.digit")
            return
        self._quiet_since = self._now
        self._note(Kind.CALLEE_KEY, digit=digit)
        if digit != "#" or not self._digits:
            self._digits += digit
        if digit == "#" or len(self._digits) == _DIGITS_AT_MOST:
            self._on_digits_complete()
        else:
            self._digits_due = self._now + self._limits.digits_within_s

    # Replies.

    def _answer(self) -> None:
        """The callee has said something that wants an answer: now, or, in a burst, with what else they go on to say."""
        self._quiet_since = self._now
        if self._answer_due is None:
            self._asked_at = self._now
        self._cut_short = False
        self._reprompts = 0
        self._supersede_reply()
        if self._phase is _Phase.OVER or self._hand_over_due is not None:
            return
        if self._ending is not None:
            if self._ending.final or self._withdrawals >= _WITHDRAWALS:
                return
            self._withdrawals += 1
            self._ending = None
        limits = self._limits
        earned = (self._now - self._replies_counted_at) * limits.replies_per_s
        self._replies_left = min(limits.replies_at_once, self._replies_left + earned)
        self._replies_counted_at = self._now
        if self._replies_left >= 1:
            self._start_reply()
        else:
            self._answer_due = self._now + (1 - self._replies_left) / limits.replies_per_s

    def _start_reply(self, memory: Memory | None = None) -> None:
        """Asks the agent; with a `memory` for what it was about to say when the line broke."""
        self._turn += 1
        self._answer_due = None
        self._replies_left -= 1
        self._reply = _Reply(self._turn, asked_at=self._asked_at, progress_at=self._now)
        if memory is not None and memory.opted_out:
            self._reply.ends = EndReason.OPTED_OUT
        self._effects.append(StartReply(self._turn, self.lines(), self._language, memory is not None))

    def _current(self, turn: int) -> _Reply | None:
        return self._reply if self._reply is not None and self._reply.turn == turn else None

    def _spoke(self, reply: _Reply, text: str) -> None:
        text = _speakable(text)
        if not text or (reply.utterance is None and text.isspace()):
            return
        if reply.first_text_at is None and any(character.isalnum() for character in text):
            reply.first_text_at = self._now
        if reply.utterance is None:
            reply.utterance = self._begin_utterance(turn=reply.turn)
        self._playback.send(reply.utterance, text, self._now)
        self._effects.append(Send(Text(token=text)))
        reply.characters += len(text)
        if reply.characters > self._limits.reply_characters:
            self._effects.append(CancelReply())
            self._complete(reply)

    def _press(self, reply: _Reply, digits: str) -> None:
        tones = "".join(key for key in digits if key in "0123456789*#w")
        if tones:
            reply.acted = True
            self._note(Kind.DIGITS_SENT, digits=tones)
            self._playback.press(tones)
            self._effects.append(Send(SendDigits(digits=tones)))

    def _complete(self, reply: _Reply) -> None:
        self._close_utterance(reply)
        self._failures = 0
        self._turn_over(reply, "finished")
        if reply.ends is not None:
            if reply.first_text_at is None:
                self._utter(self._phrases.goodbye)
            self._begin_ending(reply.ends, final=reply.ends is EndReason.OPTED_OUT)

    def _failed(self, reply: _Reply, cause: str) -> None:
        self._close_utterance(reply)
        self._failures += 1
        self._note(Kind.MODEL_FAILED, turn=reply.turn, cause=cause, in_a_row=self._failures)
        self._turn_over(reply, "failed")
        if reply.ends is not None:
            self._utter(self._phrases.goodbye)
            self._begin_ending(reply.ends, final=reply.ends is EndReason.OPTED_OUT)
        elif self._failures >= self._limits.failures_in_a_row:
            self._utter(self._phrases.trouble_goodbye)
            self._begin_ending(EndReason.MODEL_FAILED, final=True)
        else:
            self._utter(self._next_of("trouble", self._phrases.trouble))

    def _supersede_reply(self) -> None:
        if self._reply is not None:
            reply = self._stop_reply("superseded")
            self._effects.append(DropSpeech())
            self._keep_opt_out(reply)

    def _keep_opt_out(self, reply: _Reply | None) -> None:
        """An opt-out stands, also where the reply that took it in was given up: the call ends."""
        if _opted_out(reply) and self._phase is _Phase.TALKING:
            if reply.first_text_at is None:
                self._utter(self._phrases.goodbye)
            self._begin_ending(EndReason.OPTED_OUT, final=True)

    def _stop_reply(self, outcome: str) -> _Reply | None:
        """Gives up the reply that is being made, and returns it; None if there is none."""
        reply = self._reply
        if reply is None:
            return None
        self._effects.append(CancelReply())
        if reply.utterance is not None and not reply.utterance.closed:
            if outcome == "max_duration":
                self._effects.append(Send(Text(token="", last=True)))
            self._close(reply.utterance)
        self._turn_over(reply, outcome)
        return reply

    def _turn_over(self, reply: _Reply, outcome: str) -> None:
        self._reply = None
        self._quiet_since = self._now
        if outcome in ("finished", "failed"):
            self._replies_left += 1
        first = None if reply.first_text_at is None else _milliseconds(reply.first_text_at - reply.asked_at)
        total = _milliseconds(self._now - reply.asked_at)
        self._note(Kind.TURN, turn=reply.turn, outcome=outcome, first_text_ms=first, total_ms=total)

    # Speech.

    @property
    def _phrases(self) -> Phrases:
        return phrases_of(self._language)

    def _next_of(self, name: str, phrases: tuple[str, ...]) -> str:
        count = self._phrase_counts.get(name, 0)
        self._phrase_counts[name] = count + 1
        return phrases[count % len(phrases)]

    def _utter(self, sentence: str, *, preemptible: bool | None = None) -> None:
        """Speaks a whole sentence as a talk cycle of its own."""
        utterance = self._begin_utterance(preemptible=preemptible is True)
        self._playback.send(utterance, sentence, self._now)
        self._effects.append(Send(Text(token=sentence, last=True, preemptible=preemptible)))
        self._close(utterance)

    def _begin_utterance(self, turn: int | None = None, *, preemptible: bool = False) -> Utterance:
        utterance = self._playback.begin(len(self._lines) + 1, preemptible=preemptible)
        self._lines.append(utterance)
        self._note(Kind.AGENT_BEGAN, line=utterance.line, turn=turn)
        return utterance

    def _close_utterance(self, reply: _Reply) -> None:
        """Closes the reply's talk cycle, here and on the wire. What it says next is a cycle of its own."""
        if reply.utterance is not None:
            self._effects.append(Send(Text(token="", last=True)))
            self._close(reply.utterance)
            reply.utterance = None

    def _close(self, utterance: Utterance) -> None:
        self._note(Kind.AGENT_SENT, line=utterance.line, text=utterance.sent)
        self._settled(self._playback.close(utterance))

    def _settled(self, utterances: list[Utterance]) -> None:
        self._write_down(utterances)
        if utterances and self._ending is not None and not self._ending.held and not self._playback.pending:
            self._end()

    def _write_down(self, utterances: list[Utterance]) -> None:
        for utterance in utterances:
            self._lines[utterance.line - 1] = _as_line(utterance)
            self._note(
                Kind.AGENT_SAID,
                line=utterance.line,
                text=utterance.heard,
                interrupted=utterance.cut,
            )

    # Endings.

    def _begin_ending(self, reason: EndReason, *, final: bool = False) -> None:
        grace = _GRACE_S if self._playback.reports_speaking else 1.0
        self._ending = _Ending(reason, self._playback.expected_end(self._now) + grace, final)
        self._note(Kind.ENDING, reason=reason)
        if not self._playback.pending:
            self._end()

    def _end(self) -> None:
        if self._ending is None:
            return
        self._end_reason, self._ending = self._ending.reason, None
        self._phase = _Phase.OVER
        self._let_go_due = self._now + _LET_GO_S
        self._has_ended = True
        self._effects.append(Send(End(handoff_data=json.dumps({"reason": self._end_reason}))))

    def _part(self) -> None:
        """Ends the session so that another process goes on with the call; after a goodbye there is nothing to go on."""
        self._hand_over_due = None
        if self._ending is not None:
            self._end()
            return
        self._handed_over = True
        self._phase = _Phase.OVER
        self._let_go_due = self._now + _LET_GO_S
        self._effects.append(Send(End(handoff_data=HAND_OVER)))

    def _leave(self, outcome: str) -> None:
        """There is nobody to talk to any more: the reply that is being made goes, and no goodbye is waited for."""
        self._end_reason, self._ending = self.end_reason, None
        self._phase = _Phase.OVER
        self._stop_reply(outcome)

    # Bookkeeping.

    def _note(self, kind: Kind, **data: Any) -> None:
        self._effects.append(Note(kind, data))

    def _drain(self) -> list[Effect]:
        is_quiet = self._reply is None and not self._playback.pending and not self._digits
        is_quiet = is_quiet and self._callee_speaking_since is None
        if self._hand_over_due is not None and self._phase is _Phase.TALKING and is_quiet and self._ending is None:
            self._part()
        effects, self._effects = self._effects, []
        return effects


def reason_of(handoff: str | None) -> EndReason | None:
    """Why a talk ended, from the handoff of its `end`; None where it does not say so."""
    try:
        return EndReason(json.loads(handoff or "")["reason"])
    except (ValueError, KeyError, TypeError):
        return None


_FINAL = frozenset({EndReason.OPTED_OUT, EndReason.MAX_DURATION, EndReason.MODEL_FAILED, EndReason.SERVER_STOPPED})
"""Endings that nothing the callee says can hold back."""


def _opted_out(reply: _Reply | None) -> TypeGuard[_Reply]:
    return reply is not None and reply.ends is EndReason.OPTED_OUT


def _speakable(text: str) -> str:
    """The text without lone surrogates: half a character, as a broken stream may end, cannot go on the wire."""
    return text if text.isascii() else text.encode(errors="ignore").decode()


def _as_line(utterance: Utterance) -> Line:
    return Line("agent", utterance.heard, interrupted=utterance.cut)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)
