"""The front door: builds the house from the settings and opens it. `uv run python main.py`."""

import argparse
import asyncio
import gc
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

import agents
from config import SIMULATED_NUMBER, Settings, SettingsError, load
from outbound import logs
from outbound.calls import ProcessId
from outbound.carriers.twilio import TwilioAccount, TwilioCarrier
from outbound.carriers.twiml import RelayOptions
from outbound.conversation import Limits, phrases_of
from outbound.dialer import Dialer
from outbound.policy import Rules
from outbound.ports import GONE_AFTER, AgentUnavailable, StoreUnavailable
from outbound.session import LiveCalls
from outbound.store import Changes, Database, JournalWriter
from outbound.web.app import create_app
from outbound.web.health import Readiness
from outbound.web.hooks import links_for
from outbound.web.house import House
from outbound.web.security import Gatekeeper
from outbound.workers import Supervisor, WorkersLine, listening

# Not by __name__, which is another one in each kind of process.
log = structlog.get_logger("main")

FRAME_LIMIT = 256 * 1024
"""Bytes of one relay frame: room for 20,000 characters however they are escaped."""
STOPS_WITHIN_S = 20.0
"""How long a worker may take after DRAIN_TIMEOUT to hand its calls over and to close."""
TRANSPORT: Mapping[str, Any] = {
    "ws": "websockets-sansio",
    "ws_max_size": FRAME_LIMIT,
    "ws_per_message_deflate": False,
    # The peer's address decides who is local: no header may change it.
    "proxy_headers": False,
    "server_header": False,
    "access_log": False,
    "log_config": None,
}
"""How uvicorn serves the application, wherever it is served."""


def build(settings: Settings) -> FastAPI:
    """The application; everything it works with is opened by its lifespan and closed in reverse."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.house = await open_house(settings, stack)
            yield

    return create_app(lifespan)


async def open_house(settings: Settings, stack: AsyncExitStack) -> House:
    """Opens every part, in the order they need each other.

    Raises StoreUnavailable, AgentUnavailable or ValueError with what the operator has to change.
    """
    base_url = settings.server_base_url
    apology = phrases_of(settings.relay_language).trouble_goodbye
    account = TwilioAccount(
        settings.twilio_account_sid, settings.twilio_auth_token.get_secret_value(), settings.twilio_phone_number
    )
    api_base_url: str | None = settings.twilio_api_base_url or None
    if settings.simulated:
        base_url = _address_on_this_machine(settings)
        account, api_base_url = await _open_simulator(settings, stack)

    process = ProcessId(secrets.token_hex(8))
    database = await stack.enter_async_context(Database.open(settings.database_url.get_secret_value(), process=process))
    stack.push_async_callback(_retired, database, process)
    live: LiveCalls
    changes: Changes
    journal = await stack.enter_async_context(
        JournalWriter(
            database.append,
            superseded=lambda session_id, epoch: live.superseded(session_id, epoch),
            grown=lambda session_ids: changes.grown(session_ids),
        )
    )
    carrier = await stack.enter_async_context(
        TwilioCarrier(
            account,
            relay=_relay_options(settings),
            # The rest of the time is for looking up a call whose answer was lost.
            timeout_s=settings.carrier_timeout * 0.7,
            ring_timeout_s=settings.ring_timeout,
            machine_detection=settings.machine_detection != "off",
            fallback_url=settings.fallback_url or f"{base_url}/voice/fallback",
            api_base_url=api_base_url,
        )
    )
    agent = agents.build_agent(
        settings.llm_model,
        instructions=settings.agent_instructions or None,
        base_url=settings.openai_base_url or None,
        api_key=_model_key(settings),
        answer_within=timedelta(seconds=2 * settings.llm_timeout),
    )
    stack.push_async_callback(agent.aclose)
    agents.configure(agent)
    await agent.warm_up()
    live = LiveCalls(
        process=process,
        agent=agent,
        store=database,
        journal=journal,
        limits=_limits(settings),
        language=settings.relay_language,
        frames_per_second=settings.frames_per_second,
        clock=_now,
    )
    changes = await stack.enter_async_context(Changes(database, foreign=live.written_elsewhere))
    dialer = Dialer(
        process=process,
        carrier=carrier,
        store=database,
        journal=journal,
        links=partial(links_for, base_url),
        rules=Rules(settings.countries, settings.allow_premium_numbers),
        carrier_timeout_s=settings.carrier_timeout,
        hang_up_on_machines=settings.machine_detection == "hang_up",
        resume_attempts=settings.resume_attempts,
        apology=apology,
        clock=_now,
    )
    for name, work in (
        ("settle-calls", dialer.keep_settling(live.by_session.__contains__)),
        ("beat", live.keep_beating()),
        ("check-calls", live.keep_checking()),
    ):
        stack.push_async_callback(_cancelled, asyncio.create_task(work, name=name))
    # What was made so far lives as long as the process: the collector need not look at it again with every turn. A turn
    # makes some thousands of short-lived objects, which the usual threshold of 700 would have it look through too.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    log.info("ready to ring", base_url=base_url, model=settings.llm_model or "scripted")
    return House(
        process=process,
        base_url=base_url,
        greeting=settings.agent_greeting,
        disclosure=settings.ai_disclosure,
        apology=apology,
        max_duration_s=settings.max_call_duration,
        gatekeeper=Gatekeeper(settings.api_keys, settings.rate_limit),
        carrier=carrier,
        store=database,
        journal=journal,
        changes=changes,
        dialer=dialer,
        live=live,
        readiness=Readiness({"database": database.ping, "carrier": carrier.ping}),
        clock=_now,
    )


async def _open_simulator(settings: Settings, stack: AsyncExitStack) -> tuple[TwilioAccount, str]:
    """Starts the phone network of our own on a free port, with an account that lives as long as the process."""
    from outbound.simulator import Network  # Only those who simulate pay for its import.

    account = TwilioAccount("AC" + secrets.token_hex(16), secrets.token_hex(16), SIMULATED_NUMBER)
    network = Network(
        account_sid=account.account_sid,
        auth_token=account.auth_token,
        numbers=(account.phone_number,),
        speed=settings.simulator_speed,
    )
    api_base_url = await stack.enter_async_context(network.serve())
    log.warning("SIMULATED PHONE NETWORK: nobody real is rung; set the TWILIO_ variables to ring real phones")
    return account, api_base_url


async def _retired(database: Database, process: ProcessId) -> None:
    """Tells the other processes that this one is gone; without the database they see it by themselves."""
    with suppress(StoreUnavailable):
        await database.retire(process)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Ends a task that would go on for ever, and waits until it has."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _address_on_this_machine(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _model_key(settings: Settings) -> str | None:
    provider = settings.llm_model.partition(":")[0]
    own = {"openai": settings.openai_api_key, "anthropic": settings.anthropic_api_key}.get(provider)
    key = own or settings.llm_api_key or settings.openai_api_key
    return key.get_secret_value() or None


def _relay_options(settings: Settings) -> RelayOptions:
    return RelayOptions(
        language=settings.relay_language,
        tts_provider=settings.relay_tts_provider,
        voice=settings.relay_voice,
        transcription_provider=settings.relay_transcription_provider,
        speech_model=settings.relay_speech_model,
        interruptible=settings.relay_interruptible,
        welcome_greeting_interruptible=settings.relay_welcome_greeting_interruptible,
        dtmf_detection=settings.relay_dtmf_detection,
        application_reconnect=settings.relay_reconnect or None,
        partial_prompts=settings.relay_partial_prompts,
        events=settings.relay_events,
        hints=settings.relay_hints,
        extra=settings.relay_attributes,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        silence_after_s=settings.silence_timeout,
        first_token_within_s=settings.llm_first_token_timeout,
        next_token_within_s=settings.llm_timeout,
        setup_within_s=settings.setup_timeout,
        digits_within_s=settings.digits_timeout,
    )


def _now() -> datetime:
    return datetime.now(UTC)


class _Server(uvicorn.Server):
    """A server that is stopped by a signal and returns, so that the house is closed behind it.

    The first signal lets live calls end, for at most `drain_within_s`, and then hands them over; the second does not
    wait for them. A worker is told twice by its `line` only: a service manager sends its signal to every process.
    """

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, drain_within_s: float, line: WorkersLine | None = None
    ) -> None:
        super().__init__(config)
        self.servers = []
        self._app = app
        self._drain_within_s = drain_within_s
        self._line = line
        self._stopping_with_us: frozenset[ProcessId] | None = None
        self._draining: asyncio.Task[None] | None = None

    @property
    def _house(self) -> House:
        house: House = self._app.state.house
        return house

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # On Windows Ctrl-C arrives as KeyboardInterrupt instead.
                loop.add_signal_handler(name, self._stop, name)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._line is not None:
            asyncio.get_running_loop().add_reader(self._line.fileno(), self._hear, self._line)
            with suppress(OSError):  # A supervisor that is no more is noticed by the reader.
                self._line.send(self._house.process)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._house.closing.set()
        await super().shutdown(sockets)

    def _stop(self, name: signal.Signals) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(), name="drain")
        elif self._line is None:
            self.handle_exit(name, None)

    def _hear(self, line: WorkersLine) -> None:
        told_before = self._stopping_with_us is not None
        try:
            self._stopping_with_us = line.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(line.fileno())
            self._stopping_with_us = self._stopping_with_us or frozenset()
        else:
            if told_before:
                self.should_exit = True
        self._stop(signal.SIGTERM)

    async def _drain(self) -> None:
        house = self._house
        house.readiness.draining = True
        log.info("stopping", live_calls=len(house.live.by_session))
        await house.live.leave()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_within_s):
                await self._all_over()
        # The carrier asks what to do with a call that is let go of: it must not be this process that it asks.
        for each in self.servers:
            each.close()
        if house.live.by_session:
            await house.live.release(to_successor=await self._has_successor())
        self.should_exit = True

    async def _all_over(self) -> None:
        """Returns when no call needs us: none is live, nor, where nobody else would answer it, ringing or between two
        sockets.
        """
        while True:
            await self._house.live.all_over()
            try:
                if await self._has_successor() or not await self._house.store.active():
                    return
            except StoreUnavailable:
                return
            await asyncio.sleep(0.2)

    async def _has_successor(self) -> bool:
        """Whether somebody answers when this process is gone: the worker that takes its place, or another process."""
        if self._line is not None and self._stopping_with_us is None:
            return True
        house = self._house
        try:
            living = await house.store.living(house.clock() - GONE_AFTER)
        except StoreUnavailable:
            return False
        return bool(living - {house.process} - (self._stopping_with_us or frozenset()))


async def _serve(server: uvicorn.Server, app: FastAPI, listeners: list[socket.socket] | None) -> None:
    async with app.router.lifespan_context(app):
        await server.serve(listeners)


def _run(settings: Settings, listeners: list[socket.socket] | None = None, line: WorkersLine | None = None) -> int:
    """Runs one server until it is stopped, on `listeners` or else on a socket of its own. Returns the exit code."""
    app = build(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        lifespan="off",
        timeout_graceful_shutdown=5,
        **TRANSPORT,
    )
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(_Server(config, app, settings.drain_timeout, line), app, listeners))
    except (StoreUnavailable, AgentUnavailable, ValueError) as error:
        log.error("cannot start", reason=str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _work(settings: Settings, listeners: list[socket.socket], line: WorkersLine) -> None:
    """What a worker does, in a process of its own. Its settings are those it is given, not the environment's."""
    logs.configure(level=settings.log_level, show_personal=settings.log_pii)
    structlog.contextvars.bind_contextvars(pid=os.getpid())
    sys.exit(_run(settings, listeners, line))


async def _supervise(settings: Settings, workers: int) -> int:
    async with AsyncExitStack() as stack:
        try:
            listeners = await listening(settings.host, settings.port)
        except OSError as error:
            log.error("cannot start", reason=str(error))
            return 2
        if settings.simulated:
            # The network must outlive the workers.
            account, api_base_url = await _open_simulator(settings, stack)
            secret = type(settings.twilio_auth_token)
            settings = settings.model_copy(
                update={
                    "carrier": "twilio",
                    "twilio_account_sid": account.account_sid,
                    "twilio_auth_token": secret(account.auth_token),
                    "twilio_phone_number": account.phone_number,
                    "twilio_api_base_url": api_base_url,
                    "server_base_url": _address_on_this_machine(settings),
                }
            )
        stop_within_s = settings.drain_timeout + STOPS_WITHIN_S
        return await Supervisor(partial(_work, settings), listeners, stop_within_s=stop_within_s).run(workers)


def main() -> int:
    """Runs the server until a signal stops it. Returns the exit code: 2 where the operator has something to change."""
    parser = argparse.ArgumentParser(description="Rings people and talks with them. Settings: .env.example.")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="so many processes on one port; one that dies is replaced"
    )
    workers: int | None = parser.parse_args().workers
    if workers is not None and workers < 1:
        parser.error(f"expected --workers 1 or more, got {workers}")
    try:
        settings = load()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logs.configure(level=settings.log_level, show_personal=settings.log_pii)
    if workers is None:
        return _run(settings)
    if workers > 1 and settings.database_url.get_secret_value().startswith("sqlite"):
        sys.stderr.write(
            "SQLite is for one process: set DATABASE_URL=postgresql+asyncpg://user:password@host/name, or --workers 1\n"
        )
        return 2
    return asyncio.run(_supervise(settings, workers))


def __getattr__(name: str) -> Any:
    """`main:app`, for those who bring their own ASGI server; made when it is asked for."""
    if name == "app":
        globals()["app"] = build(load())
        return globals()["app"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    sys.exit(main())
