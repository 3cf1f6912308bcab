"""Place one call and follow its fate: through the gate, to the carrier, along the callbacks, to the end."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

import structlog

from outbound.calls import Call, CallSid, EndReason, Entry, Failure, Json, Kind, ProcessId, SessionId, Status
from outbound.conversation import HAND_OVER, reason_of
from outbound.policy import Rules, judge
from outbound.ports import (
    GONE_AFTER,
    Carrier,
    CarrierAnswerLost,
    CarrierCall,
    CarrierRefused,
    CarrierUnavailable,
    EndedReport,
    Journal,
    Links,
    MachineReport,
    SessionOutcome,
    StatusReport,
    Store,
    StoreUnavailable,
)

log = structlog.get_logger(__name__)

ANSWER_LOST = "carrier_answer_lost"
CARRIER_UNAVAILABLE = "carrier_unavailable"
GATE = "refused_by_policy"

_NEVER_PLACED = "the process that was placing the call died, and the carrier's list does not show the call"
_CLOCK_SKEW = timedelta(seconds=5)
"""How far the carrier's clock may be behind ours when a lost call is looked for."""
_YOUNG = timedelta(minutes=2)
"""How long after it was written down a call may be unknown to the carrier and yet be live."""
_RESUMES_COUNT_FOR = timedelta(seconds=60)
_SETTLE_EVERY_S = 60.0
_LOOK_AGAIN_AFTER_S = 0.5
"""A call appears in the carrier's list a moment after it was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a client asks for, checked for its shape. The greeting is ready to be spoken."""

    phone_number: str
    greeting: str
    max_duration_s: int
    variables: Mapping[str, str]
    metadata: Mapping[str, Json]
    idempotency_key: str | None = None
    request_digest: str | None = None


class IdempotencyConflict(Exception):
    """The idempotency key was used before, for something else."""


class NotLive(Exception):
    """The call is over, or has not reached the carrier yet, so that there is nothing to hang up."""


class Dialer:
    """The only way to the carrier's `place`."""

    def __init__(
        self,
        *,
        process: ProcessId,
        carrier: Carrier,
        store: Store,
        journal: Journal,
        links: Callable[[SessionId], Links],
        rules: Rules,
        carrier_timeout_s: float,
        hang_up_on_machines: bool,
        resume_attempts: int,
        apology: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._process = process
        self._carrier = carrier
        self._store = store
        self._journal = journal
        self._links = links
        self._rules = rules
        self._carrier_timeout_s = carrier_timeout_s
        self._hang_up_on_machines = hang_up_on_machines
        self._resume_attempts = resume_attempts
        self._apology = apology
        self._clock = clock
        self._adopting = asyncio.Lock()
        self._resuming: WeakValueDictionary[SessionId, asyncio.Lock] = WeakValueDictionary()

    async def place(self, order: Order) -> Call:
        """Rings once for this order, however often it comes with the same idempotency key.

        Returns the call, with its `failure` where it was refused or could not be placed. Raises IdempotencyConflict.
        """
        call = Call(
            session_id=SessionId(secrets.token_urlsafe(24)),
            phone_number=order.phone_number,
            created_at=self._clock(),
            greeting=order.greeting,
            max_duration_s=order.max_duration_s,
            variables=order.variables,
            metadata=order.metadata,
            idempotency_key=order.idempotency_key,
            request_digest=order.request_digest,
        )
        written = await self._store.create(call)
        if written.session_id != call.session_id:
            return await self._first_result(written, order)
        refusal = judge(order.phone_number, self._rules)
        if refusal is not None:
            self._note(call.session_id, Kind.REFUSED, rule=refusal.rule, message=refusal.message)
            return await self._failed(call, Status.REFUSED, Failure(GATE, refusal.message))
        self._note(call.session_id, Kind.PLACED)
        log.info("call is placed", session_id=call.session_id, phone_number=call.phone_number)
        return await self._ring(call)

    async def follow(self, session_id: SessionId, report: StatusReport) -> None:
        """Takes a status callback; late, doubled and reordered ones change nothing. Raises CallNotFound."""

        def step(call: Call) -> Call:
            if call.call_sid not in (None, report.call_sid) or report.status is None:
                return call
            call = call.identified(report.call_sid)
            return replace(
                call.follow(report.status, self._clock()),
                duration_s=report.duration_s if report.duration_s is not None else call.duration_s,
                answered_by=report.answered_by or call.answered_by,
            )

        call = await self._store.change(session_id, step)
        log.info("call status", session_id=session_id, reported=report.status, status=call.status)
        self._note(
            session_id,
            Kind.STATUS,
            reported=report.status,
            sequence=report.sequence,
            sip_code=report.sip_code,
            status=call.status,
        )
        await self._journal.flush()

    async def answered(self, session_id: SessionId, call_sid: CallSid) -> Call | None:
        """Somebody picked up and the carrier asks what to do. Raises CallNotFound.

        None if there is nothing to talk about: the call or its talk is over, or it has another `call_sid`.
        """
        call = await self._store.change(
            session_id,
            lambda call: (
                call.identified(call_sid).follow(Status.IN_PROGRESS, self._clock())
                if call.call_sid in (None, call_sid)
                else call
            ),
        )
        return call if call.call_sid == call_sid and call.is_to_be_talked_on else None

    async def ended(self, session_id: SessionId, report: EndedReport) -> str:
        """The relay session is over, and what is returned decides what becomes of the line. Raises CallNotFound.

        A line that outlived its socket gets another one. A report on another call than ours changes nothing.
        """
        call = await self._store.get(session_id)
        if call.call_sid not in (None, report.call_sid):
            return self._carrier.farewell()
        broken = report.outcome is SessionOutcome.FAILED
        handed_over = report.outcome is SessionOutcome.ENDED and report.handoff == HAND_OVER
        if broken:
            self._note(session_id, Kind.CARRIER_ERROR, code=report.error_code, description=report.error_message)
            log.error("relay session failed", carrier_code=report.error_code)
        if report.call_is_live and (handed_over or (broken and report.may_be_retried)) and call.is_to_be_talked_on:
            return await self._resumed(call, report.relay_session_id, "handed_over" if handed_over else "broken")

        def step(call: Call) -> Call:
            if report.outcome is SessionOutcome.COMPLETED:
                call = call.ended_for(EndReason.CALLEE_HUNG_UP)
                return call if report.call_is_live else call.follow(Status.COMPLETED, self._clock())
            if report.outcome is SessionOutcome.ENDED and (reason := reason_of(report.handoff)) is not None:
                return call.ended_for(reason)  # The process that said goodbye may have died with it.
            return call.ended_for(EndReason.RELAY_FAILED) if broken else call

        ended = await self._store.change(session_id, step)
        is_lost = broken and ended.end_reason is EndReason.RELAY_FAILED
        return self._carrier.farewell(self._apology if is_lost and report.call_is_live else None)

    async def failed_over(self, session_id: SessionId, call_sid: CallSid) -> str:
        """An address of ours has failed the carrier, which asks another: goes on with the call if that is possible.

        Raises CallNotFound.
        """
        call = await self.answered(session_id, call_sid)
        if call is None:
            over = await self._store.get(session_id)
            is_lost = over.end_reason in (None, EndReason.RELAY_FAILED)
            return self._carrier.farewell(self._apology if is_lost else None)
        if call.epoch == 0 and not await self._resumes(session_id):
            return self._carrier.answer(call, self._links(session_id))
        return await self._resumed(call, "", "broken")

    async def named(self, call_sid: CallSid) -> SessionId | None:
        """Our id of the carrier's call."""
        call = await self._store.by_call_sid(call_sid)
        return call.session_id if call is not None else None

    async def _resumed(self, call: Call, relay_session_id: str, cause: str) -> str:
        """The document that opens another socket, without a greeting; an apology after too many in a row.

        The carrier may ask twice about one session: that is one attempt.
        """
        async with self._resuming.setdefault(call.session_id, asyncio.Lock()):
            return await self._resumed_in_turn(call, relay_session_id, cause)

    async def _resumed_in_turn(self, call: Call, relay_session_id: str, cause: str) -> str:
        earlier = await self._resumes(call.session_id)
        if not any(entry.data["relay_session_id"] == relay_session_id != "" for entry in earlier):
            since = self._clock() - _RESUMES_COUNT_FOR
            attempts = sum(entry.at > since and entry.data["cause"] == "broken" for entry in earlier)
            if cause == "broken" and attempts >= self._resume_attempts:
                log.error("call is given up: its sockets keep breaking", session_id=call.session_id)
                await self._store.change(call.session_id, lambda call: call.ended_for(EndReason.RELAY_FAILED))
                self._note(call.session_id, Kind.ENDING, reason=EndReason.RELAY_FAILED)
                return self._carrier.farewell(self._apology)
            self._note(call.session_id, Kind.RESUMING, relay_session_id=relay_session_id, cause=cause)
            # The process that opens the socket reads it.
            await self._journal.flush()
        log.info("call is resumed", session_id=call.session_id, cause=cause)
        return self._carrier.answer(replace(call, greeting=""), self._links(call.session_id))

    async def _resumes(self, session_id: SessionId) -> list[Entry]:
        return [entry for entry in await self._store.journal(session_id) if entry.kind is Kind.RESUMING]

    async def machine(self, session_id: SessionId, report: MachineReport) -> None:
        """Takes the carrier's verdict on who picked up; one on another call is passed over. Raises CallNotFound."""
        call = await self._store.get(session_id)
        if call.call_sid not in (None, report.call_sid):
            return
        self._note(session_id, Kind.ANSWERED_BY, answered_by=report.answered_by)
        hang_up = report.is_machine and self._hang_up_on_machines

        def step(call: Call) -> Call:
            call = replace(call, answered_by=report.answered_by)
            return call.ended_for(EndReason.MACHINE_ANSWERED) if hang_up else call

        await self._store.change(session_id, step)
        if hang_up:
            await self._carrier.hang_up(report.call_sid)

    async def hang_up(self, session_id: SessionId) -> Call:
        """Ends a ringing or live call. Raises CallNotFound, NotLive, CarrierRefused or CarrierUnavailable."""
        call = await self._store.get(session_id)
        if call.call_sid is None or not call.status.is_active:
            raise NotLive
        # The reason is written first: the socket closes before the carrier has answered us.
        ended = await self._store.change(session_id, lambda call: call.ended_for(EndReason.HUNG_UP_BY_API))
        try:
            await self._carrier.hang_up(call.call_sid)
        except (CarrierRefused, CarrierUnavailable, CarrierAnswerLost):
            await self._store.change(session_id, lambda now: replace(now, end_reason=call.end_reason))
            raise
        found = await self._fetched(call.call_sid)
        return ended if found is None else await self._settle(ended, found)

    async def settle(self, is_carried: Callable[[SessionId], bool]) -> bool:
        """Asks the carrier about active calls that no process carries, so that none stays live for ever.

        Callbacks get lost, and processes die. What the carrier does not know is over, unless it is so young that
        somebody may just be placing it. Returns whether calls were left to another process that has beaten of late: it
        may have died since.
        """
        left_to_others = False
        others = await self._store.living(self._clock() - GONE_AFTER) - {self._process}
        for call in await self._store.active():
            is_young = self._clock() - call.created_at < _YOUNG
            if is_carried(call.session_id) or (is_young and call.call_sid is None):
                continue
            if call.owner in others:
                left_to_others = True
                continue
            try:
                found = None if await self._has_twin(call) else await self._look_up(call)
            except (CarrierRefused, CarrierUnavailable, CarrierAnswerLost):
                log.warning("call could not be looked up", session_id=call.session_id)
                continue
            if found is not None or not is_young:
                await self._settle(call, found)
        return left_to_others

    async def keep_settling(self, is_carried: Callable[[SessionId], bool]) -> None:
        """Settles at once, again when those who died just before us can be told from the living, and every minute."""
        is_first = True
        while True:
            wait_s = _SETTLE_EVERY_S
            try:
                if await self.settle(is_carried) and is_first:
                    wait_s = GONE_AFTER.total_seconds()
            except StoreUnavailable as error:
                log.error("calls could not be settled", reason=str(error))
            is_first = False
            await asyncio.sleep(wait_s)

    async def _settle(self, call: Call, found: CarrierCall | None) -> Call:
        """Takes over what the carrier has of a call, which may be nothing."""

        def step(call: Call) -> Call:
            if found is None and call.call_sid is None:
                return call.failed_with(Failure(ANSWER_LOST, _NEVER_PLACED), Status.UNKNOWN, self._clock())
            if found is None:
                return call.follow(Status.FAILED, self._clock())
            call = call.identified(found.call_sid).follow(found.status, self._clock())
            return replace(call, duration_s=found.duration_s) if call.duration_s is None else call

        settled = await self._store.change(call.session_id, step)
        if settled.status is not call.status:
            log.info("call was settled", session_id=call.session_id, status=settled.status)
            self._note(call.session_id, Kind.STATUS, status=settled.status, looked_up=True)
        return settled

    async def _fetched(self, call_sid: CallSid) -> CarrierCall | None:
        try:
            return await self._carrier.fetch(call_sid)
        except (CarrierRefused, CarrierUnavailable, CarrierAnswerLost):
            return None

    async def _ring(self, call: Call) -> Call:
        give_up_at = asyncio.get_running_loop().time() + self._carrier_timeout_s
        try:
            async with asyncio.timeout_at(give_up_at):
                call_sid = await self._carrier.place(call, self._links(call.session_id))
        except CarrierRefused as refused:
            failure = Failure(refused.kind, refused.detail, refused.carrier_code)
            return await self._failed(call, Status.FAILED, failure)
        except CarrierUnavailable as unavailable:
            return await self._failed(call, Status.FAILED, Failure(CARRIER_UNAVAILABLE, str(unavailable)))
        except (CarrierAnswerLost, TimeoutError):
            return await self._adopt(call, give_up_at)
        return await self._initiated(call, call_sid)

    async def _adopt(self, call: Call, give_up_at: float) -> Call:
        """The carrier may have rung: finds the call there instead of asking again. `give_up_at` is in loop time."""
        log.warning("carrier's answer to a call was lost, looking the call up", session_id=call.session_id)
        try:
            async with asyncio.timeout_at(give_up_at):
                while True:
                    # One at a time, so that two lost calls to one number are not both taken for the same call.
                    async with self._adopting:
                        call = await self._store.get(call.session_id)
                        found = None if await self._has_twin(call) else await self._look_up(call)
                        if found is not None:
                            return await self._initiated(call, found.call_sid)
                    await asyncio.sleep(_LOOK_AGAIN_AFTER_S)
        except (CarrierRefused, CarrierUnavailable, CarrierAnswerLost, TimeoutError) as error:
            log.warning("lost call could not be looked up", session_id=call.session_id, error=type(error).__name__)
        detail = "the carrier's answer was lost and its list does not show the call; it may ring yet"
        return await self._failed(call, Status.UNKNOWN, Failure(ANSWER_LOST, detail))

    async def _initiated(self, call: Call, call_sid: CallSid) -> Call:
        def step(call: Call) -> Call:
            return call.identified(call_sid).follow(Status.INITIATED, self._clock())

        try:
            return await self._store.change(call.session_id, step)
        except StoreUnavailable:
            # The phone rings. An error here would be an invitation to ring again; a callback writes it down later.
            log.error("call rings but could not be written down", session_id=call.session_id)
            return step(call)

    async def _failed(self, call: Call, status: Status, failure: Failure) -> Call:
        """Writes down that the call was not placed, unless a callback has shown meanwhile that it was."""

        def step(call: Call) -> Call:
            return call.failed_with(failure, status, self._clock()) if call.status is Status.QUEUED else call

        changed = await self._store.change(call.session_id, step)
        log.warning("call was not placed", session_id=call.session_id, code=failure.code, status=changed.status)
        self._note(call.session_id, Kind.STATUS, status=changed.status, code=failure.code)
        await self._journal.flush()
        return changed

    async def _first_result(self, first: Call, order: Order) -> Call:
        """What the first request with this idempotency key came to, waiting for it if it is still under way."""
        if first.request_digest != order.request_digest:
            raise IdempotencyConflict
        try:
            async with asyncio.timeout(self._carrier_timeout_s + 1):
                while first.status is Status.QUEUED:
                    await asyncio.sleep(0.05)
                    first = await self._store.get(first.session_id)
        except TimeoutError:
            detail = "the first request with this Idempotency-Key has no result yet"
            return replace(first, failure=Failure(ANSWER_LOST, detail))
        return first

    async def _has_twin(self, call: Call) -> bool:
        """Whether another call to this number may be the one in the carrier's list.

        The list does not tell our calls apart; the next callback does, by the session id in its address.
        """
        if call.call_sid is not None:
            return False
        since = call.created_at - 2 * _CLOCK_SKEW
        lost = await self._store.page(status=Status.UNKNOWN, limit=100, cursor=None)
        return any(
            other.phone_number == call.phone_number and other.call_sid is None and other.session_id != call.session_id
            for other in (*await self._store.active(), *(each for each in lost.calls if each.created_at >= since))
        )

    async def _look_up(self, call: Call) -> CarrierCall | None:
        """The call as the carrier has it: by its id if a callback brought one, else the first that is nobody's yet."""
        if call.call_sid is not None:
            return await self._carrier.fetch(call.call_sid)
        listed = await self._carrier.find(call.phone_number, call.created_at - _CLOCK_SKEW)
        for candidate in reversed(listed):
            if await self._store.by_call_sid(candidate.call_sid) is None:
                return candidate
        return None

    def _note(self, session_id: SessionId, kind: Kind, **data: Json) -> None:
        self._journal.write(Entry(session_id, self._clock(), kind, data))
