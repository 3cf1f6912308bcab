from collections.abc import AsyncIterator

import pytest

from agents import ModelAgent, build_agent
from tests.agents.openai_server import OpenAIServer


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def model(server: OpenAIServer) -> AsyncIterator[ModelAgent]:
    """An agent whose words come from the server, through LangChain's own client."""
    agent = build_agent("openai:stand-in", base_url=server.base_url, api_key="a-key")
    assert isinstance(agent, ModelAgent)
    yield agent
    await agent.aclose()
