"""The house as requests see it: everything a route may use, made once at start."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from outbound.calls import ProcessId
from outbound.dialer import Dialer
from outbound.ports import Carrier, Changes, Journal, Store
from outbound.session import LiveCalls
from outbound.web.health import Readiness
from outbound.web.security import Gatekeeper


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Lives as long as the process, in `app.state.house`."""

    process: ProcessId
    base_url: str
    """Where the carrier reaches us, without a slash at the end."""
    greeting: str
    disclosure: str
    apology: str
    max_duration_s: int
    gatekeeper: Gatekeeper
    carrier: Carrier
    store: Store
    journal: Journal
    changes: Changes
    dialer: Dialer
    live: LiveCalls
    readiness: Readiness
    clock: Callable[[], datetime]
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is being stopped: no answer may go on for as long as a call does."""
