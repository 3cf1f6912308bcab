"""The front door: builds the house from the settings and opens it. `uv run python main.py`."""

import asyncio
import gc
import secrets
import signal
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
from outbound.carriers.twilio import TwilioAccount, TwilioCarrier
from outbound.carriers.twiml import RelayOptions
from outbound.conversation import Limits, phrases_of
from outbound.dialer import Dialer
from outbound.policy import Rules
from outbound.ports import AgentUnavailable, StoreUnavailable
from outbound.session import LiveCalls
from outbound.store import Database, JournalWriter
from outbound.web.app import create_app
from outbound.web.health import Readiness
from outbound.web.hooks import links_for
from outbound.web.house import House
from outbound.web.security import Gatekeeper

log = structlog.get_logger(__name__)

FRAME_LIMIT = 256 * 1024
"""Bytes of one relay frame: room for 20,000 characters however they are escaped."""
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

    database = await stack.enter_async_context(Database.open(settings.database_url.get_secret_value()))
    journal = await stack.enter_async_context(JournalWriter(database.append))
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
        agent=agent,
        store=database,
        journal=journal,
        limits=_limits(settings),
        language=settings.relay_language,
        frames_per_second=settings.frames_per_second,
        clock=_now,
    )
    dialer = Dialer(
        carrier=carrier,
        store=database,
        journal=journal,
        links=partial(links_for, base_url),
        rules=Rules(settings.countries, settings.allow_premium_numbers),
        carrier_timeout_s=settings.carrier_timeout,
        hang_up_on_machines=settings.machine_detection == "hang_up",
        apology=apology,
        clock=_now,
    )
    settling = asyncio.create_task(dialer.keep_settling(live.by_session.__contains__), name="settle-calls")
    stack.push_async_callback(_cancelled, settling)
    # What was made so far lives as long as the process: the collector need not look at it again with every turn. A turn
    # makes some thousands of short-lived objects, which the usual threshold of 700 would have it look through too.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    log.info("ready to ring", base_url=base_url, model=settings.llm_model or "scripted")
    return House(
        base_url=base_url,
        greeting=settings.agent_greeting,
        disclosure=settings.ai_disclosure,
        apology=apology,
        max_duration_s=settings.max_call_duration,
        gatekeeper=Gatekeeper(settings.api_keys, settings.rate_limit),
        carrier=carrier,
        store=database,
        journal=journal,
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

    The first signal lets live calls end, for at most `drain_within_s`; the second does not wait for them.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_within_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_within_s = drain_within_s
        self._draining: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # On Windows Ctrl-C arrives as KeyboardInterrupt instead.
                loop.add_signal_handler(name, self._stop, name)
        yield

    def _stop(self, name: signal.Signals) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain(), name="drain")
        else:
            self.handle_exit(name, None)

    async def _drain(self) -> None:
        house: House = self._app.state.house
        house.readiness.draining = True
        log.info("stopping", live_calls=len(house.live.by_session))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_within_s):
                await house.live.all_over()
        self.should_exit = True


async def _serve(server: uvicorn.Server, app: FastAPI) -> None:
    async with app.router.lifespan_context(app):
        await server.serve()


def main() -> int:
    """Runs the server until a signal stops it. Returns the exit code: 2 where the operator has something to change."""
    try:
        settings = load()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logs.configure(level=settings.log_level, show_personal=settings.log_pii)
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
            runner.run(_serve(_Server(config, app, settings.drain_timeout), app))
    except (StoreUnavailable, AgentUnavailable, ValueError) as error:
        log.error("cannot start", reason=str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def __getattr__(name: str) -> Any:
    """`main:app`, for those who bring their own ASGI server; made when it is asked for."""
    if name == "app":
        globals()["app"] = build(load())
        return globals()["app"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    sys.exit(main())
