"""Which agent a setting makes, and what the operator is told where it makes none."""

from importlib.util import find_spec

import pytest

from agents import ModelAgent, NoLedger, ScriptedAgent, build_agent
from outbound.ports import AgentUnavailable
from tests.agents.openai_server import OpenAIServer
from tests.agents.talks import talk


def test_no_model_is_the_scripted_agent() -> None:
    assert isinstance(build_agent(""), ScriptedAgent)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("gpt-5", "LLM_MODEL must be provider:model"),
        ("openai:", "LLM_MODEL must be provider:model"),
        ("nobody:model", "LLM_MODEL must be provider:model"),
        ("openai:gpt-5", "set OPENAI_API_KEY"),
        ("groq:llama", "run: uv add langchain-groq"),
        ("google_genai:gemini", "run: uv add langchain-google-genai"),
    ],
)
def test_a_model_that_cannot_work_tells_the_operator_what_to_do(model: str, told: str) -> None:
    with pytest.raises(AgentUnavailable) as refused:
        build_agent(model)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(find_spec("langchain_anthropic") is not None, reason="the package is there")
def test_a_missing_extra_is_named() -> None:
    with pytest.raises(AgentUnavailable, match="run: uv sync --extra anthropic"):
        build_agent("anthropic:claude", api_key="a-key")


def test_building_an_agent_imports_no_provider_and_needs_no_network() -> None:
    assert isinstance(build_agent("openai:gpt-5", api_key="a-key"), ModelAgent)


@pytest.mark.parametrize("model", ["llama3.2:1b", "some/model", "openai:some/model"])
async def test_any_compatible_server_needs_neither_provider_nor_key(server: OpenAIServer, model: str) -> None:
    agent = build_agent(model, base_url=server.base_url)
    assert isinstance(agent, ModelAgent)
    async for _ in agent.reply(talk("hello"), NoLedger()):
        pass
    await agent.aclose()
    asked = await server.request(0)
    assert asked.body["model"] == model.removeprefix("openai:")
    assert asked.headers["authorization"] == "Bearer not-needed"


async def test_warming_up_costs_nothing_and_makes_the_agent_once(server: OpenAIServer) -> None:
    agent = build_agent("openai:stand-in", base_url=server.base_url)
    assert isinstance(agent, ModelAgent)
    await agent.warm_up()
    await agent.warm_up()
    assert server.knocks == 2
    assert server.asked == []
    await agent.aclose()


async def test_a_refused_key_is_found_while_warming_up() -> None:
    async with OpenAIServer(key="the-right-one") as server:
        agent = build_agent("openai:stand-in", base_url=server.base_url, api_key="the-wrong-one")
        assert isinstance(agent, ModelAgent)
        with pytest.raises(AgentUnavailable, match="check OPENAI_API_KEY"):
            await agent.warm_up()
        await agent.aclose()


async def test_a_server_that_is_down_does_not_stop_the_start() -> None:
    agent = build_agent("openai:stand-in", base_url="http://127.0.0.1:9/v1")
    await agent.warm_up()


async def test_the_scripted_agent_warms_up() -> None:
    await build_agent("").warm_up()
