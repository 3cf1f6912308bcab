"""Twilio as a carrier: it rings, finds, hangs up, knows its own webhooks and reads them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from twilio.base.exceptions import TwilioException
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from outbound.calls import Call, CallSid, Status
from outbound.carriers import twiml
from outbound.carriers.twilio_errors import UNREADABLE, translated
from outbound.carriers.twilio_http import NoAnswer, PooledHttpClient
from outbound.carriers.twiml import RelayOptions
from outbound.ports import (
    CarrierCall,
    CarrierRefused,
    EndedReport,
    Form,
    Links,
    MachineReport,
    RefusalKind,
    SessionOutcome,
    StatusReport,
)

_GRACE_S = 30
"""How long a call may last beyond its own maximum: our polite ending comes first, Twilio's cut is the backstop."""

_DATE_STEP = timedelta(seconds=1)
"""Twilio's dates are whole seconds: a call may seem that much older than it is."""

_LISTED_CALLS = 50
_NOT_TO_BE_RETRIED = frozenset({64101, 64104, 64106, 64108, 64109, 64110})
"""Errors of a relay session that the next one would have too, or that end the call: a wrong attribute, the call's
longest duration, a setting the provider does not support, no audio, too many sessions, an account without
ConversationRelay. https://www.twilio.com/docs/api/errors
"""
"""How many of the calls to one number are looked through; Twilio lists the newest first."""

_LONG_AGO = datetime.fromtimestamp(0, UTC)

_RESOURCE_NOT_FOUND = 20404
_NOT_IN_PROGRESS = 21220

_STATUSES: Mapping[str, Status] = {
    status.value: status for status in Status if status not in (Status.REFUSED, Status.UNKNOWN)
}
"""Its words: https://www.twilio.com/docs/voice/api/call-resource#call-status-values; two of ours are not among them."""

_OUTCOMES: Mapping[str, SessionOutcome] = {outcome.value: outcome for outcome in SessionOutcome}


@dataclass(frozen=True, slots=True)
class TwilioAccount:
    """Whose calls these are. `auth_token` is the primary one, no API key: Twilio signs webhooks with it."""

    account_sid: str
    auth_token: str = field(repr=False)
    phone_number: str
    """The number we ring from, E.164."""


class TwilioCarrier:
    """`ports.Carrier` over Twilio's REST API, https://www.twilio.com/docs/voice/api/call-resource.

    Use it as an async context manager, on one event loop: it owns a pool of connections. `timeout_s` bounds every
    request as a whole. `relay` is the template of the relay's TwiML, without what differs for each call.
    `ring_timeout_s` is how long to let it ring, 1 to 600. With `machine_detection` Twilio judges who picked up while
    the call goes on. `fallback_url` is asked for TwiML where our own document cannot be fetched; without it the callee
    hears that an application error has occurred.

    Raises ValueError where `api_base_url` is no HTTP address.
    """

    def __init__(
        self,
        account: TwilioAccount,
        *,
        relay: RelayOptions,
        timeout_s: float,
        ring_timeout_s: int,
        machine_detection: bool = False,
        fallback_url: str | None = None,
        api_base_url: str | None = None,
    ) -> None:
        self._account = account
        self._relay = relay
        self._machine_detection = machine_detection
        self._ring_timeout_s = ring_timeout_s
        self._fallback_url = fallback_url
        self._validator = RequestValidator(account.auth_token)
        self._http = PooledHttpClient(api_base_url=api_base_url, timeout_s=timeout_s)
        # Left to itself the SDK reads the process environment for a region and an edge to call instead.
        environment = {"TWILIO_EDGE": "", "TWILIO_REGION": ""}
        client = Client(account.account_sid, account.auth_token, http_client=self._http, environment=environment)
        # The SDK imports a resource at its first use; taken here, no call waits for that.
        self._calls = client.calls
        self._own_account = client.api.v2010.accounts(account.account_sid)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    def __repr__(self) -> str:
        return f"TwilioCarrier({self._account!r})"

    @property
    def own_number(self) -> str:
        """The number we ring from, E.164."""
        return self._account.phone_number

    async def place(self, call: Call, links: Links) -> CallSid:
        """Rings, and returns Twilio's id of the call.

        Twilio keeps no idempotency key for a create (https://www.twilio.com/docs/voice/api/call-resource), so the
        request is sent once. Raises CarrierRefused; CarrierUnavailable where no byte of the request left this machine,
        or somebody else than Twilio turned it down; CarrierAnswerLost where the person may be ringing: then `find`
        comes next. The same is true after a cancellation.
        """
        return await self._ask(self._calls.create_async(**self._order(call, links)), _sid, placing=True)

    def _order(self, call: Call, links: Links) -> dict[str, Any]:
        """What is asked of Twilio, by the SDK's names."""
        order: dict[str, Any] = {
            "to": call.phone_number,
            "from_": self._account.phone_number,
            "url": links.voice,
            "method": "POST",
            "status_callback": links.status,
            "status_callback_method": "POST",
            "status_callback_event": ["initiated", "ringing", "answered", "completed"],
            "timeout": self._ring_timeout_s,
            "time_limit": call.max_duration_s + _GRACE_S,
        }
        if self._fallback_url:
            order |= {"fallback_url": self._fallback_url, "fallback_method": "POST"}
        if self._machine_detection:
            # Asynchronous, or the callee would hear silence until the verdict.
            # https://www.twilio.com/docs/voice/answering-machine-detection
            order |= {
                "machine_detection": "Enable",
                "async_amd": "true",
                "async_amd_status_callback": links.machine_detection,
                "async_amd_status_callback_method": "POST",
            }
        return order

    async def find(self, phone_number: str, since: datetime) -> Sequence[CarrierCall]:
        """The calls we placed to `phone_number` at or after `since`, newest first.

        `since` is by Twilio's clock: allow for a difference before asking.
        One request, for the newest fifty. The list's own date filter is not used: it asks for the day a call started,
        and a queued call has not started. A call may appear in the list a moment after it was created.
        Raises CarrierRefused and CarrierUnavailable.
        """

        def ours(page: Iterable[Any]) -> list[CarrierCall]:
            return [_carrier_call(each, _undated(each, since)) for each in page if self._is_ours(each, phone_number)]

        listing = self._calls.page_async(to=phone_number, from_=self._account.phone_number, page_size=_LISTED_CALLS)
        recent = [each for each in await self._ask(listing, ours) if each.created_at >= since - _DATE_STEP]
        return sorted(recent, key=lambda each: each.created_at, reverse=True)

    def _is_ours(self, listed: Any, phone_number: str) -> bool:
        """Whether a listed call is one we placed: the filters are asked of Twilio, and not taken on trust."""
        placed = (listed.direction, listed._from, listed.to)
        return placed == ("outbound-api", self._account.phone_number, phone_number)

    async def fetch(self, call_sid: CallSid) -> CarrierCall | None:
        """The call as Twilio has it; None where it has no such call. Raises CarrierRefused and CarrierUnavailable."""
        try:
            return await self._ask(self._calls(call_sid).fetch_async(), _carrier_call)
        except CarrierRefused as refusal:
            if refusal.carrier_code == _RESOURCE_NOT_FOUND:
                return None
            raise

    async def hang_up(self, call_sid: CallSid) -> None:
        """Ends the call whether it is queued, ringing or live; one that is over, or never was, is no error.

        Status `completed` does that in every state, `canceled` only before the answer, which may come while we ask:
        https://www.twilio.com/docs/voice/api/call-resource#update-a-call-resource. Raises CarrierRefused and
        CarrierUnavailable; asking again is harmless.
        """
        try:
            await self._ask(self._calls(call_sid).update_async(status="completed"), _sid)
        except CarrierRefused as refusal:
            if refusal.carrier_code not in (_RESOURCE_NOT_FOUND, _NOT_IN_PROGRESS):
                raise

    async def ping(self) -> None:
        """Reads our account. Raises CarrierRefused (also for a suspended account) and CarrierUnavailable."""
        status = await self._ask(self._own_account.fetch_async(), _account_status)
        if status in ("suspended", "closed"):
            raise CarrierRefused(RefusalKind.ACCOUNT_LIMITED, f"the Twilio account is {status}: see the Console")

    async def _ask[T](self, request: Awaitable[Any], read: Callable[[Any], T], *, placing: bool = False) -> T:
        """Waits for the SDK and reads what it returns; the one place where its errors become ours."""
        try:
            return read(await request)
        except (NoAnswer, TwilioException, *UNREADABLE) as error:
            raise translated(error, placing=placing) from error

    def answer(self, call: Call, links: Links) -> str:
        """TwiML that connects the call to our socket and greets.

        Twilio speaks the greeting whenever a relay session opens. To open one again on the same call, hand in the call
        with an empty greeting.
        """
        return twiml.connect(
            replace(self._relay, url=links.relay, action=links.ended, welcome_greeting=call.greeting or None)
        )

    def farewell(self, sentence: str | None = None) -> str:
        """TwiML that says a sentence, if one is given, in the language of the relay's voice, and hangs up."""
        return twiml.farewell(sentence, self._relay.tts_language or self._relay.language)

    def is_genuine(self, url: str, form: Form, headers: Mapping[str, str]) -> bool:
        """Whether Twilio signed a request for `url`; never raises.

        https://www.twilio.com/docs/usage/webhooks/webhooks-security. `url` is the public address as Twilio was given
        it, `wss://` with an empty form for a socket; header names are lower-case. A request that names a shared key
        (https://www.twilio.com/docs/usage/webhooks/webhook-shared-keys) is refused: there is none here, and the sender
        must not choose the algorithm for a secret that was made for another.
        """
        signature = headers.get("x-twilio-signature")
        if not signature or "x-twilio-webhooks-signature-settings" in headers:
            return False
        try:
            # The fragment holds Twilio's connection overrides; it is neither sent nor signed.
            return bool(self._validator.validate(url.partition("#")[0], _Fields(form), signature))
        except ValueError:
            return False  # an address that cannot be one, or text that has no UTF-8

    def read_status(self, form: Form) -> StatusReport:
        """Reads a status callback, https://www.twilio.com/docs/voice/api/call-resource#statuscallback.

        `CallDuration` counts seconds (`Duration` counts minutes). A form without a call id gives an empty `call_sid`.
        """
        fields = dict(form)
        return StatusReport(
            call_sid=_call_sid(fields),
            status=_STATUSES.get(fields.get("CallStatus", "")),
            sequence=_number(fields.get("SequenceNumber")),
            duration_s=_number(fields.get("CallDuration")),
            sip_code=_number(fields.get("SipResponseCode")),
            answered_by=fields.get("AnsweredBy") or None,
        )

    def read_ended(self, form: Form) -> EndedReport:
        """Reads the action callback of a relay session, and tells whether the TwiML we return will be heard.

        https://www.twilio.com/docs/voice/conversationrelay/websocket-messages
        """
        fields = dict(form)
        return EndedReport(
            call_sid=_call_sid(fields),
            outcome=_OUTCOMES.get(fields.get("SessionStatus", "")),
            call_is_live=fields.get("CallStatus") == Status.IN_PROGRESS,
            handoff=fields.get("HandoffData"),
            error_code=_number(fields.get("ErrorCode")),
            error_message=fields.get("ErrorMessage") or None,
            relay_session_id=fields.get("SessionId", ""),
            may_be_retried=_number(fields.get("ErrorCode")) not in _NOT_TO_BE_RETRIED,
        )

    def read_machine(self, form: Form) -> MachineReport:
        """Reads a verdict on who picked up. `unknown`, or no word at all, counts as a person: we hang up on no guess.

        https://www.twilio.com/docs/voice/answering-machine-detection
        """
        fields = dict(form)
        answered_by = fields.get("AnsweredBy") or "unknown"
        is_machine = answered_by.startswith("machine") or answered_by == "fax"
        return MachineReport(_call_sid(fields), answered_by, is_machine)


class _Fields(dict[str, list[str]]):
    """A form as the SDK's validator takes it: every value of a repeated field, blank ones too."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        for name, value in form:
            self.setdefault(name, []).append(value)

    def getlist(self, name: str) -> list[str]:
        return self[name]


def _sid(found: Any) -> CallSid:
    """The id of a call resource. Raises ValueError where there is none: then it is no call resource."""
    if not isinstance(found.sid, str) or not found.sid:
        raise ValueError("expected a call with a sid, got none")
    return CallSid(found.sid)


def _undated(found: Any, since: datetime) -> datetime:
    """When a call without a date was created: just now while it waits to be dialled, long ago where it is over."""
    return _LONG_AGO if _status(found).is_final else since


def _status(found: Any) -> Status:
    return _STATUSES.get(str(found.status), Status.UNKNOWN)


def _account_status(account: Any) -> object:
    """`active`, `suspended` or `closed`. Raises ValueError where an account has no id: then it is something else."""
    if not account.sid:
        raise ValueError("expected an account with a sid, got none")
    return account.status


def _carrier_call(found: Any, undated: datetime = _LONG_AGO) -> CarrierCall:
    """A call resource as ours; `undated` stands in where Twilio gives no date. Raises ValueError as `_sid` does."""
    return CarrierCall(
        call_sid=_sid(found),
        status=_status(found),
        created_at=found.date_created or found.start_time or undated,
        duration_s=_number(str(found.duration)),
    )


def _call_sid(fields: Mapping[str, str]) -> CallSid:
    return CallSid(fields.get("CallSid", ""))


def _number(text: str | None) -> int | None:
    """A count as Twilio writes it, in digits; None for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 10 else None
