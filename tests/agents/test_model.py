"""The model agent: the real graph and the real LangChain client, over real HTTP to a server that plays the model."""

import asyncio
import json
from contextlib import aclosing
from datetime import timedelta
from typing import Literal

import openai
import pytest

from agents import TOOLS, ModelAgent, NoLedger, build_agent, repeatable
from outbound.conversation import EndCall, Filler, OptOut, Piece, PressKeys, Say
from outbound.ports import Agent
from tests.agents.models import a_model, reply
from tests.agents.openai_server import Behaviour, OpenAIServer
from tests.agents.talks import agent, talk, words


async def test_tokens_are_spoken_as_they_come(server: OpenAIServer, model: ModelAgent) -> None:
    server.behave(Behaviour(("It", " is", " **ten**", " o'clock", ".")))
    assert await reply(model, "what time is it?") == [Say(t) for t in ("It", " is", " ten", " o'clock", ".")]


async def test_the_model_gets_the_prompt_the_talk_and_the_tools(server: OpenAIServer, model: ModelAgent) -> None:
    await reply(model, "who is this?")
    asked = await server.request(0)
    [system] = asked.said("system")
    assert "never claim to be human" in system
    assert "- company: Acme" in system
    assert asked.said("user") == ["[picks up the phone]", "who is this?"]
    assert asked.body["stream"] is True
    assert [tool["function"]["name"] for tool in asked.body["tools"]] == ["end_call", "opt_out", "send_digits"]
    assert asked.headers["authorization"] == "Bearer a-key"


async def test_a_tool_happens_on_the_line_and_the_reply_is_over(server: OpenAIServer, model: ModelAgent) -> None:
    server.behave(Behaviour(("One moment.",), calls=[("send_digits", {"digits": "1w2#"})]))
    assert await reply(model, "press one") == [Say("One moment."), PressKeys("1w2#")]
    assert len(server.asked) == 1


async def test_the_goodbye_is_the_models(server: OpenAIServer, model: ModelAgent) -> None:
    server.behave(Behaviour(("Take care!",), calls=[("end_call", {})]))
    assert await reply(model, "bye") == [Say("Take care!"), EndCall()]


@pytest.mark.parametrize(("language", "goodbye"), [("en-US", "Goodbye."), ("es-ES", "Adiós.")])
async def test_a_call_is_not_ended_without_a_word(
    server: OpenAIServer, model: ModelAgent, language: str, goodbye: str
) -> None:
    server.behave(Behaviour(calls=[("end_call", {})]))
    pieces = await reply(model, "bye", language=language)
    assert words(pieces).endswith(goodbye)
    assert pieces[-1] == EndCall()


async def test_an_opt_out_is_confirmed_in_any_case(server: OpenAIServer, model: ModelAgent) -> None:
    server.behave(Behaviour(calls=[("opt_out", {}), ("end_call", {})]))
    pieces = await reply(model, "stop calling me")
    assert "will not be called again" in words(pieces)
    assert pieces[1:] == [OptOut(), EndCall()]


async def test_what_a_tool_finds_out_goes_to_the_model(server: OpenAIServer) -> None:
    async def opening_hours(day: str) -> str:
        """When the shop is open on a weekday."""
        return f"{day}: nine to five"

    server.behave(
        Behaviour(("Let me see.",), calls=[("opening_hours", {"day": "Monday"})]), Behaviour(("Nine", " to five."))
    )
    async with a_model(server, opening_hours) as model:
        assert words(await reply(model, "when do you open?")) == "Let me see. Nine to five."
    assert (await server.request(1)).said("tool") == ["Monday: nine to five"]


async def test_a_tool_that_is_not_async_runs_in_a_thread(server: OpenAIServer) -> None:
    loops = []

    def weather() -> str:
        """How the weather is."""
        try:
            loops.append(asyncio.get_running_loop())
        except RuntimeError:
            return "sunny"
        return "on the loop"

    server.behave(Behaviour(calls=[("weather", {})]), Behaviour(("Sunny.",)))
    async with a_model(server, weather) as model:
        assert words(await reply(model, "weather?")) == "Sunny."
    assert (await server.request(1)).said("tool") == ["sunny"]
    assert not loops


async def test_a_slow_tool_is_bridged_and_bounded(server: OpenAIServer) -> None:
    @repeatable
    async def slow() -> str:
        """Never comes back."""
        await asyncio.Event().wait()
        return "never"

    server.behave(Behaviour(calls=[("slow", {})]), Behaviour(("It did not work.",)))
    async with a_model(server, slow, filler_after=timedelta(0), tool_within=timedelta(seconds=0.1)) as model:
        pieces = await reply(model, "look it up")
    assert pieces == [Filler("Let me check that, one moment."), Say("It did not work.")]
    assert (await server.request(1)).said("tool") == ["error: it took too long"]


async def test_a_quick_tool_is_not_bridged(server: OpenAIServer, model: ModelAgent) -> None:
    server.behave(Behaviour(calls=[("send_digits", {"digits": "1"})]))
    assert await reply(model, "press one") == [PressKeys("1")]


async def test_what_goes_wrong_in_a_tool_is_told_to_the_model_alone(server: OpenAIServer) -> None:
    @repeatable
    def broken() -> str:
        """Breaks."""
        raise RuntimeError("the password is swordfish")

    server.behave(
        Behaviour(
            calls=[
                ("broken", {}),
                ("no_such_tool", {}),
                ("send_digits", {"digits": "call me"}),
                ("send_digits", {"number": 1}),
                ("send_digits", "nonsense"),
            ]
        ),
        Behaviour(("I am sorry.",)),
    )
    async with a_model(server, broken, *TOOLS) as model:
        assert await reply(model, "do it") == [Say("I am sorry.")]
    told = (await server.request(1)).said("tool")
    assert told[0] == "error: it failed"
    assert told[1] == "error: there is no tool 'no_such_tool'; there are broken, end_call, opt_out, send_digits"
    assert told[2] == "error: digits may only hold 0-9, *, # and w"
    assert "digits" in told[3]
    assert told[4] == "error: the arguments are not valid JSON"


async def test_a_model_that_only_calls_tools_is_stopped(server: OpenAIServer, model: ModelAgent) -> None:
    server.behave(Behaviour(calls=[("no_such_tool", {})]))
    assert await reply(model, "do it") == []
    assert len(server.asked) == 4


async def test_an_empty_answer_is_an_empty_reply(server: OpenAIServer, model: ModelAgent) -> None:
    server.behave(Behaviour())
    assert await reply(model, "hello") == []


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, openai.AuthenticationError), (429, openai.RateLimitError), (500, openai.InternalServerError)],
)
async def test_a_refusal_is_raised_at_once_and_not_tried_again(
    server: OpenAIServer, model: ModelAgent, status: int, error: type[Exception]
) -> None:
    server.behave(Behaviour(status=status))
    with pytest.raises(error):
        await reply(model, "hello")
    assert len(server.asked) == 1


@pytest.mark.parametrize(("then", "error"), [("break", openai.APIConnectionError), ("garbage", json.JSONDecodeError)])
async def test_what_was_said_before_a_stream_broke_is_still_spoken(
    server: OpenAIServer, model: ModelAgent, then: Literal["break", "garbage"], error: type[Exception]
) -> None:
    server.behave(Behaviour(("I am", " ca"), then=then), Behaviour(("Again.",)))
    said: list[Piece] = []
    with pytest.raises(error):
        await listen(model, said)
    assert said == [Say("I am"), Say(" ca")]
    assert words(await reply(model, "hello?")) == "Again."


async def test_no_server_is_a_connection_error(server: OpenAIServer) -> None:
    lost = build_agent("openai:stand-in", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(openai.APIConnectionError):
        await listen(lost, [])


async def test_a_server_that_stays_silent_is_given_up_in_the_end(server: OpenAIServer) -> None:
    server.behave(Behaviour(then="hang"))
    async with a_model(server, answer_within=timedelta(seconds=0.2)) as model:
        with pytest.raises(openai.APITimeoutError):
            await reply(model, "hello")


@pytest.mark.parametrize("tokens", [(), ("Well", ",")])
async def test_a_cancelled_reply_hangs_up_on_the_server(
    server: OpenAIServer, model: ModelAgent, tokens: tuple[str, ...]
) -> None:
    server.behave(Behaviour(tokens, then="hang"))
    said = Heard(len(tokens))
    speaking = asyncio.create_task(listen(model, said))
    asked = await server.request(0)
    await said.enough.wait()
    speaking.cancel()
    async with asyncio.timeout(0.1):
        await asked.gone.wait()
    with pytest.raises(asyncio.CancelledError):
        await speaking


async def test_a_closed_reply_hangs_up_on_the_server(server: OpenAIServer, model: ModelAgent) -> None:
    server.behave(Behaviour(("Well", ","), then="hang"))
    async with aclosing(model.reply(talk("hello"), NoLedger())) as pieces:
        assert await anext(pieces) == Say("Well")
    async with asyncio.timeout(0.1):
        await server.asked[0].gone.wait()


async def test_many_replies_at_once_do_not_mix(server: OpenAIServer, model: ModelAgent) -> None:
    server.behave(*(Behaviour((f"Number {i}.",), pause_s=0.01) for i in range(20)))
    said = await asyncio.gather(*(reply(model, "count") for _ in range(20)))
    assert {words(pieces) for pieces in said} == {f"Number {i}." for i in range(20)}


async def test_replies_share_a_connection(server: OpenAIServer, model: ModelAgent) -> None:
    await model.warm_up()
    for _ in range(3):
        await reply(model, "hello")
    assert len({asked.peer for asked in server.asked}) == 1


async def test_the_talk_is_told_as_it_was_heard(server: OpenAIServer, model: ModelAgent) -> None:
    await reply(model, agent("I am calling about your", interrupted=True), "wait, what?")
    asked = await server.request(0)
    assert asked.said("assistant") == ["I am calling about your —"]
    assert asked.said("user") == ["[picks up the phone]", "[cutting in] wait, what?"]


class Heard(list[Piece]):
    """Says when enough was heard."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self._wanted = enough
        self.enough = asyncio.Event()
        if not enough:
            self.enough.set()

    def append(self, piece: Piece) -> None:
        super().append(piece)
        if len(self) >= self._wanted:
            self.enough.set()


async def listen(model: Agent, said: list[Piece]) -> None:
    """Adds to `said` what it hears, for replies that do not come to their end."""
    async for piece in model.reply(talk("hello"), NoLedger()):
        said.append(piece)
