"""Clients knock here: place a call, look at calls, follow one as it goes on, hang up."""

import asyncio
import hashlib
import math
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, cast

import orjson
import structlog
from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from outbound.calls import Call, Entry, Json, Kind, SessionId, Status, disclosed, fill, transcript
from outbound.dialer import Order
from outbound.policy import is_e164
from outbound.ports import GONE_AFTER, StoreUnavailable
from outbound.web.house import House
from outbound.web.problems import Problem, documented, of_failure
from outbound.web.security import Client

log = structlog.get_logger(__name__)
router = APIRouter(responses=documented(401, 413, 500, 503))

METADATA_DEPTH = 20
"""How deep lists and objects may stand in each other: JSON itself knows no limit, what reads it later does."""
_NOT_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML, and with it TwiML, cannot hold: https://www.w3.org/TR/xml/#charsets. Half surrogates are among it."""


def _house(request: Request) -> House:
    return cast(House, request.app.state.house)


def _e164(number: str) -> str:
    if not is_e164(number):
        raise ValueError("expected an E.164 number: a plus sign, the country code, 7 to 15 digits, as +12025550100")
    return number


def _text(text: str) -> str:
    if _NOT_TEXT.search(text):
        raise ValueError("expected text without control characters and half surrogates")
    return text


def _plain(value: Any, depth: int = 0) -> Any:
    """Metadata that every database can hold and every client can read. Python reads more than JSON can say."""
    match value:
        case str():
            _text(value)
        case int() if not -(2**63) <= value < 2**63:
            raise ValueError("expected whole numbers of at most 64 bits")
        case float() if not math.isfinite(value):
            raise ValueError("expected finite numbers")
        case dict() | list() if depth >= METADATA_DEPTH:
            raise ValueError(f"expected at most {METADATA_DEPTH} levels")
        case dict():
            for name, inner in value.items():
                _text(name)
                _plain(inner, depth + 1)
        case list():
            for inner in value:
                _plain(inner, depth + 1)
        case _:
            pass
    return value


PhoneNumber = Annotated[str, AfterValidator(_e164)]
Text = Annotated[str, AfterValidator(_text)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class InitiateCall(BaseModel):
    """What to call, and what to say there."""

    model_config = ConfigDict(extra="forbid")

    to: PhoneNumber = Field(
        description="E.164, as +12025550100", json_schema_extra={"pattern": r"^\+[1-9][0-9]{6,14}$"}
    )
    greeting: Text | None = Field(
        default=None, min_length=1, max_length=1000, description="first words; `{name}` takes a value from variables"
    )
    variables: dict[VariableName, Annotated[Text, Field(max_length=1000)]] = Field(default={}, max_length=50)
    metadata: Annotated[dict[str, Any], AfterValidator(_plain)] = Field(
        default={}, description="yours: kept with the call, never spoken"
    )
    max_duration_s: int | None = Field(default=None, ge=10, le=14400, description="seconds")


class Initiated(BaseModel):
    """The call that rings now."""

    call_sid: str | None
    status: str = "initiated"
    phone_number: str
    session_id: str


class CallError(BaseModel):
    """Why a call was not placed."""

    model_config = ConfigDict(from_attributes=True)

    code: str
    detail: str
    carrier_code: int | None


class CallRecord(BaseModel):
    """One call as it stands."""

    session_id: str
    call_sid: str | None
    phone_number: str
    status: Status
    started_at: datetime
    answered_at: datetime | None
    ended_at: datetime | None
    duration_s: int | None
    answered_by: str | None
    end_reason: str | None
    opted_out: bool
    greeting: str
    variables: Mapping[str, str]
    metadata: Mapping[str, Any]
    max_duration_s: int
    error: CallError | None


class ActiveCall(CallRecord):
    """A call that is queued, ringing or being talked on."""

    turns: int = Field(description="replies so far; 0 until somebody has said something")
    connected: bool = Field(description="whether a process that lives holds its socket")


class ActiveCalls(BaseModel):
    count: int
    calls: list[ActiveCall]


class CallPage(BaseModel):
    """Calls, newest first; ask again with `cursor=next_cursor` for older ones."""

    count: int
    calls: list[CallRecord]
    next_cursor: str | None


class TranscriptLine(BaseModel):
    """A line of the talk as it was heard. `interrupted`: the callee did not hear the agent's line to its end."""

    model_config = ConfigDict(from_attributes=True)

    role: str
    text: str
    at: datetime
    interrupted: bool
    keypad: bool


class JournalEntry(BaseModel):
    """What was noted: `kind` says what `data` holds."""

    model_config = ConfigDict(from_attributes=True)

    seq: int
    at: datetime
    kind: Kind
    data: Mapping[str, Any]


class TurnLatency(BaseModel):
    """Milliseconds from the callee's words reaching us to our first and our last word leaving."""

    turn: int
    outcome: str
    first_text_ms: float | None
    total_ms: float


class WholeCall(CallRecord):
    """A call with everything that is known of it."""

    transcript: list[TranscriptLine]
    turn_latencies: list[TurnLatency]
    journal: list[JournalEntry]


IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="the same key with the same body is one call, however often it is sent",
    ),
]
SessionInPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
_SEQ: Mapping[str, Any] = {"ge": 0, "le": 2**63 - 1}
LastEventId = Annotated[
    int | None, Header(**_SEQ, description="the `id` of the last event that arrived; counts before `after`")
]
After = Annotated[int, Query(**_SEQ, description="the same, for clients that cannot set headers")]


@router.post("/call/initiate", response_model=Initiated, responses=documented(400, 403, 409, 422, 429, 502, 504))
async def initiate_call(
    body: InitiateCall, request: Request, client: Client, idempotency_key: IdempotencyKey = None
) -> Initiated | JSONResponse:
    """Rings a number."""
    house = _house(request)
    if house.readiness.draining:
        raise Problem(
            503, "draining", "the server is being stopped; try again in a moment", headers={"Retry-After": "10"}
        )
    await house.gatekeeper.count(client, "initiate")
    greeting = fill(body.greeting if body.greeting is not None else house.greeting, body.variables)
    call = await house.dialer.place(
        Order(
            phone_number=body.to,
            greeting=disclosed(greeting, house.disclosure),
            max_duration_s=body.max_duration_s or house.max_duration_s,
            variables=body.variables,
            metadata=cast(Mapping[str, Json], body.metadata),
            idempotency_key=f"{client}:{idempotency_key}" if idempotency_key is not None else None,
            request_digest=_digest(body) if idempotency_key is not None else None,
        )
    )
    if call.failure is not None and call.call_sid is None:
        raise of_failure(call.failure, session_id=call.session_id)
    return Initiated(call_sid=call.call_sid, phone_number=call.phone_number, session_id=call.session_id)


@router.get("/calls/active")
async def active_calls(request: Request, _: Client) -> ActiveCalls:
    """Calls that are going on now, carried by whichever process."""
    house = _house(request)
    active = await house.store.active()
    others = await house.store.living(house.clock() - GONE_AFTER) - {house.process}
    live = dict(house.live.by_session)
    turns = await house.store.turns([call.session_id for call in active if call.session_id not in live])
    calls = [
        ActiveCall(
            **_record(call),
            turns=live[call.session_id].turns if call.session_id in live else turns.get(call.session_id, 0),
            connected=call.session_id in live or (call.owner in others and call.is_to_be_talked_on),
        )
        for call in active
    ]
    return ActiveCalls(count=len(calls), calls=calls)


@router.get("/calls", responses=documented(422))
async def list_calls(
    request: Request,
    _: Client,
    status: Status | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> CallPage:
    """Calls of the past and present, newest first."""
    try:
        page = await _house(request).store.page(status=status, limit=limit, cursor=cursor)
    except ValueError:
        raise Problem(422, "invalid_cursor", "cursor: expected the next_cursor of an earlier answer") from None
    calls = [CallRecord(**_record(call)) for call in page.calls]
    return CallPage(count=len(calls), calls=calls, next_cursor=page.next_cursor)


@router.get("/calls/{session_id}", responses=documented(404, 422))
async def one_call(session_id: SessionInPath, request: Request, _: Client) -> WholeCall:
    """One call whole: its record, what was heard, how fast the answers came, and its journal."""
    house = _house(request)
    call = await house.store.get(SessionId(session_id))
    await house.journal.flush()
    entries = await house.store.journal(call.session_id)
    return WholeCall(
        **_record(call),
        transcript=[TranscriptLine.model_validate(line) for line in transcript(entries)],
        turn_latencies=[_latency(entry) for entry in entries if entry.kind is Kind.TURN],
        journal=[JournalEntry.model_validate(entry) for entry in entries],
    )


LOOK_AGAIN_AFTER_S = 2.0
"""Whoever follows a call is told when its journal has grown; but notifications get lost."""
_LOOK_FOR_THE_REST_AFTER_S = 0.2
WRITTEN_WITHIN = timedelta(seconds=10)
"""How long after a call is over its journal may grow. A process that was killed does not tell the end of its socket."""


async def _followed(session_id: SessionInPath, request: Request) -> AsyncIterator[tuple[SessionId, asyncio.Event]]:
    """A call that is watched for as long as its stream is open, with the event that tells of new entries.

    Raises CallNotFound while another status than 200 can still be answered.
    """
    house = _house(request)
    call = await house.store.get(SessionId(session_id))
    with house.changes.watching(call.session_id) as changed:
        yield call.session_id, changed


@dataclass(slots=True)
class _Remains:
    """What is still to be written when a call is over: how it ended, and the end of its socket."""

    end_is_told: bool = False
    has_talked: bool = False
    is_talking: bool = False

    def see(self, entry: Entry) -> None:
        match entry.kind:
            case Kind.STATUS:
                self.end_is_told = not Status(entry.data["status"]).is_active
            case Kind.RELAY_OPENED:
                self.has_talked = self.is_talking = True
            case Kind.RELAY_CLOSED:
                self.is_talking = False
            case _:
                pass

    def are_none(self, call: Call, now: datetime) -> bool:
        """Whether all has been written of a call whose journal was read after its record."""
        if call.status.is_active:
            return False
        reason_is_known = call.end_reason is not None or not self.has_talked
        is_late = now - (call.ended_at or call.created_at) > WRITTEN_WITHIN
        return (self.end_is_told and reason_is_known and not self.is_talking) or is_late


_DATA_OF_AN_EVENT = {
    "type": "string",
    "contentMediaType": "application/json",
    "contentSchema": {
        "anyOf": [{"$ref": "#/components/schemas/JournalEntry"}, {"$ref": "#/components/schemas/CallRecord"}]
    },
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "an event for each entry of the journal, and `end`",
        "content": {"text/event-stream": {"itemSchema": {"properties": {"data": _DATA_OF_AN_EVENT}}}},
    }
}


@router.get("/calls/{session_id}/events", response_class=EventSourceResponse, responses=_EVENTS | documented(404, 422))
async def follow_call(
    request: Request,
    _: Client,
    followed: Annotated[tuple[SessionId, asyncio.Event], Depends(_followed)],
    last_event_id: LastEventId = None,
    after: After = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Tells the journal of a call from its beginning and as it grows, whichever process carries the call.

    Each event has a journal entry as its data, the entry's `seq` as its id and `kind` as its name. When the call is
    over there is one more, `end`, with the call's record as its data and no id: do not ask again then. A stream that
    stops without an `end` was broken off: ask again, with `Last-Event-ID`.
    """
    house = _house(request)
    session_id, changed = followed
    told = after if last_event_id is None else last_event_id
    seen = 0
    remains = _Remains()
    while True:
        changed.clear()
        try:
            call = await house.store.get(session_id)
            entries = await house.store.journal(session_id, seen)
        except StoreUnavailable as error:
            log.error("stream of a call broken off", session_id=session_id, reason=str(error))
            return
        for entry in entries:
            seen = entry.seq
            remains.see(entry)
            if seen > told:
                yield _event(entry.kind, JournalEntry.model_validate(entry), str(seen))
        if remains.are_none(call, house.clock()):
            yield _event("end", CallRecord(**_record(call)))
            return
        if house.closing.is_set():
            return
        # Why a call ended stands in its record: nobody tells of that.
        look_after_s = LOOK_AGAIN_AFTER_S if call.status.is_active else _LOOK_FOR_THE_REST_AFTER_S
        await _first_of(changed, house.closing, within_s=look_after_s)


def _event(name: str, data: BaseModel, seq: str | None = None) -> ServerSentEvent:
    # Not the model itself: its JSON may have characters that clients take for the end of a line, as U+2028.
    return ServerSentEvent(event=name, id=seq, data=data.model_dump(mode="json"))


async def _first_of(*events: asyncio.Event, within_s: float) -> None:
    """Returns when one of them is set, or after `within_s`."""
    waiting = [asyncio.create_task(event.wait(), name="stream-waits") for event in events]
    try:
        await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


@router.post("/calls/{session_id}/hangup", responses=documented(400, 403, 404, 409, 422, 429, 502, 504))
async def hang_up(session_id: SessionInPath, request: Request, _: Client) -> CallRecord:
    """Ends a ringing or live call."""
    return CallRecord(**_record(await _house(request).dialer.hang_up(SessionId(session_id))))


def _digest(body: InitiateCall) -> str:
    """What makes two requests the same: their content, not the spelling of their JSON."""
    content = orjson.dumps(body.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()


def _record(call: Call) -> dict[str, Any]:
    return {
        "session_id": call.session_id,
        "call_sid": call.call_sid,
        "phone_number": call.phone_number,
        "status": call.status,
        "started_at": call.created_at,
        "answered_at": call.answered_at,
        "ended_at": call.ended_at,
        "duration_s": call.duration_s,
        "answered_by": call.answered_by,
        "end_reason": call.end_reason,
        "opted_out": call.opted_out,
        "greeting": call.greeting,
        "variables": call.variables,
        "metadata": call.metadata,
        "max_duration_s": call.max_duration_s,
        "error": None if call.failure is None else CallError.model_validate(call.failure),
    }


def _latency(entry: Entry) -> TurnLatency:
    return TurnLatency.model_validate(dict(entry.data))
