"""The example as a stranger runs it: a program of its own, against a real server."""

import asyncio
import json
import os
import re
import socket
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from outbound.simulator import Callee
from tests.server import FRIENDLY, Running, listening, running
from tests.web.asking import BUSY, IN_GERMANY, NEVER_ANSWERS

ROOT = Path(__file__).parent.parent
INTERRUPTS, UNREACHABLE, PRESSES_KEYS, OPTS_OUT, RAMBLES = (f"+12025550{n}" for n in (106, 103, 109, 108, 112))


@dataclass(frozen=True)
class Outcome:
    code: int
    told: str


async def run(*arguments: str) -> Outcome:
    """Runs the example to its end, with an environment that has nothing of ours."""
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "example_usage.py",
        *arguments,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            told, _ = await program.communicate()
    except TimeoutError:
        program.kill()
        raise
    assert program.returncode is not None
    return Outcome(program.returncode, told.decode())


async def call(house: Running, number: str, *arguments: str) -> Outcome:
    return await run(number, "--server", house.base_url, *arguments)


async def test_a_call_is_told_from_the_ring_to_its_outcome(tmp_path: Path) -> None:
    async with running(tmp_path, speed=40) as house:
        outcome = await call(house, INTERRUPTS, "--greeting", "Hi {name}, AI here.", "--variable", "name=Ana = Bea")
        (spoken,) = house.network.calls.values()
    lines = outcome.told.splitlines()
    assert outcome.code == 0, outcome.told
    assert re.fullmatch(rf"call \S{{22,}} to \{INTERRUPTS}: initiated", lines[0])
    told = [line for line in lines if line.startswith(("agent ", "callee "))]
    heard = [f"{each.who:<7} {each.text}" for each in spoken.transcript]
    assert [line.strip() for line in told] == [line.strip() for line in heard]
    assert any(line.startswith("agent   Hi Ana = Bea, AI here.") for line in told)
    assert any(re.fullmatch(r" +\^ cut off here, never heard: “.+”", line) for line in lines)
    assert re.search(r"\[turn 1: first word after \d+\.\d ms\]", outcome.told)
    assert re.search(r"^outcome: completed, agent said goodbye|^outcome: completed, callee hung up", outcome.told, re.M)
    assert re.search(r"^length:  \d+ s, \d+ lines kept in the transcript$", outcome.told, re.MULTILINE)
    assert re.search(r"^speed:   first word after \d+\.\d ms \(median of \d+ turns\)$", outcome.told, re.MULTILINE)


@pytest.mark.parametrize(("number", "code", "status"), [(BUSY, 3, "busy"), (UNREACHABLE, 1, "failed")])
async def test_a_call_nobody_answers_is_told_by_its_code(tmp_path: Path, number: str, code: int, status: str) -> None:
    async with running(tmp_path, speed=40) as house:
        outcome = await call(house, number)
    assert outcome.code == code, outcome.told
    assert f"outcome: {status}" in outcome.told
    assert "speed:" not in outcome.told


async def test_a_phone_that_nobody_picks_up_is_no_answer(tmp_path: Path) -> None:
    async with running(tmp_path, speed=40, ring_timeout=5) as house:
        outcome = await call(house, NEVER_ANSWERS)
    assert outcome.code == 3, outcome.told
    assert "outcome: no-answer" in outcome.told


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (PRESSES_KEYS, "callee  (presses 42)"),
        (OPTS_OUT, "(asked not to be called again)"),
        (RAMBLES, "(20000 characters)"),
    ],
)
async def test_what_a_callee_does_besides_talking_is_told(tmp_path: Path, number: str, words: str) -> None:
    async with running(tmp_path, speed=40, digits_timeout=0.2) as house:
        outcome = await call(house, number)
    assert outcome.code == 0, outcome.told
    assert words in outcome.told
    assert max(map(len, outcome.told.splitlines())) < 400


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (IN_GERMANY, "refused (403): numbers in DE are not allowed"),
        ("2025550100", "refused (422): to: expected an E.164 number"),
        ("+15005550001", "refused (422): this does not look like a phone number"),
    ],
)
async def test_a_refusal_is_told_in_the_servers_words(tmp_path: Path, number: str, words: str) -> None:
    async with running(tmp_path) as house:
        outcome = await call(house, number)
    assert outcome.code == 1
    assert outcome.told.startswith(words)
    assert len(outcome.told.splitlines()) == 1


@pytest.mark.parametrize(("key", "given"), [("a-key", ["--api-key", "a-key"]), ("-a-key", ["--api-key=-a-key"])])
async def test_a_key_opens_a_server_that_asks_for_one(tmp_path: Path, key: str, given: list[str]) -> None:
    async with running(tmp_path, speed=40, api_keys=key) as house:
        without = await call(house, BUSY)
        with_key = await call(house, BUSY, *given)
    assert without.code == 1
    assert without.told.startswith("refused (401): send one of the server's API_KEYS")
    assert with_key.code == 3, with_key.told


@pytest.mark.parametrize("wait", [[], ["--wait", "0.3"]])
async def test_a_server_that_is_not_there_is_told_with_what_to_check(wait: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    outcome = await run(FRIENDLY, "--server", address, *wait)
    assert outcome.code == 1
    assert outcome.told.startswith(f"no answer from {address}: ")
    assert "is the server running?" in outcome.told
    assert len(outcome.told.splitlines()) == 1


async def test_a_server_that_dies_in_the_middle_and_stays_away_is_told(tmp_path: Path) -> None:
    silent = Callee("silent", "says nothing")
    async with running(tmp_path, callees={FRIENDLY: silent}, ring_timeout=600, speed=1) as house:
        waiting = asyncio.create_task(call(house, FRIENDLY, "--reconnect", "1.5"))
        await (await house.network.next_call()).until(lambda call: call.status == "in-progress")
    outcome = await waiting
    assert outcome.code == 1, outcome.told
    assert "(ringing)" in outcome.told
    assert "is the server running?" in outcome.told


class Recited:
    """A server that tells a story: each stream of events is the next of `streams`, an int being a refusal."""

    def __init__(self, *streams: bytes | int, placed_ago: timedelta = timedelta(0)) -> None:
        self._streams = list(streams)
        self._placed_at = datetime.now(UTC) - placed_ago
        self.asked_after: list[str | None] = []

    async def _initiate(self, _: Request) -> Response:
        return JSONResponse({"session_id": "s", "phone_number": FRIENDLY, "status": "initiated"})

    async def _whole(self, _: Request) -> Response:
        empty: dict[str, list[str]] = {"journal": [], "turn_latencies": [], "transcript": []}
        none = dict.fromkeys(("end_reason", "error", "duration_s"))
        started_at = self._placed_at.isoformat().replace("+00:00", "Z")
        return JSONResponse({**empty, **none, "status": "completed", "started_at": started_at, "max_duration_s": 60})

    async def _events(self, request: Request) -> Response:
        self.asked_after.append(request.headers.get("last-event-id"))
        stream = self._streams.pop(0)
        if isinstance(stream, int):
            return JSONResponse({"detail": "not now"}, stream, media_type="application/problem+json")
        return Response(stream, media_type="text/event-stream")

    async def told(self, *arguments: str) -> Outcome:
        """What the example makes of it."""
        routes = [
            Route("/call/initiate", self._initiate, methods=["POST"]),
            Route("/calls/s", self._whole),
            Route("/calls/s/events", self._events),
        ]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with listening(uvicorn.Config(Starlette(routes=routes), log_config=None), listener):
                return await run(FRIENDLY, "--server", address, *arguments)


END = b'event: end\ndata: {"status": "completed"}\n\n'


def event(seq: int, kind: str, **data: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'seq': seq, 'kind': kind, 'data': data})}\nid: {seq}\n\n".encode()


@pytest.mark.parametrize(
    ("placed_ago", "stream", "code", "last_line"),
    [
        (
            timedelta(seconds=60 + 600 + 5),
            event(1, "status", status="in-progress") + b": ping\n\n",
            1,
            "gave up: the call is still in-progress, 11 minutes after it was placed",
        ),
        (timedelta(seconds=60 + 600 - 30), b": ping\n\n" + END, 0, "outcome: completed"),
    ],
)
async def test_a_call_that_does_not_end_is_given_up(
    placed_ago: timedelta, stream: bytes, code: int, last_line: str
) -> None:
    outcome = await Recited(stream, placed_ago=placed_ago).told()
    assert outcome.code == code, outcome.told
    assert outcome.told.splitlines()[-1] == last_line


async def test_a_stream_that_breaks_off_is_taken_up_where_it_broke() -> None:
    half = event(8, "callee_said", line=2, text="Never", lang="en-US")[:-10]
    server = Recited(
        event(7, "callee_said", line=1, text="Hello?", lang="en-US") + half,
        503,
        event(8, "agent_played", line=2, text="I am"),
        b"",
        event(9, "resuming", relay_session_id="VX1", cause="broken")
        + event(10, "callee_said", line=3, text="Still there?", lang="en-US")
        + END,
    )
    outcome = await server.told()
    assert server.asked_after == [None, "7", "7", "8", "8"]
    assert outcome.code == 0, outcome.told
    assert outcome.told.splitlines()[1:5] == [
        "callee  Hello?",
        "agent   I am",
        "        (the line broke; the call is taken up again)",
        "callee  Still there?",
    ]


async def test_a_stream_that_is_refused_is_told_in_the_servers_words() -> None:
    outcome = await Recited(401).told()
    assert outcome.code == 1
    assert outcome.told.splitlines()[-1] == "refused (401): not now"


@pytest.mark.parametrize("arguments", [[], [FRIENDLY, "--variable", "nameless"], [FRIENDLY, "--nonsense"]])
async def test_wrong_arguments_are_told_with_the_usage(arguments: list[str]) -> None:
    outcome = await run(*arguments)
    assert outcome.code == 2
    assert outcome.told.startswith("usage: example_usage.py")
    assert "Traceback" not in outcome.told
