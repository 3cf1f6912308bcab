"""Whole calls over real sockets, one story for each person who can answer."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from outbound.conversation import ENGLISH
from outbound.simulator import Callee, Line
from tests.server import Running, running
from tests.stories.story import (
    Story,
    active,
    assert_greeted_once,
    assert_nothing_unheard_was_kept,
    assert_turns_answered,
    assert_well_behaved,
    loops,
    reported,
    tell,
    told,
    words,
)

SPEED = 50.0
TALKS_FIRST = 15.0
"""For those who talk as soon as they pick up: what they say before our socket is open is lost, as on a real line."""

FRIENDLY_NUMBERS = ["+15005550006", "+12025550100"]
BUSY = "+12025550101"
NO_ANSWER = "+12025550102"
FAILS = "+12025550103"
VOICEMAIL = "+12025550104"
HANGS_UP = "+12025550105"
INTERRUPTS = "+12025550106"
SILENT = "+12025550107"
OPTS_OUT = "+12025550108"
PRESSES_KEYS = "+12025550109"
SCREENED = "+12025550110"
SPANISH = "+12025550111"
RAMBLES = "+12025550112"


@pytest.fixture
async def product(tmp_path: Path) -> AsyncIterator[Running]:
    """The server with its usual settings."""
    async with running(tmp_path, speed=SPEED) as product:
        yield product


@pytest.mark.parametrize("number", FRIENDLY_NUMBERS)
async def test_a_friendly_person_is_greeted_answered_and_taken_leave_of(product: Running, number: str) -> None:
    story = await tell(product, number)

    await assert_well_behaved(product, story)
    assert_greeted_once(story)
    assert_turns_answered(story)
    assert story.record["status"] == "completed"
    assert story.record["end_reason"] == "agent_said_goodbye"
    assert story.record["duration_s"] == story.network.duration
    assert reported(story) == ["initiated", "ringing", "in-progress", "completed"]
    assert story.said("callee") == story.network.said("callee")
    assert len(story.said("callee")) == 5
    assert not any(line["interrupted"] for line in story.record["transcript"])
    assert not loops(story.said("agent"))
    assert story.noted("ending") == [{"reason": "agent_said_goodbye"}]


@pytest.mark.parametrize(
    ("number", "status", "sip_code"), [(BUSY, "busy", 486), (NO_ANSWER, "no-answer", 487), (FAILS, "failed", 404)]
)
async def test_a_call_nobody_takes_ends_with_the_networks_word_for_it(
    tmp_path: Path, number: str, status: str, sip_code: int
) -> None:
    async with running(tmp_path, speed=SPEED, ring_timeout=5) as product:
        story = await tell(product, number)

        await assert_well_behaved(product, story)
        assert story.record["status"] == status
        assert story.record["end_reason"] is None
        assert story.record["answered_at"] is None
        assert story.record["transcript"] == []
        assert story.noted("status")[-1]["sip_code"] == sip_code
        assert story.noted("relay_opened") == []
        assert story.network.frames == []


async def test_a_voicemail_gets_one_message_to_its_end(tmp_path: Path) -> None:
    async with running(tmp_path, speed=TALKS_FIRST) as product:
        story = await tell(product, VOICEMAIL, variables={"purpose": "your library card"})

        await assert_well_behaved(product, story)
        assert story.record["status"] == "completed"
        assert story.record["end_reason"] == "agent_said_goodbye"
        assert "your library card" in answer_to("after the tone", story)
        assert len(story.record["turn_latencies"]) == 1
        assert story.record["answered_by"] is None


async def test_a_voicemail_is_hung_up_on_where_that_is_set(tmp_path: Path) -> None:
    async with running(tmp_path, speed=SPEED, machine_detection="hang_up") as product:
        story = await tell(product, VOICEMAIL)

        await assert_well_behaved(product, story)
        assert story.record["status"] == "completed"
        assert story.record["end_reason"] == "machine_answered"
        assert story.record["answered_by"] == "machine_start"
        assert story.noted("answered_by") == [{"answered_by": "machine_start"}]
        assert story.network.received("end") == []


async def test_a_person_is_talked_to_where_machines_are_hung_up_on(tmp_path: Path) -> None:
    async with running(tmp_path, speed=SPEED, machine_detection="hang_up") as product:
        story = await tell(product, OPTS_OUT)

        await assert_well_behaved(product, story)
        assert story.record["end_reason"] == "opted_out"
        assert story.record["answered_by"] == "human"


async def test_a_person_who_hangs_up_in_mid_sentence_leaves_no_trace_of_words_he_did_not_hear(
    product: Running,
) -> None:
    story = await tell(product, HANGS_UP)

    await assert_well_behaved(product, story)
    assert story.record["status"] == "completed"
    assert story.record["end_reason"] == "callee_hung_up"
    assert story.network.transcript[-1].interrupted
    heard = words(story.network.said("agent"))
    assert 4 <= len(heard) < len(words([story.record["greeting"]]))
    assert story.noted("relay_closed") == [{"code": 1000}]


async def test_clauses_heard_before_a_hang_up_stay_and_the_rest_is_gone(tmp_path: Path) -> None:
    async def two_clauses(line: Line) -> None:
        await line.hear_words(9)
        await line.hang_up()

    callees = {"+12025550150": Callee("leaves", "hears one clause and a bit", two_clauses)}
    async with running(tmp_path, speed=SPEED, callees=callees) as product:
        greeting = "Hello, this is an AI. I would like to tell you about our bicycles. They are green."
        story = await tell(product, "+12025550150", greeting=greeting)

        await assert_well_behaved(product, story)
        assert story.said("agent") == ["Hello, this is an AI."]
        assert story.record["transcript"][0]["interrupted"]
        assert story.record["end_reason"] == "callee_hung_up"


async def test_a_person_who_interrupts_is_heard_and_the_line_is_cut_to_what_she_heard(product: Running) -> None:
    story = await tell(product, INTERRUPTS)

    await assert_well_behaved(product, story)
    assert story.record["end_reason"] == "agent_said_goodbye"
    cut = [line for line in story.record["transcript"] if line["interrupted"]]
    assert len(cut) == len(story.network.sent("interrupt")) == 2
    heard_of_the_cut = [spoken.text for spoken in story.network.transcript if spoken.interrupted]
    assert [line["text"] for line in cut] == heard_of_the_cut
    assert cut[0]["text"] == "Hello, this is the AI assistant"
    assert story.said("callee") == story.network.said("callee")


async def test_a_silent_person_is_asked_three_times_and_then_taken_leave_of(tmp_path: Path) -> None:
    async with running(tmp_path, speed=SPEED, silence_timeout=0.1) as product:
        story = await tell(product, SILENT)

        await assert_well_behaved(product, story)
        assert_greeted_once(story)
        assert story.record["status"] == "completed"
        assert story.record["end_reason"] == "silence"
        _, *asked, goodbye = story.said("agent")
        assert len(set(asked)) == 3
        assert goodbye.endswith("Goodbye.")
        assert [silence["count"] for silence in story.noted("silence")] == [1, 2, 3, 4]
        assert story.noted("turn") == []


async def test_a_person_who_wants_no_more_calls_is_opted_out_and_told_so(product: Running) -> None:
    story = await tell(product, OPTS_OUT)

    await assert_well_behaved(product, story)
    assert story.record["status"] == "completed"
    assert story.record["opted_out"] is True
    assert story.record["end_reason"] == "opted_out"
    assert len(story.noted("opted_out")) == 1
    assert "not be called again" in story.said("agent")[-1]
    assert story.said("callee") == ["Stop calling me. Take me off your list."]


async def test_keys_reach_the_agent_as_one_input(tmp_path: Path) -> None:
    async with running(tmp_path, speed=SPEED, digits_timeout=0.1) as product:
        story = await tell(product, PRESSES_KEYS)

        await assert_well_behaved(product, story)
        pressed = [line for line in story.record["transcript"] if line["keypad"]]
        assert [line["text"] for line in pressed] == ["1", "42"]
        assert [entry["digits"] for entry in story.noted("callee_pressed")] == ["1", "42"]
        assert [str(frame["digit"]) for frame in story.network.sent("dtmf")] == ["1", "4", "2", "#"]
        assert len(story.record["turn_latencies"]) == 2


async def test_a_screening_assistant_is_told_who_calls_and_the_person_is_talked_to(tmp_path: Path) -> None:
    async with running(tmp_path, speed=TALKS_FIRST) as product:
        story = await tell(product, SCREENED, variables={"purpose": "your library card"})

        await assert_well_behaved(product, story)
        assert story.record["status"] == "completed"
        assert story.record["end_reason"] == "agent_said_goodbye"
        assert "your library card" in answer_to("your name", story)
        assert answer_to("What is this about?", story)


async def test_a_spanish_speaker_is_answered_in_spanish(product: Running) -> None:
    story = await tell(product, SPANISH)

    await assert_well_behaved(product, story)
    assert story.record["end_reason"] == "agent_said_goodbye"
    assert {said["lang"] for said in story.noted("callee_said")} == {"es-ES"}
    answers = story.said("agent")[1:]
    assert len(answers) >= 3
    assert all(set(answer) & set("¿¡áéíóúñ") for answer in answers), answers
    assert not any("the" in words([answer.lower()]) for answer in answers)


async def test_a_rambler_is_kept_whole_and_answered(product: Running) -> None:
    story = await tell(product, RAMBLES)

    await assert_well_behaved(product, story)
    assert story.record["end_reason"] == "agent_said_goodbye"
    assert [len(said["text"]) for said in story.noted("callee_said")][:2] == [2_000, 20_000]
    assert story.said("callee") == story.network.said("callee")
    assert len(story.said("agent")) == 4
    assert not loops(story.said("agent"))


async def test_a_call_that_is_hung_up_by_request_ends_and_says_so(product: Running) -> None:
    session_id, call = await product.ring()
    await call.until(lambda call: len(call.sent("prompt")) >= 2)
    response = await product.client.post(f"/calls/{session_id}/hangup")

    assert response.status_code == 200
    story = await told(product, session_id)
    await assert_well_behaved(product, story)
    assert story.record["status"] == "completed"
    assert story.record["end_reason"] == "hung_up_by_api"
    assert story.said("callee")[:2] == story.network.said("callee")[:2]


async def test_a_ringing_call_can_be_taken_back(tmp_path: Path) -> None:
    async with running(tmp_path, speed=1.0) as product:
        session_id, call = await product.ring(NO_ANSWER)
        await call.until(lambda call: call.status == "ringing")
        response = await product.client.post(f"/calls/{session_id}/hangup")

        assert response.status_code == 200
        story = await told(product, session_id)
        await assert_well_behaved(product, story)
        assert story.record["status"] == "canceled"
        assert story.record["end_reason"] == "hung_up_by_api"
        again = await product.client.post(f"/calls/{session_id}/hangup")
        assert again.status_code == 409


async def test_a_call_at_its_time_limit_ends_with_words_that_are_heard(tmp_path: Path) -> None:
    async with running(tmp_path, speed=10.0, max_call_duration=1) as product:
        story = await tell(product, SILENT)

        await assert_well_behaved(product, story)
        assert story.record["end_reason"] == "max_duration"
        assert story.said("agent")[-1] == ENGLISH.time_up


async def test_callbacks_early_doubled_and_out_of_order_change_nothing_about_a_call(product: Running) -> None:
    product.network.faults.early_webhooks = True
    product.network.faults.double_callbacks = True
    product.network.faults.swap_callbacks = True
    story = await tell(product, FRIENDLY_NUMBERS[1])

    assert_greeted_once(story)
    assert_nothing_unheard_was_kept(story)
    assert reported(story) == ["ringing", "ringing", "initiated", "initiated", *["in-progress"] * 2, *["completed"] * 2]
    assert story.rings == 1
    assert story.record["status"] == "completed"
    assert story.record["duration_s"] == story.network.duration
    assert await active(product) == []


async def test_calls_at_once_are_calls_of_their_own(product: Running) -> None:
    numbers = [f"+120255502{n:02}" for n in range(4)]
    stories = await asyncio.gather(
        *(tell(product, number, greeting=f"This is an AI for {number}.", metadata={"to": number}) for number in numbers)
    )

    for number, story in zip(numbers, stories, strict=True):
        await assert_well_behaved(product, story)
        assert story.record["metadata"] == {"to": number}
        assert story.said("agent")[0] == f"This is an AI for {number}."
        assert story.said("callee") == story.network.said("callee")


def answer_to(words_of_the_callee: str, story: Story) -> str:
    """What the agent said right after the callee said something with these words."""
    for before, line in pairwise(story.record["transcript"]):
        if before["role"] == "callee" and words_of_the_callee in before["text"] and line["role"] == "agent":
            return str(line["text"])
    raise AssertionError(f"nobody answered {words_of_the_callee!r}: {story.record['transcript']}")
