"""Who may come in: API keys or a genuine local client, the carrier if it signs, nobody with too large a body."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, NewType
from urllib.parse import urlsplit

from fastapi import Depends, Request
from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outbound.web.problems import Problem, problem_response

Principal = NewType("Principal", str)
"""Who is asking: `key:` and a digest of the API key, or `local`. Safe to write down."""

LOCAL = Principal("local")
LOOPBACK_PEERS = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
FORWARDING_HEADERS = frozenset(
    {
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-forwarded-for",
        "x-original-host",
        "x-original-url",
        "x-envoy-external-address",
        "true-client-ip",
        "cf-connecting-ip",
        "fly-client-ip",
    }
)
"""What proxies and tunnels add, besides everything that begins as one of FORWARDING_PREFIXES."""
FORWARDING_PREFIXES = ("x-forwarded", "ngrok-")

BODY_LIMIT = 64 * 1024
"""Bytes. A call's request and a carrier's form are a few kilobytes."""
TOO_LARGE = f"expected a body of at most {BODY_LIMIT} bytes"


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """Knows the API keys and counts requests. `rate` is in the notation of the limits library, `60/minute`.

    Raises ValueError for a rate that is none.
    """

    keys: Sequence[SecretStr]
    rate: str
    _limiter: MovingWindowRateLimiter = field(default_factory=lambda: MovingWindowRateLimiter(MemoryStorage()))

    def __post_init__(self) -> None:
        try:
            parse(self.rate)
        except ValueError:
            raise ValueError(f"RATE_LIMIT: expected a rate such as 60/minute, got {self.rate!r}") from None

    def admit(self, request: Request) -> Principal:
        """Names who is asking. Raises Problem 401 with what is missing."""
        if self.keys:
            return self._by_key(request.headers)
        if is_local(request):
            return LOCAL
        raise Problem(
            401,
            "api_key_required",
            "no API_KEYS are set, so that only clients on this machine may use the API; "
            "set API_KEYS on the server and send one as `Authorization: Bearer …` or `X-API-Key: …`",
            headers={"WWW-Authenticate": "Bearer"},
        )

    async def count(self, principal: Principal, action: str) -> None:
        """Raises Problem 429 where the principal has done this too often."""
        rate = parse(self.rate)
        if await self._limiter.hit(rate, action, principal):
            return
        window = await self._limiter.get_window_stats(rate, action, principal)
        wait = max(1, round(window.reset_time - time.time()))
        raise Problem(
            429,
            "too_many_requests",
            f"more than {self.rate.replace('/', ' per ')}; try again in {wait} s",
            headers={"Retry-After": str(wait)},
        )

    def _by_key(self, headers: Headers) -> Principal:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        offered = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Every key is compared, in constant time, so that the answer's timing tells nothing.
        matches = [key for key in self.keys if hmac.compare_digest(key.get_secret_value().encode(), offered.encode())]
        if not offered or not matches:
            raise Problem(
                401,
                "wrong_api_key" if offered else "api_key_required",
                "send one of the server's API_KEYS as `Authorization: Bearer …` or `X-API-Key: …`",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return Principal("key:" + hashlib.sha256(matches[0].get_secret_value().encode()).hexdigest()[:16])


def is_local(request: Request) -> bool:
    """Whether a client on this machine speaks to us directly.

    The peer alone proves nothing: a tunnel's or a proxy's requests come from loopback too, but for another host or with
    forwarding headers; and a web page in a local browser sends its own origin.
    """
    headers = request.headers
    if request.client is None or request.client.host not in LOOPBACK_PEERS:
        return False
    if any(name in FORWARDING_HEADERS or name.startswith(FORWARDING_PREFIXES) for name in headers):
        return False
    origin = headers.get("origin")
    return _host_of(f"//{headers.get('host', '')}") in LOCAL_HOSTS and (
        origin is None or _host_of(origin) in LOCAL_HOSTS
    )


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


class BodyLimit:
    """ASGI middleware: a body over BODY_LIMIT is answered with 413, whether or not it says its length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit() or int(declared) > BODY_LIMIT:
            await problem_response(Problem(413, "body_too_large", TOO_LARGE))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > BODY_LIMIT:
                raise HTTPException(413, TOO_LARGE)
            return message

        await self._app(scope, counted, send)


async def _client(request: Request) -> Principal:
    gatekeeper: Gatekeeper = request.app.state.house.gatekeeper
    return gatekeeper.admit(request)


Client = Annotated[Principal, Depends(_client)]
"""A route that takes this lets in API clients only."""
