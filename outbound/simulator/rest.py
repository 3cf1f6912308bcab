"""The carrier's REST API: create, read, list and update calls, with its parameter checks and its errors.

https://www.twilio.com/docs/voice/api/call-resource
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import UTC, date, datetime
from email.utils import format_datetime
from typing import Any, Literal, Protocol
from urllib.parse import urlencode, urlsplit

import phonenumbers
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from outbound.simulator.calls import LIVE, CallRequest, Fetch, Inline, NetworkCall, Source
from outbound.simulator.faults import CreateFault, Faults

API = "/2010-04-01/Accounts"
TWIML_LIMIT = 4_000  # characters
PAGE_SIZE, LARGEST_PAGE = 50, 1_000
STATUS_EVENTS = frozenset({"initiated", "ringing", "answered", "completed"})

UNVERIFIED_NUMBER = "+15005550019"
# Twilio's magic test numbers, and one for the refusal that has none.
REFUSED = {
    "+15005550001": (21217, "Phone number does not appear to be valid."),
    "+15005550002": (21214, "'To' phone number cannot be reached."),
    "+15005550003": (21215, "Account not authorized to call this number: geographic permission is not enabled."),
    "+15005550004": (21216, "Account not allowed to call this number."),
    UNVERIFIED_NUMBER: (21219, "'To' phone number not verified: trial accounts may only call verified numbers."),
}
INVALID_FROM = "+15005550001"


class Exchange(Protocol):
    """What the REST API asks of the network."""

    account_sid: str
    auth_token: str
    numbers: frozenset[str]
    calls: dict[str, NetworkCall]
    faults: Faults

    def place(self, request: CallRequest) -> NetworkCall: ...
    def start(self, call: NetworkCall) -> None: ...
    async def until_closed(self) -> None: ...


class ApiError(Exception):
    """An error answer of the API: Twilio's code, the HTTP status and the message."""

    def __init__(self, code: int, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


async def _render(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    body = {
        "code": error.code,
        "message": str(error),
        "more_info": f"https://www.twilio.com/docs/errors/{error.code}",
        "status": error.status,
    }
    headers = {"WWW-Authenticate": 'Basic realm="Twilio API"'} if error.status == 401 else None
    return JSONResponse(body, error.status, headers)


def build(exchange: Exchange) -> Starlette:
    """The API of one account as an ASGI application."""
    resource = _CallResource(exchange)
    routes = [
        Route(f"{API}/{{account_sid}}.json", resource.account, methods=["GET"]),
        Route(f"{API}/{{account_sid}}/Calls.json", resource.create, methods=["POST"]),
        Route(f"{API}/{{account_sid}}/Calls.json", resource.list, methods=["GET"]),
        Route(f"{API}/{{account_sid}}/Calls/{{sid}}.json", resource.fetch, methods=["GET"]),
        Route(f"{API}/{{account_sid}}/Calls/{{sid}}.json", resource.update, methods=["POST"]),
        Route("/{path:path}", resource.nothing, methods=["GET", "POST", "DELETE"]),
    ]
    return Starlette(routes=routes, exception_handlers={ApiError: _render})


class _CallResource:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def nothing(self, request: Request) -> Response:
        self._authenticate(request)
        raise _not_found(request)

    async def account(self, request: Request) -> Response:
        self._authorize(request)
        sid = self._exchange.account_sid
        uri = f"{API}/{sid}.json"
        return JSONResponse(
            {
                "sid": sid,
                "friendly_name": "a phone network on your laptop",
                "status": "active",
                "type": "Full",
                "owner_account_sid": sid,
                "date_created": None,
                "date_updated": None,
                "uri": uri,
                "subresource_uris": {"calls": f"{API}/{sid}/Calls.json"},
            }
        )

    async def create(self, request: Request) -> Response:
        self._authorize(request)
        faults = self._exchange.faults
        fault = faults.creates.pop(0) if faults.creates else None
        if fault is not None and fault not in {"lost", "lost_hang"}:
            return await self._refuse(fault)
        async with request.form() as form:
            asked = call_request(form, self._exchange.numbers)
        call = self._exchange.place(asked)
        if fault is not None:
            self._exchange.start(call)
            return await self._lose(fault)
        if faults.early_webhooks:
            self._exchange.start(call)
            await call.announced.wait()
            return JSONResponse(represent(call), 201)
        return JSONResponse(represent(call), 201, background=BackgroundTask(self._start, call))

    async def fetch(self, request: Request) -> Response:
        self._authorize(request)
        return JSONResponse(represent(self._call(request)))

    async def list(self, request: Request) -> Response:
        self._authorize(request)
        query = request.query_params
        calls = [call for call in reversed(self._exchange.calls.values()) if _matches(call, query)]
        return JSONResponse(_page(request.url.path, dict(query), calls))

    async def update(self, request: Request) -> Response:
        self._authorize(request)
        call = self._call(request)
        async with request.form() as form:
            status, source = _text(form, "Status"), _instructions(form)
        if status not in {None, "canceled", "completed"}:
            raise ApiError(21218, f"Invalid status: {status}")  # the number of this refusal is not documented
        allowed = {"queued", "ringing"} if status == "canceled" else LIVE if status else {"in-progress"}
        if call.over.is_set() or call.status not in allowed:
            raise ApiError(21220, "Call is not in-progress. Cannot redirect.")
        if status is not None:
            call.hang_up()
        elif source is not None:
            call.send_elsewhere(source)
        return JSONResponse(represent(call))

    async def _start(self, call: NetworkCall) -> None:
        self._exchange.start(call)

    async def _refuse(self, fault: CreateFault) -> Response:
        match fault:
            case "429":
                raise ApiError(20429, "Too Many Requests", status=429)
            case "500":
                raise ApiError(20500, "Internal Server Error", status=500)
            case "503":
                raise ApiError(20503, "Service Unavailable", status=503)
            case "garbage":
                return PlainTextResponse("<html>upstream says hello</html>", 200)
            case _:
                await self._exchange.until_closed()
                return Response(status_code=503)

    async def _lose(self, fault: CreateFault) -> Response:
        if fault == "lost_hang":
            await self._exchange.until_closed()
        return _BrokenOff()

    def _call(self, request: Request) -> NetworkCall:
        call = self._exchange.calls.get(request.path_params["sid"])
        if call is None:
            raise _not_found(request)
        return call

    def _authorize(self, request: Request) -> None:
        self._authenticate(request)
        if request.path_params["account_sid"] != self._exchange.account_sid:
            raise _not_found(request)

    def _authenticate(self, request: Request) -> None:
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        try:
            user_and_password = base64.b64decode(credentials, validate=True)
        except binascii.Error:
            user_and_password = b""
        expected = f"{self._exchange.account_sid}:{self._exchange.auth_token}".encode()
        if scheme.lower() != "basic" or not hmac.compare_digest(user_and_password, expected):
            raise ApiError(20003, "Authenticate", status=401)


class _BrokenOff(Response):
    """An answer that stops before its body: the server then closes the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})


def _not_found(request: Request) -> ApiError:
    return ApiError(20404, f"The requested resource {request.url.path} was not found", status=404)


# What a create request may ask for.


def call_request(form: FormData, numbers: frozenset[str]) -> CallRequest:
    """The checked parameters of a create request; those that are unknown are ignored, as Twilio does.

    Raises:
        ApiError: the first refusal that Twilio would name.
    """
    to, from_ = _numbers(form, numbers)
    source = _instructions(form)
    if source is None:
        raise ApiError(21205, "Url parameter is required.")
    detection = _text(form, "MachineDetection")
    # Twilio: SendDigits disables the detection.
    detects = detection in {"Enable", "DetectMessageEnd"} and not _text(form, "SendDigits")
    return CallRequest(
        to=to,
        from_=from_,
        source=source,
        fallback=_link(form, "FallbackUrl", "FallbackMethod", "fallback"),
        status_callback=_link(form, "StatusCallback", "StatusCallbackMethod", "status"),
        status_events=_status_events(form),
        ring_limit=_seconds(form, "Timeout", 60.0, at_most=600.0, refusal=21208),
        time_limit=_seconds(form, "TimeLimit", 14_400.0, at_most=86_400.0, refusal=21223),
        machine_detection=_detection(detection) if detects else None,
        detection_asynchronous=_text(form, "AsyncAmd") == "true",
        detection_callback=_link(form, "AsyncAmdStatusCallback", "AsyncAmdStatusCallbackMethod", "amd"),
    )


def _detection(mode: str | None) -> Literal["Enable", "DetectMessageEnd"]:
    return "Enable" if mode == "Enable" else "DetectMessageEnd"


def _text(form: FormData, name: str) -> str | None:
    value = form.get(name)
    return value if isinstance(value, str) and value else None


def _numbers(form: FormData, numbers: frozenset[str]) -> tuple[str, str]:
    to, from_ = _text(form, "To"), _text(form, "From")
    if to is None:
        raise ApiError(21201, "No 'To' number is specified")
    if from_ is None:
        raise ApiError(21213, "No 'From' number is specified")
    caller = e164(from_)
    if caller is None or caller == INVALID_FROM:
        raise ApiError(21212, f"The source phone number provided, {from_}, is not valid")
    if caller not in numbers:
        raise ApiError(21210, f"The source phone number provided, {from_}, is not yet verified for your account.")
    called = e164(to)
    if called is None:
        raise ApiError(21211, f"The phone number you are attempting to call, {to}, is not valid.")
    if called in REFUSED:
        raise ApiError(*REFUSED[called])
    return called, caller


def e164(number: str) -> str | None:
    """The E.164 form of a number as people write it, North American unless it begins with a plus; None if it has none.

    It only has to be possible: 555-01xx numbers, which nobody has, can be called.
    """
    try:
        parsed = phonenumbers.parse(number, "US")
    except phonenumbers.NumberParseException:
        return None
    if phonenumbers.is_possible_number_with_reason(parsed) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return None
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def _instructions(form: FormData) -> Source | None:
    """Where both a Url and TwiML are given, the Url counts."""
    if (url := _text(form, "Url")) is not None:
        if not _is_link(url):
            raise ApiError(21205, f"Url is not a valid URL: {url}")
        return Fetch(url, _method(form, "Method"))
    if (document := _text(form, "Twiml")) is not None:
        if len(document) > TWIML_LIMIT:
            raise ApiError(21205, f"Twiml has {len(document)} characters; {TWIML_LIMIT} are allowed")
        return Inline(document)
    return None


def _link(form: FormData, name: str, method: str, errand: Literal["fallback", "status", "amd"]) -> Fetch | None:
    url = _text(form, name)
    if url is None:
        return None
    if not _is_link(url):
        raise ApiError(21609 if name == "StatusCallback" else 21205, f"{name} is not a valid URL: {url}")
    return Fetch(url, _method(form, method), errand)


def _is_link(url: str) -> bool:
    parts = urlsplit(url)
    # Twilio refuses host names with an underscore.
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "_" not in (parts.hostname or "")


def _method(form: FormData, name: str) -> str:
    return "GET" if (_text(form, name) or "").upper() == "GET" else "POST"


def _status_events(form: FormData) -> frozenset[str]:
    """The key is repeated for each event; several events in one value are no event."""
    asked = frozenset(value for value in form.getlist("StatusCallbackEvent") if isinstance(value, str))
    return asked & STATUS_EVENTS if asked else frozenset({"completed"})


def _seconds(form: FormData, name: str, default: float, *, at_most: float, refusal: int) -> float:
    value = _text(form, name)
    if value is None:
        return default
    if not value.isdecimal() or not 0 < int(value) <= at_most:
        raise ApiError(refusal, f"Invalid {name}: {value}")
    return float(value)


# What the API says of a call.


def represent(call: NetworkCall) -> dict[str, Any]:
    """The call resource."""
    uri = f"{API}/{call.account_sid}/Calls/{call.sid}"
    request = call.request
    return {
        "sid": call.sid,
        "account_sid": call.account_sid,
        "parent_call_sid": None,
        "to": request.to,
        "to_formatted": _formatted(request.to),
        "from": request.from_,
        "from_formatted": _formatted(request.from_),
        "phone_number_sid": f"PN{hashlib.sha256(request.from_.encode()).hexdigest()[:32]}",
        "status": call.status,
        "direction": "outbound-api",
        "start_time": _rfc2822(call.started),
        "end_time": _rfc2822(call.finished),
        "duration": None if call.live or call.duration is None else str(call.duration),
        "price": None,
        "price_unit": "USD",
        "answered_by": call.answered_by,
        "api_version": "2010-04-01",
        "annotation": None,
        "forwarded_from": None,
        "group_sid": None,
        "caller_name": None,
        "queue_time": str(call.queue_time_ms),
        "trunk_sid": None,
        "date_created": _rfc2822(call.created if call.started else None),
        "date_updated": _rfc2822(call.finished or call.started),
        "uri": f"{uri}.json",
        "subresource_uris": {
            name: f"{uri}/{path}.json"
            for name, path in {
                "notifications": "Notifications",
                "recordings": "Recordings",
                "payments": "Payments",
                "events": "Events",
                "siprec": "Siprec",
                "streams": "Streams",
                "transcriptions": "Transcriptions",
                "user_defined_message_subscriptions": "UserDefinedMessageSubscriptions",
                "user_defined_messages": "UserDefinedMessages",
            }.items()
        },
    }


def _rfc2822(moment: datetime | None) -> str | None:
    return None if moment is None else format_datetime(moment)


def _formatted(number: str) -> str:
    parsed = phonenumbers.parse(number)
    form = phonenumbers.PhoneNumberFormat
    return phonenumbers.format_number(parsed, form.NATIONAL if parsed.country_code == 1 else form.INTERNATIONAL)


def _matches(call: NetworkCall, query: Mapping[str, str]) -> bool:
    asked = {"To": call.request.to, "From": call.request.from_, "Status": call.status}
    if any(query.get(name) not in {None, "", value} for name, value in asked.items()):
        return False
    began = call.started or call.created
    for name, value in query.items():
        # In a query, StartTime>=2026-11-01 is the key `StartTime>`.
        comparison = name.removeprefix("StartTime")
        if name.startswith("StartTime") and not _in_time(began, comparison, value):
            return False
    return True


def _in_time(began: datetime, comparison: str, value: str) -> bool:
    """Compare by the second, or by the day when no time of day is given, as the API does, in UTC."""
    try:
        if len(value) == len("2026-11-01"):
            return _compare(began.date(), comparison, date.fromisoformat(value))
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise ApiError(20001, f"Invalid StartTime: {value}") from error
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return _compare(began.replace(microsecond=0), comparison, moment.replace(microsecond=0))


def _compare[T: (date, datetime)](began: T, comparison: str, moment: T) -> bool:
    match comparison:
        case "<":
            return began <= moment
        case ">":
            return began >= moment
        case _:
            return began == moment


def _page(path: str, query: dict[str, str], calls: list[NetworkCall]) -> dict[str, Any]:
    size = min(_whole(query.get("PageSize"), PAGE_SIZE) or PAGE_SIZE, LARGEST_PAGE)
    number = _whole(query.get("Page"), 0)
    start = number * size
    shown = calls[start : start + size]

    def uri(page: int) -> str:
        token = {"PageToken": f"PA{secrets.token_hex(16)}"} if page else {}
        return f"{path}?{urlencode({**query, 'PageSize': size, 'Page': page, **token})}"

    return {
        "first_page_uri": uri(0),
        "previous_page_uri": uri(number - 1) if number else None,
        "next_page_uri": uri(number + 1) if start + size < len(calls) else None,
        "uri": uri(number),
        "page": number,
        "page_size": size,
        "start": start,
        "end": start + max(len(shown) - 1, 0),
        "calls": [represent(call) for call in shown],
    }


def _whole(value: str | None, default: int) -> int:
    return int(value) if value is not None and value.isdecimal() else default
