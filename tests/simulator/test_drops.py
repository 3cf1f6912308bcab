"""What the carrier does when the application dies under it, and what the callee lives through meanwhile."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.websockets import WebSocket

from outbound.simulator import Frame, NetworkCall, insists
from outbound.simulator.callees import STILL_THERE
from outbound.simulator.line import Line
from outbound.simulator.speech import CHARACTERS_A_SECOND
from tests.simulator.application import GREETING, Application, Talk, messages, serving, xml
from tests.simulator.conftest import Stage, ended
from tests.simulator.processes import BACK, house

NOWHERE = "http://127.0.0.1:1"
APOLOGY = "We are sorry, an application error has occurred. Goodbye."
LATER = "Please call again later."
STORY = "This is the first sentence of a story. This is the second one. " * 20
STORY_ENDS = "And this is how it ends."


async def hold(line: Line) -> None:
    await line.hold()


async def only_listens(relay: WebSocket) -> None:
    async for _ in messages(relay):
        pass


def tells(*stories: str) -> Talk:
    """An application that says one thing on its first socket, the next one on the second."""
    untold = list(stories)

    async def talk(relay: WebSocket) -> None:
        async for message in messages(relay):
            if message["type"] == "setup" and untold:
                await relay.send_json({"type": "text", "token": untold.pop(0), "last": True})

    return talk


def reconnecting(stage: Stage, **attributes: str) -> None:
    stage.app.attributes = {"applicationReconnect": "true", "events": "tokens-played", **attributes}
    stage.app.talk = only_listens


async def drop(call: NetworkCall) -> None:
    """Let the socket die; returns when the carrier has noticed."""
    known = len(call.gaps)
    call.drop_relay()
    await call.until(lambda call: len(call.gaps) > known)


async def hung_up(call: NetworkCall) -> None:
    call.hang_up()
    await ended(call)


def setups(count: int) -> Callable[[NetworkCall], bool]:
    return lambda call: len(call.sent("setup")) == count


def spoke(words: str) -> Callable[[NetworkCall], bool]:
    return lambda call: any(words in said for said in call.said("agent"))


def played(words: str) -> Callable[[NetworkCall], bool]:
    return lambda call: any(words in str(info["value"]) for info in call.sent("info"))


def sessions(call: NetworkCall) -> list[str]:
    return [frame.session_id for frame in call.frames if frame.message["type"] == "setup"]


def prompts(frames: list[Frame]) -> list[object]:
    return [frame.message["voicePrompt"] for frame in frames if frame.message["type"] == "prompt"]


@asynccontextmanager
async def dying() -> AsyncIterator[str]:
    """The URL of a server that accepts a request and dies over it."""

    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.transport.abort()

    async with await asyncio.start_server(die, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


# A server that is gone, dies, or comes late.


async def test_a_relay_where_nobody_listens_is_told_to_the_action_and_its_answer_is_followed(stage: Stage) -> None:
    stage.app.voice = xml(stage.app.relay(url="ws://127.0.0.1:1/relay"))
    stage.app.action = [xml(stage.app.relay(welcomeGreeting="Here I am."))]
    call = await stage.ring(talk=hold)
    await call.until(spoke("Here I am."))
    action = stage.app.params("/action")[0]
    assert (action["SessionStatus"], action["ErrorCode"], action["CallStatus"]) == ("failed", "64102", "in-progress")
    await hung_up(call)


async def test_a_process_that_dies_over_the_action_leads_to_the_fallback(stage: Stage) -> None:
    async with dying() as url:
        stage.app.voice = xml(stage.app.relay().replace(stage.app.url + "/action", url))
        stage.network.faults.drop_relay_after = 1.0
        call = await stage.story(talk=hold, FallbackUrl=f"{stage.app.url}/fallback")
    params = stage.app.params("/fallback")[0]
    assert (params["ErrorCode"], params["ErrorUrl"]) == ("11200", url)
    assert call.said("agent")[-1] == LATER


async def test_each_document_that_fails_has_the_fallback(stage: Stage) -> None:
    stage.app.voice = xml("", status=500)
    stage.app.fallback = [xml(stage.app.relay())]
    stage.app.action = [xml("", status=503)]
    stage.network.faults.drop_relay_after = 1.0
    call = await stage.story(talk=hold, FallbackUrl=f"{stage.app.url}/fallback")
    failed = [params["ErrorUrl"] for params in stage.app.params("/fallback")]
    assert failed == [f"{stage.app.url}/voice", f"{stage.app.url}/action"]
    assert call.said("agent")[-1] == LATER


async def test_a_fallback_that_is_not_there_is_an_application_error(stage: Stage) -> None:
    call = await stage.story(talk=hold, Url=f"{NOWHERE}/voice", FallbackUrl=f"{NOWHERE}/fallback")
    assert call.said("agent") == [APOLOGY]
    assert call.notes == [f"11200 {NOWHERE}/voice", f"11200 {NOWHERE}/fallback"]
    assert call.status == "completed"


async def test_a_fallback_without_a_document_is_an_application_error(stage: Stage) -> None:
    stage.app.voice = xml("", status=500)
    stage.app.fallback = [xml("<Say>")]
    call = await stage.story(talk=hold, FallbackUrl=f"{stage.app.url}/fallback")
    assert call.said("agent") == [APOLOGY]
    assert len(stage.app.params("/fallback")) == 1


async def test_a_webhook_waits_for_a_process_that_is_being_restarted(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        call = await stage.ring(talk=hold, Url=f"{url}/voice")
        await call.until(lambda call: call.status == "in-progress")
        async with serving(Application(), listener) as late:
            await call.until(spoke("Northwind"))
            await hung_up(call)
    assert call.notes == late.unsigned == []


async def test_a_relay_socket_waits_for_a_process_that_is_being_restarted(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stage.app.voice = xml(stage.app.relay(url=f"ws://127.0.0.1:{listener.getsockname()[1]}/relay/tok_abc123"))
        call = await stage.ring(talk=hold)
        await call.until(lambda call: any(webhook.errand == "url" for webhook in call.webhooks))
        async with serving(Application(), listener) as late:
            await call.until(spoke("Northwind"))
            await hung_up(call)
    assert call.notes == late.unsigned == []


async def test_a_callee_who_hangs_up_does_not_wait_for_a_socket_that_nobody_accepts(stage: Stage) -> None:
    asked = asyncio.Event()

    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(stay_silent, "127.0.0.1", 0) as server:
        stage.app.voice = xml(stage.app.relay(url=f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/relay"))
        call = await stage.ring(talk=hold)
        await asked.wait()
        await hung_up(call)
    assert stage.app.params("/action")[0]["SessionStatus"] == "completed"
    assert call.notes == []


async def test_a_callee_who_hung_up_in_the_silence_gets_no_new_socket(stage: Stage) -> None:
    stage.app.action = [xml(stage.app.relay())]
    call = await stage.ring(talk=hold)
    await call.until(spoke("Northwind"))
    await drop(call)
    await hung_up(call)
    action = stage.app.params("/action")[0]
    assert (action["SessionStatus"], action["CallStatus"]) == ("failed", "completed")
    assert len(call.sent("setup")) == len(stage.app.params("/action")) == 1


async def test_an_end_may_be_answered_with_another_relay(stage: Stage) -> None:
    async def hands_over(relay: WebSocket) -> None:
        async for message in messages(relay):
            if message["type"] == "prompt":
                await relay.send_json({"type": "end", "handoffData": "handed over"})

    async def talks(line: Line) -> None:
        await line.hear()
        await line.say("First.")
        await line.hear()
        await line.say("Second.")
        await line.hold()

    stage.app.talk = hands_over
    stage.app.action = [xml(stage.app.relay(welcomeGreeting="Go on."))]
    call = await stage.story(talk=talks)
    assert [params["SessionStatus"] for params in stage.app.params("/action")] == ["ended", "ended"]
    assert [params["SessionId"] for params in stage.app.params("/action")] == sessions(call)
    assert [[frame.session_id for frame in frames] for _, frames in call.deliveries()] == [
        [session] for session in sessions(call)
    ]
    assert call.said("agent") == [GREETING, "Go on."]
    assert call.gaps == []


# `applicationReconnect`.


async def test_a_carrier_that_reconnects_opens_a_new_session_by_itself(stage: Stage) -> None:
    reconnecting(stage)
    call = await stage.ring(talk=hold)
    await call.until(setups(1))
    await drop(call)
    await call.until(setups(2))
    first, second = call.sent("setup")
    assert first.pop("sessionId") != second.pop("sessionId")
    assert first == second
    await hung_up(call)
    actions = stage.app.params("/action")
    assert [(params["SessionId"], params["SessionStatus"]) for params in actions] == [(sessions(call)[1], "completed")]
    assert call.notes == []


async def test_the_session_may_keep_its_id(stage: Stage) -> None:
    reconnecting(stage)
    stage.network.faults.reconnect_keeps_session = True
    call = await stage.ring(talk=hold)
    await call.until(setups(1))
    await drop(call)
    await call.until(setups(2))
    await hung_up(call)
    assert len(set(sessions(call))) == 1


async def test_the_agent_speaks_on_while_there_is_no_socket(stage: Stage) -> None:
    reconnecting(stage)
    stage.app.talk = tells(STORY + STORY_ENDS)
    call = await stage.ring(talk=hold)
    await call.until(played("second one"))
    stage.app.refuses = True
    await drop(call)
    await call.until(spoke(STORY_ENDS))
    stage.app.refuses = False
    await call.until(played(STORY_ENDS))
    assert call.said("agent") == [STORY + STORY_ENDS]
    assert call.frames[-1].session_id == sessions(call)[1]
    await hung_up(call)


async def test_a_sentence_that_the_application_left_unfinished_is_closed(stage: Stage) -> None:
    async def begins(relay: WebSocket) -> None:
        async for message in messages(relay):
            if message["type"] == "setup":
                await relay.send_json({"type": "text", "token": "One clause. And half", "last": False})

    reconnecting(stage, events="speaker-events tokens-played")
    stage.app.talk = begins
    stage.app.refuses = False
    call = await stage.ring(talk=hold)
    await call.until(played("One clause."))
    stage.app.talk = only_listens
    await drop(call)
    await call.until(spoke("One clause. And half"))
    await hung_up(call)
    assert call.sent("info")[-1]["value"] == "off"


@pytest.mark.parametrize(
    ("replayed", "delivered"),
    [
        (2, ["Two.", "Three.", "Four.", "Five."]),
        (0, ["Four.", "Five."]),
        (9, ["One.", "Two.", "Three.", "Four.", "Five."]),
    ],
)
async def test_what_happened_meanwhile_and_what_may_have_been_lost_is_told(
    stage: Stage, replayed: int, delivered: list[str]
) -> None:
    reconnecting(stage, welcomeGreeting=GREETING, events="")
    stage.network.faults.replayed_events = replayed
    stage.network.faults.reconnect_within = 3_000
    dropped, said = asyncio.Event(), asyncio.Event()

    async def talks(line: Line) -> None:
        await line.hear()
        for words in ("One.", "Two.", "Three."):
            await line.say(words)
        await dropped.wait()
        for words in ("Four.", "Five."):
            await line.say(words)
        said.set()
        await line.hold()

    call = await stage.ring(talk=talks)
    await call.until(lambda call: len(call.sent("prompt")) == 3)
    stage.app.refuses = True
    await drop(call)
    dropped.set()
    await said.wait()
    stage.app.refuses = False
    await call.until(lambda call: len(call.sent("prompt")) == 3 + len(delivered))
    await hung_up(call)
    first, second = sessions(call)
    assert prompts([frame for frame in call.frames if frame.session_id == second]) == delivered
    told = {line.text: [frame.session_id for frame in frames] for line, frames in call.deliveries()}
    assert told["Four."] == told["Five."] == [second]
    assert told["Three."] == ([first, second] if replayed else [first])


async def test_no_more_than_500_events_are_told_again(stage: Stage) -> None:
    reconnecting(stage, dtmfDetection="true")
    stage.network.faults.reconnect_within = 3_000
    dropped, pressed = asyncio.Event(), asyncio.Event()

    async def presses(line: Line) -> None:
        await dropped.wait()
        await line.press("1" * 20 + "2" * 500)
        pressed.set()
        await line.hold()

    call = await stage.ring(talk=presses)
    await call.until(setups(1))
    stage.app.refuses = True
    await drop(call)
    dropped.set()
    await pressed.wait()
    stage.app.refuses = False
    await call.until(lambda call: len(call.sent("dtmf")) >= 500)
    await hung_up(call)
    assert [key["digit"] for key in call.sent("dtmf")] == ["2"] * 500


async def test_a_carrier_that_finds_nobody_asks_the_action(stage: Stage) -> None:
    reconnecting(stage)
    stage.network.faults.reconnect_within = 1.0
    stage.app.action = [xml("<Say>We are sorry.</Say>")]
    call = await stage.ring(talk=hold)
    await call.until(setups(1))
    stage.app.refuses = True
    await drop(call)
    await ended(call)
    action = stage.app.params("/action")[0]
    assert (action["SessionStatus"], action["ErrorCode"], action["CallStatus"]) == ("failed", "64105", "in-progress")
    assert call.said("agent") == ["We are sorry."]


async def test_a_callee_who_hangs_up_ends_the_reconnecting(stage: Stage) -> None:
    reconnecting(stage)
    stage.network.faults.reconnect_after = 3_000
    call = await stage.ring(talk=hold)
    await call.until(setups(1))
    await drop(call)
    await hung_up(call)
    assert stage.app.params("/action")[0]["SessionStatus"] == "completed"
    assert len(call.sent("setup")) == 1


async def test_the_action_may_be_asked_although_the_socket_is_back(stage: Stage) -> None:
    reconnecting(stage)
    stage.network.faults.action_despite_reconnect = True
    stage.app.action_waits_for = asyncio.Event()
    stage.app.action = [xml(stage.app.relay(welcomeGreeting="Here I am."))]
    call = await stage.ring(talk=hold)
    await call.until(setups(1))
    await drop(call)
    await call.until(setups(2))
    stage.app.action_waits_for.set()
    await call.until(spoke("Here I am."))
    assert stage.app.closed[1] == 1000
    await hung_up(call)
    actions = [(params["SessionId"], params["SessionStatus"]) for params in stage.app.params("/action")]
    assert actions == [(sessions(call)[0], "failed"), (sessions(call)[2], "completed")]


async def test_the_action_may_be_asked_before_the_socket_is_back(stage: Stage) -> None:
    reconnecting(stage)
    stage.network.faults.action_despite_reconnect = True
    stage.network.faults.reconnect_after = 3_000
    stage.app.action = [xml(stage.app.relay(welcomeGreeting="Here I am."))]
    call = await stage.ring(talk=hold)
    await call.until(setups(1))
    await drop(call)
    await call.until(spoke("Here I am."))
    await hung_up(call)
    assert len(call.sent("setup")) == len(stage.app.params("/action")) == 2


# What can be told of it afterwards.


async def test_what_is_said_while_there_is_no_socket_was_never_delivered(stage: Stage) -> None:
    stage.app.talk = only_listens
    stage.app.action_waits_for = asyncio.Event()
    stage.app.action = [xml(stage.app.relay(welcomeGreeting=""))]
    dropped, said, back = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def talks(line: Line) -> None:
        await line.hear()
        await line.say("Hello.")
        await dropped.wait()
        await line.say("Hello.")
        said.set()
        await back.wait()
        await line.say("Hello.")

    call = await stage.ring(talk=talks)
    await call.until(lambda call: bool(call.sent("prompt")))
    await drop(call)
    dropped.set()
    await said.wait()
    stage.app.action_waits_for.set()
    await call.until(setups(2))
    back.set()
    await ended(call)
    first, second = sessions(call)
    assert [[frame.session_id for frame in frames] for _, frames in call.deliveries()] == [[first], [], [second]]
    assert all(frame.at > line.at for line, frames in call.deliveries() for frame in frames)


async def test_a_gap_lasts_until_the_first_word_on_the_next_session(stage: Stage) -> None:
    stage.app.attributes["welcomeGreeting"] = ""
    stage.app.talk = tells(STORY, "Here I am again.")
    stage.app.action = [xml(stage.app.relay())]
    call = await stage.ring(talk=hold)
    await call.until(played("second one"))
    await drop(call)
    await call.until(spoke("Here I am again."))
    await hung_up(call)
    (gap,) = call.gaps
    assert gap.session_id == sessions(call)[0]
    assert gap.asked_at is not None
    assert gap.reconnected_at is not None
    assert gap.first_word_at is not None
    assert gap.dropped_at < gap.asked_at < gap.reconnected_at < gap.first_word_at
    heard = next(spoken for spoken in call.transcript if "Here I am again." in spoken.text)
    assert gap.first_word_at < heard.at
    assert gap.carriers is not None
    assert gap.carriers >= 1.2
    assert gap.silence == gap.first_word_at - gap.dropped_at


async def test_what_was_spoken_on_from_before_is_nothing_new(stage: Stage) -> None:
    reconnecting(stage)
    stage.app.talk = tells(STORY + STORY_ENDS, "Here I am again.")
    call = await stage.ring(talk=hold)
    await call.until(played("second one"))
    await drop(call)
    await call.until(spoke("Here I am again."))
    await hung_up(call)
    (gap,) = call.gaps
    # White space between clauses takes no time.
    assert gap.first_word_at is not None
    assert gap.first_word_at - call.frames[0].at > len(STORY.replace(" ", "")) / CHARACTERS_A_SECOND


async def test_a_gap_without_an_end_has_no_length(stage: Stage) -> None:
    stage.app.action = [xml("<Say>We are sorry.</Say>")]
    stage.network.faults.drop_relay_after = 2.0
    call = await stage.story(talk=hold)
    assert [(gap.reconnected_at, gap.silence) for gap in call.gaps] == [(None, None)]


# A callee who does not give up.


async def test_one_insists_on_being_heard(stage: Stage) -> None:
    lines = ("My name is Dana.", "I live in Springfield.", "I was born in May.")
    stage.app.action = [xml(stage.app.relay(welcomeGreeting=""))]
    call = await stage.ring(talk=insists(*lines))
    await call.until(lambda call: len(call.said("callee")) == 2)
    await drop(call)
    await ended(call)
    said = call.said("callee")
    assert [text for text in said if text in lines] == list(lines)
    assert STILL_THERE in said
    assert said[-1] == "Thank you very much. Goodbye!"


async def test_one_who_insists_gives_up_in_the_end(stage: Stage) -> None:
    stage.app.talk = only_listens
    call = await stage.story(talk=insists("Who is this?", asks=1))
    assert call.said("callee") == ["Who is this?", STILL_THERE]


# Whole processes.

MOMENTS: dict[str, Callable[[NetworkCall], bool]] = {
    "ringing": lambda call: call.status == "ringing",
    "answered": lambda call: call.status == "in-progress",
    "greeting": lambda call: any(frame.message.get("value") == "on" for frame in call.frames),
    "prompted": lambda call: bool(call.sent("prompt")),
    "replying": lambda call: bool(call.received("text")),
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_call_outlives_a_killed_process(stage: Stage, moment: str) -> None:
    async with house() as home:
        links = {"Url": f"{home.url}/voice", "StatusCallback": f"{home.url}/status"}
        call = await stage.ring(talk=insists("My name is Dana.", "I live in Springfield."), **links)
        await call.until(MOMENTS[moment])
        await home.kill()
        await home.start()
        await ended(call)
    assert call.status == "completed"
    if call.gaps:
        assert BACK in call.said("agent")


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_call_ends_when_nobody_is_left(stage: Stage, moment: str) -> None:
    async with house() as home:
        links = {"Url": f"{home.url}/voice", "StatusCallback": f"{home.url}/status"}
        call = await stage.ring(talk=insists("Who is this?"), **links)
        await call.until(MOMENTS[moment])
        await home.vanish()
        await ended(call)
    assert call.status == "completed"
    assert call.said("agent")[-1] == APOLOGY
