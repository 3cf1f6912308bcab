"""What the inside asks of the outside: a carrier that rings, an agent that finds words, a store that keeps."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from outbound.calls import Call, CallSid, Entry, ProcessId, SessionId, Status
from outbound.conversation import Piece, Talk


class RefusalKind(StrEnum):
    """Why the carrier would not place a call, as classes a caller can act on."""

    INVALID_NUMBER = "invalid_number"
    UNVERIFIED_NUMBER = "unverified_number"
    COUNTRY_NOT_PERMITTED = "country_not_permitted"
    NUMBER_BLOCKED = "number_blocked"
    NOT_YOUR_NUMBER = "not_your_number"
    WRONG_CREDENTIALS = "wrong_credentials"
    ACCOUNT_LIMITED = "account_limited"
    TOO_MANY_REQUESTS = "too_many_requests"
    NOT_LIVE = "not_live"
    """The call asked about has ended or never was."""
    OTHER = "other"


class CarrierRefused(Exception):
    """The carrier understood the request and said no; nothing was rung."""

    def __init__(self, kind: RefusalKind, detail: str, carrier_code: int | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.carrier_code = carrier_code


class CarrierUnavailable(Exception):
    """The carrier is down or answers nonsense; nothing was rung."""


class CarrierAnswerLost(Exception):
    """The request went out and no usable answer came back: the person may be ringing. Never place again blindly."""


@dataclass(frozen=True, slots=True)
class Links:
    """The addresses of one call that are given to the carrier; each holds our session id."""

    voice: str
    status: str
    ended: str
    machine_detection: str
    relay: str
    """`wss://…` (`ws://` only on this machine)."""


@dataclass(frozen=True, slots=True)
class CarrierCall:
    """A call as the carrier's own records have it."""

    call_sid: CallSid
    status: Status
    created_at: datetime
    duration_s: int | None = None


class SessionOutcome(StrEnum):
    """How a relay session ended, as the carrier tells the action URL."""

    COMPLETED = "completed"
    """The callee hung up, or the call was ended by request."""
    ENDED = "ended"
    """We said so."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StatusReport:
    """A status callback, translated. `status` is None where the carrier used a word we do not know."""

    call_sid: CallSid
    status: Status | None
    sequence: int | None = None
    duration_s: int | None = None
    sip_code: int | None = None
    answered_by: str | None = None


@dataclass(frozen=True, slots=True)
class EndedReport:
    """The action callback of a relay session, translated."""

    call_sid: CallSid
    outcome: SessionOutcome | None
    call_is_live: bool
    """Whether the line is still open, so that what we return is heard."""
    relay_session_id: str = ""
    """The carrier's id of the session that is over."""
    may_be_retried: bool = False
    """Whether another session may fare better: the socket broke, and nothing that we asked for was wrong."""
    handoff: str | None = None
    error_code: int | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class MachineReport:
    """The verdict on who picked up, translated."""

    call_sid: CallSid
    answered_by: str
    is_machine: bool


type Form = Sequence[tuple[str, str]]
"""A decoded form body in order, blank values kept: signatures cover those too."""


class Carrier(Protocol):
    """The phone company. Every call to it ends within its own timeout."""

    @property
    def own_number(self) -> str:
        """The number we ring from, E.164."""

    async def place(self, call: Call, links: Links) -> CallSid:
        """Rings. Raises CarrierRefused, CarrierUnavailable or CarrierAnswerLost; never retries by itself."""

    async def find(self, phone_number: str, since: datetime) -> Sequence[CarrierCall]:
        """Our calls to `phone_number` that were created at or after `since`, newest first: for a lost answer."""

    async def fetch(self, call_sid: CallSid) -> CarrierCall | None:
        """The call as the carrier knows it now; None if it does not know it."""

    async def hang_up(self, call_sid: CallSid) -> None:
        """Ends a ringing or live call. A call that is over already is no error."""

    async def ping(self) -> None:
        """Raises CarrierRefused or CarrierUnavailable where calls could not be placed now."""

    def answer(self, call: Call, links: Links) -> str:
        """The document that connects an answered call to our socket."""

    def farewell(self, sentence: str | None = None) -> str:
        """The document that says a sentence, if one is given, and hangs up."""

    def is_genuine(self, url: str, form: Form, headers: Mapping[str, str]) -> bool:
        """Whether the carrier signed a request for `url`, as it was given it. Header names are lower-case."""

    def read_status(self, form: Form) -> StatusReport: ...

    def read_ended(self, form: Form) -> EndedReport: ...

    def read_machine(self, form: Form) -> MachineReport: ...


class Ledger(Protocol):
    """Where tools that act on the world are written down, so that none runs twice for one intent."""

    async def intend(self, tool: str, arguments: Mapping[str, object]) -> str:
        """Returns an id once the intent is in the store: only then may the tool run. Raises StoreUnavailable."""

    def done(self, intent: str, outcome: str, *, in_doubt: bool = False) -> None:
        """Notes what came of it, as the agent was told. What is never noted is in doubt for the rest of the call."""


class Agent(Protocol):
    """Whoever finds the words."""

    def reply(self, talk: Talk, ledger: Ledger) -> AsyncGenerator[Piece]:
        """Streams one reply to the last line of `talk`. Keeps nothing between replies; may be closed at any piece."""

    async def warm_up(self) -> None:
        """Does now what would make the first reply slow. Raises AgentUnavailable where no reply is possible at all."""

    async def aclose(self) -> None:
        """Gives back what the agent holds open."""


class AgentUnavailable(Exception):
    """The agent cannot work as configured; the message tells the operator what to do."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of calls, newest first. `next_cursor` is None on the last one."""

    calls: Sequence[Call]
    next_cursor: str | None


class CallNotFound(Exception):
    """No call has this id."""


class StoreUnavailable(Exception):
    """The database cannot be reached or does not do its work; the message is for the operator and holds no secret."""


class NotStorable(ValueError):
    """No database of ours can hold it: NUL or half a surrogate pair in text, a time without zone, NaN in JSON."""


BEAT_EVERY = timedelta(seconds=1)
GONE_AFTER = timedelta(seconds=5)
"""A process that has not beaten for this long does not carry calls any more."""


class Store(Protocol):
    """Everything that matters, in a database."""

    async def create(self, call: Call) -> Call:
        """Writes the call and commits. Where its idempotency key is taken, writes nothing; returns the first call."""

    async def get(self, session_id: SessionId) -> Call:
        """Raises CallNotFound."""

    async def change(self, session_id: SessionId, step: Callable[[Call], Call]) -> Call:
        """Applies a pure step to the call as it stands, in one transaction no other writer can come between.

        Returns the call after the step. Raises CallNotFound.
        """

    async def page(self, *, status: Status | None, limit: int, cursor: str | None) -> Page:
        """Calls newest first. Raises ValueError for a cursor that no page gave."""

    async def active(self) -> Sequence[Call]:
        """Calls that are queued, initiated, ringing or in progress, newest first."""

    async def by_call_sid(self, call_sid: CallSid) -> Call | None:
        """The call with this id of the carrier."""

    async def turns(self, session_ids: Iterable[SessionId]) -> Mapping[SessionId, int]:
        """How many replies these calls have had, by their journals; calls without any are left out."""

    async def append(self, entries: Iterable[Entry]) -> Mapping[SessionId, int]:
        """Adds journal entries in one transaction, in this order, and tells `Changes` of every process.

        Leaves out what comes from an older epoch than the call's own, and returns those calls with the epoch they have:
        another socket carries them.
        """

    async def journal(self, session_id: SessionId, after: int = 0) -> Sequence[Entry]:
        """The entries of a call with `seq` above `after`, in order."""

    async def ping(self) -> None:
        """Raises where the database cannot be used."""

    async def beat(self, process: ProcessId, at: datetime) -> None:
        """Notes that the process lives."""

    async def living(self, since: datetime) -> frozenset[ProcessId]:
        """The processes that have lived at or after `since`."""

    async def retire(self, process: ProcessId) -> None:
        """Notes that the process is gone, and with it its beats."""


class Changes(Protocol):
    """Tells when a call's journal has grown, by whichever process."""

    def watching(self, session_id: SessionId) -> AbstractContextManager[asyncio.Event]:
        """An event that is set when there may be new entries. Clear it, then read; it may be set for nothing."""


class Journal(Protocol):
    """Takes journal entries off the path of speech."""

    def write(self, entry: Entry) -> None:
        """Accepts the entry at once; it is in the store within 200 ms."""

    async def flush(self) -> None:
        """Returns when everything written so far is in the store."""


class Socket(Protocol):
    """One relay connection, text frames only."""

    async def receive(self) -> str:
        """The next frame. Raises SocketClosed."""

    async def send(self, frame: str) -> None:
        """Raises SocketClosed."""

    async def close(self, code: int, reason: str) -> None: ...


class SocketClosed(Exception):
    """The peer is gone; `code` is the close code, 1006 where there was none."""

    def __init__(self, code: int = 1006) -> None:
        super().__init__(f"socket closed with {code}")
        self.code = code
