"""What Twilio's refusals mean: one table from its error codes to our words, and one translation of the SDK's errors.

Source: Twilio's error dictionary, https://www.twilio.com/docs/api/errors.
"""

import re
from collections.abc import Mapping

from twilio.base.exceptions import TwilioException, TwilioRestException, TwilioServiceException
from twilio.base.version import Version
from twilio.http.response import Response

from outbound.carriers.twilio_http import NoAnswer
from outbound.ports import CarrierAnswerLost, CarrierRefused, CarrierUnavailable, RefusalKind

_CREDENTIALS = (
    "Twilio did not accept the credentials: compare TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN with the Twilio Console, "
    "and see there whether the account is suspended"
)
_OWN_NUMBER = (
    "this Twilio account may not call from the configured number: set TWILIO_PHONE_NUMBER to one of its voice numbers "
    "or verified caller ids"
)
_TRIAL = (
    "a Twilio trial account calls verified numbers only: verify this number in the Console under Verified Caller IDs, "
    "or upgrade the account"
)
_GEOGRAPHY = "calls to this country are switched off: enable it in the Console under Voice Geographic Permissions"
_BLOCKED = (
    "Twilio blocks calls from this account to this number: fraud or regulatory reasons, or, for +1, an account without "
    "an approved Primary Customer Profile"
)
_INACTIVE = "the Twilio account is not active: see its status in the Twilio Console"
_SLOW_DOWN = "Twilio counts too many requests from this account: wait, then go on at a slower pace"
_OUR_ADDRESS = "Twilio cannot use the address of this server: SERVER_BASE_URL must be its public https:// URL"

REFUSALS: Mapping[int, tuple[RefusalKind, str]] = {
    10001: (RefusalKind.ACCOUNT_LIMITED, _INACTIVE),
    10002: (RefusalKind.ACCOUNT_LIMITED, "a Twilio trial account does not allow this: upgrade the account"),
    10004: (RefusalKind.ACCOUNT_LIMITED, "the Twilio account has reached its limit of simultaneous calls"),
    10005: (RefusalKind.ACCOUNT_LIMITED, "voice calls are switched off for this Twilio account: ask Twilio's support"),
    20003: (RefusalKind.WRONG_CREDENTIALS, _CREDENTIALS),
    20005: (RefusalKind.ACCOUNT_LIMITED, _INACTIVE),
    20008: (
        RefusalKind.WRONG_CREDENTIALS,
        "Twilio's test credentials cannot do this: set the live TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN",
    ),
    20404: (RefusalKind.WRONG_CREDENTIALS, "Twilio has no such account: compare TWILIO_ACCOUNT_SID with the Console"),
    20429: (RefusalKind.TOO_MANY_REQUESTS, _SLOW_DOWN),
    21201: (RefusalKind.INVALID_NUMBER, "there is no number to call"),
    21202: (RefusalKind.NUMBER_BLOCKED, "Twilio does not call premium-rate and service numbers"),
    21205: (RefusalKind.OTHER, _OUR_ADDRESS),
    21208: (RefusalKind.OTHER, "Twilio cannot use RING_TIMEOUT: it must be between 1 and 600 seconds"),
    21210: (RefusalKind.NOT_YOUR_NUMBER, _OWN_NUMBER),
    21211: (RefusalKind.INVALID_NUMBER, "Twilio does not recognise the number to call: it must be E.164 and exist"),
    21212: (RefusalKind.NOT_YOUR_NUMBER, "Twilio does not recognise TWILIO_PHONE_NUMBER: it must be E.164 and exist"),
    21213: (RefusalKind.NOT_YOUR_NUMBER, "there is no number to call from: set TWILIO_PHONE_NUMBER"),
    21214: (RefusalKind.INVALID_NUMBER, "Twilio has no route to this number"),
    21215: (RefusalKind.COUNTRY_NOT_PERMITTED, _GEOGRAPHY),
    21216: (RefusalKind.NUMBER_BLOCKED, _BLOCKED),
    21217: (RefusalKind.INVALID_NUMBER, "this does not look like a phone number to Twilio: it must be E.164"),
    21219: (RefusalKind.UNVERIFIED_NUMBER, _TRIAL),
    21220: (RefusalKind.NOT_LIVE, "the call is over already"),
    22005: (RefusalKind.TOO_MANY_REQUESTS, "Twilio's queue of calls for this account is more than a day long"),
    573005: (RefusalKind.UNVERIFIED_NUMBER, _TRIAL),
}
"""From Twilio's code to what it is and what the operator can do. Codes that are not here keep Twilio's own sentence.

These are answers to our requests. What Twilio notes against a call it has already created (13224, 13225, 13227) is in
its Console alone: we are told that the call `failed`, without a code.
"""

_BY_STATUS: Mapping[int, tuple[RefusalKind, str]] = {401: REFUSALS[20003], 429: REFUSALS[20429]}
"""For a refusal that says no more than its HTTP status."""

UNREADABLE = (AttributeError, TypeError, ValueError, LookupError)
"""How the SDK fails on an answer of another shape than the documented one: it reads all answers trustingly."""

_SID = re.compile(r"\b[A-Z]{2}[0-9a-f]{32}\b")
_PHONE_NUMBER = re.compile(r"(?<!\w)\+?\d(?:[\s().-]{0,2}\d){6,}")
_PREFIX = re.compile(r"^Unable to \w+ \w+(: )?")
_LONGEST_DETAIL = 300


def translated(error: Exception, *, placing: bool = False) -> CarrierRefused | CarrierUnavailable | CarrierAnswerLost:
    """Turns what the SDK raised into an error of ours, and takes phone numbers out of the original's text.

    The original stays the cause of ours and would otherwise carry its numbers into a logged traceback. `placing` is
    whether a call was being created: only then may a request without a readable answer have rung somebody.
    """
    match error:
        case NoAnswer():
            return _unclear(error.problem, rung=placing and error.sent)
        case TwilioRestException():
            error.msg = masked(_PREFIX.sub("", str(error.msg)))
            return _refusal(error.status, error.code, error.msg, placing)
        case TwilioServiceException():
            error.title, error.detail, error.errors = masked(str(error.title)), masked(str(error.detail or "")), []
            return _refusal(error.status, error.code, f"{error.title} {error.detail}".strip(), placing)
        case TwilioException(args=(problem, Response() as response)):
            # A page of a list fails with the bare response, its body in the text of the exception.
            error.args = (problem,)
            return translated(Version.exception("GET", "", response, ""), placing=placing)
        case _:
            return _unclear("the carrier's answer cannot be read (compare TWILIO_API_BASE_URL)", rung=placing)


def masked(text: str) -> str:
    """The text without phone numbers and account or call ids, cut to a sentence or two."""
    return _PHONE_NUMBER.sub("[number]", _SID.sub("[id]", text))[:_LONGEST_DETAIL]


def _refusal(
    status: object, code: object, message: str, placing: bool
) -> CarrierRefused | CarrierUnavailable | CarrierAnswerLost:
    """The error for an answer of HTTP `status` with Twilio's `code`; the SDK repeats the status where there is none."""
    # Twilio promises nothing about a create that ended in a 5xx, nor a proxy about its own 408 or 5xx: whatever the
    # body says, the call may exist. Looking for it costs one request; ringing a person twice cannot be undone.
    if not isinstance(status, int) or status >= 500 or status == 408:
        return _unclear(f"the carrier failed with HTTP {status}", rung=placing)
    carrier_code = code if isinstance(code, int) and code != status else None
    if carrier_code is not None:
        by_status = _BY_STATUS.get(status, (RefusalKind.OTHER, f"Twilio refused: {message}"))
        return CarrierRefused(*REFUSALS.get(carrier_code, by_status), carrier_code)
    if status in _BY_STATUS:
        return CarrierRefused(*_BY_STATUS[status])
    return CarrierUnavailable(
        f"expected an answer of Twilio's API, got HTTP {status} without an error code (compare TWILIO_API_BASE_URL)"
    )


def _unclear(problem: str, *, rung: bool) -> CarrierUnavailable | CarrierAnswerLost:
    return CarrierAnswerLost(f"{problem}; the call may exist all the same") if rung else CarrierUnavailable(problem)
