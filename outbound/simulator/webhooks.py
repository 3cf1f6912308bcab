"""The carrier knocks at the application: signed, form-encoded requests.

https://www.twilio.com/docs/usage/webhooks/webhooks-security . The signature is written here from that page, not taken
from Twilio's SDK, so that the two check each other.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit, urlunsplit

import httpx

CONNECT_WITHIN = 5.0  # real seconds, as Twilio's
ANSWER_WITHIN = 15.0


def sign(auth_token: str, url: str, params: Mapping[str, str] | None = None) -> str:
    """The X-Twilio-Signature of a request: `params` are those of a POST form, none for GET and for WebSocket.

    `url` is signed as it is written, query included; a fragment belongs to the carrier and is left out.
    """
    signed = url.partition("#")[0] + "".join(name + value for name, value in sorted((params or {}).items()))
    digest = hmac.new(auth_token.encode(), signed.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the application answered to a webhook."""

    status: int
    content_type: str
    body: str


class Postman:
    """Deliver signed requests; each one has the carrier's deadline, in real seconds."""

    def __init__(self, client: httpx.AsyncClient, auth_token: str, *, answer_within: float = ANSWER_WITHIN) -> None:
        self.answer_within = answer_within
        self._client = client
        self._auth_token = auth_token

    async def deliver(self, method: str, url: str, params: Mapping[str, str]) -> Answer | None:
        """The answer, or None when there was none: no connection, a broken one, or too late."""
        target = url.partition("#")[0]
        body = None
        headers = {"User-Agent": "TwilioProxy/1.1", "I-Twilio-Idempotency-Token": secrets.token_hex(16)}
        if method == "GET":
            target = _with_query(target, params)
            headers["X-Twilio-Signature"] = sign(self._auth_token, target)
        else:
            body = urlencode(params)
            headers["X-Twilio-Signature"] = sign(self._auth_token, target, params)
            headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
        timeout = httpx.Timeout(self.answer_within, connect=min(CONNECT_WITHIN, self.answer_within))
        try:
            async with asyncio.timeout(self.answer_within):
                response = await self._client.request(method, target, content=body, headers=headers, timeout=timeout)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            return None
        return Answer(response.status_code, response.headers.get("content-type", ""), response.text)


def _with_query(url: str, params: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(params))))))
