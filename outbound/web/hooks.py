"""The carrier knocks here: an answered call asks what to do, statuses arrive, the relay socket opens."""

from collections.abc import Mapping
from typing import cast
from urllib.parse import quote

import structlog
from fastapi import APIRouter, Request, Response, WebSocket
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketDisconnect, WebSocketState

from outbound.calls import CallSid, SessionId
from outbound.ports import CallNotFound, Form, Links, SocketClosed, StoreUnavailable
from outbound.web.house import House
from outbound.web.problems import Problem

log = structlog.get_logger(__name__)
router = APIRouter(include_in_schema=False)

NOTHING = Response(status_code=204)


def links_for(base_url: str, session_id: SessionId) -> Links:
    """The addresses of one call, public and absolute: what is signed is exactly what stands here.

    The socket's address has no query: how those are signed is not documented.
    """
    session = quote(session_id, safe="")
    relay_base = "ws" + base_url.removeprefix("http")
    return Links(
        voice=f"{base_url}/voice?session_id={session}",
        status=f"{base_url}/voice/status?session_id={session}",
        ended=f"{base_url}/voice/ended?session_id={session}",
        machine_detection=f"{base_url}/voice/amd?session_id={session}",
        relay=f"{relay_base}/ws/{session}",
    )


def _house(connection: HTTPConnection) -> House:
    return cast(House, connection.app.state.house)


def _as_signed(connection: HTTPConnection, base_url: str) -> str:
    """The address the carrier used: our public base with the path and query as they came.

    Never the Host or X-Forwarded headers, which are the proxy's view or a forger's.
    """
    path = connection.scope.get("raw_path", b"").decode("latin-1") or quote(connection.scope["path"])
    query = connection.scope["query_string"].decode("latin-1")
    return f"{base_url}{path.partition('?')[0]}" + (f"?{query}" if query else "")


async def _genuine_form(request: Request) -> Form:
    """The form of a signed request, blank and repeated values kept. Raises Problem 403 where it is not signed."""
    house = _house(request)
    form = [(name, str(value)) for name, value in (await request.form(max_files=0)).multi_items()]
    if not house.carrier.is_genuine(_as_signed(request, house.base_url), form, _lower(request)):
        raise Problem(403, "not_signed", "the request does not carry the carrier's signature for this address")
    return form


def _lower(connection: HTTPConnection) -> Mapping[str, str]:
    return {name.lower(): value for name, value in connection.headers.items()}


def _session(request: Request) -> SessionId:
    """The call a link belongs to; every line the log gets from here on names it."""
    session_id = SessionId(request.query_params.get("session_id", ""))
    structlog.contextvars.bind_contextvars(session_id=session_id)
    return session_id


def _markup(document: str) -> Response:
    return Response(document, media_type="application/xml")


@router.post("/voice")
async def voice(request: Request) -> Response:
    """An answered call asks for its document."""
    form = await _genuine_form(request)
    house = _house(request)
    session_id = _session(request)
    try:
        call = await house.dialer.answered(session_id, CallSid(dict(form).get("CallSid", "")))
    except CallNotFound:
        call = None
    if call is None:
        log.warning("voice request for a call that is over or unknown", session_id=session_id)
        return _markup(house.carrier.farewell())
    return _markup(house.carrier.answer(call, links_for(house.base_url, session_id)))


@router.post("/voice/status")
async def voice_status(request: Request) -> Response:
    """A status callback."""
    form = await _genuine_form(request)
    house = _house(request)
    await house.dialer.follow(_session(request), house.carrier.read_status(form))
    return NOTHING


@router.post("/voice/ended")
async def voice_ended(request: Request) -> Response:
    """The relay session is over."""
    form = await _genuine_form(request)
    house = _house(request)
    return _markup(await house.dialer.ended(_session(request), house.carrier.read_ended(form)))


@router.post("/voice/amd")
async def voice_machine(request: Request) -> Response:
    """The verdict on who picked up."""
    form = await _genuine_form(request)
    house = _house(request)
    await house.dialer.machine(_session(request), house.carrier.read_machine(form))
    return NOTHING


@router.post("/voice/fallback")
async def voice_fallback(request: Request) -> Response:
    """Another address of ours has failed the carrier: the talk goes on here, or the person hears a sentence instead of
    a machine's error.
    """
    form = dict(await _genuine_form(request))
    house = _house(request)
    call_sid = CallSid(form.get("CallSid", ""))
    try:
        session_id = await house.dialer.named(call_sid)
        structlog.contextvars.bind_contextvars(session_id=session_id)
        log.error("carrier used the fallback address", carrier_code=form.get("ErrorCode"))
        if session_id is not None:
            return _markup(await house.dialer.failed_over(session_id, call_sid))
    except StoreUnavailable as error:
        log.error("call cannot be resumed", reason=str(error))
    return _markup(house.carrier.farewell(house.apology))


@router.websocket("/ws/{session_id}")
async def relay_socket(socket: WebSocket, session_id: str) -> None:
    """The ConversationRelay socket. Refused before it is accepted where it is not signed or its call is not live."""
    house = _house(socket)
    relay_base = "ws" + house.base_url.removeprefix("http")
    structlog.contextvars.bind_contextvars(session_id=session_id)
    try:
        if not house.carrier.is_genuine(_as_signed(socket, relay_base), (), _lower(socket)):
            log.warning("relay socket refused: not signed")
            await socket.close(1008)
            return
        call = await house.live.take(SessionId(session_id))
        if call is None:
            log.warning("relay socket refused: no such live call")
            await socket.close(1008)
            return
        await socket.accept()
        await house.live.carry(call, RelaySocket(socket))
    finally:
        structlog.contextvars.unbind_contextvars("session_id")


class RelaySocket:
    """A Starlette socket as the inside sees it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def receive(self) -> str:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise SocketClosed(message.get("code") or 1006)
        text = message.get("text")
        return text if text is not None else (message.get("bytes") or b"").decode("utf-8", "replace")

    async def send(self, frame: str) -> None:
        try:
            await self._socket.send_text(frame)
        except (WebSocketDisconnect, RuntimeError, OSError) as gone:
            raise SocketClosed from gone

    async def close(self, code: int, reason: str) -> None:
        if self._socket.application_state is not WebSocketState.DISCONNECTED:
            try:
                await self._socket.close(code, reason)
            except (WebSocketDisconnect, RuntimeError, OSError) as gone:
                raise SocketClosed from gone
