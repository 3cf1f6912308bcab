"""Peers that break the rules: whoever is at the other end, the call is kept true and the others go on."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from outbound import session
from tests.agents.openai_server import Behaviour, OpenAIServer
from tests.stories.peer import Message, Peer, Relay, Stage, signature, staged
from tests.stories.waiting import until


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as stage:
        yield stage


def transcript(record: Message) -> list[tuple[str, str]]:
    return [(line["role"], line["text"]) for line in record["transcript"]]


def ignored(record: Message) -> list[str]:
    return [entry["data"]["problem"] for entry in record["journal"] if entry["kind"] == "frame_ignored"]


async def assert_still_answers(relay: Relay) -> None:
    """The socket is alive and the agent behind it too."""
    assert "AI" in await relay.asks("Who is this?")


# Setup.


async def test_a_prompt_before_setup_is_not_answered(stage: Stage) -> None:
    peer = await stage.talk()
    async with peer.socket() as relay:
        await relay.prompt("Too early.")
        await relay.setup()
        await assert_still_answers(relay)

        record = await peer.record()
        assert ("callee", "Too early.") not in transcript(record)
        assert ignored(record) == ["prompt before setup"]
        assert len(record["turn_latencies"]) == 1


async def test_a_second_setup_neither_greets_again_nor_forgets(stage: Stage) -> None:
    peer = await stage.talk(greeting="Hello, an AI here.")
    async with peer.socket() as relay:
        await relay.setup()
        await relay.plays("Hello, an AI here.")
        first = await relay.asks("Who is this?")
        await relay.setup(session_id="VX2")
        second = await relay.asks("How are you?")

        record = await peer.record()
        assert transcript(record) == [
            ("agent", "Hello, an AI here."),
            ("callee", "Who is this?"),
            ("agent", first),
            ("callee", "How are you?"),
            ("agent", second),
        ]
        assert ignored(record) == ["second setup"]
        assert "Hello, an AI here." not in json.dumps(relay.frames)


async def test_the_setup_of_another_call_is_refused(stage: Stage) -> None:
    peer = await stage.talk()
    async with peer.socket() as relay:
        await relay.setup(call_sid="CA" + "f" * 32)
        await relay.prompt("Hello?")

        assert await relay.closed() == 1008
        assert relay.frames == []
    record = await until(peer.record, lambda record: "relay_closed" in kinds(record))
    assert ignored(record) == ["setup of another call"]
    assert record["call_sid"] == peer.call_sid


async def test_a_socket_without_setup_is_closed(tmp_path: Path) -> None:
    async with staged(tmp_path, setup_timeout=0.1) as stage:
        peer = await stage.talk()
        async with peer.socket() as relay:
            assert await relay.closed() == 1008
            assert relay.frames == []
        record = await until(peer.record, lambda record: "relay_closed" in kinds(record))
        assert ignored(record) == ["no setup in time"]


# Frames.

NONSENSE: list[tuple[str | bytes, str]] = [
    ("", "not json"),
    ("{", "not json"),
    ("42", "no type"),
    ("null", "no type"),
    ("[]", "no type"),
    ("[" * 20_000, "not json"),
    ("{}", "no type"),
    ('{"event":"connected"}', "no type"),
    ('{"type":["prompt"]}', "unknown type"),
    ('{"type":"earthquake","magnitude":9}', "unknown type"),
    ('{"type":"prompt","voicePrompt":null,"last":true}', "bad prompt.voicePrompt: string_type"),
    ('{"type":"prompt","last":true}', "bad prompt.voicePrompt: missing"),
    ('{"type":"prompt","voicePrompt":"\\ud800","last":true}', "not json"),
    ('{"type":"dtmf","digit":"abc"}', "bad dtmf.digit"),
    (b"\x00\xff\xfe", "not json"),
]
"""Frames that mean nothing, and what the journal calls them."""


async def test_nonsense_is_journalled_and_passed_over(stage: Stage) -> None:
    peer = await stage.talk()
    async with peer.socket() as relay:
        await relay.setup()
        for frame, _ in NONSENSE:
            await relay.send(frame)
        await assert_still_answers(relay)

        record = await peer.record()
        assert ignored(record) == [problem for _, problem in NONSENSE]
        assert len(record["turn_latencies"]) == 1


async def test_strange_values_cost_nothing_but_themselves(stage: Stage) -> None:
    peer = await stage.talk()
    async with peer.socket() as relay:
        await relay.setup()
        await relay.send('{"type":"interrupt","utteranceUntilInterrupt":7,"durationUntilInterruptMs":NaN}')
        await relay.send('{"type":"info","name":"roundTripDelayMs","value":148,"new":{"key":[1]}}')
        await relay.send('{"type":"prompt","voicePrompt":"Who is this?","lang":null,"confidence":0.5}')

        assert "AI" in await relay.reply()
        record = await peer.record()
        assert ignored(record) == []
        assert kinds(record).count("interrupted") == 1


async def test_a_long_prompt_is_answered_and_kept(stage: Stage) -> None:
    told = "It was a dark and stormy night; the rain fell. " * 500
    peer = await stage.talk()
    async with peer.socket() as relay:
        await relay.setup()
        assert await relay.asks(told[:20_000])

        record = await peer.record()
        assert [len(line["text"]) for line in record["transcript"] if line["role"] == "callee"] == [20_000 - 1]


async def test_a_frame_beyond_the_limit_ends_its_own_call_only(stage: Stage) -> None:
    peer, other = await stage.talk(), await stage.talk("+12025550101")
    async with peer.socket() as relay, other.socket() as other_relay:
        await relay.setup()
        await other_relay.setup()
        await relay.prompt("x" * 1_000_000)

        assert await relay.closed() == 1009
        await assert_still_answers(other_relay)
    record = await until(peer.record, lambda record: "relay_closed" in kinds(record))
    assert record["transcript"] == []


@pytest.mark.parametrize("frames_per_second", [100.0, 1_000_000.0], ids=["limited", "unlimited"])
async def test_a_burst_of_prompts_costs_few_replies_and_leaves_other_calls_alone(
    tmp_path: Path, frames_per_second: float
) -> None:
    async with staged(tmp_path, frames_per_second=frames_per_second) as stage:
        peer, other = await stage.talk(), await stage.talk("+12025550101")
        async with peer.socket() as relay, other.socket() as other_relay:
            await relay.setup()
            await other_relay.setup()
            flood = asyncio.create_task(_flood(relay, 3_000))
            answered = 0
            while not flood.done():
                async with asyncio.timeout(2):
                    await other_relay.asks("Who is this?")
                answered += 1
            await flood
            assert answered >= 1

            await until(lambda: _asks_again(relay, "How are you?"), lambda answered: answered)
            turns = {call["session_id"]: call["turns"] for call in await stage.active()}
            assert turns[peer.session_id] <= 12
            assert turns[other.session_id] == answered


async def _flood(relay: Relay, prompts: int) -> None:
    for number in range(prompts):
        await relay.prompt(f"And another thing, number {number}.")


async def _asks_again(relay: Relay, text: str) -> bool:
    """Whether the prompt got into the room this time; those beyond the frame rate are dropped."""
    await relay.prompt(text)
    try:
        async with asyncio.timeout(0.5):
            await relay.reply()
    except TimeoutError:
        return False
    return True


# The handshake.


async def test_of_two_sockets_for_one_session_the_newer_has_the_call(stage: Stage) -> None:
    peer = await stage.talk(greeting="Hello, an AI here.")
    async with peer.socket() as older:
        await older.setup()
        await older.plays("Hello, an AI here.")
        await assert_still_answers(older)
        async with peer.socket() as newer:
            assert await older.closed() == 1000
            await newer.setup(session_id="VX2")
            await newer.asks("How are you?")

            record = await peer.record()
            assert [line["text"] for line in record["transcript"] if line["role"] == "callee"] == [
                "Who is this?",
                "How are you?",
            ]
            assert kinds(record).count("relay_opened") == 2
            assert [call["connected"] for call in await stage.active()] == [True]


async def test_a_handshake_that_is_not_signed_for_this_address_is_refused(stage: Stage) -> None:
    peer, other = await stage.talk(), await stage.talk("+12025550101")
    url = peer.relay_url
    forgeries = {
        "not at all": {},
        "with nothing": {"X-Twilio-Signature": ""},
        "by somebody else": {"X-Twilio-Signature": signature(url, token="another-token")},
        "for another session": {"X-Twilio-Signature": signature(other.relay_url)},
        "for another path": {"X-Twilio-Signature": signature(url + "/")},
        "as http": {"X-Twilio-Signature": signature("http" + url.removeprefix("ws"))},
        "with a form": {"X-Twilio-Signature": signature(url, {"CallSid": peer.call_sid})},
    }
    statuses = {name: await peer.refusal(url, **headers) for name, headers in forgeries.items()}

    assert statuses == dict.fromkeys(forgeries, 403)
    assert "relay_opened" not in kinds(await peer.record())
    async with peer.socket() as relay:
        await relay.setup()
        await assert_still_answers(relay)


async def test_an_unknown_or_finished_session_is_refused(stage: Stage) -> None:
    peer = await stage.talk()
    unknown = peer.relay_url.replace(peer.session_id, "x" * len(peer.session_id))
    assert await peer.refusal(unknown, **{"X-Twilio-Signature": signature(unknown)}) == 403

    await peer.reports("completed", CallDuration="3")
    headers = {"X-Twilio-Signature": signature(peer.relay_url)}
    assert await peer.refusal(peer.relay_url, **headers) == 403
    assert (await peer.record())["status"] == "completed"


async def test_a_call_whose_talk_is_over_is_not_talked_on_again(stage: Stage) -> None:
    peer = await stage.talk()
    async with peer.socket() as relay:
        await relay.setup()
        await relay.asks("Goodbye.")
        await relay.until(lambda relay: relay.frames[-1]["type"] == "end")
    await until(peer.record, lambda record: record["end_reason"] == "agent_said_goodbye")

    headers = {"X-Twilio-Signature": signature(peer.relay_url)}
    assert await peer.refusal(peer.relay_url, **headers) == 403
    assert "<Connect>" not in await peer.picks_up()


async def test_an_opt_out_is_kept_while_the_call_goes_on(stage: Stage) -> None:
    peer = await stage.talk()
    async with peer.socket() as relay:
        await relay.setup()
        await relay.prompt("Please stop calling me.")
        await relay.reply()
        record = await until(peer.record, lambda record: record["opted_out"])
        assert record["ended_at"] is None


# No ghosts.


async def test_a_session_the_callee_ended_ends_the_call_without_another_callback(stage: Stage) -> None:
    peer = await stage.talk()
    await peer.session_is_over("completed")
    assert (await peer.record())["status"] == "completed"
    assert await stage.active() == []


async def test_hanging_up_what_the_carrier_has_ended_long_ago_settles_it(stage: Stage) -> None:
    peer = await stage.talk()
    stage.exchange.status = "completed"
    response = await stage.client.post(f"/calls/{peer.session_id}/hangup")
    assert response.json()["status"] == "completed"
    assert await stage.active() == []


# Webhooks.


async def test_webhooks_that_are_not_signed_change_nothing(stage: Stage) -> None:
    peer = await stage.talk()
    urls = [peer.placed.form["Url"], peer.placed.form["StatusCallback"], peer.action_url]
    urls += [f"{stage.base_url}/voice/{name}?session_id={peer.session_id}" for name in ("amd", "fallback")]
    before = await peer.record()
    for url in urls:
        form = peer.fields(CallStatus="completed", SessionStatus="completed", AnsweredBy="machine_start")
        for forged in ("", "bm90aGluZw==", signature(url), signature(url, form, token="another-token")):
            response = await peer.knock(url, form, **{"X-Twilio-Signature": forged})
            assert response.status_code == 403, url
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["code"] == "not_signed"
    assert await peer.record() == before


async def test_callbacks_in_any_order_and_number_lead_to_the_same_end(stage: Stage) -> None:
    peer = await stage.place()
    for status, sequence in [("ringing", 1), ("initiated", 0), ("in-progress", 2), ("ringing", 1), ("in-progress", 2)]:
        await peer.reports(status, sequence=sequence)
    assert (await peer.record())["status"] == "in-progress"
    await peer.reports("completed", sequence=3, CallDuration="61", Duration="2")
    record = await peer.record()
    for status, sequence in [("completed", 3), ("in-progress", 2), ("initiated", 0)]:
        await peer.reports(status, sequence=sequence, CallDuration="61", Duration="2")

    again = await peer.record()
    assert again["status"] == "completed"
    assert again["duration_s"] == 61
    assert again["ended_at"] == record["ended_at"]
    assert await stage.active() == []


async def test_callbacks_may_come_before_the_create_is_answered(stage: Stage) -> None:
    stage.exchange.answers.clear()
    asking = asyncio.create_task(stage.client.post("/call/initiate", json={"to": "+12025550100"}))
    placed = await stage.exchange.placed.get()
    peer = Peer(stage.client, placed)
    await peer.reports("initiated")
    await peer.reports("ringing")
    await peer.picks_up()
    async with peer.socket() as relay:
        await relay.setup()
        await assert_still_answers(relay)
        stage.exchange.answers.set()
        response = await asking

        assert response.status_code == 200
        assert response.json()["call_sid"] == placed.call_sid
        record = await peer.record()
        assert record["status"] == "in-progress"
        assert record["call_sid"] == placed.call_sid


async def test_a_call_that_is_over_before_the_create_is_answered_stays_over(stage: Stage) -> None:
    stage.exchange.answers.clear()
    asking = asyncio.create_task(stage.client.post("/call/initiate", json={"to": "+12025550100"}))
    peer = Peer(stage.client, await stage.exchange.placed.get())
    await peer.reports("completed", CallDuration="0", SipResponseCode="200")
    stage.exchange.answers.set()

    assert (await asking).status_code == 200
    assert (await peer.record())["status"] == "completed"
    assert await stage.active() == []


@pytest.mark.parametrize("machine_detection", ["hang_up"])
async def test_webhooks_about_another_call_change_nothing(tmp_path: Path, machine_detection: str) -> None:
    async with staged(tmp_path, machine_detection=machine_detection) as stage:
        peer = await stage.talk()
        async with peer.socket() as relay:
            await relay.setup()
            await assert_still_answers(relay)
            before = await peer.record()
            stranger = peer.fields(CallSid="CA" + "f" * 32)
            status = {**stranger, "CallStatus": "completed", "SequenceNumber": "3", "CallDuration": "5"}
            ended = {**stranger, "CallStatus": "completed", "SessionId": "VX9", "SessionStatus": "completed"}
            verdict = {**stranger, "AnsweredBy": "machine_start"}
            await peer.knock(peer.placed.form["StatusCallback"], status)
            await peer.knock(peer.action_url, ended)
            await peer.knock(peer.placed.form["AsyncAmdStatusCallback"], verdict)
            document = await peer.knock(peer.placed.form["Url"], {**stranger, "CallStatus": "in-progress"})

            assert "ConversationRelay" not in document.text
            after = await peer.record()
            fields = ("status", "end_reason", "answered_by", "duration_s", "ended_at", "transcript")
            assert {name: after[name] for name in fields} == {name: before[name] for name in fields}
            assert stage.exchange.hung_up == []
            await assert_still_answers(relay)


# Peers that go away.


async def test_a_peer_that_stops_reading_is_given_up_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "SEND_WITHIN_S", 0.3)
    async with OpenAIServer() as model:
        # A frame for each character: a reply of some two hundred kilobytes on the wire.
        model.behave(Behaviour(tuple("word " * 820)), Behaviour(("All", " is", " well.")))
        settings: dict[str, Any] = {"llm_model": "openai:stand-in", "openai_base_url": model.base_url}
        async with staged(tmp_path, send_buffer_bytes=4096, **settings) as stage:
            peer, other = await stage.talk(), await stage.talk("+12025550101")
            headers = {"X-Twilio-Signature": signature(peer.relay_url)}
            deafness = {"max_queue": 1, "receive_buffer_bytes": 4096}
            async with peer.raw_socket(peer.relay_url, headers, **deafness) as deaf, other.socket() as relay:
                deaf_relay = Relay(deaf, peer.call_sid)
                await deaf_relay.setup()
                await deaf_relay.prompt("Tell me everything.")
                await model.request(0)
                await relay.setup()
                assert await relay.asks("How are things?") == "All is well."

                record = await until(peer.record, lambda record: "relay_closed" in kinds(record))
                assert record["status"] == "in-progress"
                connected = {call["session_id"]: call["connected"] for call in await stage.active()}
                assert connected == {peer.session_id: False, other.session_id: True}
                assert await relay.asks("And now?") == "All is well."
                deaf.transport.abort()


def kinds(record: Message) -> list[str]:
    return [entry["kind"] for entry in record["journal"]]
