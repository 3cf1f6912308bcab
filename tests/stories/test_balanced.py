"""Two servers behind a balancer that sends everything anywhere: one is killed, one is drained, and no call notices.

The servers are processes as an operator starts them, with PostgreSQL in common; HAProxy runs with the configuration
that the README recommends. The carrier and the callees are the test's.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from outbound.simulator import Callee, Network
from outbound.simulator.callees import says_goodbye
from outbound.simulator.line import Line
from tests.server import ACCOUNT_SID, AUTH_TOKEN, OWN_NUMBER
from tests.stories.serving import FRESH_S, Kills, Record, assert_true, is_ready, percentile, place, silences, whole
from tests.stories.test_shutdown import CHECKOUT, START, STARTS_WITHIN_S, environment, free_port
from tests.stories.waiting import until

CALLS = 200
A_CALL_EVERY_S = 0.1
SPEED = 8.0
API_KEY = "the-key-of-the-clients"
CONFIGURATION = CHECKOUT / "docs" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


async def patient(line: Line) -> None:
    """Says each thing once, waits for the answer however long the line is dead, and leaves hanging up to the agent."""
    await line.hear(patience=120)
    for words in (
        "Yes. What is this about?",
        "How long will this take?",
        "Are you a robot?",
        "Thank you, that is all, goodbye.",
        # Where the line broke meanwhile.
        "I said goodbye.",
        "Well, goodbye!",
    ):
        await line.say(words)
        if says_goodbye(await line.hear(patience=120)):
            await line.hold()


@dataclass
class Machine:
    """One server: a process that is started, killed, drained and started again."""

    environment: Mapping[str, str]
    log: Path
    process: Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.environment['PORT']}"

    async def start(self) -> None:
        """Returns when it is ready."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", START),
                cwd=CHECKOUT,
                env={"PATH": os.environ["PATH"], **self.environment},
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with httpx.AsyncClient(base_url=f"http://{self.address}", trust_env=False, timeout=30) as client:
            await until(lambda: is_ready(client), bool, within_s=STARTS_WITHIN_S)

    async def stop(self, by: signal.Signals) -> int:
        """Returns the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(by)
        async with asyncio.timeout(30):
            return await self.process.wait()

    async def close(self) -> None:
        if self.process is not None:
            await self.stop(signal.SIGKILL)

    def told(self, event: str) -> list[Record]:
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]


@dataclass
class Balanced:
    """Two machines, their balancer, the network, and a client of the balancer."""

    machines: tuple[Machine, Machine]
    network: Network
    client: httpx.AsyncClient
    killed_at: list[float] = field(default_factory=list)

    async def all_records(self) -> list[Record]:
        """Every call there is, without what was said."""
        records: list[Record] = []
        cursor: Mapping[str, str] = {}
        while True:
            page = (await self.client.get("/calls", params={"limit": "200", **cursor})).json()
            records += page["calls"]
            if page["next_cursor"] is None:
                return records
            cursor = {"cursor": page["next_cursor"]}


@asynccontextmanager
async def haproxy(directory: Path, port: int, servers: tuple[Machine, Machine]) -> AsyncIterator[None]:
    """Runs the recommended configuration, with these addresses in the place of its own."""
    text = CONFIGURATION.read_text()
    for theirs, ours in (
        ("bind :80", f"bind 127.0.0.1:{port}"),
        ("10.0.0.1:8000", servers[0].address),
        ("10.0.0.2:8000", servers[1].address),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    (directory / "haproxy.cfg").write_text(text)
    assert HAPROXY is not None
    command = (HAPROXY, "-db", "-f", str(directory / "haproxy.cfg"))
    balancer = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL)
    try:
        yield
    finally:
        if balancer.returncode is None:
            balancer.kill()
        await balancer.wait()


@asynccontextmanager
async def balanced(directory: Path, database_url: str) -> AsyncIterator[Balanced]:
    network = Network(account_sid=ACCOUNT_SID, auth_token=AUTH_TOKEN, numbers=(OWN_NUMBER,), speed=SPEED)
    port = free_port()
    async with AsyncExitStack() as stack:
        api_base_url = await stack.enter_async_context(network.serve())
        common = environment(directory, api_base_url, port) | {
            "DATABASE_URL": database_url,
            "API_KEYS": API_KEY,
            "RATE_LIMIT": "10000/minute",
            # A call lasts longer: what is drained hands calls over.
            "DRAIN_TIMEOUT": "0.5",
        }
        one, two = machines = tuple(
            Machine(common | {"PORT": str(free_port())}, directory / f"server-{number}.log") for number in (1, 2)
        )
        for machine in machines:
            # One after the other: the first brings the database up to date.
            stack.push_async_callback(machine.close)
            await machine.start()
        await stack.enter_async_context(haproxy(directory, port, (one, two)))
        headers = {"Authorization": f"Bearer {API_KEY}"}
        client = httpx.AsyncClient(base_url=common["SERVER_BASE_URL"], headers=headers, trust_env=False, timeout=30)
        await stack.enter_async_context(client)
        await until(lambda: is_ready(client), bool, within_s=STARTS_WITHIN_S)
        yield Balanced((one, two), network, client)


async def kill_and_start(house: Balanced) -> None:
    machine = house.machines[0]
    house.killed_at.append(house.network.clock.now())
    assert await machine.stop(signal.SIGKILL) == -signal.SIGKILL
    await machine.start()


@pytest.mark.skipif(HAPROXY is None, reason="no haproxy here; `apt-get install haproxy` brings it")
@pytest.mark.parametrize("engine_name", ["postgresql"])
async def test_no_call_is_lost_or_doubled_when_one_machine_is_killed_and_the_other_drained(
    tmp_path: Path, database_url: str
) -> None:
    numbers = [f"+1202555{2000 + index}" for index in range(CALLS)]
    async with balanced(tmp_path, database_url) as house:
        house.network.callees.update({number: Callee("patient", "asks, and waits", patient) for number in numbers})
        async with asyncio.TaskGroup() as doing:
            placing = []
            for index, number in enumerate(numbers):
                placing.append(doing.create_task(place(house.client, number)))
                if index == CALLS // 3:
                    # Who dies between writing a call down and asking the carrier has lost it: it is never rung twice.
                    for _ in placing:
                        await house.network.next_call()
                    restarting = doing.create_task(kill_and_start(house))
                if index == 2 * CALLS // 3:
                    await restarting
                    draining = doing.create_task(house.machines[1].stop(signal.SIGTERM))
                await asyncio.sleep(A_CALL_EVERY_S)
        assert draining.result() == 0
        async with asyncio.timeout(60):
            for call in house.network.calls.values():
                await call.ended.wait()
        records = [await whole(house.client, each.result()) for each in placing]
        listed = await house.all_records()
        active = (await house.client.get("/calls/active")).json()

    calls = {call.request.to: call for call in house.network.calls.values()}
    print(figures(house, records))  # noqa: T201
    assert Counter(call.request.to for call in house.network.calls.values()) == dict.fromkeys(numbers, 1)
    assert Counter(record["phone_number"] for record in listed) == dict.fromkeys(numbers, 1)
    assert active["count"] == 0
    kills = Kills(house.killed_at, FRESH_S * SPEED)
    for record in records:
        assert_true(calls[record["phone_number"]], record, kills)
        assert record["end_reason"] in ("agent_said_goodbye", "callee_hung_up"), record
        assert record["transcript"]
    resumed = causes(records)
    assert resumed["broken"], "nobody was on the line when the process was killed"
    assert resumed["handed_over"], "nobody was on the line when the process was drained"
    assert all(machine.told("talk begins") for machine in house.machines)


def test_the_readme_quotes_the_configuration_that_is_tested() -> None:
    quoted = re.findall(r"```haproxy\n(.*?)```", (CHECKOUT / "README.md").read_text(encoding="utf-8"), re.S)
    assert quoted
    assert {line for block in quoted for line in block.splitlines()} <= set(CONFIGURATION.read_text().splitlines())


def causes(records: list[Record]) -> Counter[str]:
    """Why calls went on with another socket."""
    return Counter(
        entry["data"]["cause"] for record in records for entry in record["journal"] if entry["kind"] == "resuming"
    )


def figures(house: Balanced, records: list[Record]) -> str:
    gaps = [silence / SPEED for silence in silences(house.network.calls.values())]
    return json.dumps(
        {
            "calls": len(records),
            "ended": Counter(record["end_reason"] for record in records),
            "resumed": causes(records),
            "sockets": [len(machine.told("talk begins")) for machine in house.machines],
            "silence_p50_s": round(percentile(gaps, 50), 2),
            "silence_p99_s": round(percentile(gaps, 99), 2),
        }
    )
