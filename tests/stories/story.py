"""A whole call, told twice: by the network that carried it and by our API; and the words to compare the two."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from outbound.simulator import Frame, NetworkCall
from tests.server import Running
from tests.stories.waiting import until

PATIENCE_S = 20.0
"""Real seconds that no story needs, however busy the machine is."""


@dataclass(frozen=True)
class Story:
    """What remains of a call that is over."""

    network: NetworkCall
    """The carrier's view."""
    record: dict[str, Any]
    """`GET /calls/{session_id}`."""
    rings: int
    """How often the network was asked to ring this number."""

    def said(self, role: str) -> list[str]:
        """The transcript's lines of one side."""
        return [line["text"] for line in self.record["transcript"] if line["role"] == role]

    def noted(self, kind: str) -> list[dict[str, Any]]:
        """The data of the journal's entries of one kind."""
        return [entry["data"] for entry in self.record["journal"] if entry["kind"] == kind]


async def tell(running: Running, number: str, **body: Any) -> Story:
    """Rings the number and lets the call run its course."""
    session_id, call = await running.ring(number, **body)
    async with asyncio.timeout(PATIENCE_S):
        await call.ended.wait()
    return await told(running, session_id)


async def told(running: Running, session_id: str) -> Story:
    """The story of a call that is over at the carrier, once our side has written down its end."""

    async def look() -> dict[str, Any]:
        return await running.whole(session_id)

    record = await until(look, is_settled)
    call = running.network.calls[record["call_sid"]]
    rings = sum(1 for other in running.network.calls.values() if other.request.to == call.request.to)
    return Story(call, record, rings)


def is_settled(record: dict[str, Any]) -> bool:
    """Whether nothing more will be written: the status is final, and the last socket has left its trace and reason."""
    kinds = [entry["kind"] for entry in record["journal"]]
    sockets = [kind for kind in kinds if kind in ("relay_opened", "relay_closed")]
    talked = bool(sockets)
    closed = sockets[-1:] != ["relay_opened"]  # One that had to give way writes nothing more.
    is_over = record["ended_at"] is not None
    return is_over and closed and (record["end_reason"] is not None or not talked)


async def active(running: Running) -> list[dict[str, Any]]:
    """`GET /calls/active`."""
    response = await running.client.get("/calls/active")
    assert response.status_code == 200, response.text
    calls: list[dict[str, Any]] = response.json()["calls"]
    assert response.json()["count"] == len(calls)
    return calls


def words(texts: Sequence[str]) -> list[str]:
    """All words, one after another: white space at the joints of what was played is not reliable."""
    return " ".join(texts).split()


# What every call must be, whoever answers.


async def assert_well_behaved(running: Running, story: Story) -> None:
    """The rules that hold for every call."""
    assert await active(running) == []
    assert story.rings == 1
    assert reported(story).count("ringing") <= 1
    assert_the_wire_was_understood(story)
    assert_every_talk_cycle_was_closed_once(story.network)
    assert_the_end_came_after_the_last_words(story.network)
    assert_nothing_unheard_was_kept(story)


def assert_the_wire_was_understood(story: Story) -> None:
    """No frame of ours was refused (64107), no webhook failed, nothing stands in the carrier's debugger."""
    assert story.network.sent("error") == []
    assert story.noted("carrier_error") == []
    assert story.network.notes == []
    assert all(webhook.status in (200, 204) for webhook in story.network.webhooks)


def assert_every_talk_cycle_was_closed_once(call: NetworkCall) -> None:
    """Each cycle has exactly one `last`, and none closes what is not open."""
    for session in {frame.session_id for frame in call.frames}:
        is_open = False
        for text in _texts(call, session):
            assert is_open or text["token"], "a talk cycle was closed twice"
            is_open = not text.get("last", False)
        ours_to_end = _ends(call, session)
        assert not (is_open and ours_to_end), "the last talk cycle was left open"


def assert_the_end_came_after_the_last_words(call: NetworkCall) -> None:
    """Whoever says goodbye lets it be heard: at `end` the carrier has played all, and nothing follows it."""
    ends = [index for index, frame in enumerate(call.frames) if _is(frame, "end")]
    if not ends:
        return
    assert len(ends) == 1
    before, after = call.frames[: ends[0]], call.frames[ends[0] + 1 :]
    assert not [frame for frame in after if frame.direction == "from_app"]
    speaking = [frame.message["value"] for frame in before if frame.message.get("name") == "agentSpeaking"]
    assert speaking[-1] == "off"
    spoken_to_the_end = call.transcript[-1].unheard == "" if call.transcript else True
    assert spoken_to_the_end, call.transcript[-1]


def assert_nothing_unheard_was_kept(story: Story) -> None:
    """What we keep of the agent's words is what reached the callee's ear; a hang-up may cut it a clause shorter."""
    heard, kept = words(story.network.said("agent")), words(story.said("agent"))
    if story.record["end_reason"] in ("callee_hung_up", "hung_up_by_api", "relay_failed"):
        assert heard[: len(kept)] == kept
    else:
        assert heard == kept


# What this story has besides.


def assert_greeted_once(story: Story) -> None:
    """The greeting is spoken by the carrier, once, and is the first line of the transcript."""
    greeting = story.record["greeting"]
    documents = [webhook.body for webhook in story.network.webhooks if webhook.errand == "url"]
    assert sum(document.count("welcomeGreeting=") for document in documents) == 1
    assert greeting not in "".join(str(text["token"]) for text in story.network.received("text"))
    assert [line for line in story.said("agent") if line == greeting] == [greeting]
    assert story.record["transcript"][0]["text"] == greeting


def assert_turns_answered(story: Story) -> None:
    """Every line of the callee got an answer of its own, measured."""
    turns = story.record["turn_latencies"]
    assert [turn["turn"] for turn in turns] == list(range(1, len(turns) + 1))
    assert all(turn["first_text_ms"] is not None for turn in turns if turn["outcome"] == "finished")


def reported(story: Story) -> list[str]:
    """The statuses that the carrier told us, as they came."""
    return [change["reported"] for change in story.noted("status") if "reported" in change]


def loops(lines: Sequence[str]) -> bool:
    """Whether somebody says the same sentence twice running."""
    plain = [re.sub(r"\W+", " ", line.lower()).strip() for line in lines]
    return any(first == second for first, second in pairwise(plain))


def _texts(call: NetworkCall, session: str) -> list[dict[str, Any]]:
    return [dict(frame.message) for frame in call.frames if frame.session_id == session and _is(frame, "text")]


def _ends(call: NetworkCall, session: str) -> bool:
    return any(frame.session_id == session and _is(frame, "end") for frame in call.frames)


def _is(frame: Frame, kind: str) -> bool:
    return frame.direction == "from_app" and frame.message.get("type") == kind
