"""The relay socket: the recorded orders, what is lost and what is not, and every way a session ends."""

import asyncio
from collections.abc import Callable

import pytest
from starlette.websockets import WebSocket

from outbound.simulator import NetworkCall
from outbound.simulator.line import Line
from tests.simulator.application import ACCOUNT_SID, Talk, messages, xml
from tests.simulator.conftest import FROM, SOMEBODY, Stage, ended

LONG = "This is a long sentence that goes on and on. And here is another one: it is long as well."


def says(*frames: dict[str, object] | str) -> Talk:
    """An application that sends these frames after `setup`, and then only listens."""

    async def talk(relay: WebSocket) -> None:
        async for message in messages(relay):
            if message["type"] == "setup":
                for frame in frames:
                    await (relay.send_text(frame) if isinstance(frame, str) else relay.send_json(frame))

    return talk


def text(token: str, **fields: object) -> dict[str, object]:
    return {"type": "text", "token": token, "last": True, **fields}


def order(call: NetworkCall) -> list[str]:
    """The kinds of frames that went to the application; an info by its name and value, text left out."""
    kinds = []
    for message in call.sent():
        name = str(message.get("name", message["type"]))
        kinds.append(f"{name} {message['value']}" if name.endswith("Speaking") else name)
    return kinds


def prompts(call: NetworkCall) -> list[object]:
    return [message["voicePrompt"] for message in call.sent("prompt") if message["last"]]


def spoke(part: str) -> Callable[[NetworkCall], bool]:
    return lambda call: any(part in said for said in call.said("agent"))


async def interrupting(line: Line) -> None:
    await line.interrupt("Stop, please.", after_words=11)
    await line.pause(1)


async def listening(line: Line) -> None:
    await line.hear()


async def hold(line: Line) -> None:
    await line.hold()


async def test_setup_comes_first_and_has_the_keys_of_an_outbound_call(stage: Stage) -> None:
    call = await stage.story(talk=listening)
    setup = call.frames[0].message
    assert setup.pop("sessionId") == call.frames[0].session_id
    assert setup == {
        "type": "setup",
        "accountSid": ACCOUNT_SID,
        "parentCallSid": "",
        "callSid": call.sid,
        "from": FROM,
        "to": SOMEBODY,
        "forwardedFrom": "",
        "callType": "PSTN",
        "callerName": "",
        "direction": "outbound-api",
        "callStatus": "IN_PROGRESS",
        "customParameters": {"session": "s_1"},
    }


async def test_the_greeting_is_spoken_after_setup(stage: Stage) -> None:
    call = await stage.story(talk=listening)
    assert order(call) == ["setup", "agentSpeaking on", "tokensPlayed", "tokensPlayed", "agentSpeaking off"]
    assert call.frames[1].at - call.frames[0].at >= 0.7


async def test_info_frames_come_only_when_asked_for(stage: Stage) -> None:
    stage.app.attributes["events"] = ""
    call = await stage.story()
    assert call.sent("info") == []
    assert call.sent("prompt")


async def test_an_interruption_has_the_recorded_order(stage: Stage) -> None:
    stage.app.attributes["welcomeGreeting"] = ""
    stage.app.talk = says(text(LONG), text("This cycle is never heard."))
    call = await stage.story(talk=interrupting)
    assert order(call) == [
        "setup",
        "agentSpeaking on",
        "tokensPlayed",
        "clientSpeaking on",
        "tokensPlayed",
        "interrupt",
        "agentSpeaking off",
        "clientSpeaking off",
        "prompt",
    ]
    # Only the clause that was playing is named, not the whole cycle.
    interrupt = call.sent("interrupt")[0]
    assert interrupt["utteranceUntilInterrupt"] == "And"
    assert interrupt["durationUntilInterruptMs"] == pytest.approx(200, abs=1)
    assert [info["value"] for info in call.sent("info") if info["name"] == "tokensPlayed"] == [
        "This is a long sentence that goes on and on.",
        "And",
    ]
    cut = call.transcript[0]
    assert cut.text == "This is a long sentence that goes on and on. And"
    assert cut.unheard == "here is another one: it is long as well.This cycle is never heard."
    assert prompts(call) == ["Stop, please."]


async def test_partial_prompts_are_cumulative(stage: Stage) -> None:
    stage.app.attributes["partialPrompts"] = "true"

    async def talks(line: Line) -> None:
        await line.hear()
        await line.say("One two three four five six seven eight nine ten.", seconds=100)

    call = await stage.story(talk=talks)
    *partials, last = [str(message["voicePrompt"]) for message in call.sent("prompt")]
    assert partials
    assert last == "One two three four five six seven eight nine ten."
    assert all(last.startswith(partial) for partial in partials)
    assert partials == sorted(partials, key=len)


async def test_speech_during_a_line_that_may_not_be_interrupted_is_lost(stage: Stage) -> None:
    stage.app.attributes["welcomeGreetingInterruptible"] = "none"

    async def talks_over(line: Line) -> None:
        await line.interrupt("Wait.", after_words=2)
        await line.hear()

    call = await stage.story(talk=talks_over)
    assert prompts(call) == []
    assert call.sent("interrupt") == []
    assert call.said("callee") == ["Wait."]


async def test_it_is_reported_when_the_relay_is_told_to(stage: Stage) -> None:
    stage.app.attributes |= {"welcomeGreetingInterruptible": "none", "reportInputDuringAgentSpeech": "any"}

    async def talks_over(line: Line) -> None:
        await line.interrupt("Wait.", after_words=2)

    call = await stage.story(talk=talks_over)
    assert prompts(call) == ["Wait."]
    assert call.sent("interrupt") == []


async def test_one_text_may_be_uninterruptible_by_itself(stage: Stage) -> None:
    stage.app.attributes["welcomeGreeting"] = ""
    stage.app.talk = says(text(LONG, interruptible=False))
    call = await stage.story(talk=interrupting)
    assert call.sent("interrupt") == []
    assert call.said("agent") == [LONG]


async def test_an_agent_that_begins_while_the_callee_talks_is_interrupted_at_once(stage: Stage) -> None:
    async def is_already_talking(line: Line) -> None:
        await line.say(LONG * 20)

    call = await stage.story(talk=is_already_talking)
    assert call.sent("interrupt")[0]["utteranceUntilInterrupt"] == ""
    assert len(prompts(call)) == 1


@pytest.mark.parametrize(
    ("attributes", "frames"),
    [
        ({}, []),
        ({"dtmfDetection": "true"}, ["interrupt", "agentSpeaking off", "dtmf"]),
        ({"dtmfDetection": "true", "welcomeGreetingInterruptible": "speech"}, []),
        (
            {
                "dtmfDetection": "true",
                "welcomeGreetingInterruptible": "speech",
                "reportInputDuringAgentSpeech": "dtmf",
            },
            ["dtmf"],
        ),
    ],
)
async def test_a_key_during_the_greeting(stage: Stage, attributes: dict[str, str], frames: list[str]) -> None:
    stage.app.attributes |= {"events": "speaker-events", "welcomeGreeting": LONG * 20, **attributes}

    async def presses(line: Line) -> None:
        await line.hear_words(2)
        await line.press("5")

    call = await stage.story(talk=presses)
    assert order(call) == ["setup", "agentSpeaking on", *frames]


async def test_a_preemptible_cycle_gives_way_without_an_interrupt(stage: Stage) -> None:
    stage.app.attributes["welcomeGreeting"] = ""

    async def fills(relay: WebSocket) -> None:
        async for message in messages(relay):
            if message["type"] == "setup":
                await relay.send_json(text("One moment. " * 200, preemptible=True))
            elif message.get("name") == "tokensPlayed" and message["value"] == "One moment.":
                await relay.send_json(text("Here it is."))
                break

    stage.app.talk = fills
    call = await stage.story(talk=listening)
    assert call.said("agent")[0].endswith("Here it is.")
    assert call.sent("interrupt") == []
    assert order(call).count("agentSpeaking off") == 1


async def test_digits_of_the_agent_are_reported_as_played(stage: Stage) -> None:
    stage.app.talk = says({"type": "sendDigits", "digits": "12#"})

    call = await stage.story(talk=listening)
    assert {"type": "info", "name": "tokensPlayed", "value": "12#"} in call.sent("info")
    assert "12#" not in " ".join(call.said("agent"))


async def test_the_language_of_prompts_follows_the_application(stage: Stage) -> None:
    stage.app.talk = says({"type": "language", "transcriptionLanguage": "de-DE"})

    async def talks(line: Line) -> None:
        await line.hear()
        await line.say("Guten Tag.")

    assert (await stage.story(talk=talks)).sent("prompt")[0]["lang"] == "de-DE"


async def test_a_hang_up_closes_the_socket_then_asks_for_the_action_then_tells_the_status(stage: Stage) -> None:
    call = await stage.story(talk=listening)
    assert stage.app.closed == [1000]
    assert [path for path, _ in stage.app.received][-2:] == ["/action", "/status"]
    action = stage.app.params("/action")[0]
    assert action["SessionId"] == call.frames[0].session_id
    assert (action["SessionStatus"], action["CallStatus"]) == ("completed", "completed")
    assert int(action["SessionDuration"]) > 0
    assert not {"HandoffData", "ErrorCode", "ErrorMessage"} & set(action)


async def test_an_end_hands_over_verbatim_and_its_instructions_are_followed(stage: Stage) -> None:
    stage.app.talk = says({"type": "end", "handoffData": '{"reason": "tränsfer"}'})
    stage.app.action = [xml("<Say>One moment.</Say><Hangup/>")]
    call = await stage.story(talk=hold)
    action = stage.app.params("/action")[0]
    assert (action["SessionStatus"], action["CallStatus"]) == ("ended", "in-progress")
    assert action["HandoffData"] == '{"reason": "tränsfer"}'
    assert stage.app.closed == [1000]
    assert call.said("agent")[-1] == "One moment."


async def test_an_end_does_not_wait_for_speech(stage: Stage) -> None:
    stage.app.attributes["welcomeGreeting"] = ""
    stage.app.talk = says(text("Goodbye."), {"type": "end"})
    call = await stage.story(talk=hold)
    assert call.transcript[0].unheard == "Goodbye."


async def test_a_dropped_socket_is_not_a_dropped_call(stage: Stage) -> None:
    stage.app.talk = says()
    call = await stage.ring(talk=hold)
    stage.app.action = [xml(stage.app.relay(welcomeGreeting="")), xml("<Hangup/>")]
    await call.until(spoke("Northwind"))
    call.drop_relay()
    await call.until(lambda call: len(call.sent("setup")) == 2)
    action = stage.app.params("/action")[0]
    assert (action["SessionStatus"], action["CallStatus"]) == ("failed", "in-progress")
    assert (action["ErrorCode"], action["ErrorMessage"]) == ("64105", "Websocket ended")
    first, second = call.sent("setup")
    assert first["callSid"] == second["callSid"]
    assert first["sessionId"] != second["sessionId"]
    call.hang_up()
    await ended(call)
    assert len(call.said("agent")) == 1


async def test_the_fault_drops_one_session_only(stage: Stage) -> None:
    stage.network.faults.drop_relay_after = 2.0
    stage.app.action = [xml(stage.app.relay(welcomeGreeting="I am back."))]
    call = await stage.story()
    assert len(call.sent("setup")) == 2
    assert [params["SessionStatus"] for params in stage.app.params("/action")] == ["failed", "completed"]
    assert stage.app.closed[0] in {1005, 1006}


async def test_a_socket_that_the_application_closes_counts_as_dropped(stage: Stage) -> None:
    async def closes(relay: WebSocket) -> None:
        await relay.close()

    stage.app.talk = closes
    await stage.story(talk=hold)
    assert stage.app.params("/action")[0]["ErrorCode"] == "64105"


async def test_a_socket_that_cannot_be_opened_fails(stage: Stage) -> None:
    stage.app.voice = xml(stage.app.relay(url="ws://127.0.0.1:1/relay"))
    call = await stage.story(talk=hold)
    assert stage.app.params("/action")[0]["ErrorCode"] == "64102"
    assert call.frames == []


async def test_an_invalid_attribute_fails_the_session(stage: Stage) -> None:
    stage.app.voice = xml(stage.app.relay(interruptible="maybe"))
    await stage.story(talk=hold)
    assert stage.app.params("/action")[0]["ErrorCode"] == "64101"


async def test_a_malformed_frame_is_answered_with_an_error_and_ignored(stage: Stage) -> None:
    stage.app.talk = says("hello", {"type": "ping"}, text("I am still here."))
    call = await stage.ring(talk=hold)
    await call.until(spoke("still here"))
    assert [str(error["description"])[:42] for error in call.sent("error")] == [
        "Invalid message received, code: 64107, mes"
    ] * 2
    call.hang_up()
    await ended(call)


async def test_ten_malformed_frames_in_a_row_close_the_socket(stage: Stage) -> None:
    nine: list[dict[str, object]] = [{"type": "ping"}] * 9
    stage.app.talk = says(*nine, text("Sorry."), *nine, {"type": "ping"})
    call = await stage.story(talk=hold)
    assert len(call.sent("error")) == 19
    assert stage.app.closed == [1007]
    action = stage.app.params("/action")[0]
    assert (action["SessionStatus"], action["ErrorCode"]) == ("failed", "64105")


async def test_odd_frames_reach_the_application_as_they_are(stage: Stage) -> None:
    seen: list[str] = []

    async def listens(relay: WebSocket) -> None:
        await relay.receive()
        seen.extend([(await relay.receive())["text"] for _ in range(2)])

    stage.app.talk = listens
    stage.network.faults.odd_frames = ['{"type":"surprise"}', "{"]
    await stage.story(talk=listening)
    assert seen == ['{"type":"surprise"}', "{"]


async def test_latency_keeps_the_order(stage: Stage) -> None:
    stage.network.faults.latency = 2.0
    call = await stage.story(talk=listening)
    assert order(call)[0] == "setup"
    assert stage.app.statuses()[-1] == "completed"


async def test_many_calls_live_side_by_side(stage: Stage) -> None:
    calls = await asyncio.gather(*(stage.story(f"+1202555{number}") for number in range(1000, 1010)))
    assert {call.status for call in calls} == {"completed"}
    assert all("Goodbye" in call.said("callee")[-1] for call in calls)
