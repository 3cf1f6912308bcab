"""You are the callee: `uv run python -m outbound.simulator call` starts the server and rings your terminal."""

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

import httpx
import structlog

from outbound.simulator.callees import CALLEES, EVERYBODY_ELSE, Callee, Talk
from outbound.simulator.calls import NetworkCall
from outbound.simulator.line import HungUp, Line, Said, TurnEnd
from outbound.simulator.network import Network

FROM = "+15005550006"
YOU = "+12025550199"
MAIN = Path(__file__).parents[2] / "main.py"
READY_WITHIN = 60.0  # real seconds; a first start may make the database
RINGS_WITHIN = 15.0
LOG_LINES = 12

HELP = """\
You are being called. Type a line and press Enter to say it; typing while the agent speaks interrupts it.
  /press 123#            press keys
  /interrupt 5 Sorry?    wait for five words of the agent, then interrupt
  /hangup                hang up (as do Ctrl-D and Ctrl-C)
"""


class Failed(Exception):
    """The call could not be made; the message says why, in the operator's words."""


class Terminal:
    """A callee whose ear is the screen and whose mouth is the keyboard."""

    def __init__(self) -> None:
        self.hung_up = asyncio.Event()
        self._typed: asyncio.Queue[str | None] = asyncio.Queue()
        self._interactive = sys.stdin.isatty()

    def start_reading(self) -> None:
        """Read lines in a thread of its own: no loop can wait for every kind of standard input."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            # The loop may be gone by the time that somebody presses Enter.
            with contextlib.suppress(RuntimeError):
                for line in sys.stdin:
                    loop.call_soon_threadsafe(self._typed.put_nowait, line.strip())
                loop.call_soon_threadsafe(self._typed.put_nowait, None)

        threading.Thread(target=read, name="simulator:keyboard", daemon=True).start()

    async def talk(self, line: Line) -> None:
        """Talk until the person hangs up."""
        print(HELP)
        await self._shown(line, self._type, echo=not self._interactive)

    def watch(self, talk: Talk) -> Talk:
        """Another callee, whose call is shown on the screen."""

        async def watched(line: Line) -> None:
            await self._shown(line, talk, echo=True)

        return watched

    async def _shown(self, line: Line, talk: Talk, *, echo: bool) -> None:
        async with asyncio.TaskGroup() as group:
            showing = group.create_task(self._show(line, echo=echo), name="terminal:show")
            hanging_up = group.create_task(self.hung_up.wait(), name="terminal:hang-up")
            talking = group.create_task(_until_hung_up(talk, line), name="terminal:talk")
            await asyncio.wait({talking, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
            for task in (showing, hanging_up, talking):
                task.cancel()

    async def _show(self, line: Line, *, echo: bool) -> None:
        """Print what is heard; a keyboard has already shown what the callee says, so it needs no echo."""
        speaking = False
        async for heard in line.listen():
            match heard:
                case TurnEnd(interrupted=interrupted, unheard=unheard):
                    if speaking:
                        print(" --" if interrupted else "")
                    if unheard:
                        print(f"        [never heard: {unheard}]")
                    speaking = False
                case Said(text=text):
                    if speaking and echo:
                        print()
                    if echo:
                        print(f"callee: {_short(text)}", flush=True)
                    speaking = speaking and not echo
                case words:
                    print(f" {words}" if speaking else f"agent:  {words}", end="", flush=True)
                    speaking = True

    async def _type(self, line: Line) -> None:
        while True:
            if not self._interactive:
                # Who writes into a pipe cannot hear; he speaks when it is his turn.
                typed = await self._typed.get()
                if typed is None or not typed.startswith("/interrupt"):
                    await line.hear()
            else:
                typed = await self._typed.get()
            if typed is None or typed == "/hangup":
                return
            await self._do(line, typed)

    async def _do(self, line: Line, typed: str) -> None:
        command, _, rest = typed.partition(" ")
        match command:
            case "":
                return
            case "/press":
                await line.press(rest)
            case "/interrupt":
                count, _, words = rest.partition(" ")
                if not count.isdecimal():
                    print("expected /interrupt <number of words> <what to say>")
                    return
                await line.interrupt(words, after_words=int(count))
            case _ if command.startswith("/"):
                print(f"unknown command {command}; there are /press, /interrupt and /hangup")
            case _:
                await line.say(typed)


async def _until_hung_up(talk: Talk, line: Line) -> None:
    with contextlib.suppress(HungUp):
        await talk(line)


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


async def ring(to: str, *, main: Path, speed: float) -> None:
    """Start a network and the server, have the server call `to`, show the call, sum it up.

    Raises:
        Failed: the server did not start, refused the call, or the call did not come about.
    """
    terminal = Terminal()
    scripted = CALLEES.get(to, EVERYBODY_ELSE)
    you = Callee("you", "you, at your keyboard", terminal.talk)
    watched = Callee(
        scripted.name,
        scripted.description,
        terminal.watch(scripted.talk),
        scripted.outcome,
        scripted.ring_seconds,
        scripted.answered_by,
    )
    network = Network(
        account_sid=f"AC{secrets.token_hex(16)}",
        auth_token=secrets.token_hex(16),
        numbers=[FROM],
        speed=speed,
        callees={to: you if to == YOU else watched},
    )
    if to == YOU:
        terminal.start_reading()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, terminal.hung_up.set)
    api_key = secrets.token_urlsafe(24)
    with _server_log() as log:
        async with network.serve() as carrier_url, _server(main, network, carrier_url, api_key, log) as server_url:
            await _initiate(server_url, api_key, to)
            call = await _next_call(network)
            await _ended(call, terminal)
        _sum_up(call)


async def _ended(call: NetworkCall, terminal: Terminal) -> None:
    """Wait for the end; whoever hangs up while it rings gives the call up."""
    ended = asyncio.create_task(call.ended.wait(), name="terminal:ended")
    hung_up = asyncio.create_task(terminal.hung_up.wait(), name="terminal:hung-up")
    await asyncio.wait({ended, hung_up}, return_when=asyncio.FIRST_COMPLETED)
    call.hang_up()
    hung_up.cancel()
    await ended


@contextlib.contextmanager
def _server_log() -> Iterator[IO[bytes]]:
    """Where the server writes what it does: gone when all went well, kept and named when it did not."""
    with tempfile.NamedTemporaryFile(prefix="outbound-server-", suffix=".log", delete=False) as log:
        path = Path(log.name)
        try:
            yield log
        except (Failed, OSError) as failure:
            raise Failed(f"{failure}\nthe server's log is {path}; it ends:\n{_tail(path)}") from failure
    path.unlink()


@contextlib.asynccontextmanager
async def _server(main: Path, network: Network, carrier_url: str, api_key: str, log: IO[bytes]) -> AsyncIterator[str]:
    """The product's server as its own process, pointed at the network; all else is as the user has set it.

    It keeps its calls beside `main`, in the database of the demo: practice is nothing for the user's own.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    ours = {
        "CARRIER": "twilio",
        "TWILIO_ACCOUNT_SID": network.account_sid,
        "TWILIO_AUTH_TOKEN": network.auth_token,
        "TWILIO_PHONE_NUMBER": FROM,
        "TWILIO_API_BASE_URL": carrier_url,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "SERVER_BASE_URL": url,
        "API_KEYS": api_key,
        "ALLOWED_COUNTRIES": "*",
        "DATABASE_URL": f"sqlite:///{main.parent / 'demo.db'}",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(main),
        cwd=main.parent,
        # The environment is handed on, not read: what it means is for the server's own config to say.
        env={**os.environ, **ours},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        # Ctrl-C is for the callee, who hangs up; the server learns it from the carrier.
        start_new_session=True,
    )
    try:
        await _ready(process, url)
        yield url
    finally:
        await _stop(process)


async def _ready(process: asyncio.subprocess.Process, url: str) -> None:
    async with asyncio.TaskGroup() as group:
        dies = group.create_task(process.wait(), name="terminal:server-process")
        answers = group.create_task(_answers(url), name="terminal:server-ready")
        await asyncio.wait({dies, answers}, timeout=READY_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        dies.cancel()
        answers.cancel()
    if process.returncode is not None:
        raise Failed(f"the server ended with code {process.returncode} before it was ready")
    if answers.cancelled():
        raise Failed(f"the server was not ready within {READY_WITHIN:.0f} s")


async def _answers(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}/ready")).is_success:
                    return
            await asyncio.sleep(0.1)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(10):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _initiate(url: str, api_key: str, to: str) -> None:
    headers = {"Authorization": f"Bearer {api_key}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=30) as client:
        try:
            response = await client.post(f"{url}/call/initiate", json={"to": to})
        except httpx.TransportError as error:
            raise Failed(f"POST /call/initiate got no answer: {type(error).__name__}") from error
    if not response.is_success:
        raise Failed(f"POST /call/initiate was answered {response.status_code}: {response.text}")


async def _next_call(network: Network) -> NetworkCall:
    try:
        async with asyncio.timeout(RINGS_WITHIN):
            return await network.next_call()
    except TimeoutError as error:
        raise Failed("the server accepted the call and asked for none at the carrier") from error


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def _sum_up(call: NetworkCall) -> None:
    agent = [spoken for spoken in call.transcript if spoken.who == "agent"]
    callee = [spoken for spoken in call.transcript if spoken.who == "callee"]
    cut = sum(spoken.interrupted for spoken in agent)
    print(f"\nThe call is {call.status} after {call.duration or 0} s: the agent spoke {len(agent)} times", end="")
    print(f" ({cut} cut short), the callee {len(callee)} times.")
    for note in call.notes:
        print(f"  carrier: {note}")
    outcome = call.callee.outcome
    expected = "completed" if outcome == "answers" else outcome
    if call.status not in {expected, "canceled"}:
        raise Failed(f"expected the call to be {expected}, got {call.status}")
    if call.status == "completed" and not call.frames:
        raise Failed("the call was answered and the agent never came to the line")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def serve(*, port: int, account_sid: str, auth_token: str, numbers: list[str], speed: float) -> None:
    """Run the network alone until Ctrl-C."""
    network = Network(account_sid=account_sid, auth_token=auth_token, numbers=numbers, speed=speed)
    stopped = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stopped.set)
    async with network.serve(port=port) as url:
        print(f"TWILIO_API_BASE_URL={url}")
        print(f"TWILIO_ACCOUNT_SID={account_sid}")
        print(f"TWILIO_AUTH_TOKEN={auth_token}")
        print(f"TWILIO_PHONE_NUMBER={numbers[0]}", flush=True)
        await stopped.wait()


def list_callees() -> None:
    """Print who answers at which number."""
    for number, callee in CALLEES.items():
        print(f"{number}  {callee.name:<11} {callee.description}")
    print("any other     friendly    as the friendly person above")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m outbound.simulator", description="A phone network on your laptop.")
    commands = parser.add_subparsers(dest="command", required=True)
    call = commands.add_parser("call", help="start the server and let it ring you, here in the terminal")
    call.add_argument("--to", default=YOU, help="watch somebody else being called; see `callees`")
    call.add_argument("--main", type=Path, default=MAIN, help="the server to start (default: main.py)")
    alone = commands.add_parser("serve", help="run the network alone")
    alone.add_argument("--port", type=int, default=9000)
    alone.add_argument("--account-sid", default=f"AC{secrets.token_hex(16)}")
    alone.add_argument("--auth-token", default=secrets.token_hex(16))
    alone.add_argument("--number", action="append", help="a number of the account; may be repeated")
    for command in (call, alone):
        command.add_argument("--speed", type=float, default=1.0, help="network seconds in a real second")
    commands.add_parser("callees", help="who answers at which number")
    return parser.parse_args()


def main() -> int:
    """Run one command; returns the exit code."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    arguments = _arguments()
    try:
        match arguments.command:
            case "call":
                asyncio.run(ring(arguments.to, main=arguments.main.resolve(), speed=arguments.speed))
            case "serve":
                asyncio.run(
                    serve(
                        port=arguments.port,
                        account_sid=arguments.account_sid,
                        auth_token=arguments.auth_token,
                        numbers=arguments.number or [FROM],
                        speed=arguments.speed,
                    )
                )
            case _:
                list_callees()
    except (Failed, OSError) as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
