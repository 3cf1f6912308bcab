"""Every number behaves as it says, with whatever agent."""

import pytest
from starlette.websockets import WebSocket

from outbound.simulator import CALLEES
from outbound.simulator.callees import says_goodbye, story
from tests.simulator.application import messages
from tests.simulator.conftest import Stage


@pytest.mark.parametrize("number", ["+15005550006", "+12025550100", "+12025550177"])
async def test_the_friendly_person_talks_some_turns_and_says_goodbye(stage: Stage, number: str) -> None:
    call = await stage.story(number)
    said = call.said("callee")
    assert len(said) == 5
    assert "Who is this" in said[0]
    assert says_goodbye(said[-1])
    assert says_goodbye(call.said("agent")[-1])
    assert call.notes == []


async def test_the_friendly_person_leaves_when_the_agent_says_goodbye(stage: Stage) -> None:
    async def leaves(relay: WebSocket) -> None:
        async for message in messages(relay):
            if message["type"] == "prompt":
                await relay.send_json({"type": "text", "token": "I see. Have a nice day, goodbye!", "last": True})

    stage.app.talk = leaves
    call = await stage.story("+12025550100")
    assert len(call.said("callee")) == 2


async def test_a_friendly_person_says_hello_when_nobody_speaks(stage: Stage) -> None:
    stage.app.attributes["welcomeGreeting"] = ""
    call = await stage.story("+12025550100")
    assert call.said("callee")[0] == "Hello?"


async def test_the_voicemail_is_a_machine_and_waits_for_a_message(stage: Stage) -> None:
    call = await stage.story("+12025550104")
    assert CALLEES["+12025550104"].answered_by == "machine"
    assert "after the tone" in call.said("callee")[0]
    assert call.said("agent")[-1]


async def test_one_hangs_up_in_mid_sentence(stage: Stage) -> None:
    call = await stage.story("+12025550105")
    assert call.transcript[-1].interrupted
    assert call.transcript[-1].text == "Hello, this is Ada,"
    assert call.sent("prompt") == call.sent("interrupt") == []


async def test_one_interrupts_twice_and_gets_on_well(stage: Stage) -> None:
    call = await stage.story("+12025550106")
    interrupts = [message["utteranceUntilInterrupt"] for message in call.sent("interrupt")]
    assert interrupts == ["Hello, this is Ada, an assistant", "It"]
    assert len(call.said("callee")) == 6
    assert says_goodbye(call.said("callee")[-1])


async def test_one_stays_silent_until_the_call_is_ended(stage: Stage) -> None:
    call = await stage.story("+12025550107", TimeLimit="30")
    assert call.said("callee") == []
    assert call.sent("prompt") == []


async def test_one_does_not_want_to_be_called(stage: Stage) -> None:
    call = await stage.story("+12025550108")
    assert call.sent("prompt")[0]["voicePrompt"] == "Stop calling me. Take me off your list."


async def test_one_presses_keys(stage: Stage) -> None:
    async def answers(relay: WebSocket) -> None:
        async for message in messages(relay):
            if message["type"] == "dtmf" and message["digit"] in {"1", "#"}:
                await relay.send_json({"type": "text", "token": "Thank you.", "last": True})

    stage.app.talk = answers
    stage.app.attributes["dtmfDetection"] = "true"
    call = await stage.story("+12025550109")
    assert [message["digit"] for message in call.sent("dtmf")] == ["1", "4", "2", "#"]


async def test_one_is_screened_first(stage: Stage) -> None:
    call = await stage.story("+12025550110")
    said = call.said("callee")
    assert "state your name" in said[0]
    assert "This is Dana" in said[2] or "this is Dana" in said[2]
    assert says_goodbye(said[-1])


async def test_one_speaks_spanish(stage: Stage) -> None:
    call = await stage.story("+12025550111")
    assert {message["lang"] for message in call.sent("prompt")} == {"es-ES"}
    assert len(call.said("callee")) == 4


async def test_one_rambles(stage: Stage) -> None:
    call = await stage.story("+12025550112")
    lengths = [len(str(message["voicePrompt"])) for message in call.sent("prompt")]
    assert lengths[:2] == [2_000, 20_000]
    assert says_goodbye(call.said("callee")[-1])


@pytest.mark.parametrize("characters", [10, 100, 101, 20_000])
def test_a_story_has_its_length(characters: int) -> None:
    assert len(story(characters)) == characters
