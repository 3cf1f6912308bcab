"""The phone network: one account, its numbers, the people it can reach, and the calls that live on it."""

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import httpx
import structlog
import uvicorn
from starlette.types import ASGIApp

from outbound.simulator import rest
from outbound.simulator.callees import CALLEES, EVERYBODY_ELSE, Callee
from outbound.simulator.calls import CallRequest, NetworkCall, Observer
from outbound.simulator.clock import GRACE, Clock
from outbound.simulator.faults import Faults
from outbound.simulator.life import CallLife
from outbound.simulator.webhooks import ANSWER_WITHIN, Postman

SHUTDOWN_WITHIN = 1.0  # real seconds
# The application may be many processes that come and go: no webhook waits for another, or travels on the connection
# of a process that has died.
EACH_ITS_OWN = httpx.Limits(max_connections=None, max_keepalive_connections=0)

log = structlog.get_logger(__name__)


class Network:
    """A carrier account that rings people who exist only here.

    Args:
        numbers: what the account may call from.
        speed: network seconds in a real second; everything the carrier and its callees wait for is divided by it.
        callees: who answers, by number; everybody else is a friendly person. `CALLEES` unless given.
        calls_per_second: calls beyond this rate wait in the carrier's queue; None for no limit.
        webhook_timeout: real seconds that the application has to answer a webhook, or to accept a relay socket.
        grace: real seconds that callees give an application to speak, however fast the network runs.
    """

    def __init__(
        self,
        *,
        account_sid: str,
        auth_token: str,
        numbers: Sequence[str] = ("+15005550006",),
        speed: float = 1.0,
        callees: Mapping[str, Callee] | None = None,
        calls_per_second: float | None = None,
        webhook_timeout: float = ANSWER_WITHIN,
        grace: float = GRACE,
    ) -> None:
        self.account_sid = account_sid
        self.auth_token = auth_token
        self.numbers = frozenset(numbers)
        self.callees: dict[str, Callee] = dict(CALLEES if callees is None else callees)
        self.calls: dict[str, NetworkCall] = {}
        self.faults = Faults()
        self.observers: list[Observer] = []
        self.clock = Clock(speed, grace=grace)
        self.app = rest.build(self)
        self._calls_per_second = calls_per_second
        self._next_dial = 0.0
        self._webhook_timeout = webhook_timeout
        self._placed: asyncio.Queue[NetworkCall] = asyncio.Queue()
        self._lives: set[asyncio.Task[None]] = set()
        self._postman: Postman | None = None
        self._closed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Serve the REST API in this loop; yields its base URL. On exit live calls and their tasks are ended."""
        self._closed.clear()
        async with httpx.AsyncClient(
            verify=_trusted(), limits=EACH_ITS_OWN, trust_env=False, follow_redirects=True
        ) as client:
            self._postman = Postman(client, self.auth_token, answer_within=self._webhook_timeout)
            async with _listening(self.app, host, port, self._closed) as base_url:
                try:
                    yield base_url
                finally:
                    self._closed.set()
                    await self._end_all()
                    self._postman = None

    async def next_call(self) -> NetworkCall:
        """Wait for the next call to be created; each call is handed out once, in order."""
        return await self._placed.get()

    # What the REST API asks; see `rest.Exchange`.

    def place(self, request: CallRequest) -> NetworkCall:
        """Make a call; it begins to move with `start`."""
        call = NetworkCall(
            account_sid=self.account_sid,
            request=request,
            callee=self.callees.get(request.to, EVERYBODY_ELSE),
            clock=self.clock,
            observers=self.observers,
        )
        self.calls[call.sid] = call
        return call

    def start(self, call: NetworkCall) -> None:
        """Dial, after those that were there before."""
        if self._postman is None:
            raise RuntimeError("the network does not serve: calls live only inside `async with network.serve()`")
        self._placed.put_nowait(call)
        life = CallLife(call, clock=self.clock, postman=self._postman, auth_token=self.auth_token, faults=self.faults)
        task = asyncio.create_task(self._live(call, life), name=f"simulator:call:{call.sid}")
        self._lives.add(task)
        task.add_done_callback(self._lives.discard)

    async def until_closed(self) -> None:
        """Wait until the network closes."""
        await self._closed.wait()

    # How it works.

    async def _live(self, call: NetworkCall, life: CallLife) -> None:
        queued_for = self._queue()
        call.queue_time_ms = round(queued_for * 1000)
        try:
            await life.run(queued_for=queued_for)
        except Exception:
            # A callee of a test may fail, and so may we: the call ends, and the network stays.
            log.exception("simulator.call_failed", call_sid=call.sid)
            call.notes.append("the simulator failed on this call; see its log")
            call.move("failed")
        finally:
            call.announced.set()
            call.close()

    def _queue(self) -> float:
        if self._calls_per_second is None:
            return 0.0
        now = self.clock.now()
        dial = max(now, self._next_dial)
        self._next_dial = dial + 1 / self._calls_per_second
        return dial - now

    async def _end_all(self) -> None:
        lives = list(self._lives)
        for task in lives:
            task.cancel()
        await asyncio.gather(*lives, return_exceptions=True)


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The certificates of the world take long to load: once is enough for all networks of a process."""
    return httpx.create_ssl_context(trust_env=False)


class _Server(uvicorn.Server):
    """A server inside somebody else's loop: it leaves the signals alone and stops when it is told."""

    def __init__(self, config: uvicorn.Config, closed: asyncio.Event) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._closed = closed

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        await self._closed.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As the original, without its pause: closing has released every request that was waiting."""
        for listener in self.servers:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=SHUTDOWN_WITHIN)


@contextlib.asynccontextmanager
async def _listening(app: ASGIApp, host: str, port: int, closed: asyncio.Event) -> AsyncIterator[str]:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan="off",
        ws="none",
        http="h11",
        log_config=None,
        log_level=None,
        access_log=False,
    )
    server = _Server(config, closed)
    serving = asyncio.create_task(server.serve(), name="simulator:http")
    ready = asyncio.create_task(server.ready.wait(), name="simulator:http-ready")
    await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if serving.done():
        raise OSError(f"the phone network cannot listen on {host}:{port}")
    bound_to = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://{host}:{bound_to}"
    finally:
        closed.set()
        await serving
