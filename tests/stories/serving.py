"""Calls that outlive the processes which serve them: how a client places and follows them, and what is true of each."""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from outbound.simulator import NetworkCall
from tests.stories.test_shutdown import STARTS_WITHIN_S
from tests.stories.waiting import until

FRESH_S = 0.5
"""What the callee said and heard so short a time before a kill may not have been written down yet.

0.2 s, and what a busy machine adds to that.
"""
GREETING = "Good morning, this is the AI assistant of the harbour office. Do you have a moment?"

type Record = dict[str, Any]
"""A call as the API tells it."""


async def is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def place(client: httpx.AsyncClient, number: str) -> str:
    """Rings, once, however often a server dies meanwhile; returns our session id."""

    async def ask() -> Record:
        try:
            headers = {"Idempotency-Key": number}
            response = await client.post("/call/initiate", json={"to": number, "greeting": GREETING}, headers=headers)
        except httpx.TransportError:
            return {}
        # What is between the server and us speaks HTML where it finds no server.
        answer: Record = response.json() if "json" in response.headers["Content-Type"] else {}
        return answer

    return str((await until(ask, lambda answer: "session_id" in answer, within_s=STARTS_WITHIN_S))["session_id"])


async def whole(client: httpx.AsyncClient, session_id: str) -> Record:
    """The record of a call, once it is over."""

    async def ask() -> Record:
        try:
            response = await client.get(f"/calls/{session_id}")
            record: Record = response.json() if response.status_code == 200 else {}
            return record
        except httpx.TransportError:
            return {}

    return await until(ask, lambda record: bool(record) and record["ended_at"] is not None, within_s=60)


@dataclass(frozen=True, slots=True)
class Kills:
    """When processes were killed, in network seconds, and how many of those FRESH_S is."""

    at: Sequence[float]
    fresh: float

    def are_near(self, at: float) -> bool:
        return any(kill - self.fresh <= at <= kill + self.fresh for kill in self.at)


def assert_true(call: NetworkCall, record: Record, kills: Kills, said_once: str = "") -> None:
    """Nothing lost, nothing greeted or said twice, whatever was killed.

    `said_once` is an expression for what the agent may say only once, besides the end of the greeting. What was heard
    just before a kill may be said again.
    """
    story = "\n".join(
        [record["session_id"], f"killed at {kills.at}"]
        + [f"{s.at:.1f} {s.who}: {s.text}" for s in call.transcript]
        + [f"{entry['at']} {entry['kind']} {entry['data']}" for entry in record["journal"]]
    )
    assert record["status"] == "completed", story
    heard = " ".join(call.said("agent"))
    # The beginning of a greeting that was cut may be heard again.
    assert heard.count("Good morning") <= 1 + bool(call.gaps), story
    sentences = Counter(re.findall(rf"Do you have a moment\?|{said_once or '(?!)'}", heard))
    twice = [sentence for sentence in sentences if sentences[sentence] > 1]
    ends = {text: [s.at for s in call.transcript if s.who == "agent" and text in s.text] for text in twice}
    assert all(kills.are_near(at) for times in ends.values() for at in times[:-1]), (twice, story)
    kept = Counter(line["text"] for line in record["transcript"] if line["role"] == "callee")
    for spoken, prompts in call.deliveries():
        delivered = [frame for frame in prompts if frame.message.get("last")]
        if delivered and not kills.are_near(delivered[0].at):
            text = str(delivered[0].message["voicePrompt"])
            assert kept[text] >= 1, (text, story)
        assert kept[spoken.text] <= 1, story


def silences(calls: Iterable[NetworkCall]) -> list[float]:
    """How long callees heard nothing new on takeover without the carrier's own share, in network seconds, in order."""
    return sorted(gap.silence - (gap.carriers or 0) for call in calls for gap in call.gaps if gap.silence is not None)


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
