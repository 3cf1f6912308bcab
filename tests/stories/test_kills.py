"""The serving process is killed at any moment of many calls, and each of them is true to its end.

A supervised worker on SQLite is started again; on PostgreSQL another worker takes the calls over. The carrier, the
callees and the model are the test's; everything of ours is real, down to SIGKILL.
"""

import asyncio
import os
import random
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from outbound.simulator import Callee, Network, NetworkCall
from outbound.simulator.line import Line
from tests.agents.openai_server import Asked, Behaviour, OpenAIServer
from tests.server import ACCOUNT_SID, AUTH_TOKEN, OWN_NUMBER
from tests.stories.serving import FRESH_S, Kills, assert_true, is_ready, place, silences, whole
from tests.stories.test_shutdown import CHECKOUT, STARTS_WITHIN_S, environment, free_port
from tests.stories.waiting import until

SPEED = 6.0
CALLS = 24
BOOKING_TAKES_S = 0.5


# The people, and the model they talk with.


async def patient(line: Line) -> None:
    """Asks one thing after another, each once, and waits for the answer however long the line is dead."""
    await line.hear(patience=120)
    for number in range(2):
        await line.say(f"Question {number} please.")
        await line.hear(patience=120)
    await line.say(f"Please book table {line.number}.")
    await line.hear(patience=120)
    await line.say("Thank you, that is all, goodbye.")
    await line.hear(patience=120)


def spoken(message: Mapping[str, Any]) -> str:
    """What the callee said, without the notes on what happened on the line."""
    lines = [line.removeprefix("[cutting in] ") for line in message["content"].splitlines()]
    return "\n".join(line for line in lines if not line.startswith("["))


def behave(asked: Asked) -> Behaviour:
    """Three sentences to a question, which it goes on with after a break; a booking by the tool, once."""
    told = [message for message in asked.body["messages"] if message["role"] != "system"]
    said = [message for message in told if message["role"] == "user" and spoken(message)]
    words = spoken(said[-1]) if said else ""
    since = told[told.index(said[-1]) + 1 :] if said else told
    if "goodbye" in words:
        return Behaviour(("Farewell", " then", "."), (("end_call", {}),), pause_s=0.03)
    if "book table" in words:
        results = [message["content"] for message in since if message["role"] == "tool"]
        if not results:
            reference = re.findall(r"book table (\+\d+)", words)[-1]
            return Behaviour((), (("book", {"reference": reference}),))
        done = "booked" in results[-1]
        return Behaviour(("It is done.",) if done else ("I cannot tell ", "whether it is done."))
    # 9: the line was dead while the number was said.
    number = (re.findall(r"Question (\d)", words) or ["9"])[-1]
    sentences = [f"Answer {number} {part}." for part in ("alpha", "beta", "gamma")]
    heard = " ".join(str(message["content"]) for message in since if message["role"] == "assistant")
    left = [sentence for sentence in sentences if sentence not in heard] or ["Is there anything else?"]
    return Behaviour(tuple(re.findall(r"\S+\s*", " ".join(left))), pause_s=0.03)


# The server.


@dataclass
class Served:
    """The supervised product, its network and its client, and what was done to it."""

    network: Network
    client: httpx.AsyncClient
    parent: Process
    bookings: Path
    kills: list[float] = field(default_factory=list)
    """When, by the network's clock."""

    async def workers(self) -> list[int]:
        """The processes that serve."""

        async def serving() -> list[int]:
            return children(self.parent.pid)

        return await until(serving, bool, within_s=STARTS_WITHIN_S)

    async def kill(self, number: int, *, draining: bool) -> None:
        """Kills one worker; with `draining` in the middle of letting its calls go."""
        pids = await self.workers()
        pid = pids[number % len(pids)]
        if draining:
            os.kill(pid, signal.SIGTERM)
            await asyncio.sleep(0.2)
        self.kills.append(self.network.clock.now())
        os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The workers of a supervisor."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@asynccontextmanager
async def served(tmp_path: Path, database_url: str, workers: int) -> AsyncIterator[Served]:
    network = Network(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN, numbers=(OWN_NUMBER,), speed=SPEED)
    port = free_port()
    bookings = tmp_path / "bookings"
    bookings.touch()
    async with network.serve() as api_base_url, OpenAIServer() as model:
        model.decide(behave)
        settings = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            **environment(tmp_path, api_base_url, port),
            "CHECKOUT": str(CHECKOUT),
            "BOOKINGS": str(bookings),
            "BOOKING_TAKES_S": str(BOOKING_TAKES_S),
            "DATABASE_URL": database_url,
            "DRAIN_TIMEOUT": "30",
            "LLM_MODEL": "openai:stand-in",
            "OPENAI_BASE_URL": model.base_url,
            "RATE_LIMIT": "10000/minute",
            "RESUME_ATTEMPTS": "10",
            "SILENCE_TIMEOUT": "60",
        }
        command = (sys.executable, str(Path(__file__).with_name("kill_server.py")), "--workers", str(workers))
        log = (tmp_path / "server.log").open("wb")
        parent = await asyncio.create_subprocess_exec(*command, env=settings, stdout=log, stderr=log, stdin=DEVNULL)
        base_url = settings["SERVER_BASE_URL"]
        try:
            async with httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=30) as client:
                running = Served(network, client, parent, bookings)
                await until(lambda: is_ready(client), bool, within_s=STARTS_WITHIN_S)
                yield running
        finally:
            if parent.returncode is None:
                parent.terminate()
            try:
                async with asyncio.timeout(20):
                    await parent.wait()
            except TimeoutError:
                parent.kill()
            log.close()


def moment(call: NetworkCall, at: float) -> str:
    """What was going on when the process was killed, as the carrier saw it."""
    before = [frame for frame in call.frames if frame.at <= at]
    if not before:
        return "ringing or answered before setup"
    kinds = [(frame.direction, frame.message) for frame in before]
    last = [message for direction, message in kinds if message.get("type") in ("prompt", "text", "end", "setup")]
    speaking = [m["value"] for _, m in kinds if m.get("name") == "agentSpeaking"][-1:] == ["on"]
    callee = [m["value"] for _, m in kinds if m.get("name") == "clientSpeaking"][-1:] == ["on"]
    if callee:
        return "callee speaking"
    if not last or last[-1].get("type") == "setup":
        return "greeting"
    if last[-1].get("type") == "prompt":
        return "tool running" if "book" in str(last[-1].get("voicePrompt")) else "between prompt and first token"
    if last[-1].get("type") == "text" and not last[-1].get("last"):
        return "mid-tokens"
    if "Farewell" in " ".join(str(m.get("token")) for m in last[-6:]):
        return "after goodbye before end"
    return "agent speaking" if speaking else "between turns"


@pytest.mark.parametrize("seed", [1])
async def test_a_killed_process_loses_no_call_and_no_word_of_it(
    tmp_path: Path, database_url: str, engine_name: str, seed: int
) -> None:
    """Thirty moments at the least, where they fall."""
    chance = random.Random(seed)
    async with served(tmp_path, database_url, workers=1 if engine_name == "sqlite" else 2) as running:
        numbers = [f"+1202555{2000 + index}" for index in range(CALLS)]
        running.network.callees.update({number: Callee("patient", "asks, and waits", patient) for number in numbers})
        # A process that dies between the row and the ring leaves a call that nobody dares to ring: not meant here.
        ringing_or_killing = asyncio.Lock()

        async def place_all(numbers: Sequence[str]) -> list[str]:
            session_ids = []
            for number in numbers:
                async with ringing_or_killing:
                    session_ids.append(await place(running.client, number))
                await asyncio.sleep(chance.uniform(0.1, 0.4))
            return session_ids

        session_ids = await place_all(numbers[: CALLS // 2])
        placing = asyncio.create_task(place_all(numbers[CALLS // 2 :]))
        for kill in range(3 if engine_name == "sqlite" else 6):
            async with ringing_or_killing:
                await running.kill(chance.randrange(2), draining=kill == 1)
            await asyncio.sleep(chance.uniform(3.0, 4.5) if engine_name == "sqlite" else chance.uniform(1.5, 2.5))
        session_ids += await placing
        calls = {call.request.to: call for call in running.network.calls.values()}
        assert len(calls) == len(running.network.calls) == CALLS, "somebody was rung twice"
        async with asyncio.timeout(90):
            for call in calls.values():
                await call.ended.wait()
        records = [await whole(running.client, session_id) for session_id in session_ids]
        moments = Counter(moment(call, at) for call in calls.values() for at in running.kills if _is_live(call, at))
        gaps = [round(silence / SPEED, 2) for silence in silences(calls.values())]
        print(f"\n{engine_name}: {dict(moments)}, silence beyond the carrier's: {gaps} s")  # noqa: T201
        assert sum(moments.values()) >= 30
        for record in records:
            assert_true(
                calls[record["phone_number"]],
                record,
                Kills(running.kills, FRESH_S * SPEED),
                said_once=r"Answer [01] \w+\.|It is done\.",
            )
        booked = Counter(running.bookings.read_text().split())
        assert not [reference for reference, count in booked.items() if count > 1], "a tool ran twice"
        assert (await running.client.get("/calls/active")).json()["count"] == 0


def _is_live(call: NetworkCall, at: float) -> bool:
    changes = [record.at for record in call.webhooks]
    return bool(changes) and changes[0] <= at <= changes[-1]
