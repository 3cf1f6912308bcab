"""Calls as they were recorded on live lines, played to the product: the orders and frames that surprise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.agents.openai_server import OpenAIServer
from tests.stories.peer import Message, Stage, staged
from tests.stories.replay import Played, load, play
from tests.stories.story import is_settled
from tests.stories.waiting import until

GREETING = "Hello, this is the AI assistant of the library. Do you have a moment?"


@dataclass(frozen=True)
class Theatre:
    """The product, a carrier moved by hand, and a model that says its lines."""

    stage: Stage
    model: OpenAIServer

    async def replay(self, name: str, *, events: bool = True) -> tuple[Played, Message]:
        """Plays the call, and returns what came of it with its record, which is as every record must be."""
        played = await play(self.stage, self.model, load(name, events=events))
        record = await until(played.peer.record, is_settled)
        assert record["status"] == "completed"
        assert record["transcript"][0]["text"] == GREETING
        assert [opened["call_sid"] for opened in noted(record, "relay_opened")] == [played.peer.call_sid]
        assert noted(record, "frame_ignored") == []
        reported = [change["reported"] for change in noted(record, "status")]
        assert reported == ["ringing", "initiated", "in-progress", "completed"]
        assert GREETING not in str(played.frames)
        assert_cycles_closed(played)
        assert await self.stage.active() == []
        return played, record


@asynccontextmanager
async def theatre(tmp_path: Path, **settings: Any) -> AsyncIterator[Theatre]:
    async with OpenAIServer() as model:
        llm = {"llm_model": "openai:stand-in", "openai_base_url": model.base_url}
        async with staged(tmp_path, **{**llm, **settings}) as stage:
            yield Theatre(stage, model)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Theatre]:
    async with theatre(tmp_path) as house:
        yield house


def lines(record: Message) -> list[tuple[str, str, bool]]:
    """The transcript: who, what, and whether it was cut."""
    return [(line["role"], line["text"], line["interrupted"]) for line in record["transcript"]]


def noted(record: Message, kind: str) -> list[Message]:
    return [entry["data"] for entry in record["journal"] if entry["kind"] == kind]


def assert_cycles_closed(played: Played) -> None:
    """Every talk cycle is closed once."""
    is_open = False
    for text in played.texts():
        assert is_open or text["token"]
        is_open = not text["last"]
    assert not is_open


async def test_ringing_before_initiated_does_not_set_the_call_back(house: Theatre) -> None:
    _, record = await house.replay("outbound_leg")

    assert [(change["sequence"], change["status"]) for change in noted(record, "status")] == [
        (1, "ringing"),
        (0, "ringing"),
        (2, "in-progress"),
        (3, "completed"),
    ]
    assert record["answered_at"] < record["transcript"][0]["at"]
    assert lines(record) == [
        ("agent", GREETING, False),
        ("callee", "Yes. What is it about?", False),
        ("agent", "Your book has arrived.", False),
    ]


async def test_partial_prompts_are_noted_and_only_the_final_one_is_answered(house: Theatre) -> None:
    _, record = await house.replay("partial_prompts")

    assert len(noted(record, "callee_partial")) == 5
    assert noted(record, "callee_partial")[2]["text"] == "Can you tell me wind"
    assert len(house.model.asked) == 1
    assert "wind" not in str(house.model.asked[0].body["messages"])
    assert [text for role, text, _ in lines(record) if role == "callee"] == ["Can you tell me when you close?"]


HEARD = (
    "Sentence 1 of twelve: the quick brown fox jumps over the lazy dog while the spike keeps talking so you can "
    "interrupt it. Sentence 2 of"
)


@pytest.mark.parametrize("events", [True, False], ids=["with-events", "without-events"])
async def test_a_barge_in_keeps_all_that_was_heard_though_it_names_one_clause(house: Theatre, events: bool) -> None:
    _, record = await house.replay("barge_in", events=events)

    assert lines(record)[2:4] == [("agent", HEARD, True), ("callee", "Stop. That is enough.", False)]
    remembered = house.model.asked[1].body["messages"]
    assert [message for message in remembered if HEARD in message["content"]]
    assert "Sentence 3" not in str(remembered)
    assert "Sentence 2 of twelve" not in str(remembered)
    assert noted(record, "interrupted") == [{"fragment": "Sentence 2 of", "after_ms": 684.0}]


async def test_keys_that_cut_the_agent_short_are_one_input(house: Theatre) -> None:
    _, record = await house.replay("keypad")

    assert lines(record)[2:] == [
        ("agent", "Please enter your card", True),
        ("callee", "4711", False),
        ("agent", "Thank you.", False),
    ]
    assert [line["keypad"] for line in record["transcript"]] == [False, False, False, True, False]
    assert len(house.model.asked) == 2
    assert "4711" in house.model.asked[1].said("user")[-1]


async def test_a_dropped_socket_is_asked_for_again_and_the_talk_is_kept(house: Theatre) -> None:
    played, record = await house.replay("socket_drop")

    assert "<ConversationRelay" in played.documents[-2]
    assert "welcomeGreeting=" not in played.documents[-2]
    assert record["end_reason"] == "relay_failed"
    assert noted(record, "carrier_error") == [{"code": 64105, "description": "Websocket ended"}]
    assert lines(record)[-1] == ("agent", "Your book has arrived.", False)
    assert record["duration_s"] == 22


async def test_an_ending_of_ours_comes_after_the_goodbye_was_heard(house: Theatre) -> None:
    played, record = await house.replay("ended_by_us")

    assert record["end_reason"] == "agent_said_goodbye"
    assert lines(record)[-1] == ("agent", "Goodbye, and thank you.", False)
    assert [frame["type"] for frame in played.frames].count("end") == 1
    assert played.frames[-1]["type"] == "end"
    assert record["duration_s"] == 61
    kinds = [entry["kind"] for entry in record["journal"]]
    assert kinds.index("ending") < kinds.index("agent_said", kinds.index("ending")) < kinds.index("relay_closed")


async def test_a_hangup_in_mid_speech_keeps_the_clause_that_was_heard(house: Theatre) -> None:
    _, record = await house.replay("hangup")

    assert record["end_reason"] == "callee_hung_up"
    assert lines(record)[-1] == ("agent", "Your book has arrived.", True)
    assert record["duration_s"] == 10
    assert noted(record, "relay_closed") == [{"code": 1000}]
