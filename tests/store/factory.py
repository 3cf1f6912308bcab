"""Calls and entries as the tests need them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from outbound.calls import Call, Entry, Kind, SessionId

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def a_call(session_id: str | None = None, *, minute: int = 0, **fields: Any) -> Call:
    """A queued call that was created `minute` minutes after noon."""
    return Call(
        session_id=SessionId(session_id or uuid4().hex),
        created_at=NOON + timedelta(minutes=minute),
        **{"phone_number": "+12025550123", "greeting": "Hello, this is an AI.", "max_duration_s": 600, **fields},
    )


def an_entry(call: Call, kind: Kind = Kind.CALLEE_SAID, *, epoch: int | None = None, **data: Any) -> Entry:
    """A journal entry of the call, at noon."""
    return Entry(call.session_id, NOON, kind, data, epoch=epoch)
