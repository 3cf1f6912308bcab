"""Calls with a model behind them, over its real client and real HTTP: it streams, refuses, hangs, breaks and acts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from outbound.conversation import ENGLISH
from outbound.simulator import Callee, Line
from tests.agents.openai_server import Behaviour, OpenAIServer
from tests.server import Running, running
from tests.stories.story import Story, assert_well_behaved, tell, words

SPEED = 50.0
NUMBER = "+12025550150"
GREETING = "Hello, this is the AI assistant of the library."

ANSWER = Behaviour(("Of", " course", "."))
FAREWELL = Behaviour(("Good", "bye", "."), calls=[("end_call", {})])


@dataclass(frozen=True)
class House:
    """The product with a model, and the call it is tried with."""

    running: Running
    model: OpenAIServer

    async def story(self) -> Story:
        """Rings the callee, and holds what came of it against the rules for every call."""
        story = await tell(self.running, NUMBER, greeting=GREETING)
        await assert_well_behaved(self.running, story)
        self.assert_the_model_was_told_only_what_was_heard(story)
        return story

    def assert_the_model_was_told_only_what_was_heard(self, story: Story) -> None:
        heard = " ".join(words(story.network.said("agent")))
        for asked in self.model.asked:
            for remembered in asked.said("assistant"):
                for line in (remembered or "").splitlines():  # None where it only calls tools
                    assert " ".join(words([line])).removesuffix(" —") in heard


@asynccontextmanager
async def house(tmp_path: Path, callee: Callee, *behaviours: Behaviour, **settings: Any) -> AsyncIterator[House]:
    """A house whose model behaves like this, and whose callee is the one at NUMBER."""
    async with OpenAIServer() as model:
        model.behave(*behaviours)
        llm = {"llm_model": "openai:stand-in", "openai_base_url": model.base_url}
        async with running(tmp_path, speed=SPEED, callees={NUMBER: callee}, **{**llm, **settings}) as product:
            yield House(product, model)


def somebody_who_says(*lines: str) -> Callee:
    """Says each line once the agent has finished, and hangs up when the last one was answered.

    Where a line is empty, she waits for the agent to go on.
    """

    async def talk(line: Line) -> None:
        for said in lines:
            await line.hear()
            if said:
                await line.say(said)
        await line.hear()
        await line.pause(1.0)

    return Callee("asks", "says lines one after another", talk)


def somebody_who_cuts_in(*, after_words: int) -> Callee:
    """Asks something, and cuts the answer short after so many words."""

    async def talk(line: Line) -> None:
        await line.hear()
        await line.say("Tell me about the bridge.")
        await line.interrupt("Stop, that is enough.", after_words=after_words)
        await line.hear()
        await line.pause(1.0)

    return Callee("cuts in", "interrupts the first answer", talk)


# Streaming.


async def test_words_are_spoken_while_the_model_still_writes(tmp_path: Path) -> None:
    callee = somebody_who_says("What is your name?", "I see.")
    sentences = Behaviour(("I", " am", " the", " assistant", ".", " Who", " are", " you", "?"), pause_s=0.02)
    async with house(tmp_path, callee, sentences, ANSWER) as trial:
        story = await trial.story()

        assert story.said("agent") == [GREETING, "I am the assistant. Who are you?", "Of course."]
        first = story.record["turn_latencies"][0]
        assert first["first_text_ms"] < first["total_ms"] - 100
        tokens = [text["token"] for text in story.network.received("text")]
        assert tokens[:10] == [*sentences.tokens, ""]
        asked = trial.model.asked[1].body
        assert asked["stream"] is True
        assert trial.model.asked[1].said("user")[-1] == "I see."
        assert "I am the assistant. Who are you?" in trial.model.asked[1].said("assistant")


async def test_markup_of_the_model_is_not_spoken(tmp_path: Path) -> None:
    callee = somebody_who_says("What do you offer?")
    async with house(tmp_path, callee, Behaviour(("**Books**", " &", " ", "`films`", " 🎬"))) as trial:
        story = await trial.story()

        assert story.said("agent")[1] == "Books and films"


# Trouble.

BROKEN = {
    "429": Behaviour(status=429),
    "500": Behaviour(status=500),
    "broken before the first word": Behaviour(then="break"),
    "garbage": Behaviour(then="garbage"),
    "nothing said": Behaviour(),
}


@pytest.mark.parametrize("trouble", BROKEN.values(), ids=BROKEN.keys())
async def test_a_failed_reply_is_a_sentence_and_the_call_goes_on(tmp_path: Path, trouble: Behaviour) -> None:
    callee = somebody_who_says("What is your name?", "What is your name, I said?")
    async with house(tmp_path, callee, trouble, ANSWER) as trial:
        story = await trial.story()

        assert story.said("agent") == [GREETING, ENGLISH.trouble[0], "Of course."]
        assert [failure["in_a_row"] for failure in story.noted("model_failed")] == [1]
        assert story.record["end_reason"] == "callee_hung_up"
        assert [turn["outcome"] for turn in story.record["turn_latencies"]] == ["failed", "finished"]


async def test_a_stream_that_breaks_keeps_its_words_and_is_excused(tmp_path: Path) -> None:
    callee = somebody_who_says("What is your name?", "Go on.")
    async with house(tmp_path, callee, Behaviour(("My", " name", " is"), then="break"), ANSWER) as trial:
        story = await trial.story()

        assert story.said("agent") == [GREETING, "My name is", ENGLISH.trouble[0], "Of course."]
        assert story.noted("model_failed")[0]["turn"] == 1


async def test_a_model_that_hangs_is_bridged_then_given_up(tmp_path: Path) -> None:
    callee = somebody_who_says("What is your name?", "", "Hello?")
    limits = {"llm_first_token_timeout": 0.1, "llm_timeout": 0.5}
    async with house(tmp_path, callee, Behaviour(then="hang"), ANSWER, **limits) as trial:
        story = await trial.story()

        filler, sorry = [text for text in story.network.received("text") if len(str(text["token"])) > 10][:2]
        assert (filler["token"], filler["preemptible"]) == (ENGLISH.one_moment[0], True)
        assert (sorry["token"], sorry.get("preemptible")) == (ENGLISH.trouble[0], None)
        assert ENGLISH.trouble[0] in story.said("agent")
        assert story.noted("model_slow") == [{"turn": 1}]
        assert [failure["cause"] for failure in story.noted("model_failed")] == ["timeout"]
        assert trial.model.asked[0].gone.is_set()


async def test_a_late_answer_cuts_the_filler_short(tmp_path: Path) -> None:
    callee = somebody_who_says("What is your name?")
    late = Behaviour(("My name is Ada.",), pause_s=0.11)
    async with house(tmp_path, callee, late, llm_first_token_timeout=0.1) as trial:
        story = await trial.story()

        assert story.said("agent")[-1] == "My name is Ada."
        assert story.network.sent("interrupt") == []
        fillers = [text for text in story.network.received("text") if text.get("preemptible")]
        assert [filler["token"] for filler in fillers] == [ENGLISH.one_moment[0]]


async def test_a_hang_in_mid_stream_keeps_what_was_said(tmp_path: Path) -> None:
    callee = somebody_who_says("What is your name?", "Hello?")
    hang = Behaviour(("My name is Ada.", " I"), then="hang")
    async with house(tmp_path, callee, hang, ANSWER, llm_timeout=0.4) as trial:
        story = await trial.story()

        assert story.said("agent")[1].startswith("My name is Ada.")
        assert ENGLISH.trouble[0] in " ".join(story.said("agent"))
        assert trial.model.asked[0].gone.is_set()


async def test_three_failures_in_a_row_end_with_an_apology_that_is_heard(tmp_path: Path) -> None:
    callee = somebody_who_says("One.", "Two.", "Three.", "Four.")
    async with house(tmp_path, callee, Behaviour(status=500)) as trial:
        story = await trial.story()

        assert story.record["status"] == "completed"
        assert story.record["end_reason"] == "model_failed"
        assert story.said("agent") == [GREETING, *ENGLISH.trouble[:2], ENGLISH.trouble_goodbye]
        assert len(trial.model.asked) == 3
        assert len(story.network.received("end")) == 1


async def test_failures_that_are_not_in_a_row_do_not_end_the_call(tmp_path: Path) -> None:
    callee = somebody_who_says("One.", "Two.", "Three.", "Four.", "Five.")
    bad = Behaviour(status=500)
    async with house(tmp_path, callee, bad, bad, ANSWER, bad, bad) as trial:
        story = await trial.story()

        assert [failure["in_a_row"] for failure in story.noted("model_failed")] == [1, 2, 1, 2]
        assert story.record["end_reason"] == "callee_hung_up"


# Barge-in.

STORY = "The bridge was built long ago by hands that nobody knows. It is made of stone"
LONG = Behaviour(tuple(f"{word} " for word in STORY.split()), then="hang")


async def test_a_barge_in_closes_the_models_stream_and_what_was_not_played_was_never_said(tmp_path: Path) -> None:
    async with house(tmp_path, somebody_who_cuts_in(after_words=4), LONG, ANSWER) as trial:
        story = await trial.story()

        assert trial.model.asked[0].gone.is_set()
        cut = story.record["transcript"][2]
        assert (cut["role"], cut["interrupted"]) == ("agent", True)
        assert cut["text"] == next(spoken.text for spoken in story.network.transcript if spoken.interrupted)
        assert cut["text"].startswith("The bridge was built")
        remembered = trial.model.asked[1].said("assistant")
        assert remembered[-1] == f"{cut['text']} —"
        assert "stone" not in str(trial.model.asked[1].body)
        assert story.record["turn_latencies"][0]["outcome"] == "interrupted"


async def test_an_answer_that_nobody_waited_for_is_given_up_unsaid(tmp_path: Path) -> None:
    async def insists(line: Line) -> None:
        await line.hear()
        await line.say("What is your name?")
        await line.say("I mean, your full name?")
        await line.hear()
        await line.pause(1.0)

    callee = Callee("insists", "speaks on before the answer comes", insists)
    async with house(tmp_path, callee, Behaviour(("Ada.",), pause_s=5.0), ANSWER) as trial:
        story = await trial.story()

        assert trial.model.asked[0].gone.is_set()
        assert story.said("agent") == [GREETING, "Of course."]
        assert trial.model.asked[1].said("user")[-1].splitlines() == ["What is your name?", "I mean, your full name?"]
        assert [turn["outcome"] for turn in story.record["turn_latencies"]] == ["superseded", "finished"]


# Tools.


async def test_end_call_hangs_up_after_the_goodbye_was_heard(tmp_path: Path) -> None:
    async with house(tmp_path, somebody_who_says("No, thanks.", "Still there?"), FAREWELL) as trial:
        story = await trial.story()

        assert story.record["end_reason"] == "agent_said_goodbye"
        assert story.said("agent") == [GREETING, "Goodbye."]
        assert len(trial.model.asked) == 1


async def test_opt_out_is_recorded_and_confirmed_though_the_model_says_nothing(tmp_path: Path) -> None:
    callee = somebody_who_says("Never call me again.", "Still there?")
    async with house(tmp_path, callee, Behaviour(calls=[("opt_out", {})])) as trial:
        story = await trial.story()

        assert story.record["opted_out"] is True
        assert story.record["end_reason"] == "opted_out"
        assert len(story.said("agent")) == 2
        assert story.said("agent")[1]


async def test_digits_are_pressed_and_the_talk_goes_on(tmp_path: Path) -> None:
    async def menu(line: Line) -> None:
        await line.hear()
        await line.say("For English, press 1 and then 2.")
        await line.hear(patience=0.5)
        await line.say("Thank you.")
        await line.hear()
        await line.pause(1.0)

    callee = Callee("menu", "wants keys, not words", menu)
    press = Behaviour(calls=[("send_digits", {"digits": "1w2"})])
    async with house(tmp_path, callee, press, ANSWER) as trial:
        story = await trial.story()

        assert [frame["digits"] for frame in story.network.received("sendDigits")] == ["1w2"]
        assert story.noted("digits_sent") == [{"digits": "1w2"}]
        assert story.said("agent")[-1] == "Of course."
        assert story.noted("model_failed") == []


async def test_a_tool_that_was_called_wrongly_is_explained_to_the_model(tmp_path: Path) -> None:
    callee = somebody_who_says("Press nine.")
    wrong = Behaviour(calls=[("send_digits", {"digits": "nine"})])
    async with house(tmp_path, callee, wrong, ANSWER) as trial:
        story = await trial.story()

        assert story.network.received("sendDigits") == []
        assert "error" in trial.model.asked[1].said("tool")[-1]
        assert story.said("agent") == [GREETING, "Of course."]
