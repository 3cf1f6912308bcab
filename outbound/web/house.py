"""The house as requests see it: everything a route may use, made once at start."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from outbound.dialer import Dialer
from outbound.ports import Carrier, Journal, Store
from outbound.session import LiveCalls
from outbound.web.health import Readiness
from outbound.web.security import Gatekeeper


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Lives as long as the process, in `app.state.house`."""

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
    dialer: Dialer
    live: LiveCalls
    readiness: Readiness
    clock: Callable[[], datetime]
