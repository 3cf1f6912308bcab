"""A socket that breaks, and the next one: the carrier's end moved by hand, our side real."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from outbound.conversation import ENGLISH, HAND_OVER
from tests.stories.peer import Message, Peer, Relay, Stage, signature, staged
from tests.stories.waiting import until

GREETING = "Hello, an AI here."


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as stage:
        yield stage


def noted(record: Message, kind: str) -> list[Message]:
    return [entry["data"] for entry in record["journal"] if entry["kind"] == kind]


def lines(record: Message) -> list[tuple[str, str]]:
    return [(line["role"], line["text"]) for line in record["transcript"]]


async def breaks(peer: Peer, relay: Relay, session: str = "VX1", **more: str) -> str:
    """The socket dies, and the carrier asks what to do; returns the document."""
    relay.connection.transport.abort()
    fields = {"ErrorCode": "64105", "ErrorMessage": "Websocket ended", "SessionId": session, **more}
    form = peer.fields(CallStatus="in-progress", SessionStatus="failed", **fields)
    response = await peer.knock(peer.action_url, form)
    assert response.status_code == 200, response.text
    return response.text


def asks_for_a_socket(document: str) -> bool:
    """Whether the document opens the relay again, and greets nobody."""
    return "<ConversationRelay" in document and "welcomeGreeting=" not in document


async def test_a_broken_socket_is_opened_again_and_the_callee_is_answered(stage: Stage) -> None:
    peer = await stage.talk(greeting=GREETING)
    async with peer.socket() as relay:
        await relay.setup()
        await relay.plays(GREETING)
        await relay.asks("Who is this?")
        await relay.prompt("What is this about?")
        await relay.until(lambda relay: len(relay.frames) > 12)
        assert asks_for_a_socket(await breaks(peer, relay))
    async with peer.socket() as relay:
        await relay.setup(session_id="VX2")
        assert (await relay.hears_reply()).strip()
        await relay.asks("Are you a robot?")
    record = await peer.record()
    assert [text for role, text in lines(record) if role == "callee"] == [
        "Who is this?",
        "What is this about?",
        "Are you a robot?",
    ]
    assert [text for _, text in lines(record)].count(GREETING) == 1
    assert noted(record, "resuming") == [{"relay_session_id": "VX1", "cause": "broken"}]


async def test_what_was_not_heard_is_said_by_the_next_socket(stage: Stage) -> None:
    peer = await stage.talk(greeting=GREETING)
    async with peer.socket() as relay:
        await relay.setup()
        await relay.plays(GREETING)
        await relay.prompt("Are you a robot?")
        reply = await relay.reply()
        first, rest = re.findall(r"[^.]+\.", reply)[0], " ".join(re.findall(r"[^.]+\.", reply)[1:]).strip()
        await relay.info("agentSpeaking", "on")
        await relay.info("tokensPlayed", first)
        await until(peer.record, lambda record: bool(noted(record, "agent_played")[1:]))
        await breaks(peer, relay)
    async with peer.socket() as relay:
        await relay.setup(session_id="VX2")
        assert await relay.hears_reply() == f"{ENGLISH.as_i_was_saying} {rest}"


async def test_the_carrier_may_ask_twice_about_one_session(stage: Stage) -> None:
    peer = await stage.talk(greeting=GREETING)
    async with peer.socket() as relay:
        await relay.setup()
        await relay.plays(GREETING)
        assert asks_for_a_socket(await breaks(peer, relay))
        assert asks_for_a_socket(await breaks(peer, relay))
    assert len(noted(await peer.record(), "resuming")) == 1


async def test_after_too_many_breaks_in_a_minute_the_callee_hears_an_apology(tmp_path: Path) -> None:
    async with staged(tmp_path, resume_attempts=2) as stage:
        peer = await stage.talk(greeting=GREETING)
        for attempt in range(2):
            async with peer.socket() as relay:
                await relay.setup(session_id=f"VX{attempt}")
                assert asks_for_a_socket(await breaks(peer, relay, f"VX{attempt}"))
        async with peer.socket() as relay:
            await relay.setup(session_id="VX2")
            document = await breaks(peer, relay, "VX2")
        assert "<Say" in document
        assert "<Hangup" in document
        await peer.reports("completed", CallDuration="9")
        record = await peer.record()
        assert (record["status"], record["end_reason"]) == ("completed", "relay_failed")
        assert noted(record, "ending") == [{"reason": "relay_failed"}]
        assert await stage.active() == []


async def test_a_session_whose_settings_are_wrong_is_not_opened_again(stage: Stage) -> None:
    peer = await stage.talk()
    async with peer.socket() as relay:
        await relay.setup()
        document = await breaks(peer, relay, ErrorCode="64101", ErrorMessage="Invalid Parameter")
    assert "<Say" in document
    assert (await peer.record())["end_reason"] == "relay_failed"


async def test_a_goodbye_that_the_break_cut_is_said_and_ends_the_call(stage: Stage) -> None:
    peer = await stage.talk(greeting=GREETING)
    async with peer.socket() as relay:
        await relay.setup()
        await relay.plays(GREETING)
        await relay.prompt("Stop calling me.")
        await relay.reply()
        await until(peer.record, lambda record: bool(noted(record, "ending")))
        assert asks_for_a_socket(await breaks(peer, relay))
    async with peer.socket() as relay:
        await relay.setup(session_id="VX2")
        await relay.hears_reply()
        await relay.until(lambda relay: relay.frames[-1]["type"] == "end")
    record = await until(peer.record, lambda record: record["end_reason"] is not None)
    assert (record["end_reason"], record["opted_out"]) == ("opted_out", True)


async def test_a_session_that_was_handed_over_goes_on_without_counting_as_broken(tmp_path: Path) -> None:
    async with staged(tmp_path, resume_attempts=0) as stage:
        peer = await stage.talk(greeting=GREETING)
        async with peer.socket() as relay:
            await relay.setup()
            await relay.plays(GREETING)
            document = await peer.session_is_over("ended", HandoffData=HAND_OVER)
        assert asks_for_a_socket(document)
        assert noted(await peer.record(), "resuming")[0]["cause"] == "handed_over"


async def test_an_end_of_ours_tells_the_reason_though_the_process_that_said_it_is_gone(stage: Stage) -> None:
    peer = await stage.talk()
    await peer.session_is_over("ended", HandoffData=json.dumps({"reason": "agent_said_goodbye"}))
    assert (await peer.record())["end_reason"] == "agent_said_goodbye"


async def test_a_failed_address_is_made_good_by_the_next(stage: Stage) -> None:
    """The action URL has failed the carrier, which asks the fallback address: the talk goes on there."""
    peer = await stage.talk(greeting=GREETING)
    url = peer.placed.form["FallbackUrl"]
    async with peer.socket() as relay:
        await relay.setup()
        await relay.plays(GREETING)
        relay.connection.transport.abort()
        form = peer.fields(CallStatus="in-progress", ErrorCode="11200", ErrorUrl=peer.action_url)
        assert asks_for_a_socket((await peer.knock(url, form)).text)
    async with peer.socket() as relay:
        await relay.setup(session_id="VX2")
        assert await relay.reply() == ENGLISH.back_again


async def test_an_answered_call_whose_first_address_failed_is_greeted_by_the_fallback(stage: Stage) -> None:
    peer = await stage.place(greeting=GREETING)
    form = peer.fields(CallStatus="in-progress", ErrorCode="11200", ErrorUrl=peer.placed.form["Url"])
    document = (await peer.knock(peer.placed.form["FallbackUrl"], form)).text
    assert f'welcomeGreeting="{GREETING}"' in document


async def test_a_call_nobody_knows_hears_a_sentence_at_the_fallback(stage: Stage) -> None:
    peer = await stage.place()
    form = {**peer.fields(CallStatus="in-progress", ErrorCode="11200"), "CallSid": "CA" + "9" * 32}
    url = peer.placed.form["FallbackUrl"]
    response = await peer.knock(url, form, **{"X-Twilio-Signature": signature(url, form)})
    assert "<Say" in response.text
