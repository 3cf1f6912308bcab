"""What the tests of this room start from: one account, one call, one carrier."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from outbound.calls import Call, SessionId
from outbound.carriers.twilio import TwilioAccount, TwilioCarrier
from outbound.carriers.twiml import RelayOptions
from outbound.ports import Links

ACCOUNT = TwilioAccount(
    account_sid="AC00000000000000000000000000000007",
    auth_token="0123456789abcdef0123456789abcdef",
    phone_number="+15005550006",
)
CALLEE = "+14155550123"
CALL_SID = "CA00000000000000000000000000000001"

LINKS = Links(
    voice="https://agent.example.com/voice/s_1",
    status="https://agent.example.com/voice/status/s_1",
    ended="https://agent.example.com/voice/ended/s_1",
    machine_detection="https://agent.example.com/voice/machine/s_1",
    relay="wss://agent.example.com/ws/s_1",
)


def a_call(**changes: Any) -> Call:
    call = Call(
        session_id=SessionId("s_1"),
        phone_number=CALLEE,
        created_at=datetime(2026, 3, 2, 9, 30, tzinfo=UTC),
        greeting="Hello, this is an AI assistant.",
        max_duration_s=300,
    )
    return replace(call, **changes)


def a_carrier(api_base_url: str | None = None, **changes: Any) -> TwilioCarrier:
    settings: dict[str, Any] = {"relay": RelayOptions(), "timeout_s": 5.0, "ring_timeout_s": 30}
    return TwilioCarrier(changes.pop("account", ACCOUNT), api_base_url=api_base_url, **(settings | changes))
