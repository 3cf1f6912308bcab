"""One pooled HTTP client under the Twilio SDK: bounded in time, addressable, and sure whether a request went out."""

import asyncio
import ipaddress
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
from twilio.http import AsyncHttpClient
from twilio.http.response import Response

TWILIO_API = "https://api.twilio.com"

_LIMITS = httpx.Limits(max_connections=20, max_keepalive_connections=10, keepalive_expiry=30)

_logger = logging.getLogger("httpx")


class NoAnswer(Exception):
    """No answer to a request. `sent` says whether any byte of it may have reached the carrier."""

    def __init__(self, problem: str, sent: bool) -> None:
        super().__init__(problem)
        self.problem = problem
        self.sent = sent


class PooledHttpClient(AsyncHttpClient):  # type: ignore[misc]  # the SDK has no type information
    """The SDK's custom HTTP client, https://www.twilio.com/docs/libraries/python/custom-http-clients-python.

    `api_base_url` takes the place of `https://api.twilio.com` in every address; the path after it is kept. That is how
    Twilio's other regions are reached (`https://api.dublin.ie1.twilio.com`), and a simulated network. `timeout_s` is
    for a whole request, from waiting for a place in the pool to the last byte of the answer. Close it with `aclose`.
    Raises ValueError where `api_base_url` is no HTTP address.
    """

    def __init__(self, *, api_base_url: str | None, timeout_s: float) -> None:
        super().__init__(_logger, True, timeout_s)
        self._base = (api_base_url or TWILIO_API).rstrip("/")
        parts = urlsplit(self._base)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected an http(s):// address of the carrier's API, got {api_base_url!r}")
        self._host = parts.hostname
        # The proxy of the environment knows the way to Twilio, not the way back into this machine.
        self._client = httpx.AsyncClient(timeout=None, limits=_LIMITS, trust_env=not _is_loopback(parts.hostname))  # noqa: S113
        _logger.addFilter(self._hide_query)

    async def aclose(self) -> None:
        _logger.removeFilter(self._hide_query)
        await self._client.aclose()

    async def request(
        self,
        method: str,
        uri: str,
        params: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the SDK's signature; it never passes one
        allow_redirects: bool = False,
    ) -> Response:
        """Sends one request and reads the whole answer; never retries. Raises NoAnswer."""
        progress = _Progress()
        try:
            async with asyncio.timeout(self.timeout):
                answer = await self._client.request(
                    method.upper(),
                    self._address(uri),
                    params=params,
                    data=data,
                    headers=headers,
                    auth=auth,
                    follow_redirects=allow_redirects,
                    extensions={"trace": progress.note},
                )
        except TimeoutError as error:
            raise NoAnswer(f"no answer from the carrier within {self.timeout:g} s", progress.sent) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            problem = f"broken off ({type(error).__name__})" if progress.sent else f"not possible ({error})"
            raise NoAnswer(f"a request to the carrier was {problem}", progress.sent) from error
        return Response(answer.status_code, answer.text, answer.headers)

    def _address(self, uri: str) -> str:
        return self._base + uri.removeprefix(TWILIO_API) if uri.startswith(f"{TWILIO_API}/") else uri

    def _hide_query(self, record: logging.LogRecord) -> bool:
        """Takes the query off the address in httpx's own log line: the query of a list of calls is a phone number."""
        if isinstance(record.args, tuple):
            record.args = tuple(self._without_query(each) for each in record.args)
        return True

    def _without_query(self, logged: object) -> object:
        if isinstance(logged, httpx.URL) and logged.host == self._host:
            return logged.copy_with(query=None)
        return logged


class _Progress:
    """Follows one request by httpx's `trace` extension, https://www.python-httpx.org/advanced/extensions/#trace."""

    sent = False

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        # A proxy is asked for a tunnel by a request of its own; the carrier sees nothing of that.
        if event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            self.sent = True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
