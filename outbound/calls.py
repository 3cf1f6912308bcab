"""A call: its record, its statuses with the table of legal moves, its journal and the transcript read from it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType

SessionId = NewType("SessionId", str)
"""Our id of a call: unguessable, in every link we give the carrier, never the carrier's own `VX…` session id."""

CallSid = NewType("CallSid", str)
"""The carrier's id of a call, `CA…` at Twilio."""

ProcessId = NewType("ProcessId", str)
"""A process that carries calls, from its start to its end."""

type Json = str | int | float | bool | list[Json] | dict[str, Json] | None


class Status(StrEnum):
    """Where a call stands. Values are the carrier's words where it has one."""

    QUEUED = "queued"
    """Written down; the carrier has not answered our request yet."""
    INITIATED = "initiated"
    RINGING = "ringing"
    IN_PROGRESS = "in-progress"
    """Answered by somebody or something."""
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    FAILED = "failed"
    CANCELED = "canceled"
    REFUSED = "refused"
    """Our own gate said no; the carrier was never asked."""
    UNKNOWN = "unknown"
    """The carrier's answer was lost and the call was not found there. A later callback may still settle it."""

    @property
    def is_final(self) -> bool:
        """Whether nothing more can happen to the call."""
        return not MOVES[self]

    @property
    def is_active(self) -> bool:
        """Whether the call is, as far as we know, going on at the carrier."""
        return self in ACTIVE


_OUTCOMES = frozenset({Status.COMPLETED, Status.BUSY, Status.NO_ANSWER, Status.FAILED, Status.CANCELED})

MOVES: Mapping[Status, frozenset[Status]] = {
    Status.QUEUED: _OUTCOMES | {Status.INITIATED, Status.RINGING, Status.IN_PROGRESS, Status.REFUSED, Status.UNKNOWN},
    Status.INITIATED: _OUTCOMES | {Status.RINGING, Status.IN_PROGRESS},
    Status.RINGING: _OUTCOMES | {Status.IN_PROGRESS},
    Status.IN_PROGRESS: frozenset({Status.COMPLETED, Status.FAILED}),
    Status.UNKNOWN: _OUTCOMES | {Status.INITIATED, Status.RINGING, Status.IN_PROGRESS},
    Status.COMPLETED: frozenset(),
    Status.BUSY: frozenset(),
    Status.NO_ANSWER: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELED: frozenset(),
    Status.REFUSED: frozenset(),
}
"""From each status, the ones that may follow. Callbacks arrive late, twice and out of order: all else is ignored."""

ACTIVE = frozenset({Status.QUEUED, Status.INITIATED, Status.RINGING, Status.IN_PROGRESS})


class EndReason(StrEnum):
    """Why a conversation ended, where we know it."""

    CALLEE_HUNG_UP = "callee_hung_up"
    AGENT_SAID_GOODBYE = "agent_said_goodbye"
    OPTED_OUT = "opted_out"
    SILENCE = "silence"
    MAX_DURATION = "max_duration"
    MODEL_FAILED = "model_failed"
    HUNG_UP_BY_API = "hung_up_by_api"
    MACHINE_ANSWERED = "machine_answered"
    RELAY_FAILED = "relay_failed"
    """The carrier could not open or keep its socket to us."""
    SERVER_STOPPED = "server_stopped"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call could not be placed: a stable `code`, a sentence for people, and the carrier's own number if any."""

    code: str
    detail: str
    carrier_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One intent to ring one person, whatever became of it. Written before the ring, never deleted."""

    session_id: SessionId
    phone_number: str
    created_at: datetime
    greeting: str
    """What the carrier speaks on answer: variables filled in, disclosure included."""
    max_duration_s: int
    variables: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    idempotency_key: str | None = None
    request_digest: str | None = None
    """What the idempotency key was first used for; the same key with another digest is a conflict."""
    status: Status = Status.QUEUED
    call_sid: CallSid | None = None
    answered_at: datetime | None = None
    ended_at: datetime | None = None
    duration_s: int | None = None
    """Seconds as the carrier counted them."""
    answered_by: str | None = None
    """The carrier's verdict on who picked up (`human`, `machine_start`, …), when it was asked for one."""
    end_reason: EndReason | None = None
    opted_out: bool = False
    failure: Failure | None = None
    owner: ProcessId | None = None
    """Whoever holds the call's socket, or held it last."""
    epoch: int = 0
    """How many sockets the call has had: what comes from an older one than the last counts no more."""

    def follow(self, status: Status, at: datetime) -> "Call":
        """The call after the carrier reported `status`; the same call where that move is not legal any more."""
        if status not in MOVES[self.status]:
            return self
        return replace(
            self,
            status=status,
            answered_at=self.answered_at or (at if status is Status.IN_PROGRESS else None),
            ended_at=at if status.is_final else None,
            # Whoever was answered and has heard no end lost us, and the carrier its patience.
            end_reason=self.end_reason or (EndReason.RELAY_FAILED if self.answered_at and status.is_final else None),
            # What was feared of a lost call has not come to pass.
            failure=None if self.status is Status.UNKNOWN else self.failure,
        )

    @property
    def is_to_be_talked_on(self) -> bool:
        """Whether somebody has answered and nobody has said goodbye."""
        return self.status is Status.IN_PROGRESS and self.end_reason is None

    def identified(self, call_sid: CallSid) -> "Call":
        """The call with the carrier's id, learnt from the create answer, a callback or the socket: the first counts."""
        return self if self.call_sid else replace(self, call_sid=call_sid)

    def taken_by(self, owner: ProcessId) -> "Call":
        """The call whose newest socket `owner` holds."""
        return replace(self, owner=owner, epoch=self.epoch + 1)

    def ended_for(self, reason: EndReason) -> "Call":
        """The call with the reason its conversation ended. The first one stands, unless it was only a guess."""
        is_known = self.end_reason not in (None, EndReason.RELAY_FAILED)
        return self if is_known else replace(self, end_reason=reason)

    def failed_with(self, failure: Failure, status: Status, at: datetime) -> "Call":
        """The call that could not be placed: `status` is failed, refused or unknown.

        The same call where its status says otherwise: somebody may be talking on it.
        """
        followed = self.follow(status, at)
        return replace(followed, failure=failure) if followed.status is status else self


class Kind(StrEnum):
    """What a journal entry is about. The journal is the one history of a call: all else is read from it."""

    PLACED = "placed"
    REFUSED = "refused"
    STATUS = "status"
    CARRIER_ERROR = "carrier_error"
    ANSWERED_BY = "answered_by"
    RELAY_OPENED = "relay_opened"
    RELAY_CLOSED = "relay_closed"
    FRAME_IGNORED = "frame_ignored"
    CALLEE_SAID = "callee_said"
    """`line`, `text`, `lang`."""
    CALLEE_PRESSED = "callee_pressed"
    """`line`, `digits`."""
    CALLEE_PARTIAL = "callee_partial"
    CALLEE_KEY = "callee_key"
    """`digit`: one key, which `callee_pressed` repeats with the others."""
    AGENT_BEGAN = "agent_began"
    """`line`, and `turn` where the line answers something: the agent's utterance starts here in the transcript."""
    AGENT_SENT = "agent_sent"
    """`line`, `text`: all that was given to the carrier to speak."""
    AGENT_PLAYED = "agent_played"
    """`line`, `text`: a clause the carrier has played; without `line`, one that is in none of ours."""
    AGENT_SAID = "agent_said"
    """`line`, `text` (what was heard), `interrupted`."""
    INTERRUPTED = "interrupted"
    TURN = "turn"
    """`turn`, `outcome`, `first_text_ms`, `total_ms`: counted from the callee's words to ours."""
    MODEL_SLOW = "model_slow"
    MODEL_FAILED = "model_failed"
    SILENCE = "silence"
    DIGITS_SENT = "digits_sent"
    OPTED_OUT = "opted_out"
    ENDING = "ending"
    """`reason`: a goodbye was said, and the line is held until it was heard."""
    RESUMING = "resuming"
    """`relay_session_id`, `cause`: the line outlived a socket, and the carrier was asked to open another."""
    TOOL_CALLED = "tool_called"
    """`intent`, `tool`, `arguments`: written before the tool runs, so that it never runs twice."""
    TOOL_DONE = "tool_done"
    """`intent`, `outcome` (none where the tool was not called after all), `in_doubt`: whether it may have acted."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a call's journal; append-only. `seq` is given by the store and orders the entries of a call."""

    session_id: SessionId
    at: datetime
    kind: Kind
    data: Mapping[str, Any]
    seq: int = 0
    epoch: int | None = None
    """Of the socket it comes from; None for what no socket tells. The store takes none of an older epoch than the
    call's own, and does not keep the number."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One line of the transcript: only what was heard, by either side."""

    role: str
    """`agent` or `callee`."""
    text: str
    at: datetime
    interrupted: bool = False
    keypad: bool = False


def transcript(entries: Iterable[Entry]) -> list[Spoken]:
    """Reads the conversation from the journal, in the order its lines began. Words nobody heard are not in it.

    A line that is still being spoken, or was when the process died, stands as far as it is known to have been played.
    """
    began: dict[int, datetime] = {}
    lines: dict[int, Spoken] = {}
    for entry in entries:
        line = entry.data.get("line", 0)
        match entry.kind:
            case Kind.CALLEE_SAID:
                lines[line] = Spoken("callee", entry.data["text"], entry.at)
            case Kind.CALLEE_PRESSED:
                lines[line] = Spoken("callee", entry.data["digits"], entry.at, keypad=True)
            case Kind.AGENT_BEGAN:
                began[line] = entry.at
            case Kind.AGENT_PLAYED if line:
                before = f"{lines[line].text} " if line in lines else ""
                text = before + entry.data["text"].strip()
                lines[line] = Spoken("agent", text, began.get(line, entry.at), interrupted=True)
            case Kind.AGENT_SAID if entry.data["text"]:
                at = began.get(line, entry.at)
                lines[line] = Spoken("agent", entry.data["text"], at, entry.data["interrupted"])
            case _:
                pass
    return [lines[line] for line in sorted(lines)]


class UnknownVariableError(ValueError):
    """A text names a variable that was not given."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the greeting uses {{{name}}}, but variables has no {name!r}")
        self.name = name


_PLACEHOLDER = re.compile(r"\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}")
_AI = (
    r"(?:(?-i:AI|A\.I\.|IA|I\.A\.|KI)|an ai|una ia|artificial intelligence|robot|bot|inteligencia artificial"
    r"|künstliche intelligenz)(?!\w)"
)
"""Abbreviations count in capitals only: `j'ai`, `ai clienti` and the name Ai are something else."""
_SAYS_AI = re.compile(
    r"\b(?:i am|i['\u2019]m|this is|it is|it['\u2019]s|soy|le (?:llama|habla)|hablando con|hier spricht|ich bin)"
    rf"(?:\s+(?!(?:from|for|with|about|of|at|on|de|von|bei)\b)[^\s.!?,;:]+){{0,6}}?\s+(?P<is>{_AI})"
    rf"|\b(?P<does>{_AI})[\s-]+(?:assistant|agent|caller|voice|receptionist|secretary|calling|speaking|here)\b",
    re.I,
)
"""The caller says to be one: `this is an AI`, `an AI assistant`, but not `calling from AI Inc`."""
_DENIES = re.compile(r"(\bnot|n['\u2019]t|\bno|\bnever|\bnunca|\bnon|\bnicht|\bkein\w*)\s[^.!?¡¿,;:]*$", re.I)
"""Stands before it in the same clause: a doubtful greeting is led by the disclosure once too often, not too rarely."""


def fill(text: str, variables: Mapping[str, str]) -> str:
    """Puts variables into `{name}` places; nothing else in the text has a meaning.

    Raises UnknownVariableError for a name that is not among the variables.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in variables:
            raise UnknownVariableError(found[1])
        return variables[found[1]]

    return _PLACEHOLDER.sub(value, text)


def disclosed(greeting: str, disclosure: str) -> str:
    """The greeting, led by the disclosure if it does not itself say that an AI is calling.

    People must be told that they talk with an AI: Regulation (EU) 2024/1689, Article 50(1). An empty disclosure leaves
    every greeting as it is; only the operator can set that.
    """
    claims = (found.start(found.lastgroup or 0) for found in _SAYS_AI.finditer(greeting))
    if not disclosure or any(not _DENIES.search(greeting[:at]) for at in claims):
        return greeting
    return f"{disclosure} {greeting}".strip()
